"""A captured record → an OpenTelemetry log record and a LogEvent. Runs on the publisher's thread."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from itertools import islice
from typing import Any, Final

import msgspec
from opentelemetry import context as otel_context
from opentelemetry._logs import LogRecord, SeverityNumber
from opentelemetry.attributes import BoundedAttributes

from bridge.capture.audit import AUDIT_EVENT, AuditEvent
from bridge.capture.context import current_audit_context
from bridge.capture.handler import FORMAT_ERROR, STANDARD_FIELDS, Captured, format_message
from bridge.record import attributes as names
from bridge.record.classify import is_transport_logger
from bridge.record.cut import cut_text, cut_value
from bridge.record.event import UNSET, ExceptionInfo, LogEvent, Unset
from bridge.record.redact import Redactor
from bridge.record.severity import severity_number, severity_text
from bridge.record.values import INT64_MAX, AnyValue, freeze, safe_repr, safe_text

__all__ = ["Converted", "Converter"]

_STANDARD: Final = frozenset(STANDARD_FIELDS) | {"message", "asctime", "taskName"}
_LAST_STANDARD: Final = len(STANDARD_FIELDS) - 1
_SEVERITIES: Final = {member.value: member for member in SeverityNumber}

# The SDK's default, LogRecordLimits. Past its limit the SDK drops the OLDEST attributes and warns at every record.
_DEFAULT_ATTRIBUTE_LIMIT: Final = 128

# Private name, the same from 1.39 to 1.45: set in the context in which stock processors call their exporters.
_SUPPRESS_KEY: Final[str | None] = getattr(otel_context, "_SUPPRESS_INSTRUMENTATION_KEY", None)

# Lines of a program that log. Code that is made at run time must not let this grow for ever.
_MAX_CALL_SITES: Final = 4_096

# Threads that log from one line, as far as they are remembered.
_MAX_PLACES: Final = 64


def attribute_limit(environ: Mapping[str, str] = os.environ) -> int:
    """Attributes that the SDK lets a log record have, as its environment variables say."""
    for name in ("OTEL_LOGRECORD_ATTRIBUTE_COUNT_LIMIT", "OTEL_ATTRIBUTE_COUNT_LIMIT"):
        word = environ.get(name, "").strip()
        if word.isdigit():
            return int(word)
    return _DEFAULT_ATTRIBUTE_LIMIT


def _takes_mixed_sequences() -> bool:
    """Whether this SDK keeps a sequence of several types; 1.39 made None of it, with a warning at every record."""
    complaints = logging.getLogger("opentelemetry.attributes")
    disabled, complaints.disabled = complaints.disabled, True
    try:
        return BoundedAttributes(attributes={"mixed": (1, "a")}).get("mixed") is not None
    finally:
        complaints.disabled = disabled


_TAKES_MIXED_SEQUENCES: Final = _takes_mixed_sequences()


def _uniform(value: AnyValue) -> AnyValue:
    """``value`` with every sequence of several types as JSON text."""
    if type(value) is dict:
        return {key: _uniform(each) for key, each in value.items()}
    if type(value) is tuple:
        uniform = tuple(map(_uniform, value))  # of sequences within it, some may be text now and some not
        if len({type(each) for each in uniform if each is not None}) > 1:
            return msgspec.json.encode(value).decode()
        return uniform
    return value


class _CallSite:
    """What every record of one line of the program at one level has in common, worked out once."""

    __slots__ = (
        "code",
        "function",
        "level",
        "line",
        "logger",
        "module",
        "number",
        "places",
        "severity",
        "severity_text",
        "transport",
    )

    def __init__(
        self, name: Any, pathname: Any, lineno: Any, function: Any, levelno: Any, levelname: Any, module: Any
    ) -> None:
        self.logger = safe_text(str(name))
        self.module = safe_text(str(module or ""))
        self.function = safe_text(str(function or ""))
        # A record made by hand may have anything there; what is no number on the wire would cost the whole batch.
        self.line: int = lineno if type(lineno) is int and 0 <= lineno <= INT64_MAX else 0
        self.level = safe_text(str(levelname))
        self.number = severity_number(levelno)
        self.severity = _SEVERITIES[self.number]
        self.severity_text = severity_text(self.level)
        self.transport = is_transport_logger(self.logger)
        self.places: dict[tuple[Any, ...], dict[str, AnyValue]] = {}
        """The same with a thread and a process, for those that came by here."""
        self.code: dict[str, AnyValue] = {
            names.CODE_FILE_PATH: safe_text(str(pathname or "")),
            names.CODE_FUNCTION_NAME: self.function,
            names.CODE_LINE_NUMBER: self.line,
        }


def _extras(fields: dict[str, Any]) -> dict[str, Any]:
    """What the application added to the record."""
    if next(islice(fields, _LAST_STANDARD, None), None) == STANDARD_FIELDS[-1]:
        # The order in which LogRecord sets its attributes: extras come after them, nothing needs a look before.
        found = islice(fields.items(), _LAST_STANDARD + 1, None)
    else:
        found = islice(fields.items(), None)
    return {(key if type(key) is str else str(key)): value for key, value in found if key not in _STANDARD}


class Converted:
    """One record in both forms."""

    __slots__ = ("event", "exportable", "otel")

    def __init__(self, event: LogEvent, otel: LogRecord, exportable: bool) -> None:
        self.event = event
        self.otel = otel
        self.exportable = exportable
        """False for a record born inside an export: exporting it would beget the next one."""


class Converter:
    """Builds both forms of a record. Not thread-safe; one worker owns it.

    ``resource`` is shared by every event. ``own_threads`` holds the idents of threads that run exporters for us.
    """

    def __init__(
        self,
        redactor: Redactor,
        *,
        resource: Mapping[str, AnyValue],
        text_chars: int,
        own_threads: set[int] | None = None,
    ) -> None:
        self._redactor = redactor
        self._resource = resource
        service = resource.get(names.SERVICE_NAME)
        self._service = service if isinstance(service, str) else ""
        self._text_chars = text_chars
        self._limit = attribute_limit()
        self._own_threads = own_threads if own_threads is not None else set()
        self._sites: dict[tuple[Any, ...], _CallSite] = {}
        self.format_errors = 0
        self.ignored = 0

    def convert(self, captured: Captured, observed: int) -> Converted | None:
        """Both forms, built in the caller's context; ``observed`` is now, in ns.

        None for the chatter of a transport inside an export (counted in ``ignored``).
        """
        fields, context, audit, large = captured
        return context.run(self._convert, fields, audit, large, observed)

    def _convert(self, fields: dict[str, Any], audit: bool, large: int, observed: int) -> Converted | None:
        site = self._site(fields)
        # From a thread that runs the processors nothing is exported: one that logs would hear itself for ever.
        exportable = fields["thread"] not in self._own_threads
        in_stock_thread = str(fields["threadName"]).startswith("OtelBatch")
        # The key alone is no proof: applications suppress instrumentation around their own requests too.
        if (site.transport or in_stock_thread) and _SUPPRESS_KEY is not None and otel_context.get_value(_SUPPRESS_KEY):
            if site.transport and not audit:
                self.ignored += 1
                return None
            exportable = exportable and not in_stock_thread

        redact = self._redactor
        message, problem = format_message(fields["msg"], fields["args"])
        message = redact.text(safe_text(message))
        extras = _extras(fields)
        if problem is not None:
            extras[FORMAT_ERROR] = problem
        if FORMAT_ERROR in extras:
            self.format_errors += 1
        told = extras.get(AUDIT_EVENT)
        audit_event: AuditEvent | None = None
        if isinstance(told, AuditEvent):  # else somebody's own extra happens to have that name
            audit_event = extras.pop(AUDIT_EVENT)
        attributes = redact.attributes({safe_text(key): freeze(value) for key, value in extras.items() if key})

        event_name = attributes.pop(names.OTEL_EVENT_NAME, None) or attributes.pop(names.EVENT_NAME, None) or ""
        exception: ExceptionInfo | None = fields["exc_info"] or None
        if exception is not None:
            exception = ExceptionInfo(
                exception.type,
                redact.text(safe_text(exception.message)),
                redact.text(safe_text(exception.stacktrace)),
            )

        own = self._own_attributes(site, fields, exception)
        details: dict[str, AnyValue] = {}
        action: AnyValue | Unset = UNSET
        metadata: AnyValue | Unset = UNSET
        record_id = ""
        if audit:
            otel_attributes = dict(attributes)
            action = attributes.pop("action", UNSET)
            metadata = attributes.pop("metadata", UNSET)
            for key in ("action", "metadata", "is_audit"):
                otel_attributes.pop(key, None)
            own.update(self._audit_attributes(action, audit_event, exception))
            details = _metadata_attributes(metadata)
            if audit_event is not None:
                record_id = audit_event.id
            event_name = (audit_event.event if audit_event else "") or event_name or _event_name(action)

        # A float near 1.8e9 is good to a quarter of a microsecond: cut, .123 would become .122999.
        timestamp = round(fields["created"] * 1e6) * 1_000
        event_name = str(event_name)
        if audit:
            self._fit(otel_attributes, details, own)
            attributes.update(details)
            attributes.update(own)
        else:
            attributes.update(own)
            if len(attributes) > self._limit:
                otel_attributes = {key: value for key, value in attributes.items() if key not in own}
                self._fit(otel_attributes, details, own)
            else:
                # One dict for both: the SDK makes its own copy, and nobody here writes to it any more.
                otel_attributes = attributes
        if not _TAKES_MIXED_SEQUENCES:
            otel_attributes = {key: _uniform(value) for key, value in otel_attributes.items()}
        otel = LogRecord(
            timestamp=timestamp,
            observed_timestamp=observed,
            severity_text=site.severity_text,
            severity_number=site.severity,
            body=message,
            attributes=otel_attributes,
            event_name=event_name or None,
        )
        if large > (chars := self._text_chars):
            attributes = {key: cut_value(value, chars) for key, value in attributes.items()}
            if action is not UNSET:
                action = cut_value(action, chars)
            if isinstance(metadata, dict):
                metadata = {key: cut_value(value, chars) for key, value in metadata.items()}
            elif metadata is not UNSET:
                metadata = cut_value(metadata, chars)
        trace_id, span_id = otel.trace_id, otel.span_id  # those of the caller's span: we run in its context
        event = LogEvent(
            timestamp=timestamp,
            observed_timestamp=observed,
            severity_number=site.number,
            level=site.level,
            logger=site.logger,
            message=cut_text(message, self._text_chars),
            is_audit=audit,
            module=site.module,
            function=site.function,
            line=site.line,
            event_name=event_name,
            trace_id=f"{trace_id:032x}" if trace_id else "",
            span_id=f"{span_id:016x}" if span_id else "",
            trace_flags=int(otel.trace_flags) if otel.trace_flags else 0,
            action=action,
            metadata=metadata,
            record_id=record_id,
            attributes=attributes,
            resource=self._resource,
            exception=exception,
        )
        return Converted(event, otel, exportable)

    def fallback(self, captured: Captured, observed: int) -> Converted:
        """The least that can be shown of a record that :meth:`convert` failed on."""
        fields, _, audit, _ = captured
        message = cut_text(self._redactor.text(safe_text(safe_repr(fields.get("msg"), 4_096))), self._text_chars)
        number = severity_number(fields["levelno"]) if type(fields.get("levelno")) is int else 0
        event = LogEvent(
            timestamp=observed,
            observed_timestamp=observed,
            severity_number=number,
            level=safe_text(safe_repr(fields.get("levelname"), 64).strip("'")),
            logger=safe_text(str(fields.get("name"))),
            message=message,
            is_audit=audit,
            attributes={"bridge.conversion": "failed"},
            resource=self._resource,
        )
        otel = LogRecord(
            timestamp=observed,
            observed_timestamp=observed,
            severity_number=_SEVERITIES[number],
            body=message,
            attributes={"bridge.conversion": "failed", names.AUDIT_FLAG: audit},
        )
        return Converted(event, otel, exportable=True)

    def _site(self, fields: dict[str, Any]) -> _CallSite:
        key = (
            fields["name"],
            fields["pathname"],
            fields["lineno"],
            fields["funcName"],
            fields["levelno"],
            fields["levelname"],
            fields["module"],
        )
        site = self._sites.get(key)
        if site is None:
            if len(self._sites) >= _MAX_CALL_SITES:
                self._sites.clear()
            site = self._sites[key] = _CallSite(*key)
        return site

    def _own_attributes(
        self, site: _CallSite, fields: dict[str, Any], exception: ExceptionInfo | None
    ) -> dict[str, AnyValue]:
        place = (fields["thread"], fields["threadName"], fields["process"], fields["processName"])
        known = site.places.get(place)
        if known is None:
            known = site.code.copy()
            known[names.THREAD_ID] = freeze(fields["thread"] or 0)
            known[names.THREAD_NAME] = safe_text(str(fields["threadName"] or ""))
            known[names.PROCESS_PID] = freeze(fields["process"] or 0)
            process = fields["processName"]
            if process and process != "MainProcess":
                known[names.PROCESS_NAME] = safe_text(str(process))
            if len(site.places) >= _MAX_PLACES:
                site.places.clear()
            site.places[place] = known
        own = known.copy()
        task = fields.get("taskName")
        if task:
            own[names.TASK_NAME] = safe_text(str(task))
        if fields["stack_info"]:
            own[names.STACK_INFO] = self._redactor.text(safe_text(str(fields["stack_info"])))
        if exception is not None:
            own[names.EXCEPTION_TYPE] = exception.type
            own[names.EXCEPTION_MESSAGE] = exception.message
            own[names.EXCEPTION_STACKTRACE] = exception.stacktrace
        elif fields["exc_text"]:  # came by a SocketHandler: the exception itself stayed behind
            own[names.EXCEPTION_STACKTRACE] = self._redactor.text(safe_text(str(fields["exc_text"])))
        return own

    def _audit_attributes(
        self,
        action: AnyValue | Unset,
        event: AuditEvent | None,
        exception: ExceptionInfo | None,
    ) -> dict[str, AnyValue]:
        found: dict[str, AnyValue] = {
            names.AUDIT_FLAG: True,
            names.AUDIT_SCHEMA_VERSION: names.SCHEMA_VERSION,
        }
        if action is not UNSET and action is not None:
            found[names.AUDIT_ACTION] = action if isinstance(action, str) else str(action)
        found.update(self._redactor.attributes(current_audit_context().attributes()))
        if event is not None:
            # What type the surrounding actor or source is says nothing about another one.
            if event.actor and event.actor != found.get(names.AUDIT_ACTOR_ID):
                found.pop(names.AUDIT_ACTOR_TYPE, None)
            if event.source and event.source != found.get(names.AUDIT_SOURCE_ID):
                found.pop(names.AUDIT_SOURCE_TYPE, None)
            found.update(self._redactor.attributes(event.attributes()))
        found.setdefault(names.AUDIT_OUTCOME, "failure" if exception is not None else "unknown")
        if names.AUDIT_ACTOR_ID not in found and self._service:
            found[names.AUDIT_ACTOR_ID] = self._service
            found[names.AUDIT_ACTOR_TYPE] = "service"
        return found

    def _fit(self, attributes: dict[str, AnyValue], details: dict[str, AnyValue], own: dict[str, AnyValue]) -> None:
        """Add an event's details and our own attributes after the application's.

        If all are too many, the details become one attribute, and then the application's last ones go: the SDK would
        drop the first of all, and would warn at every record.
        """
        if len(attributes) + len(details) + len(own) > self._limit:
            if len(details) > 1:
                start = len(names.AUDIT_METADATA_PREFIX)
                details = {names.AUDIT_METADATA: {key[start:]: value for key, value in details.items()}}
            room = self._limit - len(own) - len(details)
            for key in list(attributes)[max(room, 0) :]:
                del attributes[key]
        attributes.update(details)
        attributes.update(own)


def _metadata_attributes(metadata: AnyValue | Unset) -> dict[str, AnyValue]:
    if isinstance(metadata, dict):
        return {names.AUDIT_METADATA_PREFIX + key: value for key, value in metadata.items()}
    return {} if metadata is UNSET or metadata is None else {names.AUDIT_METADATA: metadata}


def _event_name(action: AnyValue | Unset) -> str:
    """``"Role grant"`` → ``role.grant``: dot-separated, as event names are."""
    if not isinstance(action, str):
        return "audit.event"
    words = "".join(c if c.isalnum() or c == "." else " " for c in action.lower()).split()
    return ".".join(words) or "audit.event"
