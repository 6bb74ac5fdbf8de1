"""WebSocketLogRecordExporter: a LogRecordExporter whose backend is the live view."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any, Final

from opentelemetry._logs import LogRecord
from opentelemetry.sdk._logs import LogRecordProcessor, ReadableLogRecord, ReadWriteLogRecord
from opentelemetry.sdk._logs.export import LogRecordExporter, LogRecordExportResult
from opentelemetry.sdk.resources import Resource

from bridge.diagnostics import say_rarely
from bridge.live.hub import Hub, process_hub
from bridge.record import attributes as names
from bridge.record.classify import Rule, is_audit, is_wire_logger
from bridge.record.event import UNSET, ExceptionInfo, LogEvent
from bridge.record.redact import Redactor
from bridge.record.severity import level_text
from bridge.record.values import AnyValue, freeze, safe_repr, safe_text

__all__ = ["LiveTap", "WebSocketLogRecordExporter", "event_from_otel", "mark_shown"]

# An instance attribute of the log record, or of its attributes: copy.copy(), which the stock batch processor uses,
# keeps the one and shares the other.
_SHOWN_MARK: Final = "_bridge_shown_in"

# The last severity number that is called DEBUG.
_DEBUG_MAX: Final = 8


def mark_shown(record: LogRecord, hub: Hub) -> None:
    """Remember that ``record`` is in ``hub`` already, whatever processors it still goes through."""
    record.__dict__[_SHOWN_MARK] = id(hub)


def _claim(record: LogRecord, hub: Hub) -> bool:
    """Whether ``record`` is still to be shown in ``hub``; True once, whoever asks and in whatever thread.

    One record may come by several times: through the bridge's tap and through a team's own exporter.
    """
    if record.__dict__.get(_SHOWN_MARK) == id(hub):
        return False
    # Attributes are made anew for each emit(), and shared by the copies that processors make before we see them.
    marks: dict[str, object] | None = getattr(record.attributes, "__dict__", None)
    if marks is None:
        return True
    token = object()
    return marks.setdefault(f"{_SHOWN_MARK}_{id(hub)}", token) is token


def event_from_otel(
    readable: ReadableLogRecord,
    *,
    redactor: Redactor,
    rules: tuple[Rule, ...] = (),
    resource: Mapping[str, AnyValue],
    text_chars: int = 1 << 20,
) -> LogEvent:
    """An OpenTelemetry record as the internal one: classified, frozen, redacted.

    ``resource`` is the record's resource, already frozen (it is shared by many records).
    """
    record = readable.log_record
    attributes: dict[str, AnyValue] = {}
    for key, value in (record.attributes or {}).items():
        attributes[safe_text(str(key))] = freeze(value)
    attributes = redactor.attributes(attributes)
    body = record.body
    message = body if isinstance(body, str) else _body_text(body)
    message = redactor.text(safe_text(message))
    scope = readable.instrumentation_scope
    logger = safe_text(scope.name if scope is not None and scope.name else "")
    audit = is_audit(logger, message, attributes, rules)

    exception = None
    kind = attributes.get(names.EXCEPTION_TYPE)
    if kind is not None:
        exception = ExceptionInfo(
            str(kind),
            str(attributes.get(names.EXCEPTION_MESSAGE, "")),
            str(attributes.get(names.EXCEPTION_STACKTRACE, "")),
        )
    path = attributes.get(names.CODE_FILE_PATH, attributes.get(names.CODE_FILE_PATH_OLD, ""))
    function = attributes.get(names.CODE_FUNCTION_NAME, attributes.get(names.CODE_FUNCTION_NAME_OLD, ""))
    line = attributes.get(names.CODE_LINE_NUMBER, attributes.get(names.CODE_LINE_NUMBER_OLD, 0))
    severity: Any = record.severity_number  # an enum; senders that are not the SDK give a bare number
    number: int = getattr(severity, "value", severity) or 0
    observed = record.observed_timestamp or record.timestamp or 0
    trace_id, span_id = record.trace_id or 0, record.span_id or 0
    record_id = attributes.get(names.AUDIT_RECORD_ID) or attributes.get(names.RECORD_UID) or ""
    return LogEvent(
        timestamp=record.timestamp or observed,
        observed_timestamp=observed,
        severity_number=number,
        level=level_text(safe_text(record.severity_text or ""), number),
        logger=logger,
        message=message if len(message) <= text_chars else f"{message[:text_chars]}… [cut: {len(message)} characters]",
        is_audit=audit,
        module=PurePath(path).stem if isinstance(path, str) and path else "",
        function=function if isinstance(function, str) else "",
        line=line if isinstance(line, int) and not isinstance(line, bool) else 0,
        event_name=safe_text(record.event_name or ""),
        trace_id=f"{trace_id:032x}" if trace_id else "",
        span_id=f"{span_id:016x}" if span_id else "",
        trace_flags=int(record.trace_flags or 0),
        action=attributes.get(names.AUDIT_ACTION, attributes.get("action", UNSET)) if audit else UNSET,
        metadata=_metadata(attributes) if audit else UNSET,
        record_id=str(record_id) if audit else "",
        attributes=attributes,
        resource=resource,
        exception=exception,
    )


def _body_text(body: object) -> str:
    """A structured body as text: JSON, as OpenTelemetry's own view of it."""
    if body is None:
        return ""
    import msgspec

    try:
        return msgspec.json.encode(freeze(body)).decode()
    except Exception:
        return safe_repr(body, 4_096)


def _metadata(attributes: Mapping[str, AnyValue]) -> Any:
    if "metadata" in attributes:
        return attributes["metadata"]
    prefix = names.AUDIT_METADATA_PREFIX
    found = {key[len(prefix) :]: value for key, value in attributes.items() if key.startswith(prefix)}
    if found:
        return found
    return attributes.get(names.AUDIT_METADATA, UNSET)


class WebSocketLogRecordExporter(LogRecordExporter):
    """Shows OpenTelemetry log records to the clients of ``/ws/monitor``.

    Works inside any stock ``SimpleLogRecordProcessor`` or ``BatchLogRecordProcessor``, on any provider. Without a
    ``hub`` it uses the process-wide one, which ``bridge.setup()`` and its routes use as well. Records that the
    bridge, or another exporter, has shown in the same hub already are skipped.

    ``export`` never blocks and never fails for a client's sake: a record that can't be shown is counted in
    ``failed``.
    """

    def __init__(
        self,
        hub: Hub | None = None,
        *,
        redactor: Redactor | None = None,
        rules: tuple[Rule, ...] = (),
        text_chars: int = 1 << 20,
    ) -> None:
        self._hub = hub if hub is not None else process_hub()
        self._redactor = redactor if redactor is not None else Redactor()
        self._rules = rules
        self._text_chars = text_chars
        self._resources: dict[int, tuple[Resource, dict[str, AnyValue]]] = {}
        self._shut_down = False
        self.exported = 0
        self.failed = 0

    def export(self, batch: Sequence[ReadableLogRecord]) -> LogRecordExportResult:
        """Show a batch. FAILURE only after shutdown."""
        if self._shut_down:
            return LogRecordExportResult.FAILURE
        events = []
        for readable in batch:
            try:
                if not _claim(readable.log_record, self._hub):
                    continue
                event = event_from_otel(
                    readable,
                    redactor=self._redactor,
                    rules=self._rules,
                    resource=self._resource(readable.resource),
                    text_chars=self._text_chars,
                )
                # Without setup() other handlers bring us what logging says, our own server's frames included.
                if event.is_audit or event.severity_number > _DEBUG_MAX or not is_wire_logger(event.logger):
                    events.append(event)
            except Exception as error:
                self.failed += 1
                say_rarely("exporter", logging.ERROR, "a log record could not be shown: %r", error)
        if events:
            self._hub.publish(events)
            self.exported += len(events)
        return LogRecordExportResult.SUCCESS

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """True: what was exported is shown already."""
        return True

    def shutdown(self) -> None:
        """Take no more records. What was shown stays visible."""
        self._shut_down = True

    def _resource(self, resource: Resource | None) -> dict[str, AnyValue]:
        if resource is None:
            return {}
        known = self._resources.get(id(resource))
        if known is None or known[0] is not resource:
            frozen = {safe_text(str(key)): freeze(value) for key, value in resource.attributes.items()}
            known = (resource, self._redactor.attributes(frozen))
            if len(self._resources) >= 64:
                self._resources.clear()
            self._resources[id(resource)] = known
        return known[1]


class LiveTap(LogRecordProcessor):
    """Stands on a provider for good and feeds whichever exporter is connected.

    Providers can't be rid of a processor. One tap a provider, connected at setup and disconnected at shutdown, leaves
    no heap of dead ones behind.
    """

    def __init__(self) -> None:
        self._exporter: WebSocketLogRecordExporter | None = None

    def connect(self, exporter: WebSocketLogRecordExporter | None) -> None:
        """Feed ``exporter`` from now on; None: nobody."""
        self._exporter = exporter

    def on_emit(self, log_record: ReadWriteLogRecord) -> None:
        """Show a record made with the native Logs API. Never raises."""
        exporter = self._exporter
        if exporter is None or log_record.log_record.__dict__.get(_SHOWN_MARK) is not None:
            return
        try:
            exporter.export(
                (
                    ReadableLogRecord(
                        log_record=log_record.log_record,
                        resource=log_record.resource if log_record.resource is not None else Resource.get_empty(),
                        instrumentation_scope=log_record.instrumentation_scope,
                        limits=log_record.limits,
                    ),
                )
            )
        except Exception as error:
            say_rarely("tap", logging.ERROR, "a log record could not be shown: %r", error)

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """True: nothing is kept back."""
        return True

    def shutdown(self) -> None:
        """Disconnect."""
        self._exporter = None
