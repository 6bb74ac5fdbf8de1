"""WebSocketLogRecordExporter: a LogRecordExporter whose backend is the live view."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any, Final

from opentelemetry._logs import LogRecord
from opentelemetry.sdk._logs import LogRecordProcessor, ReadableLogRecord, ReadWriteLogRecord
from opentelemetry.sdk._logs.export import LogRecordExporter, LogRecordExportResult
from opentelemetry.sdk.resources import Resource

from bridge.diagnostics import say_rarely
from bridge.live.hub import Hub, process_hub
from bridge.record.classify import Rule, is_wire_logger
from bridge.record.event import LogEvent
from bridge.record.received import EventBuilder
from bridge.record.redact import Redactor
from bridge.record.severity import DEBUG_MAX
from bridge.record.values import AnyValue, freeze, safe_text

__all__ = ["LiveTap", "WebSocketLogRecordExporter", "event_from_otel", "mark_shown"]

# An instance attribute of the log record, or of its attributes: copy.copy(), which the stock batch processor uses,
# keeps the one and shares the other.
_SHOWN_MARK: Final = "_bridge_shown_in"


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


def event_from_otel(readable: ReadableLogRecord, builder: EventBuilder, resource: Mapping[str, AnyValue]) -> LogEvent:
    """An OpenTelemetry record as the internal one; ``resource`` is its resource, from :meth:`EventBuilder.resource`."""
    record = readable.log_record
    scope = readable.instrumentation_scope
    severity: Any = record.severity_number  # an enum; senders that are not the SDK give a bare number
    number: int = getattr(severity, "value", severity) or 0
    observed = record.observed_timestamp or record.timestamp or 0
    trace_id, span_id = record.trace_id or 0, record.span_id or 0
    return builder.build(
        timestamp=record.timestamp or observed,
        observed=observed,
        number=number,
        severity_text=safe_text(record.severity_text or ""),
        logger=safe_text(scope.name if scope is not None and scope.name else ""),
        body=freeze(record.body),
        attributes={safe_text(str(key)): freeze(value) for key, value in (record.attributes or {}).items()},
        event_name=safe_text(record.event_name or ""),
        trace_id=f"{trace_id:032x}" if trace_id else "",
        span_id=f"{span_id:016x}" if span_id else "",
        trace_flags=int(record.trace_flags or 0),
        resource=resource,
    )


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
        self._builder = EventBuilder(
            redactor if redactor is not None else Redactor(), rules=rules, text_chars=text_chars
        )
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
                event = event_from_otel(readable, self._builder, self._resource(readable.resource))
                # Without setup() other handlers bring us what logging says, our own server's frames included.
                if event.is_audit or event.severity_number > DEBUG_MAX or not is_wire_logger(event.logger):
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
            known = (resource, self._builder.resource(frozen))
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
