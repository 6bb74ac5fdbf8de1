"""Records of structlog, loguru and servers arrive as those of logging do, once each."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import logging.config
import os
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, NoReturn

import gunicorn.config
import gunicorn.glogging
import pytest
import structlog
import structlog.typing
import uvicorn.config
from loguru import logger as loguru_logger
from opentelemetry.sdk.trace import TracerProvider

import bridge
import bridge.assembly  # the fixture that forgets process-wide state after each test works through it
from bridge.capture import audit, loggers
from bridge.capture.handler import CaptureHandler
from bridge.capture.intake import CallQueue, Drops
from bridge.capture.loggers import SERVER_LOGGERS, loguru_sink, structlog_processor, with_request
from bridge.record.event import UNSET, LogEvent
from bridge.testing import RecordedEvents, record_events
from tests.logging_state import fresh_logging
from tests.serving import kept_loggers, run_python, serve
from tests.telemetry import messages, shown

HERE = __file__


def line() -> int:
    """The caller's line."""
    return sys._getframe(1).f_lineno


@pytest.fixture
def recorded() -> Iterator[RecordedEvents]:
    with record_events() as events:
        yield events


def only(recorded: RecordedEvents) -> LogEvent:
    """The one record."""
    (event,) = [*recorded.system, *recorded.audit]
    return event


def extras(event: LogEvent) -> dict[str, Any]:
    """What is not said of every record."""
    common = ("code.", "thread.", "process.", "asyncio.", "exception.", "audit.")
    return {key: value for key, value in event.attributes.items() if not key.startswith(common)}


class Hostile:
    """Raises at everything."""

    def __repr__(self) -> NoReturn:
        raise RuntimeError("no")

    __str__ = __bool__ = __eq__ = __hash__ = __iter__ = __len__ = __format__ = __repr__  # type: ignore[assignment]


# -- structlog --------------------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def restored_structlog() -> Iterator[None]:
    """Neither its configuration nor the class of loggers that LoggerFactory sets outlives a test."""
    logger_class = logging.getLoggerClass()
    yield
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()
    logging.setLoggerClass(logger_class)


class Returns:
    """Has every method; it returns what was rendered."""

    def __getattr__(self, method: str) -> Any:
        if method == "name":
            raise AttributeError(method)
        return lambda text: text


def native(*before: Any, after: tuple[Any, ...] = (), wrapper: Any = None, **initial: Any) -> Any:
    """A logger that does not end in logging."""
    return structlog.wrap_logger(
        Returns(),
        processors=[*before, structlog_processor, *after, structlog.processors.KeyValueRenderer(sort_keys=True)],
        wrapper_class=wrapper or structlog.make_filtering_bound_logger(0),
        **initial,
    )


def test_an_event_arrives_with_its_fields(recorded: RecordedEvents) -> None:
    log = native(shop="main")
    returned, expected = log.bind(user="u1").info("order placed", total=17, items=["a", "b"]), line()
    assert returned == "event='order placed' items=['a', 'b'] shop='main' total=17 user='u1'"
    event = only(recorded)
    assert (event.message, event.level, event.severity_number, event.logger) == ("order placed", "INFO", 9, __name__)
    assert (event.line, event.function, event.module) == (
        expected,
        "test_an_event_arrives_with_its_fields",
        "test_loggers",
    )
    assert event.attributes["code.file.path"] == HERE
    assert extras(event) == {"shop": "main", "user": "u1", "total": 17, "items": ("a", "b")}
    assert not event.is_audit


def test_the_event_goes_on_unchanged(recorded: RecordedEvents) -> None:
    items = ["a"]
    given: dict[str, Any] = {
        "event": "x %s",
        "positional_args": (1,),
        "exc_info": True,
        "items": items,
        "level": "info",
    }
    before = dict(given)
    assert structlog_processor(None, "info", given) is given
    assert given == before
    items.append("b")
    assert only(recorded).attributes["items"] == ("a",), "captured as it was at the call"


@pytest.mark.parametrize(
    ("method", "level", "number"),
    [
        ("debug", "DEBUG", 5),
        ("info", "INFO", 9),
        ("msg", "INFO", 9),
        ("warning", "WARNING", 13),
        ("warn", "WARNING", 13),
        ("error", "ERROR", 17),
        ("err", "ERROR", 17),
        ("exception", "ERROR", 17),
        ("critical", "CRITICAL", 21),
        ("fatal", "CRITICAL", 21),
        ("notice", "NOTICE", 9),
    ],
)
def test_the_method_is_the_level(recorded: RecordedEvents, method: str, level: str, number: int) -> None:
    getattr(native(structlog.processors.add_log_level, wrapper=structlog.BoundLogger), method)("x")
    event = only(recorded)
    assert (event.level, event.severity_number) == (level, number)
    assert extras(event) == {}, "the level is not said twice"


def test_a_method_named_like_a_level_of_logging_has_its_number(recorded: RecordedEvents) -> None:
    logging.addLevelName(35, "ALERT")
    native(wrapper=structlog.BoundLogger).alert("x", level="red", level_number=7)
    event = only(recorded)
    assert (event.level, event.severity_number) == ("ALERT", 16)
    assert extras(event) == {"level": "red", "level_number": 7}


class Named:
    name = "shop.bound"

    def info(self, text: str) -> str:
        return text


@pytest.mark.parametrize(
    ("keys", "logger", "left"),
    [
        ({"logger": "shop.a"}, "shop.a", {}),
        ({"logger_name": "shop.b"}, "shop.b", {}),
        ({"logger": "shop.a", "logger_name": "shop.b"}, "shop.a", {"logger_name": "shop.b"}),
        ({"logger": 17}, "shop.bound", {"logger": 17}),
        ({}, "shop.bound", {}),
    ],
)
def test_the_loggers_name(recorded: RecordedEvents, keys: dict[str, Any], logger: str, left: dict[str, Any]) -> None:
    structlog_processor(Named(), "info", {"event": "x", **keys})
    event = only(recorded)
    assert event.logger == logger
    assert extras(event) == left


def failure() -> ValueError:
    try:
        raise ValueError("no stock")
    except ValueError as error:
        return error


@pytest.mark.parametrize("wrapper", [structlog.make_filtering_bound_logger(0), structlog.BoundLogger])
def test_exceptions(recorded: RecordedEvents, wrapper: Any) -> None:
    log = native(wrapper=wrapper)
    try:
        raise ValueError("no stock")
    except ValueError as error:
        log.exception("a")
        log.error("b", exc_info=True)
        log.info("c", exc_info=error)
        log.info("d", exc_info=sys.exc_info())
        log.info("none", exc_info=False)
        log.exception("none", exc_info=None)
    log.exception("none")
    log.info("none", exc_info=True)
    for event in recorded.system:
        assert "exc_info" not in event.attributes
        if event.message == "none":
            assert event.exception is None
        else:
            assert event.exception is not None
            assert (event.exception.type, event.exception.message) == ("ValueError", "no stock")
            assert 'raise ValueError("no stock")' in event.exception.stacktrace
    assert len(recorded.system) == 8


def test_stack_info(recorded: RecordedEvents) -> None:
    native().info("asked for", stack_info=True)
    native(structlog.processors.StackInfoRenderer()).info("rendered before", stack_info=True)
    native().info("given", stack_info="the stack")
    native().info("an extra", stack=["a"])
    first, second, third, fourth = recorded.system
    for event in (first, second):
        stack = event.attributes["code.stacktrace"]
        assert isinstance(stack, str)
        assert stack.startswith("Stack (most recent call last)")
        assert "in test_stack_info" in stack.splitlines()[-2]
    assert third.attributes["code.stacktrace"] == "the stack"
    assert fourth.attributes["stack"] == ("a",)
    assert not {"stack", "stack_info"} & set(extras(first) | extras(second) | extras(third))


@pytest.mark.parametrize(
    "stamper",
    [
        structlog.processors.TimeStamper(),
        structlog.processors.TimeStamper(fmt="iso"),
        structlog.processors.TimeStamper(fmt="iso", utc=False),
        structlog.processors.TimeStamper(fmt="%Y-%m-%d %H:%M:%S"),
        structlog.processors.TimeStamper(fmt="%Y-%m-%d %H:%M:%S", utc=False),
    ],
)
def test_a_time_stamp_is_left_out(recorded: RecordedEvents, stamper: Any) -> None:
    native(stamper).info("x")
    event = only(recorded)
    assert extras(event) == {}
    assert abs(datetime.now(UTC).timestamp() - event.timestamp / 1e9) < 60


@pytest.mark.parametrize("value", ["1999-12-31", 946598400, 9e99, "soon", "12:30", None, ["a"]])
def test_any_other_timestamp_is_kept(recorded: RecordedEvents, value: Any) -> None:
    native().info("x", timestamp=value)
    assert set(extras(only(recorded))) == {"timestamp"}


@pytest.mark.parametrize(
    ("event", "args", "message"),
    [
        ("%s of %d", ("a", 2), "a of 2"),
        ("%(a)s", ({"a": 1},), "1"),
        ("%s", ({},), "{}"),
        ("100 %", (), "100 %"),
        ("100 %s", None, "100 %s"),
    ],
)
def test_positional_arguments(recorded: RecordedEvents, event: str, args: Any, message: str) -> None:
    expected: structlog.typing.EventDict = {"event": event} | ({} if args is None else {"positional_args": args})
    structlog_processor(None, "info", expected)
    ours = only(recorded)
    assert ours.message == message
    assert extras(ours) == {}
    assert structlog.stdlib.PositionalArgumentsFormatter()(None, "info", dict(expected))["event"] == message


def test_arguments_that_do_not_fit(recorded: RecordedEvents) -> None:
    structlog_processor(None, "info", {"event": "%d", "positional_args": ("a",)})
    event = only(recorded)
    assert event.message == "%d [arguments ('a',) do not fit]"
    assert "log.format_error" in event.attributes


@pytest.mark.parametrize(
    ("given", "message"),
    [({"event": {"a": 1}}, "{'a': 1}"), ({"event": None}, "None"), ({}, ""), ({"event": 17}, "17")],
)
def test_events_that_are_no_text(recorded: RecordedEvents, given: dict[str, Any], message: str) -> None:
    structlog_processor(None, "info", given)
    assert only(recorded).message == message


def test_context_variables(recorded: RecordedEvents) -> None:
    log = native(structlog.contextvars.merge_contextvars)
    with structlog.contextvars.bound_contextvars(request="r1"):
        log.info("inside")
    log.info("outside")
    inside, outside = recorded.system
    assert extras(inside) == {"request": "r1"}
    assert extras(outside) == {}


def test_keys_that_a_log_record_has_itself(recorded: RecordedEvents) -> None:
    given: dict[str, Any] = {key: "mine" for key in ("name", "msg", "args", "module", "message", "taskName", "process")}
    native().info("x", **given, **{"bridge.audit_event": "mine"})
    event = only(recorded)
    assert (event.message, event.module) == ("x", "test_loggers")
    assert extras(event) == {f"extra.{key}": "mine" for key in [*given, "bridge.audit_event"]}


def test_call_site_parameters_are_not_said_twice(recorded: RecordedEvents) -> None:
    native(structlog.processors.CallsiteParameterAdder()).info("x")
    assert set(extras(only(recorded))) <= {"qual_name", "qual_module"}


def audited(recorded: RecordedEvents) -> LogEvent:
    assert recorded.system == []
    (event,) = recorded.audit
    return event


@pytest.mark.parametrize(
    "given",
    [
        {"event": "x", "is_audit": True},
        {"event": "x", "logger": "audit.roles"},
        {"event": "[AUDIT] x"},
        {"event": "%s x", "positional_args": ["[AUDIT]"]},
    ],
)
def test_audit_rules(recorded: RecordedEvents, given: dict[str, Any]) -> None:
    native().info(**given, action="role_grant", metadata={"role": "admin"})
    event = audited(recorded)
    assert (event.action, event.metadata) == ("role_grant", {"role": "admin"})
    assert event.attributes["audit.action"] == "role_grant"


def test_audit_context(recorded: RecordedEvents) -> None:
    with bridge.actor("u8472"):
        native().error("x", is_audit=True, exc_info=failure())
    event = recorded.assert_logged(message="x", actor="u8472", outcome="failure")
    assert event.action is UNSET


@pytest.mark.anyio
async def test_async_methods_have_their_callers_place_and_thread(recorded: RecordedEvents) -> None:
    with structlog.contextvars.bound_contextvars(request="r1"):
        log = native(structlog.contextvars.merge_contextvars)
        _, expected = await log.ainfo("x"), line()
        try:
            raise ValueError("no stock")
        except ValueError:
            await log.aexception("y")
    first, second = recorded.system
    assert (first.line, first.function) == (expected, "test_async_methods_have_their_callers_place_and_thread")
    assert first.attributes["thread.id"] == threading.get_ident()
    assert first.attributes["thread.name"] == threading.current_thread().name
    assert extras(first) == {"request": "r1"}
    assert second.exception is not None


def test_stacklevel(recorded: RecordedEvents) -> None:
    def helper() -> None:
        native().info("x", stacklevel=2)

    _, expected = helper(), line()  # type: ignore[func-returns-value]
    assert only(recorded).line == expected
    assert extras(only(recorded)) == {}


def test_called_by_a_processor(recorded: RecordedEvents) -> None:
    """One of the application's: the caller is who called structlog."""

    def of_ours(logger: Any, name: str, event: Any) -> Any:
        return structlog_processor(logger, name, event)

    log = structlog.wrap_logger(structlog.ReturnLogger(), processors=[of_ours, structlog.processors.JSONRenderer()])
    _, expected = log.info("x"), line()
    assert only(recorded).line == expected


def test_after_the_renderer_it_says_so(recorded: RecordedEvents, capsys: pytest.CaptureFixture[str]) -> None:
    log = structlog.wrap_logger(
        structlog.ReturnLogger(), processors=[structlog.processors.JSONRenderer(), structlog_processor]
    )
    assert log.info("x") == '{"event": "x"}'
    assert recorded.system == []
    assert "structlog_processor stands after the renderer" in capsys.readouterr().err


@pytest.mark.parametrize(
    "given",
    [
        {"event": Hostile()},
        {
            "event": "x",
            "a": Hostile(),
            "name": Hostile(),
            "level": Hostile(),
            "timestamp": Hostile(),
            "lineno": Hostile(),
        },
        {"event": "%s", "positional_args": (Hostile(),)},
        {"event": "x", "exc_info": Hostile()},
        {"event": "x", "exc_info": ("a",), "stack_info": Hostile(), "stacklevel": Hostile(), "logger": Hostile()},
        {"event": "x", "is_audit": Hostile(), "metadata": Hostile(), "action": Hostile()},
        {"event": "x\udc80", 17: "a", ("b",): "c", "": "d"},
        {"event": "x", "audit_record_id": [], "bridge.audit_event": 17, "_record": 17},
        {"event": "x", "stacklevel": 10**9, "positional_args": 17},
    ],
)
def test_hostile_events_are_captured(recorded: RecordedEvents, given: dict[Any, Any]) -> None:
    assert structlog_processor(Hostile(), "info", given) is given
    assert len([*recorded.system, *recorded.audit]) == 1


class Unreadable(dict[str, Any]):
    def items(self) -> NoReturn:
        raise RuntimeError("no")


def test_what_can_not_be_captured_is_counted(recorded: RecordedEvents, capsys: pytest.CaptureFixture[str]) -> None:
    given = Unreadable(event="x")
    assert structlog_processor(None, "info", given) is given
    assert recorded._drops.snapshot() == {"capture_error": 1}
    assert "a record of structlog could not be captured: RuntimeError('no')" in capsys.readouterr().err


def test_without_a_bridge_nothing_happens() -> None:
    assert audit.targets == []
    given: Any = Hostile()
    assert structlog_processor(Hostile(), "info", given) is given
    loguru_sink(Hostile())


def test_neither_library_is_imported() -> None:
    done = run_python(
        "import sys, bridge.capture.loggers; sys.exit(not {'structlog', 'loguru', 'uvicorn'}.isdisjoint(sys.modules))"
    )
    assert done.returncode == 0, done.stderr


def test_what_a_line_has_in_common_is_not_its_process(
    recorded: RecordedEvents, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a forked child."""
    log = native()
    for process in (1, 2):
        monkeypatch.setattr(os, "getpid", lambda process=process: process)
        log.info("x")
    assert [event.attributes["process.pid"] for event in recorded.system] == [1, 2]


def test_what_lines_have_in_common_is_bounded(recorded: RecordedEvents, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loggers, "_MAX_SITES", 3)
    for number in range(10):
        native().info("x", logger=f"shop.{number}")
        assert len(loggers._sites) <= 3 or number == 0
    assert [event.logger for event in recorded.system] == [f"shop.{number}" for number in range(10)]


def test_several_bridges_over_time() -> None:
    log = native()
    for name in ("a", "b"):
        b = bridge.setup(service_name=name)
        with record_events() as recorded:
            log.info(f"to {name}")
        assert b.force_flush()
        assert [event.message for event in shown(b)][-1:] == [f"to {name}"]
        assert only(recorded).message == f"to {name}"
        b.shutdown()
        log.info("to nobody")
    assert "to nobody" not in messages(b)


def test_the_handlers_level_holds() -> None:
    handler = CaptureHandler(CallQueue(10, 1_000), Drops(), level=logging.WARNING)
    audit.targets.append(handler)
    native().info("x")
    assert len(handler._queue) == 0
    native().warning("x")
    assert len(handler._queue) == 1


def spans() -> Any:
    return TracerProvider(shutdown_on_exit=False).get_tracer("test")


def test_span_of_the_caller(recorded: RecordedEvents) -> None:
    with spans().start_as_current_span("work") as span:
        native().info("x")
    context = span.get_span_context()
    event = only(recorded)
    assert (event.trace_id, event.span_id) == (f"{context.trace_id:032x}", f"{context.span_id:016x}")


# -- structlog that ends in logging -----------------------------------------------------------------------------------


def through_logging(renderer: Any, factory: Any = None, **arguments: Any) -> None:
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.stdlib.add_logger_name,
            structlog.stdlib.add_log_level,
            structlog_processor,
            structlog.stdlib.PositionalArgumentsFormatter(),
            renderer,
        ],
        logger_factory=factory or structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        **arguments,
    )


def plain_logger(name: str) -> logging.Logger:
    """Of a class that does not know of structlog's frames."""
    return logging.getLogger(name)


ENDINGS = [
    (structlog.processors.JSONRenderer(), None),
    (structlog.stdlib.render_to_log_kwargs, None),
    (structlog.stdlib.render_to_log_args_and_kwargs, None),
    (structlog.stdlib.ProcessorFormatter.wrap_for_formatter, None),
    (structlog.processors.JSONRenderer(), plain_logger),
    (structlog.stdlib.ProcessorFormatter.wrap_for_formatter, plain_logger),
]


@pytest.fixture
def root_output() -> Iterator[io.StringIO]:
    """What a handler on the root logger writes, at level DEBUG."""
    with fresh_logging():
        output = io.StringIO()
        handler = logging.StreamHandler(output)
        handler.setFormatter(
            structlog.stdlib.ProcessorFormatter(
                processors=[
                    structlog_processor,  # harmless there
                    structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                    structlog.processors.KeyValueRenderer(sort_keys=True),
                ]
            )
        )
        logging.getLogger().addHandler(handler)
        logging.getLogger().setLevel(logging.DEBUG)
        yield output


@pytest.mark.parametrize(("renderer", "factory"), ENDINGS)
def test_through_logging_each_event_arrives_once(root_output: io.StringIO, renderer: Any, factory: Any) -> None:
    through_logging(renderer, factory)
    name = f"shop.{len(logging.Logger.manager.loggerDict)}"  # not made before: of the class that is wanted
    log = structlog.get_logger(name)
    with record_events() as recorded:
        _, expected = log.info("order %s", "o1", total=17), line()
        _ = log.warning("order %s", "o2", total=17), log.warning("order %s", "o3", total=17)
        try:
            raise ValueError("no stock")
        except ValueError:
            log.exception("failed")
        log.critical("[AUDIT] %s", "x")
        logging.getLogger(name).info("from logging")
    assert [event.message for event in recorded.system] == [
        "order o1",
        "order o2",
        "order o3",
        "failed",
        "from logging",
    ]
    first, _, _, failed, _ = recorded.system
    assert (first.logger, first.level, first.line) == (name, "INFO", expected)
    assert extras(first) == {"total": 17}
    assert failed.exception is not None
    assert [event.message for event in recorded.audit] == ["[AUDIT] x"]
    assert root_output.getvalue().count("order") == 3, "the application's own handlers see all of it"


def test_records_of_logging_beside_it(root_output: io.StringIO) -> None:
    """Even on the same line, of the same logger and level."""
    through_logging(structlog.processors.JSONRenderer())
    log, plain = structlog.get_logger("shop.same"), logging.getLogger("shop.same")
    with record_events() as recorded:
        for say in (log.info, plain.info):
            _ = say("a"), plain.info("b"), log.info("c"), plain.info("d"), plain.info("e"), log.info("f")  # type: ignore[func-returns-value]
    assert [event.message for event in recorded.system] == list("abcdefabcdef")


def test_an_event_dropped_later_hides_nothing(root_output: io.StringIO) -> None:
    def drop(logger: Any, name: str, event: Any) -> NoReturn:
        raise structlog.DropEvent

    through_logging(drop)
    log, plain = structlog.get_logger("shop.dropped"), logging.getLogger("shop.dropped")
    with record_events() as recorded:
        for number in range(3):
            log.info("dropped %d", number)
        plain.info("plain")
    assert [event.message for event in recorded.system] == ["dropped 0", "dropped 1", "dropped 2", "plain"]


def test_each_handler_gets_it_once(root_output: io.StringIO) -> None:
    through_logging(structlog.processors.JSONRenderer())
    b = bridge.setup(service_name="orders")
    with record_events() as recorded:
        structlog.get_logger("shop.both").info("x", a=1)
    assert b.force_flush()
    assert [(event.message, event.attributes["a"]) for event in shown(b)] == [("x", 1)]
    assert extras(only(recorded)) == {"a": 1}


def test_a_logger_that_does_not_propagate(root_output: io.StringIO) -> None:
    through_logging(structlog.processors.JSONRenderer())
    with kept_loggers("shop.apart"):
        logging.getLogger("shop.apart").propagate = False
        with record_events() as recorded:
            structlog.get_logger("shop.apart").info("x")
            structlog.get_logger("shop.apart").info("y")
    assert [event.message for event in recorded.system] == ["x", "y"]


def test_levels_of_loggers_hold(root_output: io.StringIO) -> None:
    """Without filter_by_level as well."""
    structlog.configure(
        processors=[structlog_processor, structlog.processors.JSONRenderer()],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
    )
    with kept_loggers("shop.quiet"):
        logging.getLogger("shop.quiet").setLevel(logging.ERROR)
        with record_events() as recorded:
            structlog.get_logger("shop.quiet").warning("x")
            structlog.get_logger("shop.quiet").error("y")
    assert [event.message for event in recorded.system] == ["y"]


@pytest.mark.anyio
async def test_async_methods_through_logging(root_output: io.StringIO) -> None:
    through_logging(structlog.processors.JSONRenderer())
    with record_events() as recorded:
        await structlog.get_logger("shop.async").ainfo("x", a=1)
        await asyncio.gather(*(structlog.get_logger("shop.async").ainfo(str(number)) for number in range(20)))
    ours = [event for event in recorded.system if event.logger == "shop.async"]
    assert sorted(event.message for event in ours) == sorted(["x", *map(str, range(20))])


def test_threads(root_output: io.StringIO) -> None:
    through_logging(structlog.processors.JSONRenderer())

    def work() -> None:
        log, plain = structlog.get_logger("shop.threads"), logging.getLogger("shop.threads")
        for _ in range(200):
            log.info("event")
            plain.info("record")

    with record_events() as recorded:
        threads = [threading.Thread(target=work) for _ in range(4)]
        for each in threads:
            each.start()
        for each in threads:
            each.join()
    words = [event.message for event in recorded.system]
    assert (words.count("event"), words.count("record"), len(words)) == (800, 800, 1_600)


# -- standard error ---------------------------------------------------------------------------------------------------


def test_a_warning_is_shown_by_its_own_library_only(capsys: pytest.CaptureFixture[str], loguru: Any) -> None:
    """With no handler but ours, Python's last resort has no say in records of other libraries."""
    with fresh_logging():
        bridge.setup(service_name="orders")
        capsys.readouterr()
        native().warning("from structlog")
        loguru.warning("from loguru")
        assert capsys.readouterr().err == ""


def test_a_warning_through_logging_still_reaches_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    with fresh_logging():
        b = bridge.setup(service_name="orders")
        through_logging(structlog.processors.JSONRenderer())
        capsys.readouterr()
        structlog.get_logger("shop.last").warning("x")
        assert json.loads(capsys.readouterr().err)["event"] == "x"
        assert b.force_flush()
        assert [event.message for event in shown(b)] == ["x"]


# -- loguru -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def loguru() -> Iterator[Any]:
    """Its logger, with our sink only."""
    loguru_logger.remove()
    loguru_logger.add(loguru_sink, format="{message}", level=0, catch=False)
    yield loguru_logger
    loguru_logger.remove()


def test_a_message_arrives_with_its_fields(recorded: RecordedEvents, loguru: Any) -> None:
    before = datetime.now(UTC).timestamp()
    _, expected = loguru.bind(user="u1").info("order {} of {total}", "o1", total=17), line()
    event = only(recorded)
    assert (event.message, event.level, event.severity_number) == ("order o1 of 17", "INFO", 9)
    assert (event.logger, event.module, event.line) == (__name__, "test_loggers", expected)
    assert event.function == "test_a_message_arrives_with_its_fields"
    assert event.attributes["code.file.path"] == HERE
    assert event.attributes["thread.id"] == threading.get_ident()
    assert before <= event.timestamp / 1e9 <= datetime.now(UTC).timestamp()
    assert extras(event) == {"user": "u1", "total": 17}


@pytest.mark.parametrize(
    ("method", "level", "number"),
    [
        ("trace", "TRACE", 2),
        ("debug", "DEBUG", 5),
        ("info", "INFO", 9),
        ("success", "SUCCESS", 12),
        ("warning", "WARNING", 13),
        ("error", "ERROR", 17),
        ("critical", "CRITICAL", 21),
    ],
)
def test_levels_of_loguru(recorded: RecordedEvents, loguru: Any, method: str, level: str, number: int) -> None:
    getattr(loguru, method)("x")
    assert (only(recorded).level, only(recorded).severity_number) == (level, number)


def test_custom_levels_of_loguru(recorded: RecordedEvents, loguru: Any) -> None:
    loguru.level("ALERT", no=35)
    loguru.log("ALERT", "named")
    loguru.log(33, "a number")
    named, number = recorded.system
    assert (named.level, named.severity_number) == ("ALERT", 16)
    assert (number.level, number.severity_number) == ("Level 33", 16)


def test_exceptions_of_loguru(recorded: RecordedEvents, loguru: Any) -> None:
    try:
        raise ValueError("no stock")
    except ValueError as error:
        loguru.exception("a")
        loguru.opt(exception=error).info("b")

    @loguru.catch(message="c")  # type: ignore[untyped-decorator]
    def fail() -> None:
        raise ValueError("no stock")

    fail()
    loguru.opt(exception=True).info("none")
    *raised, last = recorded.system
    assert [event.message for event in raised] == ["a", "b", "c"]
    for event in raised:
        assert event.exception is not None
        assert (event.exception.type, event.exception.message) == ("ValueError", "no stock")
        assert 'raise ValueError("no stock")' in event.exception.stacktrace
    assert last.exception is None


@pytest.mark.parametrize(
    ("say", "logger"),
    [
        (lambda log: log.info("x", is_audit=True), __name__),
        (lambda log: log.bind(is_audit=True).info("x"), __name__),
        (lambda log: log.info("[AUDIT] x"), __name__),
        (lambda log: log.patch(lambda record: record.update(name="audit.roles")).info("x"), "audit.roles"),
    ],
)
def test_audit_rules_for_loguru(recorded: RecordedEvents, loguru: Any, say: Callable[[Any], None], logger: str) -> None:
    with bridge.actor("u8472"):
        say(loguru.bind(action="role_grant", metadata={"role": "admin"}))
    event = audited(recorded)
    recorded.assert_logged(action="role_grant", metadata={"role": "admin"}, actor="u8472", times=1)
    assert event.logger == logger


def test_extras_that_a_log_record_has_itself(recorded: RecordedEvents, loguru: Any) -> None:
    loguru.bind(name="mine", message="mine", thread="mine").info("x")
    assert only(recorded).message == "x"
    assert extras(only(recorded)) == {"extra.name": "mine", "extra.message": "mine", "extra.thread": "mine"}


def test_span_of_logurus_caller(recorded: RecordedEvents, loguru: Any) -> None:
    with spans().start_as_current_span("work") as span:
        loguru.info("x")
    assert only(recorded).span_id == f"{span.get_span_context().span_id:016x}"


def test_percent_signs_of_loguru(recorded: RecordedEvents, loguru: Any) -> None:
    loguru.info("100 %s", total=1)
    assert only(recorded).message == "100 %s"


@pytest.mark.parametrize("value", [Hostile(), {"a": Hostile()}, "\udc80", float("nan"), object(), 10**400])
def test_hostile_extras_of_loguru(recorded: RecordedEvents, loguru: Any, value: Any) -> None:
    loguru.bind(value=value).info("x")
    assert "value" in only(recorded).attributes


def test_hostile_records_of_loguru(recorded: RecordedEvents, loguru: Any, capsys: pytest.CaptureFixture[str]) -> None:
    loguru.patch(lambda record: record.update(name=None, function=None, extra={})).info("x")
    assert only(recorded).logger == "loguru"
    loguru.patch(lambda record: record.update(extra=17)).info("y")
    loguru_sink("no message of loguru's")
    assert len(recorded.system) == 1
    assert recorded._drops.snapshot() == {"capture_error": 2}
    assert "a record of loguru could not be captured" in capsys.readouterr().err


def test_from_logurus_own_thread(recorded: RecordedEvents) -> None:
    """``enqueue=True`` is no good idea, but it works: place, thread and time are the caller's."""
    loguru_logger.remove()
    loguru_logger.add(loguru_sink, format="{message}", enqueue=True)
    try:
        raise ValueError("no stock")
    except ValueError:
        loguru_logger.exception("x")
    loguru_logger.complete()
    loguru_logger.remove()
    event = only(recorded)
    assert event.attributes["thread.id"] == threading.get_ident()
    assert event.exception is not None
    assert event.exception.message == "no stock"


class InterceptHandler(logging.Handler):
    """As loguru's documentation has it: passes records of logging to loguru."""

    def emit(self, record: logging.LogRecord) -> None:
        level: str | int = loguru_logger.level(record.levelname).name if record.levelno != 25 else record.levelno
        loguru_logger.opt(depth=6, exception=record.exc_info).log(level, record.getMessage())


def test_records_passed_on_from_logging_arrive_once(loguru: Any) -> None:
    with fresh_logging(), kept_loggers("shop.apart"):
        logging.getLogger().addHandler(InterceptHandler())
        logging.getLogger().setLevel(logging.INFO)
        apart = logging.getLogger("shop.apart")
        apart.propagate = False
        apart.handlers[:] = [InterceptHandler()]
        with record_events() as recorded:
            _, expected = logging.getLogger("shop").info("from %s", "logging", extra={"a": 1}), line()  # type: ignore[func-returns-value]
            loguru.info("from loguru")
            apart.info("by loguru only")
            bridge.audit_log(logging.getLogger("shop"), "granted", "grant")
            bridge.audit_log(apart, "granted", "grant")
    assert [event.message for event in recorded.system] == ["from logging", "from loguru", "by loguru only"]
    assert (recorded.system[0].line, recorded.system[0].attributes["a"]) == (expected, 1)
    assert [event.message for event in recorded.audit] == ["granted", "granted"]


def test_what_a_handler_says_itself_arrives(loguru: Any) -> None:
    class Shipper(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            loguru_logger.error("can't ship")

    with fresh_logging():
        logging.getLogger().addHandler(Shipper())
        with record_events() as recorded:
            logging.getLogger("shop").warning("x")
    assert sorted(event.message for event in recorded.system) == ["can't ship", "x"]


# -- servers ----------------------------------------------------------------------------------------------------------


async def answer(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 404, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})


def request(address: str) -> None:
    with pytest.raises(urllib.error.HTTPError):
        urllib.request.urlopen(f"http://{address}/orders/o1?token=secret", timeout=10)


def test_uvicorn_attached_before_it_configures_logging() -> None:
    with kept_loggers(*SERVER_LOGGERS):
        b = bridge.setup(service_name="orders")
        b.attach(*SERVER_LOGGERS)
        with serve(answer, log_config=uvicorn.config.LOGGING_CONFIG, lifespan="off") as served:
            request(served.address)
        check_uvicorn(b)


def test_uvicorn_attached_while_it_runs() -> None:
    with (
        kept_loggers(*SERVER_LOGGERS),
        serve(answer, log_config=uvicorn.config.LOGGING_CONFIG, lifespan="off") as served,
    ):
        b = bridge.setup(service_name="orders")
        b.attach(*SERVER_LOGGERS)
        request(served.address)
        served.stop()
        check_uvicorn(b)
        b.shutdown()
        for name in SERVER_LOGGERS:
            kinds = {type(handler).__name__ for handler in logging.getLogger(name).handlers}
            assert "_Forwarder" not in kinds


def check_uvicorn(b: bridge.Bridge) -> None:
    assert b.force_flush()
    events = [event for event in shown(b) if event.logger.startswith("uvicorn")]
    assert [event.logger for event in events].count("uvicorn.access") == 1
    words = [event.message for event in events if event.logger == "uvicorn.error"]
    assert words.count(f"Finished server process [{os.getpid()}]") == 1
    (access,) = [event for event in events if event.logger == "uvicorn.access"]
    assert '"GET /orders/o1?token=' in access.message
    assert access.message.endswith("404")
    assert extras(access) == {
        "http.request.method": "GET",
        "url.path": "/orders/o1",
        "http.response.status_code": 404,
        "client.address": "127.0.0.1",
    }


@pytest.mark.parametrize("before", [True, False])
def test_an_access_log_that_was_turned_off_stays_off(before: bool) -> None:
    with kept_loggers(*SERVER_LOGGERS):
        b = bridge.setup(service_name="orders")
        if before:
            b.attach(*SERVER_LOGGERS)
        with serve(answer, log_config=uvicorn.config.LOGGING_CONFIG, access_log=False, lifespan="off") as served:
            b.attach(*SERVER_LOGGERS)
            assert b._attachment is not None
            b._attachment.check()  # as it is once a second
            request(served.address)
        assert b.force_flush()
        names = {event.logger for event in shown(b)}
        assert "uvicorn.error" in names
        assert "uvicorn.access" not in names


def test_a_logger_of_the_applications_own_without_handlers() -> None:
    with kept_loggers("shop.apart"), fresh_logging():
        logger = logging.getLogger("shop.apart")
        logger.propagate = False
        b = bridge.setup(service_name="orders")
        b.attach("shop.apart")
        logger.warning("x")
        logging.config.dictConfig({"version": 1, "loggers": {"shop.apart": {"propagate": False, "level": "INFO"}}})
        logger.info("y")
        assert b.force_flush()
        assert messages(b) == ["x", "y"]


def test_loggers_that_propagate_arrive_once() -> None:
    with kept_loggers(*SERVER_LOGGERS):
        for name in SERVER_LOGGERS:
            logging.getLogger(name).setLevel(logging.INFO)
        b = bridge.setup(service_name="orders")
        b.attach(*SERVER_LOGGERS)
        b.attach(*SERVER_LOGGERS)
        for name in SERVER_LOGGERS:
            logging.getLogger(name).info("from %s", name)
        assert b.force_flush()
        assert [event.message for event in shown(b)] == [f"from {name}" for name in SERVER_LOGGERS]


class Response:
    status = "201 Created"
    sent = 17
    headers: tuple[tuple[str, str], ...] = ()


class Request:
    headers: tuple[tuple[str, str], ...] = ()


def gunicorn_access(log: gunicorn.glogging.Logger) -> None:
    environ = {
        "REMOTE_ADDR": "10.0.0.7",
        "REQUEST_METHOD": "POST",
        "RAW_URI": "/orders?token=secret",
        "PATH_INFO": "/orders",
        "QUERY_STRING": "token=secret",
        "SERVER_PROTOCOL": "HTTP/1.1",
    }
    log.access(Response(), Request(), environ, timedelta(seconds=1))


@pytest.mark.parametrize("before", [True, False])
def test_gunicorn(before: bool) -> None:
    config = gunicorn.config.Config()
    config.set("accesslog", "-")
    with kept_loggers(*SERVER_LOGGERS):
        b = bridge.setup(service_name="orders")
        if before:
            b.attach(*SERVER_LOGGERS)
        log = gunicorn.glogging.Logger(config)
        if not before:
            b.attach(*SERVER_LOGGERS)
        log.info("Booting worker")
        gunicorn_access(log)
        log.setup(config)  # at a reload
        log.warning("Reloaded")
        assert b.force_flush()
        first, access, last = shown(b)
    assert (first.logger, first.message) == ("gunicorn.error", "Booting worker")
    assert (last.logger, last.message) == ("gunicorn.error", "Reloaded")
    assert '"POST /orders?token=' in access.message
    assert extras(access) == {
        "http.request.method": "POST",
        "url.path": "/orders",
        "http.response.status_code": 201,
        "client.address": "10.0.0.7",
    }


def test_loggers_that_share_a_list_of_handlers() -> None:
    """As uvicorn's worker for gunicorn has it."""
    with kept_loggers(*SERVER_LOGGERS):
        b = bridge.setup(service_name="orders")
        ours, theirs = logging.getLogger("uvicorn.error"), logging.getLogger("gunicorn.error")
        kept = ours.handlers
        theirs.handlers.append(logging.NullHandler())
        ours.handlers = theirs.handlers
        for logger in (ours, theirs):
            logger.propagate = False
            logger.setLevel(logging.INFO)
        b.attach(*SERVER_LOGGERS)
        assert b._attachment is not None
        b._attachment.check()
        ours.info("a")
        theirs.info("b")
        assert b.force_flush()
        assert [event.message for event in shown(b)] == ["a", "b"]
        b.shutdown()
        ours.handlers = kept


def test_a_server_that_sets_its_handlers_itself() -> None:
    """As hypercorn does; noticed within a second."""
    with kept_loggers(*SERVER_LOGGERS):
        b = bridge.setup(service_name="orders")
        b.attach(*SERVER_LOGGERS)
        logger = logging.getLogger("hypercorn.access")
        kept, logger.handlers = logger.handlers, [logging.NullHandler()]
        logger.propagate = False
        logger.setLevel(logging.INFO)
        assert b._attachment is not None
        b._attachment.check()
        logger.info("x")
        assert b.force_flush()
        assert [event.message for event in shown(b)] == ["x"]
        b.shutdown()
        logger.handlers = kept


@pytest.mark.parametrize(
    "args",
    [None, (), ("a", "b"), (1, 2, 3, 4, 5), {"h": "x"}, "abcde", Hostile(), ("", "GET", "/", "1.1", "what")],
)
@pytest.mark.parametrize("name", ["uvicorn.access", "gunicorn.access", "shop"])
def test_access_records_of_another_shape_stay_as_they_are(name: str, args: Any) -> None:
    record = logging.makeLogRecord({"name": name, "msg": "x"})
    record.args = args
    assert with_request(record) is record


def test_access_details_are_on_a_copy() -> None:
    args = ("::1:5000", "GET", "/a?b", "1.1", 200)
    record = logging.LogRecord("uvicorn.access", 20, "a.py", 1, "%s", args, None)
    fields = dict(record.__dict__)
    copy = with_request(record)
    assert record.__dict__ == fields
    assert copy.__dict__ == fields | {
        "http.request.method": "GET",
        "url.path": "/a",
        "http.response.status_code": 200,
        "client.address": "::1",
    }
    assert (
        with_request(logging.makeLogRecord(fields | {"args": ("", *args[1:])})).__dict__.get("client.address") is None
    )
