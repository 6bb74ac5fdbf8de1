from __future__ import annotations

import io
import logging
import sys
import threading
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, NoReturn
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.capture.audit import AUDIT_EVENT, AuditEvent, audit_log, targets
from bridge.capture.handler import (
    FORMAT_ERROR,
    Captured,
    CaptureHandler,
    format_message,
    freeze_exception,
)
from bridge.capture.intake import LARGE_BYTES, CallQueue, Drops
from bridge.record.event import ExceptionInfo

LOG_RECORD = logging.LogRecord


class Fixture:
    """A handler on a logger of its own, and what it queued."""

    def __init__(self, *, records: int = 1_000, max_bytes: int = 1 << 20, **arguments: Any) -> None:
        self.queue: CallQueue[Captured] = CallQueue(records, max_bytes)
        self.drops = Drops()
        self.handler = CaptureHandler(self.queue, self.drops, **arguments)

    def log(
        self, msg: Any = "m", *args: Any, name: str = "app", level: int = logging.INFO, exc: Any = None, **extra: Any
    ) -> bool:
        record = LOG_RECORD(name, level, "/app/server.py", 7, msg, args, exc, "spawn")
        record.__dict__.update(extra)
        return self.handler.handle(record)

    def fields(self) -> dict[str, Any]:
        """Of the one record queued."""
        (captured,) = self.queue.take(1_000)
        return captured[0]

    def kinds(self) -> list[bool]:
        return [audit for _, _, audit, _ in self.queue.take(1_000)]


@pytest.fixture
def fixture() -> Fixture:
    return Fixture()


class Mute:
    """Its text can't be had."""

    def __str__(self) -> NoReturn:
        raise ValueError("no text")

    __repr__ = __str__


# -- messages ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("msg", "args", "expected"),
    [
        ("plain 100%", None, "plain 100%"),
        ("a %s", ("b",), "a b"),
        ("%(x)d", {"x": 3}, "3"),
        (ValueError("boom"), None, "boom"),
        (17, (), "17"),
    ],
)
def test_a_message_is_what_logging_makes_of_it(msg: Any, args: Any, expected: str) -> None:
    """The text is that of LogRecord.getMessage()."""
    assert format_message(msg, args) == (expected, None)


@pytest.mark.parametrize(
    ("msg", "args", "expected", "problem"),
    [
        ("a %d", ("x",), "a %d [arguments ('x',) do not fit]", "TypeError"),
        ("a", (1,), "a [arguments (1,) do not fit]", "TypeError"),
        ("a %", (1,), "a % [arguments (1,) do not fit]", "ValueError"),
        ("%(x)s", {"y": 1}, "%(x)s [arguments {'y': 1} do not fit]", "KeyError"),
    ],
)
def test_arguments_that_do_not_fit_are_shown_beside_the_template(
    msg: str, args: Any, expected: str, problem: str
) -> None:
    """A bad format raises nothing and loses nothing."""
    text, error = format_message(msg, args)
    assert text == expected
    assert error is not None
    assert error.startswith(problem)


def test_a_message_without_a_text_is_named() -> None:
    """An object whose __str__ raises is shown by its type."""
    text, error = format_message(Mute(), ())
    assert "<unprintable" in text
    assert "Mute" in text
    assert error is not None


def test_scalar_arguments_are_formatted_later(fixture: Fixture) -> None:
    """What can't change stays as it is: formatting is the publisher's work."""
    fixture.log("x %s %d %s %s", "a", 1, None, 2.5)
    fields = fixture.fields()
    assert fields["msg"] == "x %s %d %s %s"
    assert fields["args"] == ("a", 1, None, 2.5)


@pytest.mark.parametrize("args", [(["x"],), (1, ["x"]), ({"k": ["x"]},), ({"k": "x"}, 2)])
def test_arguments_that_could_change_are_formatted_at_the_call(fixture: Fixture, args: tuple[Any, ...]) -> None:
    """A list that is changed after the call appears as it was at the call."""
    record = LOG_RECORD("app", 20, "p", 1, "%s" if len(args) == 1 and type(args[0]) is list else "%s %s", args, None)
    if isinstance(record.args, dict):
        record.msg = "%(k)s"
    expected = record.getMessage()
    fixture.handler.handle(record)
    for each in args:
        if isinstance(each, list):
            each.append("later")
    fields = fixture.fields()
    assert fields["msg"] == expected
    assert fields["args"] is None


@pytest.mark.parametrize("msg", [ValueError("boom"), 17, None, type("Text", (str,), {})("text")])
def test_a_message_that_is_no_exact_text_is_formatted_at_the_call(fixture: Fixture, msg: Any) -> None:
    """Objects as messages become their text."""
    fixture.log(msg)
    assert fixture.fields()["msg"] == str(msg)


def test_a_bad_format_found_at_the_call_is_noted(fixture: Fixture) -> None:
    """The record says what went wrong."""
    fixture.log("%d", ["x"])
    fields = fixture.fields()
    assert fields["msg"] == "%d [arguments (['x'],) do not fit]"
    assert fields[FORMAT_ERROR].startswith("TypeError")


# -- system or audit --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "msg", "args", "extra", "expected"),
    [
        ("app", "m", (), {}, False),
        ("audit.x", "m", (), {}, True),
        ("audit", "m", (), {}, False),
        ("auditor.x", "m", (), {}, False),
        ("app", "[AUDIT] m", (), {}, True),
        ("app", " [AUDIT] m", (), {}, False),
        ("app", "[audit] m", (), {}, False),
        ("app", "%s m", ("[AUDIT]",), {}, True),
        ("app", "[%s] m", ("AUDIT",), {}, True),
        ("app", "[AUDIT%s m", ("]",), {}, True),
        ("app", "[AUDIT%s m", ("x",), {}, False),
        ("app", "[%s] m", ("INFO",), {}, False),
        ("app", "%(k)s m", ({"k": "[AUDIT]"},), {}, True),
        ("app", "%s", (ValueError("[AUDIT] x"),), {}, True),
        ("app", ValueError("[AUDIT] x"), (), {}, True),
        ("app", "x %s", ("[AUDIT]",), {}, False),
        ("app", "%", (), {}, False),
        ("app", "m", (), {"is_audit": True}, True),
        ("app", "m", (), {"is_audit": False}, False),
        ("app", "m", (), {"is_audit": "no"}, False),
        ("audit.x", "m", (), {"is_audit": False}, True),
        ("app", "m", (), {"is_audit": [1]}, True),
    ],
)
def test_three_rules_make_an_audit_record(
    fixture: Fixture, name: str, msg: Any, args: tuple[Any, ...], extra: dict[str, Any], expected: bool
) -> None:
    """The logger's name, the start of the finished message, or the flag."""
    fixture.log(msg, *args, name=name, **extra)
    assert fixture.kinds() == [expected]


@given(
    name=st.sampled_from(["app", "audit", "audit.x", "audit.", "Audit.x", ""]),
    template=st.sampled_from(["%s", "[%s", "[AUDIT%s", "[AUDIT] %s", "x%s", "[AUD%sIT]", "%%s %s", "[%%%s"]),
    argument=st.sampled_from(["[AUDIT]", "AUDIT]", "]", "", "x", "IT] %s"]),
    flag=st.sampled_from([None, True, False, 1, 0, "true", "false", ""]),
)
def test_the_rules_hold_in_every_combination(name: str, template: str, argument: str, flag: Any) -> None:
    """A record is an audit record exactly if the rules say so of its finished text."""
    fixture = Fixture()
    fixture.log(template, argument, name=name, **({} if flag is None else {"is_audit": flag}))
    flagged = flag in (True, 1, "true")
    expected = name.startswith("audit.") or (template % argument).startswith("[AUDIT]") or flagged
    assert fixture.kinds() == [expected]


def test_a_users_rule_sees_the_finished_message() -> None:
    """A rule is asked with logger, formatted text and attributes; one that raises does not match."""
    seen: list[tuple[str, str, Any]] = []

    def broken(*_: Any) -> NoReturn:
        raise RuntimeError

    def rule(name: str, message: str, attributes: Any) -> bool:
        seen.append((name, message, attributes["tenant"]))
        return message == "pay 3"

    fixture = Fixture(rules=(broken, rule))
    fixture.log("pay %d", 3, tenant="t")
    fixture.log("pay %d", 4, tenant="t")
    assert fixture.kinds() == [True, False]
    assert seen == [("app", "pay 3", "t"), ("app", "pay 4", "t")]


# -- extras -----------------------------------------------------------------------------------------------------------


def test_extras_are_as_they_were_at_the_call(fixture: Fixture) -> None:
    """A mapping that is changed after the call does not change the record."""
    order = {"items": [1]}
    fixture.log(order=order)
    order["items"].append(2)
    assert fixture.fields()["order"] == {"items": (1,)}


def test_the_record_itself_is_not_touched(fixture: Fixture) -> None:
    """Other handlers see what the application logged, not what we made of it."""
    value = {"items": [1]}
    record = LOG_RECORD("app", 20, "p", 1, "%s", (["x"],), None)
    record.__dict__["order"] = value
    before = dict(record.__dict__)
    fixture.handler.handle(record)
    assert record.__dict__ == before
    assert record.__dict__["order"] is value


class EarlyRecord(logging.LogRecord):
    """A record class that sets its own attributes before the standard ones."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.tenant = ["t"]
        super().__init__(*args, **kwargs)


def test_a_record_class_with_attributes_before_the_standard_ones(fixture: Fixture) -> None:
    """Its standard attributes stay what they are."""
    fixture.handler.handle(EarlyRecord("app", 20, "/p", 1, "m %s", ("x",), None, "f", None))
    fields = fixture.fields()
    assert fields["args"] == ("x",)
    assert list(fields["tenant"]) == ["t"]


# -- exceptions -------------------------------------------------------------------------------------------------------


def raised(make: Callable[[], BaseException], cause: BaseException | None = None) -> Any:
    try:
        raise make() from cause
    except BaseException:
        return sys.exc_info()


class Custom(Exception):
    pass


def test_an_exception_is_text_with_its_qualified_type() -> None:
    """Type, str(exc) and the full traceback, causes included."""
    info = freeze_exception(raised(lambda: Custom("outer"), cause=raised(lambda: KeyError("inner"))[1]))
    assert info is not None
    assert info.type == f"{__name__}.Custom"
    assert info.message == "outer"
    assert "KeyError: 'inner'" in info.stacktrace
    assert "The above exception was the direct cause" in info.stacktrace


def test_an_os_error_keeps_its_words() -> None:
    """The message of an OSError is its text, not its errno."""
    info = freeze_exception(raised(lambda: FileNotFoundError(2, "No such file", "/x")))
    assert info is not None
    assert (info.type, info.message) == ("FileNotFoundError", "[Errno 2] No such file: '/x'")


def test_an_exception_group_is_whole() -> None:
    """Every member of a group is in the traceback."""
    info = freeze_exception(raised(lambda: ExceptionGroup("several", [ValueError("one"), KeyError("two")])))
    assert info is not None
    assert info.type == "ExceptionGroup"
    assert "ValueError: one" in info.stacktrace
    assert "KeyError: 'two'" in info.stacktrace


def test_an_exception_alone_will_do() -> None:
    """An exception instance in place of a triple is taken."""
    info = freeze_exception(ValueError("x"))
    assert info == ExceptionInfo("ValueError", "x", "ValueError: x\n")


@pytest.mark.parametrize("value", [(None, None, None), True, (1, 2), "text", 17])
def test_what_is_no_exception_is_none(value: Any) -> None:
    """exc_info that makes no sense costs nothing but itself."""
    assert freeze_exception(value) is None


class MuteError(Exception):
    def __str__(self) -> str:
        raise ValueError


def test_an_exception_without_a_text() -> None:
    """An exception whose __str__ raises is named."""
    info = freeze_exception(raised(MuteError))
    assert info is not None
    assert info.message == f"<{__name__}.MuteError: str() raised>"


def test_a_traceback_that_can_not_be_formatted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where Python itself fails to format it, the record says so."""
    monkeypatch.setattr("traceback.format_exception", mock.Mock(side_effect=RecursionError))
    info = freeze_exception(raised(lambda: ValueError("x")))
    assert info is not None
    assert info.stacktrace == "<traceback can't be formatted: RecursionError>"


def test_a_huge_traceback_is_cut_in_the_middle() -> None:
    """Its beginning and its end stay, and the cut says how much is gone."""
    info = freeze_exception(ValueError("x" * 1_000_000))
    assert info is not None
    assert len(info.stacktrace) < 300_000
    assert "characters left out" in info.stacktrace


def test_a_record_holds_its_exception_as_text(fixture: Fixture) -> None:
    """Nothing of the living exception is kept in the queue."""
    fixture.log(exc=raised(lambda: ValueError("x")))
    assert fixture.fields()["exc_info"].message == "x"


def test_a_senseless_exc_info_is_left_out(fixture: Fixture) -> None:
    """A record with a senseless exc_info is a record without an exception."""
    fixture.log(exc=(None, None, None))
    assert fixture.fields()["exc_info"] is None


# -- what is not captured ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "level", "expected"),
    [
        ("uvicorn.error", logging.DEBUG, False),
        ("uvicorn.error", logging.INFO, True),
        ("websockets.server", logging.DEBUG, False),
        ("websockets_app", logging.DEBUG, True),
        ("bridge.diagnostics", logging.ERROR, False),
        ("noisy", logging.ERROR, False),
        ("noisy.child", logging.ERROR, False),
        ("noisier", logging.ERROR, True),
    ],
)
def test_the_chatter_of_our_transport_is_left_out(name: str, level: int, expected: bool) -> None:
    """Our own frames' DEBUG lines, our own voice, and what the settings name."""
    fixture = Fixture(ignored_loggers=("noisy",))
    assert fixture.log(name=name, level=level) is expected
    assert len(fixture.queue) == int(expected)


def test_an_audit_record_is_never_ignored() -> None:
    """The flag wins over an ignored logger."""
    fixture = Fixture(ignored_loggers=("noisy",))
    fixture.log(name="noisy", is_audit=True)
    assert fixture.kinds() == [True]


def test_logger_names_are_remembered_within_a_bound(fixture: Fixture) -> None:
    """A program that makes a logger for every request does not fill the memory."""
    for number in range(10_002):
        fixture.handler._learn(f"request.{number}")
    assert len(fixture.handler._names) < 10_000


# -- filters and levels -----------------------------------------------------------------------------------------------


def test_a_filter_may_refuse_a_record(fixture: Fixture) -> None:
    """A filter's no is a no."""
    fixture.handler.addFilter(lambda record: record.levelno > logging.INFO)
    assert fixture.log(level=logging.INFO) is False
    assert fixture.log(level=logging.ERROR) is True
    assert len(fixture.queue) == 1


def test_a_filter_may_replace_a_record(fixture: Fixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """From Python 3.12 on a filter's record takes the place of the one it was given."""
    other = LOG_RECORD("app", 20, "p", 1, "other", (), None)
    fixture.handler.addFilter(lambda record: True)
    monkeypatch.setattr(fixture.handler, "filter", lambda record: other)
    fixture.log("m")
    assert fixture.fields()["msg"] == "other"


@pytest.mark.parametrize(
    ("level", "record_level", "taken", "warned"),
    [
        (logging.ERROR, logging.WARNING, False, 1),
        (logging.ERROR, logging.ERROR, True, 1),
        (logging.CRITICAL, logging.ERROR, False, 1),
        (logging.ERROR, logging.INFO, False, 0),
        (logging.INFO, logging.WARNING, True, 1),
    ],
)
def test_warnings_below_our_level_are_still_told_of(level: int, record_level: int, taken: bool, warned: int) -> None:
    """However high our level is, Python's own last resort gets its warnings."""
    fixture = Fixture(level=level)
    told: list[Any] = []
    fixture.handler.watch([], on_warning=told.append)
    assert fixture.handler.level <= logging.WARNING
    assert fixture.log(level=record_level) is taken
    assert len(told) == warned


@pytest.mark.parametrize("arguments", [{"name": "noisy"}, {"is_audit": True, "audit_record_id": "known"}, {"msg": "m"}])
def test_a_warning_is_told_of_whether_it_is_captured_or_not(arguments: dict[str, Any]) -> None:
    """An ignored logger's warning, and that of an event captured before, are warnings all the same."""
    fixture = Fixture(ignored_loggers=("noisy",))
    fixture.handler._recent["known"] = None
    told: list[Any] = []
    fixture.handler.watch([], on_warning=told.append)
    fixture.log(level=logging.WARNING, **arguments)
    assert len(told) == 1


def test_a_change_of_the_roots_handlers_is_noticed(fixture: Fixture) -> None:
    """The next record after a change finds it."""
    roots: list[logging.Handler] = []
    changes: list[bool] = []
    fixture.handler.watch(roots, on_change=lambda: changes.append(True))
    fixture.log()
    assert changes == []
    roots.append(logging.NullHandler())
    fixture.log()
    assert changes == [True]
    fixture.handler.watch(None)
    fixture.log()
    assert changes == [True]


# -- bounds -----------------------------------------------------------------------------------------------------------


def test_a_full_queue_refuses_the_newest_system_records() -> None:
    """What is queued stays; the newest is refused and counted."""
    fixture = Fixture(records=3)
    for number in range(5):
        fixture.log("m %d", number)
    assert [captured[0]["args"] for captured in fixture.queue.take(9)] == [(0,), (1,), (2,)]
    assert fixture.drops.snapshot() == {"queue_full": 2}


def test_audit_records_pass_a_full_queue_up_to_twice_its_size() -> None:
    """System records never crowd out audit records; a flood of audit records is bounded and counted too."""
    fixture = Fixture(records=3)
    for _ in range(4):
        fixture.log()
    for _ in range(4):
        fixture.log(name="audit.x")
    assert fixture.kinds() == [False, False, False, True, True, True]
    assert fixture.drops.snapshot() == {"queue_full": 1, "audit_queue_full": 1}


def test_large_records_are_bounded_by_their_bytes() -> None:
    """Messages of 10 MB do not fill the memory, and audit records have twice the room."""
    fixture = Fixture(max_bytes=25_000_000)
    for _ in range(4):
        fixture.log("x" * 10_000_000)
    for _ in range(4):
        fixture.log("x" * 10_000_000, name="audit.x")
    taken = fixture.queue.take(99)
    assert [(audit, large) for _, _, audit, large in taken] == [(False, 10_000_000)] * 2 + [(True, 10_000_000)] * 3
    assert fixture.drops.snapshot() == {"queue_full": 2, "audit_queue_full": 1}


def test_a_refused_record_gives_its_bytes_back() -> None:
    """Bytes counted for a record that finds no place are counted out again."""
    fixture = Fixture(records=1, max_bytes=10_000)
    fixture.log()
    fixture.log("x" * 5_000)
    fixture.queue.take(1)
    fixture.log("x" * 9_000)
    assert fixture.drops.snapshot() == {"queue_full": 1}
    assert len(fixture.queue) == 1


@pytest.mark.parametrize(
    ("msg", "args", "extra"),
    [
        ("x" * 5_000, (), {}),
        ("%s", ("x" * 5_000,), {}),
        ("%s", (["x" * 5_000],), {}),
        ("%(k)s", ({"k": "x" * 5_000},), {}),
        ("%s", (b"x" * 5_000,), {}),
        ("m", (), {"body": "x" * 5_000}),
        ("m", (), {"body": b"x" * 5_000}),
        ("m", (), {"body": {"deep": ["x" * 5_000]}}),
        (Exception("x" * 5_000), (), {}),
    ],
)
def test_every_place_for_a_large_text_is_weighed(
    fixture: Fixture, msg: Any, args: tuple[Any, ...], extra: dict[str, Any]
) -> None:
    """Message, arguments, extras of any nesting."""
    fixture.log(msg, *args, **extra)
    ((_, _, _, large),) = fixture.queue.take(9)
    assert large >= 5_000


def test_a_large_traceback_is_weighed(fixture: Fixture) -> None:
    """The exception counts as well."""
    fixture.log(exc=raised(lambda: ValueError("x" * 5_000)))
    ((_, _, _, large),) = fixture.queue.take(9)
    assert large >= 5_000


def test_a_small_record_is_not_weighed(fixture: Fixture) -> None:
    """Up to the limit no lock is taken for the bytes."""
    fixture.log("x" * LARGE_BYTES)
    ((_, _, _, large),) = fixture.queue.take(9)
    assert large == 0


# -- robustness -------------------------------------------------------------------------------------------------------


def test_a_record_that_is_broken_is_counted_and_told(fixture: Fixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """A record without its attributes raises nothing; logging's own error report tells of it."""
    errors = io.StringIO()
    monkeypatch.setattr(sys, "stderr", errors)
    record = LOG_RECORD("app", 20, "p", 1, "m", (), None)
    del record.exc_info
    assert fixture.handler.handle(record) is False
    assert fixture.drops.snapshot() == {"capture_error": 1}
    assert "--- Logging error ---" in errors.getvalue()


@pytest.mark.parametrize("stderr", [None, mock.Mock(write=mock.Mock(side_effect=SystemError))])
def test_telling_of_it_may_fail_as_well(fixture: Fixture, monkeypatch: pytest.MonkeyPatch, stderr: Any) -> None:
    """Without a standard error, or with one that raises, the caller still sees nothing."""
    monkeypatch.setattr(sys, "stderr", stderr)
    record = LOG_RECORD("app", 20, "p", 1, "m", (), None)
    del record.exc_info
    assert fixture.handler.handle(record) is False


@pytest.mark.parametrize("value", [{}, [], 17, None, "unknown"])
def test_a_record_id_of_any_type_is_harmless(fixture: Fixture, value: Any) -> None:
    """Only audit_log()'s own ids mark a record as captured before."""
    fixture.log(is_audit=True, audit_record_id=value)
    assert fixture.kinds() == [True]
    assert fixture.drops.snapshot() == {}


@pytest.mark.parametrize("rules", [(), (lambda *_: True,)])
def test_a_record_without_a_name_is_a_record(rules: Any) -> None:
    """makeLogRecord() leaves out what it was not told."""
    fixture = Fixture(rules=rules)
    assert fixture.handler.handle(logging.makeLogRecord({"msg": "m", "levelno": 20})) is True
    assert fixture.kinds() == [bool(rules)]


def test_emit_flush_and_close_do_not_stop_it(fixture: Fixture) -> None:
    """uvicorn.Config() flushes and closes every handler: it goes on, without a lock."""
    fixture.handler.flush()
    fixture.handler.close()
    fixture.handler.emit(LOG_RECORD("app", 20, "p", 1, "m", (), None))
    assert fixture.handler.lock is None
    assert len(fixture.queue) == 1


VARIABLE: ContextVar[str] = ContextVar("VARIABLE", default="")


def test_the_callers_context_is_kept(fixture: Fixture) -> None:
    """Context variables are those of the call, whatever happens to them later."""
    token = VARIABLE.set("at the call")
    fixture.log()
    VARIABLE.reset(token)
    ((_, context, _, _),) = fixture.queue.take(9)
    assert context[VARIABLE] == "at the call"


def test_threads_lose_nothing(fixture: Fixture) -> None:
    """Threads that log at once all get in, each in its own order."""
    fixture = Fixture(records=100_000)

    def run(number: int) -> None:
        for index in range(2_000):
            fixture.log("m %d %d", number, index)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seen = [captured[0]["args"] for captured in fixture.queue.take(100_000)]
    for number in range(4):
        assert [index for each, index in seen if each == number] == list(range(2_000))


# -- audit_log() ------------------------------------------------------------------------------------------------------


def test_an_event_is_captured_once_and_its_record_and_copies_are_known(fixture: Fixture) -> None:
    """The record of audit_log() that comes by through a logger, or a copy of it, is not captured again."""
    record = LOG_RECORD("app", 20, "p", 1, "m", (), None)
    record.__dict__.update(is_audit=True, audit_record_id="id-1")
    receipt = fixture.handler.submit(record, AuditEvent(id="id-1"))
    assert fixture.handler.handle(record) is True
    assert fixture.handler.handle(logging.makeLogRecord(record.__dict__)) is True
    fields = fixture.fields()
    assert receipt.id == "id-1"
    assert fields[AUDIT_EVENT] == AuditEvent(id="id-1")
    assert "audit_record_id" not in fields


def test_known_events_are_forgotten_in_time(fixture: Fixture) -> None:
    """What is remembered of past events is bounded."""
    with mock.patch("bridge.capture.handler._MAX_RECENT", 2):
        for number in range(5):
            fixture.handler.submit(LOG_RECORD("app", 20, "p", 1, "m", (), None), AuditEvent(id=str(number)))
    assert list(fixture.handler._recent) == ["3", "4"]


def test_an_event_that_can_not_be_captured_raises_nothing(fixture: Fixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """A broken record is counted, and the caller gets its receipt."""
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    record = LOG_RECORD("app", 20, "p", 1, "m", (), None)
    del record.exc_info
    assert fixture.handler.submit(record, AuditEvent(id="x")).id == "x"
    assert fixture.drops.snapshot() == {"capture_error": 1}


def test_an_events_exception_is_frozen(fixture: Fixture) -> None:
    """An event with an exception holds it as text."""
    targets.append(fixture.handler)
    audit_log(logging.getLogger("app"), "m", exc_info=ValueError("x"))
    audit_log(logging.getLogger("app"), "m", exc_info=(None, None, None))
    first, second = fixture.queue.take(9)
    assert first[0]["exc_info"].message == "x"
    assert second[0]["exc_info"] is None
