from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any, NoReturn
from unittest import mock

import pytest
from opentelemetry import _logs as otel_logs
from opentelemetry._logs import LogRecord, SeverityNumber
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import SimpleLogRecordProcessor

import bridge
from bridge import otlp
from bridge.assembly import Statistics, current
from bridge.errors import MissingDependency, SettingsError, SetupError
from tests.logging_state import fresh_logging
from tests.telemetry import (
    FakeExporter,
    Recorder,
    Team,
    get_logger,
    http_sink,
    messages,
    new_provider,
    said,
    shown,
    wait_until,
)

logger = get_logger("shop.server")


@pytest.fixture
def team() -> Team:
    return Team()


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    import os

    for name in os.environ:
        if name.startswith(("BRIDGE_", "OTEL_")):
            monkeypatch.delenv(name)
    yield
    monkeypatch.undo()


# -- setup() ----------------------------------------------------------------------------------------------------------


def test_the_same_arguments_give_the_same_bridge(team: Team) -> None:
    """However often setup() is called."""
    b = team.setup(queue_records=100)
    assert team.setup(queue_records=100) is b
    assert team.setup(queue_records="100") is b
    assert current() is b


def test_other_arguments_are_an_error_that_says_what_differs(team: Team, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names and values, but no token; the first Bridge goes on."""
    b = team.setup(queue_records=100, token="s3cret")
    with pytest.raises(SetupError) as caught:
        team.setup(queue_records=200, token="other", level="INFO")
    words = str(caught.value)
    assert "queue_records was 100 and is now 200" in words
    assert "level was 0 and is now 20" in words
    assert "token differs" in words
    assert "s3cret" not in words
    assert "other settings" in words
    monkeypatch.setenv("BRIDGE_PORT", "1")
    with pytest.raises(SetupError, match="port was 8765 and is now 1"):
        team.setup(queue_records=100, token="s3cret")
    assert current() is b


def test_after_shutdown_setup_works_again(team: Team) -> None:
    """With the same arguments and with others, and each record is captured once."""
    first = team.setup()
    assert first.shutdown() is True
    assert current() is None
    second = team.setup(queue_records=100)
    assert second is not first
    logger.info("m")
    assert second.force_flush() is True
    assert messages(second) == ["m"]
    assert team.bodies == ["m"]
    assert first.shutdown() is True, "a second time it has nothing to do"
    assert current() is second


def test_a_bad_setting_sets_nothing_up(team: Team) -> None:
    """The error is raised, no handler was added, and setup() works afterwards."""
    before = logging.getLogger().handlers[:]
    for arguments in ({"queue_records": "x"}, {"nonsense": 1}, {"redact_patterns": ("(",)}):
        with pytest.raises(SettingsError):
            team.setup(**arguments)
    with pytest.raises(SettingsError, match=r"must be an opentelemetry.sdk._logs.LoggerProvider"):
        bridge.setup(logger_provider=otel_logs.NoOpLoggerProvider())
    assert logging.getLogger().handlers == before
    assert current() is None
    assert team.setup() is current()


def test_an_unknown_variable_is_a_warning(team: Team, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the nearest known name; setup() goes on."""
    monkeypatch.setenv("BRIDGE_TOKN", "x")
    with said() as words:
        team.setup()
    assert words == ["WARNING BRIDGE_TOKN is not a setting and has no effect; did you mean BRIDGE_TOKEN?"]


def test_arguments_win_over_bridge_and_that_over_otel(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of three service names the nearest one counts."""
    monkeypatch.setenv("OTEL_SERVICE_NAME", "from-otel")

    def name_of(**arguments: Any) -> Any:
        b = bridge.setup(**arguments)
        logger.info("m")
        b.force_flush()
        event = shown(b)[-1]
        b.shutdown()
        return event.resource["service.name"]

    assert name_of() == "from-otel"
    monkeypatch.setenv("BRIDGE_SERVICE_NAME", "from-bridge")
    assert name_of() == "from-bridge"
    assert name_of(service_name="from-code") == "from-code"


def test_disabled_is_as_if_we_were_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """No handler, no provider, no thread; every call still works."""
    monkeypatch.setenv("BRIDGE_DISABLED", "true")
    handlers, threads = logging.getLogger().handlers[:], threading.active_count()
    with said() as words:
        b = bridge.setup()
    assert words == ["INFO disabled by BRIDGE_DISABLED: nothing is captured or shown"]
    assert logging.getLogger().handlers == handlers
    logger.info("m")
    receipt = bridge.audit_log(logger, "m")
    b.attach("uvicorn")
    assert receipt.committed_at is None
    assert b.force_flush() is True
    assert b.statistics().captured == 0
    assert b.routes()
    assert b.shutdown() is True
    assert threading.active_count() == threads


def test_without_capture_only_the_exporter_and_the_routes_work(team: Team) -> None:
    """logging is left alone; native records of the provider are shown."""
    handlers = logging.getLogger().handlers[:]
    b = team.setup(capture_logging=False)
    assert logging.getLogger().handlers == handlers
    logger.warning("not shown")
    team.provider.get_logger("native").emit(LogRecord(body="shown", severity_number=SeverityNumber.INFO))
    assert b.force_flush() is True
    assert messages(b) == ["shown"]
    assert b.statistics().captured == 0


# -- the provider -----------------------------------------------------------------------------------------------------


def test_records_go_through_the_teams_provider_once(team: Team) -> None:
    """Its resource, its processors; the scope is the logger's name, and the live view has one copy."""
    b = team.setup()
    logger.info("m")
    assert b.force_flush() is True
    record, _ = team.only()
    assert record.resource is team.provider.resource
    assert record.instrumentation_scope.name == "shop.server"
    (event,) = shown(b)
    assert event.resource == {"service.name": "shop"}


def test_native_records_are_shown_too(team: Team) -> None:
    """What is said by the Logs API itself appears once, in the live view and at the processors."""
    b = team.setup()
    team.provider.get_logger("native").emit(
        LogRecord(body="[AUDIT] m", severity_number=SeverityNumber.INFO, attributes={"k": 1})
    )
    (event,) = shown(b)
    assert (event.logger, event.message, event.is_audit) == ("native", "[AUDIT] m", True)
    assert team.bodies == ["[AUDIT] m"]
    b.shutdown()
    team.provider.get_logger("native").emit(LogRecord(body="after"))
    assert messages(b) == ["[AUDIT] m"]


def test_a_name_that_can_not_be_given_is_told(team: Team) -> None:
    """The provider's resource stays what the team made it."""
    with said() as words:
        team.setup(service_name="other")
    assert words == ["WARNING service_name='other' has no effect: the LoggerProvider that was set before says 'shop'"]
    with said() as words:
        current().shutdown()  # type: ignore[union-attr]
        team.setup(service_name="shop")
    assert words == []


def test_a_provider_of_our_own_is_used_again() -> None:
    """The same name finds the provider that it had; another name gets another, and the first is still heard."""
    first = bridge.setup(service_name="again-1")
    provider = first._provider
    first.shutdown()
    second = bridge.setup(service_name="again-1")
    same = second._provider is provider or otel_logs.get_logger_provider() is not provider
    assert same
    second.shutdown()
    third = bridge.setup(service_name="again-2")
    assert third._provider is not provider
    present = otel_logs.get_logger_provider()
    assert isinstance(present, LoggerProvider)
    present.get_logger("native").emit(LogRecord(body="native"))
    logger.info("ours")
    assert third.force_flush() is True
    assert messages(third) == ["native", "ours"]
    assert shown(third)[1].resource["service.name"] == "again-2"
    third.shutdown()
    present.get_logger("native").emit(LogRecord(body="after"))
    assert messages(third) == ["native", "ours"]


def test_setup_twice_over_leaves_one_tap_and_no_heap(team: Team) -> None:
    """Providers can't be rid of a processor; a hundred setups add two at most."""
    for _ in range(3):
        team.setup(otlp_endpoint="http://127.0.0.1:9").shutdown(timeout=0)
    processors = team.provider._multi_log_record_processor._log_record_processors
    assert len(processors) == 3


def test_more_loggers_than_anybody_has(team: Team, monkeypatch: pytest.MonkeyPatch) -> None:
    """The memory of OpenTelemetry loggers is bounded."""
    made: list[str] = []
    get = team.provider.get_logger

    def counted(name: str) -> Any:
        made.append(name)
        return get(name)

    monkeypatch.setattr(team.provider, "get_logger", counted)
    b = team.setup()
    for number in range(10_003):
        b._handler.handle(logging.LogRecord(f"l{number}", 20, "p", 1, "m", (), None))  # type: ignore[union-attr]
    logger.info("m")
    assert b.force_flush(30) is True
    assert len(made) == 10_004


# -- statistics, flush, shutdown --------------------------------------------------------------------------------------


@fresh_logging()
def test_statistics_are_a_snapshot(team: Team) -> None:
    """Everything captured, shown, left out and lost, at that moment."""
    b = team.setup(ignored_loggers="noisy")
    before = b.statistics()
    assert isinstance(before, Statistics)
    logger.info("x %d", "y")
    logger.info("[AUDIT] m")
    get_logger("noisy").info("m")
    b.force_flush()
    now = b.statistics()
    assert before.captured == 0
    assert (now.captured, now.published, now.system, now.audit, now.queued) == (2, 2, 1, 1, 0)
    assert (now.format_errors, now.dropped, now.clients, now.exported) == (1, {}, 0, 0)
    assert now.held_bytes > 0
    with pytest.raises(AttributeError):
        now.captured = 1  # type: ignore[misc]


def test_a_teams_flush_counts_and_its_deadline_is_ours() -> None:
    """A processor that says False, raises or hangs makes the answer False, in time."""

    def fails(timeout_millis: int) -> NoReturn:
        raise RuntimeError("no")

    gate = threading.Event()
    processor = Recorder(lambda record: None)
    b = bridge.setup(logger_provider=new_provider(processor))
    for answer, expected in ((lambda millis: True, True), (lambda millis: False, False), (fails, False)):
        with mock.patch.object(processor, "force_flush", answer):
            assert b.force_flush() is expected

    def hangs(timeout_millis: int) -> bool:
        return gate.wait(30)

    with mock.patch.object(processor, "force_flush", hangs):
        began = time.monotonic()
        assert b.force_flush(0.1) is False
        assert time.monotonic() - began < 5
    gate.set()


def test_deadlines_hold_with_a_hanging_processor() -> None:
    """Neither callers nor flush nor shutdown wait for it, the live view has everything, and the answers are False."""
    gate = threading.Event()
    b = bridge.setup(logger_provider=new_provider(Recorder(lambda record: gate.wait(30))))
    logger.info("one")
    logger.info("two")
    began = time.monotonic()
    assert b.force_flush(0.1) is False
    assert messages(b) == ["one", "two"]
    assert b.shutdown(timeout=0.1) is False
    assert time.monotonic() - began < 5
    gate.set()


def test_a_provider_that_can_not_flush_because_no_thread_starts(team: Team, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the interpreter ends it is flushed by the thread that asks."""
    b = team.setup()
    logger.info("m")
    monkeypatch.setattr(threading.Thread, "start", mock.Mock(side_effect=RuntimeError))
    assert b.force_flush() is True


def test_shutdown_restores_everything(team: Team) -> None:
    """Handlers, functions, levels, SIGTERM, audit targets, and nothing is captured afterwards."""
    from bridge.capture.audit import targets

    before_signal = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    before = (logging.getLogger().handlers[:], logging.basicConfig, logging.getLogger("audit").level)
    b = team.setup()
    b.attach("island")
    logging.getLogger("island").propagate = False
    assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
    get_logger("island").info("m")
    assert b.shutdown() is True
    assert (logging.getLogger().handlers[:], logging.basicConfig, logging.getLogger("audit").level) == before
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    assert targets == []
    assert team.bodies == ["m"]
    logger.error("after")
    bridge.audit_log(logger, "after")
    get_logger("island").info("after")
    assert messages(b) == ["m"]
    assert b.hub.closed is True
    assert b.force_flush(0.1) is True
    logging.getLogger("island").propagate = True
    signal.signal(signal.SIGTERM, before_signal)


def test_sigterm_is_left_alone_if_asked(team: Team) -> None:
    """flush_on_sigterm=False takes no signal."""
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    team.setup(flush_on_sigterm=False)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    signal.signal(signal.SIGTERM, before)


def test_what_was_lost_is_told_at_shutdown(team: Team) -> None:
    """The last minute's losses do not die with the process."""
    b = team.setup()
    b._drops.add("queue_full", 7)
    with said() as words:
        b.at_exit()
        b._drops.add("queue_full")
        b.shutdown()
    assert words == ["WARNING log records lost: 7 by queue_full", "WARNING log records lost: 1 by queue_full"]


def test_the_handler_comes_back_before_the_first_record(team: Team) -> None:
    """Somebody clears the root's handlers right after setup(): a second later ours is back."""
    b = team.setup()
    logging.getLogger().removeHandler(b._handler)  # type: ignore[arg-type]
    wait_until(lambda: b._handler in logging.getLogger().handlers)


def test_the_app_and_the_routes_are_made_once(team: Team) -> None:
    """b.app is one application; routes carry the prefix."""
    b = team.setup()
    assert b.app is b.app
    paths = [getattr(route, "path", None) for route in b.routes("/x")]
    assert "/ws/monitor" in paths
    assert all(path == "/ws/monitor" or str(path).startswith("/x") for path in paths)


def test_overload_refuses_the_newest_and_lets_audit_pass() -> None:
    """With the publisher held up, the bound holds, losses are counted, and audit records are all there."""
    gate = threading.Event()
    entered = threading.Event()
    team = Team()
    b = team.setup(queue_records=16)

    def hang(events: object) -> None:
        entered.set()
        gate.wait(30)

    with mock.patch.object(b._publisher._sink, "publish", hang):  # type: ignore[union-attr]
        logger.info("first")
        assert entered.wait(10)
        for number in range(40):
            logger.info("%d", number)
            if number % 10 == 0:
                bridge.audit_log(logger, "audit")
        gate.set()
        wait_until(lambda: not b._publisher.queue.items)  # type: ignore[union-attr]
    assert b.force_flush() is True
    assert team.bodies.count("audit") == 4
    assert b.statistics().dropped == {"queue_full": 40 + 1 + 4 - len(team.bodies)}
    assert b.statistics().dropped["queue_full"] >= 24


# -- OTLP out ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "environ", "ours", "expected"),
    [
        ({}, {}, True, None),
        ({"otlp_endpoint": "http://a:1"}, {}, False, "http://a:1"),
        ({}, {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://a:1"}, True, ""),
        ({}, {"OTEL_EXPORTER_OTLP_LOGS_ENDPOINT": "http://a:1"}, True, ""),
        ({}, {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://a:1"}, False, None),
        ({}, {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://a:1", "OTEL_LOGS_EXPORTER": "none"}, True, None),
        ({}, {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://a:1", "OTEL_LOGS_EXPORTER": "console, otlp"}, True, ""),
    ],
)
def test_where_records_are_sent(
    settings: dict[str, Any], environ: dict[str, str], ours: bool, expected: str | None
) -> None:
    """What is said in code counts always; the standard variables only on a provider that we made."""
    assert otlp.otlp_endpoint(bridge.Settings(**settings), environ, ours) == expected


@pytest.mark.parametrize(
    ("settings", "environ", "module", "endpoint"),
    [
        ({"otlp_endpoint": "http://a:4317"}, {}, "grpc", "a:4317"),
        ({"otlp_endpoint": "http://a:4318"}, {}, "http", "http://a:4318/v1/logs"),
        ({"otlp_endpoint": "http://a:4318/v1/logs/"}, {}, "http", "http://a:4318/v1/logs/"),
        ({"otlp_endpoint": "http://a:9", "otlp_protocol": "grpc"}, {}, "grpc", "a:9"),
        ({"otlp_endpoint": "http://a:9"}, {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "grpc", "a:9"),
        (
            {"otlp_endpoint": "http://a:4317"},
            {"OTEL_EXPORTER_OTLP_LOGS_PROTOCOL": "http/protobuf", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"},
            "http",
            "http://a:4317/v1/logs",
        ),
        ({}, {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://a:4317"}, "grpc", "a:4317"),
        ({}, {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://a:4318"}, "http", "http://a:4318/v1/logs"),
    ],
)
def test_how_records_are_sent(
    settings: dict[str, Any],
    environ: dict[str, str],
    module: str,
    endpoint: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The protocol of settings, environment or port, and the exporter's own reading of the rest."""
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    parsed = bridge.Settings(**settings)
    where = otlp.otlp_endpoint(parsed, environ, True)
    assert where is not None
    exporter = otlp.otlp_exporter(where, parsed, environ)
    assert f".{module}." in type(exporter).__module__
    assert exporter._endpoint == endpoint
    exporter.shutdown()


def test_a_protocol_that_is_not_supported_is_named() -> None:
    """http/json is none of the two."""
    settings = bridge.Settings(otlp_endpoint="http://a:1")
    with pytest.raises(SettingsError, match=r"OTEL_EXPORTER_OTLP_PROTOCOL='http/json': must be grpc or http/protobuf"):
        otlp.otlp_exporter("http://a:1", settings, {"OTEL_EXPORTER_OTLP_PROTOCOL": "http/json"})


@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
def test_a_missing_exporter_is_named_with_its_extra(protocol: str) -> None:
    """The error says what to install."""
    short = protocol.split("/")[0]
    hidden = {f"opentelemetry.exporter.otlp.proto.{short}._log_exporter": None}
    settings = bridge.Settings(otlp_protocol=protocol)
    with mock.patch.dict("sys.modules", hidden), pytest.raises(MissingDependency) as caught:
        otlp.otlp_exporter("http://a:1", settings, {})
    assert caught.value.package == f"opentelemetry-exporter-otlp-proto-{short}"
    assert "pip install 'otel-audit-bridge[otlp]'" in str(caught.value)


def test_an_exporter_that_fails_is_counted_and_the_answers_are_false(team: Team) -> None:
    """FAILURE is no success: not in flush, not in the statistics."""
    with http_sink(status=400) as sink, said() as words:
        b = team.setup(otlp_endpoint=sink.endpoint)
        logger.info("m")
        assert b.force_flush() is False
        assert b.statistics().dropped == {"otlp_failed": 1}
        assert b.statistics().exported == 0
        b.shutdown()
    assert (
        words[0] == "WARNING 1 log records were not delivered to the collector by OTLP: the exporter reported FAILURE"
    )


def test_no_redaction_if_asked(team: Team) -> None:
    """redact=False shows everything as it is."""
    b = team.setup(redact=False)
    logger.info("password=hunter2hunter2")
    b.force_flush()
    assert messages(b) == team.bodies == ["password=hunter2hunter2"]


def test_redaction_is_on_for_both_sides(team: Team) -> None:
    """By default, with what the settings add."""
    b = team.setup(redact_keys=("flavour",), redact_patterns=("sesame",))
    logger.info("password=hunter2hunter2 sesame", extra={"flavour": "vanilla"})
    b.force_flush()
    _, attributes = team.only()
    text = repr(shown(b)) + repr(team.bodies) + repr(attributes)
    for secret in ("hunter2", "sesame", "vanilla"):
        assert secret not in text


def test_an_exporter_in_a_stock_processor_shows_nothing_twice() -> None:
    """A WebSocketLogRecordExporter of the team's own, on the provider that setup() joins."""
    provider = new_provider(SimpleLogRecordProcessor(bridge.WebSocketLogRecordExporter()))
    b = bridge.setup(logger_provider=provider)
    logger.info("m")
    assert b.force_flush() is True
    assert messages(b) == ["m"]


def test_fake_exporters_are_good_stand_ins() -> None:
    """The tests' own exporter honours the interface."""
    exporter = FakeExporter()
    provider = new_provider(SimpleLogRecordProcessor(exporter))
    provider.get_logger("x").emit(LogRecord(body="m"))
    assert exporter.batches == [["m"]]
    assert exporter.force_flush() is True
