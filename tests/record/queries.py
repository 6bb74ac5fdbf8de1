"""What the tests of filters share: records, filters from a query, and what is said of one that is refused."""

from __future__ import annotations

import re
import time
from typing import Any

import pytest

from bridge.record.conditions import FilterError
from bridge.record.event import ExceptionInfo, LogEvent
from bridge.record.filters import Filter, parse_query

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
LONG = 200_000


def event(**fields: Any) -> LogEvent:
    given: dict[str, Any] = {
        "timestamp": 1,
        "observed_timestamp": 1,
        "severity_number": 9,
        "level": "INFO",
        "logger": "app.db",
        "message": "Order 17 paid",
    }
    return LogEvent(**given | fields)


def query(**parameters: str | list[str]) -> Filter:
    return parse_query(
        [(name, v) for name, value in parameters.items() for v in ([value] if isinstance(value, str) else value)]
    )


def refusal(parameters: list[tuple[str, str]]) -> FilterError:
    with pytest.raises(FilterError) as caught:
        parse_query(parameters)
    return caught.value


def fits(text: str, shown: str) -> bool:
    """Whether an error reads like this; ``*`` in the text stands for anything."""
    return re.fullmatch(re.escape(text).replace(r"\*", ".*"), shown) is not None


def assert_refused(name: str, value: str, position: int | None, text: str) -> None:
    """It is refused in one line: the parameter, the value, the place, the rule and the remedy."""
    error = refusal([(name, value)])
    assert (error.parameter, error.value, error.position) == (name, value, position)
    assert fits(text, str(error)), str(error)
    assert len(str(error)) < 300
    assert str(error).encode().decode().isprintable()


def assert_quick(name: str, value: str, text: str) -> None:
    """A filter is done with a long text soon (seconds are for slow machines, not for blow-ups)."""
    wanted = parse_query([(name, value)])
    began = time.perf_counter()
    wanted.matches(event(message=text, attributes={"k": text}))
    assert time.perf_counter() - began < 5


SEARCHED = event(
    message="Order 17 PAID",
    logger="shop.till",
    level="WARNING",
    module="till_module",
    function="pay_up",
    event_name="order.paid",
    trace_id=TRACE,
    span_id="00f067aa0ba902b7",
    record_id="0198c5b2-4711",
    is_audit=True,
    action="order_pay",
    metadata={"basket": ("apples", {"colour": "green"}), "n": (1, None)},
    attributes={
        "customer.id": "u8472",
        "latency": 12.5,
        "ok": True,
        "deep": {"down": ("here", 99)},
        "raw": b"\xff\x00",
    },
    resource={"service.name": "orders", "host.name": "box"},
    exception=ExceptionInfo("ValueError", "no change", "Traceback\n  in till.py"),
)
