"""What is known to hurt users of OpenTelemetry's logs, row by row, and the fields of a record on both sides."""

from __future__ import annotations

import asyncio
import dataclasses
import decimal
import enum
import io
import logging
import logging.config
import logging.handlers
import queue
import threading
import time
import uuid
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from logging.config import dictConfig as dict_config_imported_before
from typing import Any

import pytest
import uvicorn
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry import baggage, trace
from opentelemetry import context as otel_context
from opentelemetry._logs import LogRecord, SeverityNumber
from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
from opentelemetry.instrumentation.logging import LoggingInstrumentor
from opentelemetry.sdk._logs.export import BatchLogRecordProcessor, SimpleLogRecordProcessor
from opentelemetry.sdk.trace import TracerProvider

import bridge
from bridge.capture.convert import _TAKES_MIXED_SEQUENCES, _uniform
from tests.logging_state import fresh_logging, standard_error
from tests.telemetry import (
    Recorder,
    Sink,
    Team,
    get_logger,
    grpc_sink,
    http_sink,
    messages,
    new_provider,
    said,
    shown,
    wait_until,
    wires,
)

logger = get_logger("shop.server")
tracer = TracerProvider().get_tracer("tests")


@pytest.fixture
def team() -> Team:
    return Team()


def both(b: bridge.Bridge, team: Team) -> tuple[dict[str, Any], dict[str, Any], Any, Any]:
    """The one record: its attributes at OpenTelemetry and in the live view, and the two records."""
    assert b.force_flush() is True
    record, attributes = team.only()
    (event,) = shown(b)
    return attributes, dict(event.attributes), record, event


# -- the fields -------------------------------------------------------------------------------------------------------


class Colour(enum.Enum):
    RED = "red"


@dataclasses.dataclass
class Person:
    name: str
    born: datetime


class Plain:
    def __repr__(self) -> str:
        return "<plain>"


CYCLE: list[Any] = [1]
CYCLE.append(CYCLE)
ID = uuid.UUID(int=5)
EXTRAS: list[tuple[Any, Any]] = [
    ("text", "text"),
    (17, 17),
    (1.5, 1.5),
    (True, True),
    (b"\x00\xff", b"\x00\xff"),
    (None, None),
    ([1, "a", [2.5, {"k": None}]], (1, "a", (2.5, {"k": None}))),
    ({"a": {"b": [1]}}, {"a": {"b": (1,)}}),
    (datetime(2025, 10, 8, tzinfo=UTC), "2025-10-08T00:00:00+00:00"),
    (ID, str(ID)),
    (decimal.Decimal("1.10"), "1.10"),
    (Colour.RED, "red"),
    (Person("Ann", datetime(2000, 1, 2)), {"name": "Ann", "born": "2000-01-02T00:00:00"}),
    (ValueError("x"), "ValueError: x"),
    (Plain(), "<plain>"),
    (CYCLE, (1, "<cycle>")),
    (2**70, str(2**70)),
    ({1, 2}, (1, 2)),
    ("\ud800", "\\ud800"),
]


def at_opentelemetry(value: Any) -> Any:
    """The oldest SDK takes no sequence of several types: it gets JSON text in place of one."""
    return value if _TAKES_MIXED_SEQUENCES else _uniform(value)


@pytest.mark.parametrize(("value", "expected"), EXTRAS, ids=lambda value: type(value).__name__)
def test_extras_of_any_type_are_kept_without_a_warning(value: Any, expected: Any, team: Team) -> None:
    """datetime, UUID, Decimal, objects, nesting: nothing becomes None, nothing is warned of, on both sides."""
    b = team.setup()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        logger.info("m", extra={"value": value})
        attributes, live, _, _ = both(b, team)
    assert attributes["value"] == at_opentelemetry(expected)
    assert live["value"] == expected
    assert caught == []


@settings(max_examples=30, deadline=None)
@given(
    value=st.recursive(
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats(allow_nan=False)
        | st.text()
        | st.binary()
        | st.decimals(),
        # The SDK refuses empty keys, at any depth.
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(min_size=1), inner, max_size=4),
    ),
    message=st.text(),
)
def test_any_record_reaches_both_sides(value: Any, message: str) -> None:
    """Whatever its text and values are."""
    team = Team()
    b = team.setup(redact=False)
    position = b.hub.end()
    try:
        logger.info("%s", message, extra={"value": value})
        assert b.force_flush() is True
        assert len(team.records) == 1
        (entry,) = b.hub.read(position, 10).entries
        expected = at_opentelemetry(entry.event.attributes["value"])
        assert (team.records[0].log_record.attributes or {})["value"] == expected
        assert b.statistics().dropped == {}
    finally:
        b.shutdown()


def test_every_field_of_a_record(team: Team) -> None:
    """Code, thread, process, time, level, scope, resource: on both sides, and on the wire."""
    b = team.setup()
    before = time.time_ns()
    thread = threading.Thread(target=lambda: logger.warning("hello %s", "you"), name="worker-7")
    thread.start()
    thread.join()
    attributes, live, record, event = both(b, team)
    otel = record.log_record
    assert (otel.body, otel.severity_text, otel.severity_number) == ("hello you", "WARN", SeverityNumber.WARN)
    assert before - 1_000_000 <= otel.timestamp <= otel.observed_timestamp <= time.time_ns()
    assert record.instrumentation_scope.name == event.logger == "shop.server"
    assert attributes == live
    assert attributes["code.file.path"] == __file__
    assert attributes["code.function.name"] == "<lambda>"
    assert attributes["code.line.number"] > 0
    assert (attributes["thread.name"], attributes["thread.id"]) == ("worker-7", thread.ident)
    assert attributes["process.pid"] > 0
    (wire,) = wires(b)
    assert wire["type"] == "system_log"
    assert wire["data"] | {"timestamp": "", "line": 0} == {
        "timestamp": "",
        "level": "WARNING",
        "logger": "shop.server",
        "message": "hello you",
        "module": "test_otel_facts",
        "function": "<lambda>",
        "line": 0,
    }


def test_exceptions_have_their_qualified_type_their_words_and_the_whole_traceback(team: Team) -> None:
    """FileNotFoundError's message is not "2"; causes and groups are there; stack_info has an attribute."""
    b = team.setup()
    try:
        try:
            raise ExceptionGroup("several", [KeyError("inner"), TimeoutError("late")])
        except ExceptionGroup as group:
            raise FileNotFoundError(2, "No such file or directory", "/x") from group
    except FileNotFoundError:
        logger.exception("failed", stack_info=True)
    attributes, live, _, event = both(b, team)
    assert attributes == live
    assert attributes["exception.type"] == "FileNotFoundError"
    assert attributes["exception.message"] == "[Errno 2] No such file or directory: '/x'"
    for words in ("ExceptionGroup: several", "KeyError: 'inner'", "TimeoutError: late", "direct cause"):
        assert words in attributes["exception.stacktrace"]
    assert "Stack (most recent call last)" in attributes["code.stacktrace"]
    assert event.exception.type == "FileNotFoundError"

    class Mine(Exception):
        pass

    logger.error("failed", exc_info=Mine("x"))
    b.force_flush()
    assert (team.records[-1].log_record.attributes or {})["exception.type"] == f"{__name__}.{Mine.__qualname__}"


def test_an_event_name_is_the_records_event_name(team: Team) -> None:
    """extra={"event.name": ...}."""
    b = team.setup()
    logger.info("m", extra={"event.name": "user.login"})
    attributes, _, record, event = both(b, team)
    assert record.log_record.event_name == event.event_name == "user.login"
    assert "event.name" not in attributes


def test_the_active_span_and_the_callers_context_are_the_records() -> None:
    """Ids in both forms; processors see baggage and context variables as they were at the call."""
    seen: list[Any] = []
    processor = Recorder(lambda record: seen.append((baggage.get_baggage("tenant"), trace.get_current_span())))
    team = Team()
    team.provider.add_log_record_processor(processor)
    b = team.setup()
    token = otel_context.attach(baggage.set_baggage("tenant", "t1"))
    with tracer.start_as_current_span("work") as span:
        logger.info("m")
    otel_context.detach(token)
    _, _, record, event = both(b, team)
    context = span.get_span_context()
    assert (record.log_record.trace_id, record.log_record.span_id) == (context.trace_id, context.span_id)
    assert (event.trace_id, event.span_id) == (f"{context.trace_id:032x}", f"{context.span_id:016x}")
    assert event.trace_flags == record.log_record.trace_flags == context.trace_flags
    assert seen == [("t1", span)]
    logger.info("outside")
    b.force_flush()
    assert (shown(b)[1].trace_id, shown(b)[1].span_id) == ("", "")


def test_threads_and_tasks_keep_their_own_spans(team: Team) -> None:
    """Concurrent work does not mix its traces."""
    b = team.setup()
    expected: dict[str, str] = {}

    def work(name: str) -> None:
        with tracer.start_as_current_span(name) as span:
            expected[name] = f"{span.get_span_context().trace_id:032x}"
            for _ in range(20):
                logger.info(name)

    async def task(name: str) -> None:
        with tracer.start_as_current_span(name) as span:
            expected[name] = f"{span.get_span_context().trace_id:032x}"
            for _ in range(20):
                await asyncio.sleep(0)
                logger.info(name)

    async def tasks() -> None:
        await asyncio.gather(*(task(f"task-{number}") for number in range(4)))

    threads = [threading.Thread(target=work, args=(f"thread-{number}",)) for number in range(4)]
    for thread in threads:
        thread.start()
    asyncio.run(tasks())
    for thread in threads:
        thread.join()
    assert b.force_flush() is True
    events = shown(b)
    assert len(events) == 160
    assert {(event.message, event.trace_id) for event in events} == set(expected.items())


def test_an_audit_event_on_both_sides(team: Team) -> None:
    """audit_log()'s fields as attributes, and on the wire in version 1."""
    b = team.setup()
    receipt = bridge.audit_log(
        logger,
        "Role granted",
        action="role_grant",
        metadata={"role": "admin"},
        actor="u1",
        target="t1",
        outcome="success",
    )
    attributes, live, record, event = both(b, team)
    assert attributes == live
    assert attributes["audit.record.id"] == event.record_id == receipt.id
    assert record.log_record.event_name == "role.grant"
    (wire,) = wires(b)
    assert wire["type"] == "audit_log"
    assert (wire["data"]["action"], wire["data"]["metadata"]) == ("role_grant", {"role": "admin"})


# -- handlers of others -----------------------------------------------------------------------------------------------


@contextmanager
def instrumented(team: Team) -> Iterator[list[logging.Handler]]:
    """contrib's instrumentor, with its handler on the team's provider."""
    before = logging.getLogger().handlers[:]
    instrumentor = LoggingInstrumentor()
    instrumentor.instrument()
    added = [handler for handler in logging.getLogger().handlers if handler not in before]
    for handler in added:
        handler._logger_provider = team.provider  # type: ignore[attr-defined]
    try:
        yield added
    finally:
        instrumentor.uninstrument()


def has_handler() -> bool:
    """From 0.61 the instrumentor adds a handler."""
    with fresh_logging():
        instrumentor = LoggingInstrumentor()
        instrumentor.instrument()
        found = bool(logging.getLogger().handlers)
        instrumentor.uninstrument()
        return found


@fresh_logging()
def test_two_handlers_are_one_copy_with_contribs_instrumentor_before(team: Team) -> None:
    """Its handler is taken off at setup() and is back after shutdown()."""
    adds = has_handler()
    with instrumented(team) as added:
        assert bool(added) is adds
        b = team.setup()
        logger.warning("m")
        assert b.force_flush() is True
        assert team.bodies == messages(b) == ["m"]
        b.shutdown()
        assert logging.getLogger().handlers == added


@fresh_logging()
def test_two_handlers_are_one_copy_with_contribs_instrumentor_after(team: Team) -> None:
    """It is noticed with the next record."""
    b = team.setup()
    with instrumented(team) as added:
        logger.warning("m")
        assert b.force_flush() is True
        assert team.bodies == messages(b) == ["m"]
        b.shutdown()
        assert logging.getLogger().handlers == added


@fresh_logging()
def test_two_handlers_are_two_copies_if_asked(team: Team) -> None:
    """replace_handlers=False leaves everybody's handlers alone."""
    with instrumented(team) as added:
        b = team.setup(replace_handlers=False)
        assert set(added) <= set(logging.getLogger().handlers)
        logger.warning("m")
        assert b.force_flush() is True
        assert team.bodies == ["m"] * (1 + len(added))
        b.shutdown()


@pytest.mark.parametrize(
    "configure",
    [
        lambda path: logging.config.dictConfig({"version": 1, "root": {"level": "INFO", "handlers": []}}),
        lambda path: dict_config_imported_before({"version": 1, "root": {"level": "INFO", "handlers": []}}),
        lambda path: logging.basicConfig(force=True, stream=io.StringIO()),
        lambda path: logging.basicConfig(stream=io.StringIO()),
        lambda path: logging.config.fileConfig(path),
        lambda path: uvicorn.Config(lambda: None, log_level="debug"),
        lambda path: uvicorn.Config(lambda: None, log_config=None),
    ],
    ids=["dictConfig", "dictConfig imported before", "force", "basicConfig", "fileConfig", "uvicorn", "uvicorn bare"],
)
@pytest.mark.parametrize("when", ["before", "after"])
@fresh_logging()
def test_whoever_sets_up_logging_wipes_nothing(configure: Any, when: str, team: Team, tmp_path: Any) -> None:
    """One copy before, one after, however logging is configured."""
    path = tmp_path / "logging.ini"
    path.write_text(
        "[loggers]\nkeys=root\n[handlers]\nkeys=h\n[formatters]\nkeys=\n"
        "[logger_root]\nlevel=INFO\nhandlers=h\n[handler_h]\nclass=NullHandler\nargs=()\n"
    )
    if when == "before":
        configure(path)
    b = team.setup()
    if when == "after":
        configure(path)
    logger.disabled = False  # dictConfig's own choice, see below
    logger.warning("m")
    bridge.audit_log(logging.getLogger("audit.x"), "a")
    assert b.force_flush() is True
    assert team.bodies == messages(b) == ["m", "a"]


@fresh_logging()
def test_basic_config_after_setup_still_adds_its_handler(team: Team) -> None:
    """Warnings go where the user wanted them, once."""
    team.setup()
    stream = io.StringIO()
    logging.basicConfig(stream=stream, format="%(message)s")
    with standard_error() as errors:
        logger.warning("m")
    assert (stream.getvalue(), errors.getvalue()) == ("m\n", "")


@fresh_logging()
def test_the_last_resort_is_kept(team: Team) -> None:
    """Without any other handler warnings still go to standard error, once, an event's as well."""
    team.setup()
    with standard_error() as errors:
        logger.info("quiet")
        logger.warning("loud")
        bridge.audit_log(logger, "audited", level=logging.WARNING)
    assert errors.getvalue() == "loud\naudited\n"


def test_uvicorns_close_and_flush_do_not_stop_us(team: Team) -> None:
    """logging.shutdown() on all handlers neither blocks nor ends the bridge."""
    b = team.setup()
    logging.shutdown()
    logger.info("m")
    assert b.force_flush() is True
    assert team.bodies == ["m"]


@fresh_logging()
def test_uvicorns_loggers_are_captured_once_attached(team: Team) -> None:
    """They don't propagate; attached before or after uvicorn.Config() they are seen, once."""
    b = team.setup()
    b.attach("uvicorn", "uvicorn.access")
    uvicorn.Config(lambda: None)
    b.attach("uvicorn", "uvicorn.access")
    logging.getLogger("uvicorn.error").info("Started")
    logging.getLogger("uvicorn.access").info("GET /")
    assert b.force_flush() is True
    assert messages(b) == ["Started", "GET /"]
    for name in ("uvicorn", "uvicorn.access"):
        logging.getLogger(name).handlers.clear()
        logging.getLogger(name).propagate = True


# -- queues -----------------------------------------------------------------------------------------------------------


@fresh_logging()
def test_a_queue_handler_loses_no_trace_and_doubles_no_event(team: Team) -> None:
    """With a listener whose handlers log again what they get, as multiprocessing's recipes do."""
    logging.getLogger().setLevel(logging.INFO)
    records: queue.Queue[Any] = queue.Queue()
    again: list[str] = []

    class Relog(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            again.append(record.getMessage())
            if getattr(record, "is_audit", False):
                logging.getLogger().handle(record)

    b = team.setup()
    logging.getLogger().addHandler(logging.handlers.QueueHandler(records))
    listener = logging.handlers.QueueListener(records, Relog())
    with tracer.start_as_current_span("work") as span:
        logger.info("m")
        bridge.audit_log(logger, "a", action="grant")
    for _ in range(2):  # by hand: what is handled again is queued again, and there is no end to it
        listener.handle(records.get(timeout=10))
    assert again[:2] == ["m", "a"]
    assert b.force_flush() is True
    assert team.bodies == messages(b) == ["m", "a"]
    trace_id = f"{span.get_span_context().trace_id:032x}"
    assert [event.trace_id for event in shown(b)] == [trace_id, trace_id]


def test_our_handler_behind_a_queue_listener(team: Team) -> None:
    """A record that comes from a listener's thread is whole; its exception is in the message, as Python puts it."""
    b = team.setup()
    records: queue.Queue[Any] = queue.Queue()
    elsewhere = get_logger("behind.queue")
    elsewhere.propagate = False
    elsewhere.addHandler(logging.handlers.QueueHandler(records))
    listener = logging.handlers.QueueListener(records, b._handler)  # type: ignore[arg-type]
    listener.start()
    elsewhere.info("hello %s", "you", extra={"tenant": "t"})
    elsewhere.error("failed", exc_info=ValueError("x"))
    listener.stop()
    elsewhere.propagate = True
    elsewhere.handlers.clear()
    assert b.force_flush() is True
    first, second = shown(b)
    assert (first.message, first.attributes["tenant"]) == ("hello you", "t")
    assert second.message.startswith("failed\nValueError: x")


# -- errors of others -------------------------------------------------------------------------------------------------


@fresh_logging()
def test_bad_arguments_crash_nobody(team: Team) -> None:
    """The record is shown with its arguments, counted, and logging's own handlers are left alone."""
    b = team.setup()
    logger.info("%d items", "many")
    logger.info("%s %s", "one")
    assert b.force_flush() is True
    assert messages(b) == ["%d items [arguments ('many',) do not fit]", "%s %s [arguments ('one',) do not fit]"]
    assert b.statistics().format_errors == 2


def test_a_raising_processor_crashes_nobody() -> None:
    """It is counted and told, and the live view has the record."""

    def explode(record: Any) -> None:
        raise RuntimeError("processor")

    b = bridge.setup(logger_provider=new_provider(Recorder(explode)))
    with said() as words:
        logger.info("m")
        assert b.force_flush() is True
    assert messages(b) == ["m"]
    assert b.statistics().dropped == {"processor_error": 1}
    assert words == ["WARNING a log record processor raised RuntimeError('processor')"]


def test_a_hanging_processor_holds_up_no_caller() -> None:
    """Ten threads that log beside an export of 0.2 s don't wait for it, nor for each other."""
    gate = threading.Event()
    b = bridge.setup(logger_provider=new_provider(Recorder(lambda record: gate.wait(30))))
    durations: list[float] = []

    def log() -> None:
        began = time.perf_counter()
        logger.info("m")
        durations.append(time.perf_counter() - began)

    threads = [threading.Thread(target=log) for _ in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert max(durations) < 1.0
    wait_until(lambda: len(messages(b)) == 10)
    gate.set()


def test_a_processor_that_changes_records_changes_neither_the_live_view_nor_ours(team: Team) -> None:
    """Records are shared and mutable between processors; what is shown is what was logged."""

    def change(record: Any) -> None:
        record.log_record.body = "changed"
        record.log_record.attributes["k"] = "changed"

    provider = new_provider(Recorder(change))
    b = bridge.setup(logger_provider=provider)
    logger.info("m", extra={"k": 1})
    assert b.force_flush() is True
    (event,) = shown(b)
    assert (event.message, event.attributes["k"]) == ("m", 1)


def test_a_processor_that_logs_does_not_feed_itself(team: Team) -> None:
    """One record of ours begets one of its, which is shown and not exported."""
    team.provider.add_log_record_processor(Recorder(lambda record: get_logger("exporter").info("exporting")))
    b = team.setup()
    logger.info("m")
    assert b.force_flush() is True
    assert b.force_flush() is True
    assert messages(b) == ["m", "exporting"]
    assert team.bodies == ["m"]


def test_over_128_attributes_ours_are_there(team: Team) -> None:
    """The SDK would drop the first of all and warn at every record: it has no reason to."""
    b = team.setup()
    bridge.audit_log(
        logger, "m", action="a", metadata={f"m{n}": n for n in range(150)}, **{f"k{n}": n for n in range(150)}
    )
    attributes, live, record, event = both(b, team)
    assert record.dropped_attributes == 0
    assert len(attributes) == 128
    for name in ("is_audit", "audit.record.id", "audit.action", "audit.outcome", "code.line.number", "thread.id"):
        assert attributes[name] == live[name]
    assert attributes["audit.metadata"] == {f"m{n}": n for n in range(150)}
    assert event.metadata == attributes["audit.metadata"]
    assert live["k149"] == 149


def test_otel_sdk_disabled_stops_opentelemetry_and_not_the_live_view(monkeypatch: pytest.MonkeyPatch) -> None:
    """A start-up warning says so."""
    monkeypatch.setenv("OTEL_SDK_DISABLED", "True")
    team = Team()
    with said() as words:
        b = team.setup()
    assert words == ["WARNING OTEL_SDK_DISABLED is true: nothing goes to OpenTelemetry; the live view works"]
    logger.info("m")
    assert b.force_flush() is True
    assert (messages(b), team.bodies) == (["m"], [])


# -- OTLP out ---------------------------------------------------------------------------------------------------------


def log_both_kinds() -> None:
    with tracer.start_as_current_span("work"):
        logger.warning("hello", extra={"order": {"id": 7, "items": [1, 2]}, "raw": b"\x00"})
    bridge.audit_log(logging.getLogger("audit.role"), "Role granted", action="role_grant", metadata={"role": "admin"})


def check_both_kinds(sink: Sink, b: bridge.Bridge) -> None:
    system, audit = sink.rows()
    live_system, live_audit = shown(b)
    assert (system["body"], system["severity"], system["number"], system["scope"]) == (
        "hello",
        "WARN",
        13,
        "shop.server",
    )
    assert system["trace_id"] == live_system.trace_id != ""
    assert system["time"] == live_system.timestamp
    assert system["attributes"]["order"] == {"id": 7, "items": [1, 2]}
    assert system["attributes"]["raw"] == b"\x00"
    assert set(system["attributes"]) == set(live_system.attributes)
    assert system["attributes"]["code.function.name"] == "log_both_kinds"
    assert (audit["body"], audit["event"], audit["scope"]) == ("Role granted", "role.grant", "audit.role")
    assert audit["attributes"] == dict(live_audit.attributes)
    assert audit["attributes"]["audit.metadata.role"] == "admin"
    assert audit["resource"]["service.name"] == system["resource"]["service.name"]


@pytest.mark.parametrize("open_sink", [http_sink, grpc_sink])
def test_both_kinds_of_records_are_delivered_by_otlp(open_sink: Any, team: Team) -> None:
    """With all their attributes, to a server that really listens, beside the team's own processors."""
    with open_sink() as sink:
        b = team.setup(otlp_endpoint=sink.endpoint, otlp_protocol="grpc" if open_sink is grpc_sink else None)
        log_both_kinds()
        assert b.force_flush() is True
        check_both_kinds(sink, b)
        assert b.statistics().exported == 2
        assert len(team.records) == 2
        assert b.shutdown() is True
        assert len(sink.rows()) == 2


@pytest.mark.parametrize(
    ("open_sink", "name"),
    [(http_sink, "OTEL_EXPORTER_OTLP_ENDPOINT"), (grpc_sink, "OTEL_EXPORTER_OTLP_ENDPOINT")],
)
def test_the_standard_variables_are_enough(open_sink: Any, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a provider that setup() makes, OTEL_EXPORTER_OTLP_* says where to send."""
    with open_sink() as sink:
        monkeypatch.setenv(name, sink.endpoint)
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc" if open_sink is grpc_sink else "http/protobuf")
        b = bridge.setup(service_name=f"by-environment-{open_sink.__name__}")
        log_both_kinds()
        assert b.force_flush() is True
        check_both_kinds(sink, b)
        assert b.shutdown() is True


def test_a_teams_own_otlp_processor_doubles_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The standard variables are the team's to act on."""
    with http_sink() as sink:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", sink.endpoint)
        provider = new_provider(BatchLogRecordProcessor(OTLPLogExporter()))
        b = bridge.setup(logger_provider=provider)
        logger.info("m")
        assert b.force_flush() is True
        assert [row["body"] for row in sink.rows()] == ["m"]
        b.shutdown()
        provider.shutdown()


@pytest.mark.parametrize("open_sink", [http_sink, grpc_sink])
@pytest.mark.parametrize("how", ["ours", "team's batch", "team's simple"])
@fresh_logging()
def test_at_root_debug_exports_do_not_feed_themselves(open_sink: Any, how: str) -> None:
    """urllib3's and grpc's own DEBUG lines inside an export beget no further export."""
    if how != "ours" and open_sink is grpc_sink:
        from opentelemetry.exporter.otlp.proto.grpc._log_exporter import OTLPLogExporter as GrpcExporter

        def exporter(endpoint: str) -> Any:
            return GrpcExporter(endpoint=endpoint, insecure=True)
    else:

        def exporter(endpoint: str) -> Any:
            return OTLPLogExporter(endpoint=f"{endpoint}/v1/logs")

    logging.getLogger().setLevel(logging.DEBUG)
    logging.getLogger("urllib3").setLevel(logging.DEBUG)
    with open_sink() as sink:
        if how == "ours":
            provider = new_provider()
            b = bridge.setup(
                logger_provider=provider,
                otlp_endpoint=sink.endpoint,
                otlp_protocol="grpc" if open_sink is grpc_sink else None,
            )
        else:
            kind = SimpleLogRecordProcessor if how == "team's simple" else BatchLogRecordProcessor
            provider = new_provider(kind(exporter(sink.endpoint)))
            b = bridge.setup(logger_provider=provider)
        logging.getLogger("app").debug("one")
        for _ in range(4):
            assert b.force_flush() is True
        assert [row["body"] for row in sink.rows()] == ["one"]
        logging.getLogger("urllib3.connectionpool").debug("of the application's own")
        for _ in range(4):
            assert b.force_flush() is True
        assert [row["body"] for row in sink.rows()] == ["one", "of the application's own"]
        b.shutdown()
        provider.shutdown()
    logging.getLogger("urllib3").setLevel(logging.NOTSET)


def test_a_stock_exporter_that_says_failure_is_counted(team: Team) -> None:
    """An HTTP 400 discards the batch: the flush says False, and the statistics say why."""
    with http_sink(status=400) as sink, said():
        b = team.setup(otlp_endpoint=sink.endpoint)
        logger.info("m")
        assert b.force_flush() is False
        assert b.statistics().dropped == {"otlp_failed": 1}
        b.shutdown()


def test_nobody_listens_and_nobody_waits(team: Team) -> None:
    """A collector that is not there: shutdown keeps its deadline and is honest."""
    with said():
        b = team.setup(otlp_endpoint="http://127.0.0.1:9")
        logger.info("m")
        began = time.monotonic()
        assert b.shutdown(timeout=0.3) is False
        assert time.monotonic() - began < 5
        wait_until(lambda: b.statistics().dropped == {"otlp_failed": 1})


def test_native_records_of_a_team_are_delivered_once(team: Team) -> None:
    """The native Logs API beside logging, with OTLP out."""
    with http_sink() as sink:
        b = team.setup(otlp_endpoint=sink.endpoint)
        team.provider.get_logger("native").emit(LogRecord(body="native"))
        logger.info("ours")
        assert b.force_flush() is True
        assert sorted(row["body"] for row in sink.rows()) == ["native", "ours"]
        b.shutdown()
