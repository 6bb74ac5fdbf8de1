from __future__ import annotations

import asyncio
import inspect
import logging
import re
import sys
import uuid
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import pytest
from hypothesis import given
from hypothesis import strategies as st

import bridge
from bridge.capture import audit
from bridge.capture.audit import AuditEvent, AuditReceipt, audit_log, audit_log_async
from bridge.capture.handler import STANDARD_FIELDS
from bridge.testing import RecordedEvents, record_events
from tests.logging_state import fresh_logging
from tests.telemetry import get_logger

Log = Callable[..., AuditReceipt]


def log_async(*arguments: Any, **fields: Any) -> AuditReceipt:
    """audit_log_async() to its end."""
    return asyncio.run(audit_log_async(*arguments, **fields))


both = pytest.mark.parametrize("log", [audit_log, log_async])


class Keeper(logging.Handler):
    """Keeps the records that a logger hands to its handlers."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[Any] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


@pytest.fixture
def keeper() -> Iterator[Keeper]:
    handler = Keeper()
    logger = get_logger("audit.role")
    logger.addHandler(handler)
    yield handler
    logger.removeHandler(handler)
    logger.filters.clear()
    logger.disabled = False
    logger.setLevel(logging.NOTSET)
    logging.disable(logging.NOTSET)


logger = logging.getLogger("audit.role")


@both
def test_an_event_has_all_it_was_told(log: Log, audit_events: RecordedEvents, keeper: Keeper) -> None:
    """In the event, and on the record that the logger's handlers get."""
    receipt = log(
        logger,
        "Role granted 100%",
        action="role_grant",
        metadata={"role": "admin"},
        actor="u8472",
        target="user/17",
        outcome="success",
        event="user.role.grant",
        source="web-1",
        ack="disk",
        session_id="s1",
    )
    event = audit_events.assert_logged(
        times=1,
        action="role_grant",
        metadata={"role": "admin"},
        actor="u8472",
        target="user/17",
        outcome="success",
        event_name="user.role.grant",
        source="web-1",
        session_id="s1",
        message="Role granted 100%",
        level="INFO",
        logger="audit.role",
    )
    assert event.record_id == receipt.id == str(uuid.UUID(receipt.id))
    assert event.is_audit is True
    (record,) = keeper.records
    assert (record.is_audit, record.action, record.metadata) == (True, "role_grant", {"role": "admin"})
    assert (record.audit_record_id, record.session_id) == (receipt.id, "s1")
    assert record.getMessage() == "Role granted 100%"
    assert not hasattr(record, "ack")


@both
def test_the_least_event(log: Log, audit_events: RecordedEvents, keeper: Keeper) -> None:
    """Without action and metadata the record has None and {}."""
    log(logger, "m")
    (record,) = keeper.records
    assert (record.is_audit, record.action, record.metadata) == (True, None, {})
    event = audit_events.assert_logged(times=1, outcome="unknown", actor="test", actor_type="service")
    assert (event.action, event.metadata) == (None, {})


def test_the_order_of_arguments_is_fixed() -> None:
    """Positional calls of either function stay good."""
    for function in (audit_log, audit_log_async):
        assert list(inspect.signature(function).parameters) == [
            "logger",
            "message",
            "action",
            "metadata",
            "level",
            "fields",
        ]
    with record_events() as events:
        audit_log(logger, "m", "act", {"a": 1}, logging.WARNING)
        events.assert_logged(action="act", metadata={"a": 1}, level="WARNING")


# -- the caller -------------------------------------------------------------------------------------------------------


def here() -> int:
    return sys._getframe(1).f_lineno


def test_the_caller_is_who_called(keeper: Keeper) -> None:
    """File, function and line are those of the call."""
    audit_log(logger, "m")
    line = here() - 1
    (record,) = keeper.records
    assert (record.funcName, record.lineno, record.module) == ("test_the_caller_is_who_called", line, "test_audit")


def test_stacklevel_points_further_out(keeper: Keeper) -> None:
    """A wrapper can name its own caller; a senseless level is 1, a too large one the outermost frame."""

    def wrapper(level: Any) -> None:
        audit_log(logger, "m", stacklevel=level)

    wrapper(2)
    for senseless in (0, -3, "2", None, True, 1.5):
        wrapper(senseless)
    wrapper(10_000)
    names = [record.funcName for record in keeper.records]
    assert names[0] == "test_stacklevel_points_further_out"
    assert names[1:7] == ["wrapper"] * 6
    assert names[7] != "wrapper"


def test_the_caller_of_the_async_form_is_who_called(keeper: Keeper) -> None:
    """Awaited, as a task or gathered: never a line of asyncio's."""

    async def service() -> None:
        await audit_log_async(logger, "m")
        await asyncio.create_task(audit_log_async(logger, "m"))
        await asyncio.gather(audit_log_async(logger, "m"), audit_log_async(logger, "m"))

    asyncio.run(service())
    assert [record.funcName for record in keeper.records] == ["service"] * 4


def test_a_caller_that_can_not_be_found(keeper: Keeper, monkeypatch: pytest.MonkeyPatch) -> None:
    """As logging does: unknown names, and the event all the same."""

    def fail(*_: Any) -> NoReturn:
        raise ValueError

    monkeypatch.setattr(logging.Logger, "findCaller", fail)
    audit_log(logger, "m")
    (record,) = keeper.records
    assert (record.pathname, record.lineno, record.funcName) == ("(unknown file)", 0, "(unknown function)")


def test_nothing_happens_before_the_async_form_is_awaited(audit_events: RecordedEvents) -> None:
    """The record is made at the call and captured at the await."""

    async def main() -> None:
        waiting = audit_log_async(logger, "m")
        assert len(audit_events) == 0
        with bridge.actor("u1"):
            await waiting

    asyncio.run(main())
    audit_events.assert_logged(times=1, actor="u1")


# -- what can't hide an event -----------------------------------------------------------------------------------------


def hide_by_level() -> None:
    logger.setLevel(logging.CRITICAL)


def hide_by_filter() -> None:
    logger.addFilter(lambda record: False)


def hide_by_disable() -> None:
    logging.disable(logging.CRITICAL)


def hide_by_disabled() -> None:
    logger.disabled = True


@both
@pytest.mark.parametrize("hide", [hide_by_level, hide_by_filter, hide_by_disable, hide_by_disabled])
def test_no_configuration_hides_an_event(
    log: Log, hide: Callable[[], None], audit_events: RecordedEvents, keeper: Keeper
) -> None:
    """Levels, filters, logging.disable() and disabled loggers stop the logger's handlers only."""
    hide()
    log(logger, "m", action="a")
    audit_events.assert_logged(times=1, action="a")
    assert keeper.records == []


@both
def test_an_event_is_captured_once(log: Log, audit_events: RecordedEvents, keeper: Keeper) -> None:
    """Its record comes by the root logger as well, and is known."""
    log(logger, "m", level=logging.CRITICAL)
    assert len(keeper.records) == 1
    assert len(audit_events) == 1


def test_without_a_bridge_it_logs() -> None:
    """The receipt says that nothing is known to be durable."""
    keeper = Keeper()
    other = logging.getLogger("audit.elsewhere")
    other.addHandler(keeper)
    receipt = audit_log(other, "m", level=logging.WARNING)
    other.removeHandler(keeper)
    assert [record.getMessage() for record in keeper.records] == ["m"]
    assert receipt == AuditReceipt(receipt.id)
    assert (receipt.committed_at, receipt.stream, receipt.sequence, receipt.hash) == (None, "", 0, "")
    assert receipt.wait_delivered(timeout=60.0) is False


def test_the_first_targets_receipt_is_the_callers() -> None:
    """Every target gets the event; who came first answers."""

    class Target:
        def __init__(self, stream: str) -> None:
            self.stream = stream
            self.events: list[AuditEvent] = []

        def submit(self, record: logging.LogRecord, event: AuditEvent) -> AuditReceipt:
            self.events.append(event)
            return AuditReceipt(event.id, self.stream)

    one, two = Target("one"), Target("two")
    audit.targets.extend([one, two])
    receipt = audit_log(logger, "m")
    assert receipt.stream == "one"
    assert [event.id for event in one.events + two.events] == [receipt.id] * 2


# -- fields and adapters ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in STANDARD_FIELDS if name not in ("exc_info", "stack_info")])
def test_a_field_named_like_one_of_loggings_own(name: str, audit_events: RecordedEvents, keeper: Keeper) -> None:
    """It is kept under another name, and logging's own stays what it is."""
    fields: dict[str, Any] = {name: "mine"}
    audit_log(logger, "m", **fields)
    (record,) = keeper.records
    assert record.__dict__[f"audit_{name}"] == "mine"
    assert record.__dict__[name] != "mine"
    audit_events.assert_logged(times=1, **{f"audit_{name}": "mine"})


def test_an_adapters_fields_are_the_events(audit_events: RecordedEvents) -> None:
    """Of nested adapters all count, the outer one's first; the call's own count before them."""
    inner = logging.LoggerAdapter(logger, {"tenant": "t1", "zone": "z", "message": "x", "asctime": "y"})
    outer = logging.LoggerAdapter(inner, {"tenant": "t2", "user": "u"})
    bare = logging.LoggerAdapter(outer, None)  # allowed, and often done
    audit_log(bare, "m", user="call")
    event = audit_events.assert_logged(
        times=1, tenant="t2", zone="z", user="call", audit_message="x", audit_asctime="y"
    )
    assert event.logger == "audit.role"
    assert event.message == "m"


def test_an_exception_of_the_event(audit_events: RecordedEvents) -> None:
    """The current one, one that is given, or a triple; the outcome is then a failure."""
    error = ValueError("x")
    try:
        raise error
    except ValueError:
        audit_log(logger, "current", exc_info=True)
    audit_log(logger, "given", exc_info=error)
    audit_log(logger, "triple", exc_info=(ValueError, error, None))
    audit_log(logger, "none", exc_info=True)
    for message in ("current", "given", "triple"):
        event = audit_events.assert_logged(message=message, outcome="failure")
        assert event.exception is not None
        assert (event.exception.type, event.exception.message) == ("ValueError", "x")
    assert audit_events.assert_logged(message="none", outcome="unknown").exception is None


def test_a_stack_can_be_asked_for(audit_events: RecordedEvents) -> None:
    """stack_info works as in logging."""
    audit_log(logger, "m", stack_info=True)
    assert "test_a_stack_can_be_asked_for" in str(audit_events[0].attributes["code.stacktrace"])


# -- wrong types ------------------------------------------------------------------------------------------------------


class Hostile:
    """Raises from everything that may be asked of it."""

    def _fail(self, *_: Any) -> NoReturn:
        raise ValueError("hostile")

    __str__ = __repr__ = __bool__ = __len__ = __iter__ = __eq__ = __hash__ = _fail


WRONG: list[Any] = [None, 17, 1.5, "x", b"x", [], {}, {"a": [1]}, True, object(), Hostile(), ValueError("x"), ("a",)]


@pytest.mark.parametrize("wrong", WRONG, ids=lambda value: type(value).__name__)
@fresh_logging()
def test_nothing_raises_whatever_it_is_given(wrong: Any, audit_events: RecordedEvents) -> None:
    """Every argument may be of every type: the event is there, once for each call, and no warning."""
    audit_log(logger, wrong)
    audit_log(logger, "m", wrong)
    audit_log(logger, "m", "a", wrong)
    audit_log(logger, "m", "a", {}, wrong)
    names = ["actor", "target", "outcome", "event", "source", "ack", "stacklevel", "exc_info", "stack_info", "other"]
    for name in names:
        audit_log(logger, "m", **{name: wrong})
    audit_log(logger, "m", metadata={"k": wrong, "deep": [{"k": wrong}]})
    audit_log(wrong, "m")
    assert len(audit_events) == 6 + len(names)
    assert [event for event in audit_events if "bridge.conversion" in event.attributes] == []


@pytest.mark.parametrize(
    ("given_logger", "name"),
    [("audit.named", "audit.named"), ("", "audit.unnamed"), (None, "audit.unnamed"), (object(), "audit.unnamed")],
)
def test_an_event_without_a_real_logger_has_a_name(given_logger: Any, name: str, audit_events: RecordedEvents) -> None:
    """A name will do as a logger; anything else is better than no event."""
    audit_log(given_logger, "m")
    audit_events.assert_logged(times=1, logger=name)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (17, "17"),
        ("é", "é"),
        ("\ud800", "\\ud800"),
        ({"id": 1}, "{'id': 1}"),
        (uuid.UUID(int=1), str(uuid.UUID(int=1))),
    ],
)
def test_actor_and_target_become_text(value: Any, expected: str, audit_events: RecordedEvents) -> None:
    """Numbers, ids and records of any kind."""
    audit_log(logger, "m", actor=value, target=value, source=value)
    audit_events.assert_logged(times=1, actor=expected, target=expected, source=expected)


json_like = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(metadata=st.dictionaries(st.text(), json_like, max_size=5), message=st.text(), action=st.none() | st.text())
def test_any_event_can_be_shown(metadata: dict[str, Any], message: str, action: str | None) -> None:
    """Whatever text and values it holds, it is encoded for the live view."""
    import json

    from bridge.record.message import encode_v1

    with record_events() as events:
        audit_log(logger, message, action, metadata)
        (event,) = events
    data = json.loads(encode_v1(event))["data"]
    assert list(data) == ["timestamp", "level", "logger", "message", "action", "metadata"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", data["timestamp"])
