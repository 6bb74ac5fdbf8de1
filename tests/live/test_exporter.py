"""The exporter on a team's own provider: what it shows of OpenTelemetry records, and how often."""

import json
import logging
import threading
from collections.abc import Callable
from typing import Any

import pytest
from opentelemetry._logs import LogRecord, SeverityNumber
from opentelemetry.sdk._logs import LoggerProvider, LogRecordProcessor, ReadableLogRecord
from opentelemetry.sdk._logs.export import (
    BatchLogRecordProcessor,
    LogRecordExporter,
    LogRecordExportResult,
    SimpleLogRecordProcessor,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

import bridge
from bridge.live.exporter import WebSocketLogRecordExporter
from bridge.live.hub import Hub, process_hub
from bridge.record.classify import Rule
from bridge.record.event import LogEvent
from bridge.record.redact import NO_REDACTION
from tests.logging_state import fresh_logging
from tests.telemetry import new_provider

PROCESSORS: list[Callable[[LogRecordExporter], LogRecordProcessor]] = [
    SimpleLogRecordProcessor,
    BatchLogRecordProcessor,
]
both = pytest.mark.parametrize("processor", PROCESSORS, ids=["simple", "batch"])


def shown(hub: Hub | None = None) -> list[LogEvent]:
    return [entry.event for entry in (hub or process_hub()).read(0, 10_000).entries]


def wires(hub: Hub) -> list[Any]:
    return [json.loads(entry.wire) for entry in hub.read(0, 10_000).entries]


def readable(scope: str = "shop", resource: Resource | None = None, **fields: Any) -> ReadableLogRecord:
    return ReadableLogRecord(
        log_record=LogRecord(**fields),
        resource=resource if resource is not None else Resource({"service.name": "shop"}),
        instrumentation_scope=InstrumentationScope(scope) if scope else None,
    )


def show(record: ReadableLogRecord, **options: Any) -> LogEvent:
    """What the exporter makes of one record."""
    hub = Hub()
    exporter = WebSocketLogRecordExporter(hub, **options)
    assert exporter.export([record]) is LogRecordExportResult.SUCCESS
    (event,) = shown(hub)
    return event


@both
def test_on_a_provider_of_ones_own(processor: Callable[[LogRecordExporter], LogRecordProcessor]) -> None:
    """Without setup(), inside a stock processor, native records are shown in the process-wide hub, once, in order."""
    provider = new_provider(processor(WebSocketLogRecordExporter()))
    logger = provider.get_logger("shop.server")
    for number in range(50):
        logger.emit(LogRecord(body=f"m{number}", severity_number=SeverityNumber.INFO, attributes={"n": number}))
    assert provider.force_flush()
    assert [(event.message, event.logger, event.attributes["n"]) for event in shown()] == [
        (f"m{number}", "shop.server", number) for number in range(50)
    ]
    provider.shutdown()


@both
def test_exact_messages(processor: Callable[[LogRecordExporter], LogRecordProcessor]) -> None:
    """A native record becomes exactly the version 1 message of its kind."""
    hub = Hub()
    provider = new_provider(processor(WebSocketLogRecordExporter(hub)))
    provider.get_logger("shop.server").emit(
        LogRecord(
            timestamp=1_759_948_245_123_456_789,
            body="Order placed",
            severity_number=SeverityNumber.WARN,
            severity_text="WARN",
            attributes={
                "code.file.path": "/srv/shop/orders.py",
                "code.function.name": "place",
                "code.line.number": 42,
            },
        )
    )
    provider.get_logger("audit.role").emit(
        LogRecord(
            timestamp=1_759_948_245_124_000_000,
            body="Role granted",
            severity_number=SeverityNumber.INFO,
            attributes={"audit.action": "role_grant", "audit.metadata.role": "admin"},
        )
    )
    provider.force_flush()
    provider.shutdown()
    assert wires(hub) == [
        {
            "type": "system_log",
            "data": {
                "timestamp": "2025-10-08T18:30:45.123Z",
                "level": "WARNING",
                "logger": "shop.server",
                "message": "Order placed",
                "module": "orders",
                "function": "place",
                "line": 42,
            },
        },
        {
            "type": "audit_log",
            "data": {
                "timestamp": "2025-10-08T18:30:45.124Z",
                "level": "INFO",
                "logger": "audit.role",
                "message": "Role granted",
                "action": "role_grant",
                "metadata": {"role": "admin"},
            },
        },
    ]


def test_without_code_attributes() -> None:
    """A record that does not say where it comes from has module "", function "" and line 0."""
    event = show(readable(body="m"))
    assert (event.module, event.function, event.line) == ("", "", 0)
    assert (event.level, event.timestamp > 0) == ("NOTSET", True)


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ({"code.filepath": "a/b.py", "code.function": "f", "code.lineno": 7}, ("b", "f", 7)),
        ({"code.file.path": "", "code.function.name": 5, "code.line.number": True}, ("", "", 0)),
        ({"code.file.path": ["x"], "code.line.number": "9"}, ("", "", 0)),
    ],
    ids=["older-names", "odd-values", "odd-types"],
)
def test_code_attributes(attributes: dict[str, Any], expected: tuple[str, str, int]) -> None:
    """Older names of the code attributes count too, and values of odd types are as good as none."""
    event = show(readable(body="m", attributes=attributes))
    assert (event.module, event.function, event.line) == expected


@pytest.mark.parametrize(
    ("text", "number", "level"),
    [
        ("INFO", SeverityNumber.INFO, "INFO"),
        ("warn", SeverityNumber.WARN2, "WARNING"),
        ("Fatal", SeverityNumber.FATAL, "CRITICAL"),
        ("ERROR3", SeverityNumber.ERROR3, "ERROR"),
        ("", SeverityNumber.TRACE4, "TRACE"),
        (None, SeverityNumber.DEBUG, "DEBUG"),
        (None, None, "NOTSET"),
        ("WARN", None, "WARNING"),
        ("NOTICE", SeverityNumber.INFO2, "NOTICE"),
    ],
)
def test_severity(text: str | None, number: SeverityNumber | None, level: str) -> None:
    """OpenTelemetry's short names, or none, go by number; any other text stays as it is."""
    assert show(readable(body="m", severity_text=text, severity_number=number)).level == level


def only_alerts(logger: str, message: str, attributes: Any) -> bool:
    return message.startswith("ALERT")


@pytest.mark.parametrize(
    ("record", "rules", "audit"),
    [
        (readable(body="m"), (), False),
        (readable(body="m", attributes={"is_audit": True}), (), True),
        (readable(body="m", attributes={"is_audit": "false"}), (), False),
        (readable(body="m", attributes={"audit.record.id": "r-1"}), (), True),
        (readable(body="m", attributes={"audit.action": "x"}), (), False),
        (readable("audit.role", body="m"), (), True),
        (readable("auditor", body="m"), (), False),
        (readable("", body="m"), (), False),
        (readable(body="[AUDIT] m"), (), True),
        (readable(body="m [AUDIT]"), (), False),
        (readable(body="ALERT m"), (only_alerts,), True),
        (readable(body="m"), (only_alerts,), False),
    ],
)
def test_classification(record: ReadableLogRecord, rules: tuple[Rule, ...], audit: bool) -> None:
    """A flag, a record id, the scope's name, the body or a rule of one's own make an audit record."""
    assert show(record, rules=rules).is_audit is audit


@pytest.mark.parametrize(
    ("attributes", "action", "metadata"),
    [
        ({}, None, None),
        ({"action": "a", "metadata": {"k": 1}}, "a", {"k": 1}),
        ({"audit.action": "a", "action": "b"}, "a", None),
        ({"audit.metadata": "text"}, None, "text"),
        ({"audit.metadata.a": 1, "audit.metadata.b.c": "x"}, None, {"a": 1, "b.c": "x"}),
    ],
)
def test_action_and_metadata(attributes: dict[str, Any], action: Any, metadata: Any) -> None:
    """Both stand in the message only if the record has them, under whichever of their names."""
    hub = Hub()
    WebSocketLogRecordExporter(hub).export([readable("audit.x", body="m", attributes=attributes)])
    data = wires(hub)[0]["data"]
    assert (data.get("action"), data.get("metadata")) == (action, metadata)
    assert ("action" in data, "metadata" in data) == (action is not None, metadata is not None)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("text", "text"),
        (None, ""),
        (5, "5"),
        ({"event": "x", "n": [1, None]}, '{"event":"x","n":[1,null]}'),
        ("\ud800", "\\ud800"),
    ],
)
def test_bodies(body: Any, message: str) -> None:
    """A structured body is shown as JSON; none is empty."""
    assert show(readable(body=body)).message == message


def test_secrets_are_redacted() -> None:
    """Secrets are replaced in body, attributes and resource, unless redaction is off."""
    record = readable(
        body="login with password=hunter2",
        attributes={"password": "hunter2"},
        resource=Resource({"api_key": "hunter2"}),
    )
    assert "hunter2" not in repr(show(record))
    assert repr(show(record, redactor=NO_REDACTION)).count("hunter2") == 3


def test_long_bodies_are_cut() -> None:
    """A body longer than allowed is cut and says so."""
    event = show(readable(body="x" * 1_000), text_chars=300)
    assert event.message == "x" * 300 + "… [cut: 1000 characters]"


def test_context_event_name_and_exception() -> None:
    """Trace, event name, exception, record id and resource come along."""
    record = readable(
        "audit.x",
        body="m",
        event_name="role.grant",
        attributes={
            "audit.record.id": "r-1",
            "exception.type": "ValueError",
            "exception.message": "no",
            "exception.stacktrace": "Traceback",
        },
    )
    record.log_record.trace_id, record.log_record.span_id = 0xABC, 0xDEF
    event = show(record)
    assert (event.trace_id, event.span_id) == ("abc".rjust(32, "0"), "def".rjust(16, "0"))
    assert (event.event_name, event.record_id, event.resource) == ("role.grant", "r-1", {"service.name": "shop"})
    assert event.exception is not None
    assert (event.exception.type, event.exception.message) == ("ValueError", "no")


def test_a_broken_record_is_counted_and_the_others_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    """A record that can't be converted costs itself only."""

    class Broken:
        @property
        def log_record(self) -> Any:
            raise ValueError("broken")

    hub = Hub()
    exporter = WebSocketLogRecordExporter(hub)
    batch: list[Any] = [readable(body="a"), Broken(), readable(body="b")]
    assert exporter.export(batch) is LogRecordExportResult.SUCCESS
    assert ([event.message for event in shown(hub)], exporter.exported, exporter.failed) == (["a", "b"], 2, 1)
    assert "a log record could not be shown" in capsys.readouterr().err


def test_after_shutdown() -> None:
    """After shutdown() an export fails, and what was shown stays."""
    hub = Hub()
    exporter = WebSocketLogRecordExporter(hub)
    exporter.export([readable(body="a")])
    assert exporter.force_flush(0) is True
    exporter.shutdown()
    assert exporter.export([readable(body="b")]) is LogRecordExportResult.FAILURE
    assert [event.message for event in shown(hub)] == ["a"]


def test_resources_are_frozen_once() -> None:
    """Records of one resource share it; many resources don't grow the memory without bound."""
    hub = Hub()
    exporter = WebSocketLogRecordExporter(hub)
    resource = Resource({"service.name": "one"})
    exporter.export([readable(body="a", resource=resource), readable(body="b", resource=resource)])
    first, second = shown(hub)
    assert first.resource is second.resource
    for number in range(200):
        exporter.export([readable(body="c", resource=Resource({"n": number}))])
    assert [event.resource["n"] for event in shown(hub)[2:]] == list(range(200))
    assert len(exporter._resources) <= 64


# -- once, whoever brings it ------------------------------------------------------------------------------------------


@both
@pytest.mark.parametrize("when", ["before", "after", "both"])
def test_native_records_with_setup_are_shown_once(
    when: str, processor: Callable[[LogRecordExporter], LogRecordProcessor]
) -> None:
    """With setup() and the exporter registered by the team as well, native and logging records are shown once each."""
    provider = new_provider()
    if when != "after":
        provider.add_log_record_processor(processor(WebSocketLogRecordExporter()))
    b = bridge.setup(logger_provider=provider)
    if when != "before":
        provider.add_log_record_processor(processor(WebSocketLogRecordExporter()))
    native = provider.get_logger("native")
    for number in range(20):
        native.emit(LogRecord(body=f"native {number}"))
        logging.getLogger("shop").warning("logging %d", number)
    assert b.force_flush(10)
    provider.force_flush()
    messages = [event.message for event in shown()]
    assert sorted(messages) == sorted(f"{kind} {number}" for kind in ("native", "logging") for number in range(20))
    b.shutdown()
    provider.shutdown()


def test_native_records_with_setup() -> None:
    """After setup() alone, native records of the global kind are shown at once, each emission of one object anew."""
    provider = new_provider()
    b = bridge.setup(logger_provider=provider)
    record = LogRecord(body="again")
    for _ in range(3):
        provider.get_logger("native").emit(record)
    assert [event.message for event in shown()] == ["again"] * 3
    b.shutdown()
    provider.get_logger("native").emit(record)
    assert len(shown()) == 3


def test_once_under_threads() -> None:
    """However tap and exporters race, from many threads, each record is shown once."""
    provider = new_provider()
    exporters = [BatchLogRecordProcessor(WebSocketLogRecordExporter(), max_export_batch_size=1) for _ in range(2)]
    provider.add_log_record_processor(exporters[0])
    b = bridge.setup(logger_provider=provider)
    provider.add_log_record_processor(exporters[1])

    def write(thread: int) -> None:
        for number in range(100):
            provider.get_logger("native").emit(LogRecord(body=f"{thread}:{number}"))

    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    provider.force_flush()
    assert sorted(event.message for event in shown()) == sorted(f"{t}:{n}" for t in range(4) for n in range(100))
    b.shutdown()
    provider.shutdown()


def test_two_hubs_each_show_it() -> None:
    """Exporters with different hubs don't take records from each other."""
    hubs = [Hub(), Hub()]
    provider = new_provider(*(SimpleLogRecordProcessor(WebSocketLogRecordExporter(hub)) for hub in hubs))
    provider.get_logger("a").emit(LogRecord(body="m"))
    assert [[event.message for event in shown(hub)] for hub in hubs] == [["m"], ["m"]]


def foreign_handler(provider: LoggerProvider) -> logging.Handler:
    """Contrib's handler; before it existed, the SDK's."""
    try:
        from opentelemetry.instrumentation.logging.handler import LoggingHandler
    except ImportError:
        from opentelemetry.sdk._logs import LoggingHandler as OlderHandler

        return OlderHandler(logger_provider=provider)
    return LoggingHandler(logger_provider=provider, log_code_attributes=True)


@both
def test_contrib_handler(processor: Callable[[LogRecordExporter], LogRecordProcessor]) -> None:
    """Logging records that reach the exporter through contrib's handler are shown with their place and kind."""
    hub = Hub()
    provider = new_provider(processor(WebSocketLogRecordExporter(hub)))
    with fresh_logging():
        logging.getLogger().addHandler(foreign_handler(provider))
        logging.getLogger("shop").error("failed", extra={"order": 7})
        logging.getLogger("shop").warning("[AUDIT] %s", "done")
        logging.getLogger("audit.role").critical("granted", extra={"action": "role_grant"})
    provider.force_flush()
    provider.shutdown()
    messages = wires(hub)
    assert [(each["type"], each["data"]["level"], each["data"]["message"]) for each in messages] == [
        ("system_log", "ERROR", "failed"),
        ("audit_log", "WARNING", "[AUDIT] done"),
        ("audit_log", "CRITICAL", "granted"),
    ]
    assert messages[0]["data"]["module"] == "test_exporter"
    assert messages[0]["data"]["function"] == "test_contrib_handler"
    assert messages[2]["data"]["action"] == "role_grant"


def test_chatter_of_the_transport_is_not_shown() -> None:
    """Debug records of what carries the frames are left out, or one record would beget the next; the rest is not."""
    hub = Hub()
    exporter = WebSocketLogRecordExporter(hub)
    for scope in ("uvicorn.error", "uvicorn.asgi", "websockets.server", "hypercorn.error"):
        exporter.export([readable(scope, body="> TEXT", severity_number=SeverityNumber.DEBUG)])
        exporter.export([readable(scope, body="frame", severity_number=SeverityNumber.TRACE)])
    exporter.export([readable("uvicorn.error", body="open", severity_number=SeverityNumber.INFO)])
    exporter.export([readable("uvicorn.error", body="[AUDIT] x", severity_number=SeverityNumber.DEBUG)])
    exporter.export([readable("uvicorn.errors", body="other", severity_number=SeverityNumber.DEBUG)])
    assert [event.message for event in shown(hub)] == ["open", "[AUDIT] x", "other"]


def test_setup_after_setup_keeps_one_tap() -> None:
    """Setting up and shutting down again and again leaves one processor on a team's provider."""
    provider: LoggerProvider = new_provider()
    for _ in range(5):
        bridge.setup(logger_provider=provider).shutdown()
    b = bridge.setup(logger_provider=provider)
    provider.get_logger("native").emit(LogRecord(body="once"))
    assert [event.message for event in shown()] == ["once"]
    b.shutdown()
