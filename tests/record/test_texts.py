from __future__ import annotations

from typing import Any

import pytest

from bridge.record.event import ExceptionInfo
from bridge.record.texts import all_text, scalar_text, strings
from tests.record.queries import SEARCHED, event


@pytest.mark.parametrize(
    ("value", "text"),
    [("a", "a"), (None, "null"), (True, "true"), (False, "false"), (b"\xff\x00", "/wA="), (1, "1"), (0.5, "0.5")],
)
def test_scalar_text(value: Any, text: str) -> None:
    """Scalars read as on the wire."""
    assert scalar_text(value) == text


def test_strings() -> None:
    """The message, the exception and the strings in attributes, as they are, without keys and numbers."""
    assert list(strings(SEARCHED)) == [
        "Order 17 PAID",
        "ValueError",
        "no change",
        "Traceback\n  in till.py",
        "u8472",
        "here",
    ]


def test_texts_of_an_exception_are_looked_at_once() -> None:
    """The attributes of a record with an exception hold its texts a second time."""
    exception = ExceptionInfo("E", "no change", "Traceback")
    attributes = {"exception.message": exception.message, "exception.stacktrace": exception.stacktrace}
    record = event(exception=exception, attributes=attributes)
    assert list(strings(record)).count("no change") == 1
    assert all_text(record).count("traceback") == 1


def test_all_text_keeps_fields_apart() -> None:
    """Every field is there in lower case, and NUL stands between them."""
    fields = all_text(SEARCHED).split("\0")
    assert fields[:3] == ["order 17 paid", "shop.till", "warning"]
    assert {"customer.id", "12.5", "down", "99", "/wa=", "basket", "green", "null", "orders"} <= set(fields)
