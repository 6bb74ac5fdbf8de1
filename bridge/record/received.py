"""A record that came as OpenTelemetry data, over the network or from a provider → LogEvent.

Classified, redacted and cut here, in one place, so that a record looks the same whichever way it came.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePath
from typing import Final

import msgspec

from bridge.record import attributes as names
from bridge.record.classify import Rule, is_audit
from bridge.record.cut import cut_text, cut_value
from bridge.record.event import UNSET, ExceptionInfo, LogEvent, Unset
from bridge.record.redact import Redactor
from bridge.record.severity import level_text
from bridge.record.values import AnyValue, as_text, safe_repr, safe_text

__all__ = ["EventBuilder", "body_text"]

# File paths of programs that log. Received ones must not let this grow for ever.
_MAX_MODULES: Final = 4_096
_MAX_LEVELS: Final = 256

# What is a name is no longer than that: loggers, levels, events, keys.
_NAME_CHARS: Final = 1_024


class EventBuilder:
    """Builds events by one set of settings. For any thread."""

    def __init__(self, redactor: Redactor, *, rules: tuple[Rule, ...] = (), text_chars: int = 1 << 20) -> None:
        self._redactor = redactor
        self._rules = rules
        self.text_chars = text_chars
        self._modules: dict[str, str] = {}
        self._levels: dict[tuple[str, int], str] = {}

    def resource(self, attributes: dict[str, AnyValue]) -> dict[str, AnyValue]:
        """A resource's attributes as they may be shown. Frozen by convention; made once for many records."""
        return self._cut(self._redactor.attributes(attributes))

    def redacted(self, attributes: dict[str, AnyValue]) -> dict[str, AnyValue]:
        """Attributes without secrets; the same object if there are none."""
        return self._redactor.attributes(attributes)

    def redacted_pair(self, key: str, value: AnyValue) -> tuple[str, AnyValue]:
        """One attribute without secrets, by itself."""
        return self._redactor.pair(key, value)

    def _cut(self, attributes: dict[str, AnyValue]) -> dict[str, AnyValue]:
        chars = self.text_chars
        return {cut_text(key, _NAME_CHARS): cut_value(value, chars) for key, value in attributes.items()}

    def build(
        self,
        timestamp: int,
        observed: int,
        number: int,
        severity_text: str,
        logger: str,
        body: AnyValue,
        attributes: dict[str, AnyValue],
        event_name: str,
        trace_id: str,
        span_id: str,
        trace_flags: int,
        resource: Mapping[str, AnyValue],
        peer: str = "",
        may_audit: bool = True,
        large: bool = True,
        redacted: bool = False,
    ) -> LogEvent:
        """One event. Texts must encode to UTF-8 already, and ``attributes`` becomes the event's own.

        ``may_audit`` False: the source may not show audit records; one that would be an audit record becomes a system
        record with the attribute ``bridge.audit_refused``. ``large`` False: nothing in the record can be longer than
        ``text_chars``, which saves the look. ``redacted``: the attributes went through :meth:`redacted` already.
        """
        message = body if type(body) is str else body_text(body)
        if redacted:
            message = self._redactor.text(message)
        else:
            message, attributes = self._redactor.record(message, attributes)
        audit = is_audit(logger, message, attributes, self._rules)
        if audit and not may_audit:
            audit = False
            attributes = {**attributes, names.AUDIT_REFUSED: True}
        if large:
            message, attributes = cut_text(message, self.text_chars), self._cut(attributes)
            logger, severity_text, event_name = (
                cut_text(text, _NAME_CHARS) for text in (logger, severity_text, event_name)
            )
        get = attributes.get
        path = get(names.CODE_FILE_PATH) or get(names.CODE_FILE_PATH_OLD)
        function = get(names.CODE_FUNCTION_NAME) or get(names.CODE_FUNCTION_NAME_OLD)
        line = get(names.CODE_LINE_NUMBER) or get(names.CODE_LINE_NUMBER_OLD)
        kind, words = get(names.EXCEPTION_TYPE), get(names.EXCEPTION_MESSAGE)
        exception = None
        if kind is not None or words is not None:
            exception = ExceptionInfo(as_text(kind), as_text(words), as_text(get(names.EXCEPTION_STACKTRACE)))
        action: AnyValue | Unset = UNSET
        metadata: AnyValue | Unset = UNSET
        record_id = ""
        if audit:
            action = attributes.get(names.AUDIT_ACTION, attributes.get("action", UNSET))
            metadata = _metadata(attributes)
            record_id = as_text(get(names.AUDIT_RECORD_ID) or get(names.RECORD_UID))
        # In the order of the fields: twenty keywords cost as much as all of the above.
        return LogEvent(
            timestamp,
            observed,
            number,
            self._levels.get((severity_text, number)) or self._level(severity_text, number),
            logger,
            message,
            audit,
            self._modules.get(path) or self._module(path) if type(path) is str else "",
            function if type(function) is str else "",
            line if type(line) is int else 0,
            event_name or as_text(get(names.OTEL_EVENT_NAME) or get(names.EVENT_NAME)),
            trace_id,
            span_id,
            trace_flags,
            action,
            metadata,
            record_id,
            attributes,
            resource,
            exception,
            peer,
        )

    def _level(self, severity_text: str, number: int) -> str:
        level = level_text(severity_text, number)
        if len(self._levels) < _MAX_LEVELS and len(severity_text) <= 32:
            self._levels[severity_text, number] = level
        return level

    def _module(self, path: str) -> str:
        # Windows paths come from Windows machines, whatever this one is.
        module = PurePath(path.replace("\\", "/")).stem
        if len(self._modules) >= _MAX_MODULES:
            self._modules.clear()
        if len(path) < 1_024:
            self._modules[path] = module
        return module


def body_text(body: AnyValue) -> str:
    """A structured body as text: JSON, as OpenTelemetry's own view of it; ``""`` for none."""
    if body is None:
        return ""
    if isinstance(body, str):
        return body
    try:
        return msgspec.json.encode(body).decode()
    except Exception:
        return safe_text(safe_repr(body, 4_096))


def _metadata(attributes: Mapping[str, AnyValue]) -> AnyValue | Unset:
    if "metadata" in attributes:
        return attributes["metadata"]
    prefix = names.AUDIT_METADATA_PREFIX
    found = {key[len(prefix) :]: value for key, value in attributes.items() if key.startswith(prefix)}
    if found:
        return found
    return attributes.get(names.AUDIT_METADATA, UNSET)
