"""LogEvent → wire JSON, versions 1 and 2. Encoded once a version; every client gets the same bytes."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import Final

import msgspec

from bridge.record import attributes as names
from bridge.record.event import UNSET, ExceptionInfo, LogEvent, Unset
from bridge.record.values import AnyValue, as_text

__all__ = ["encode_v1", "encode_v2", "format_timestamp"]

_NANOS: Final = 1_000_000_000
_FIRST_SECOND: Final = -62_135_596_800  # 0001-01-01T00:00:00Z
_LAST_SECOND: Final = 253_402_300_799  # 9999-12-31T23:59:59Z


@lru_cache(maxsize=64)
def _second_text(second: int) -> str:
    # Formatting a datetime costs 2 µs, and records come many to the second.
    return datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S").rjust(19, "0")


def format_timestamp(nanoseconds: int) -> str:
    """RFC 3339 UTC with milliseconds, cut, not rounded: ``2025-10-08T18:30:45.123Z``. Clamped to years 1 to 9999."""
    second, rest = divmod(nanoseconds, _NANOS)
    if not _FIRST_SECOND <= second <= _LAST_SECOND:
        second, rest = (_FIRST_SECOND, 0) if second < 0 else (_LAST_SECOND, _NANOS - 1)
    return f"{_second_text(second)}.{rest // 1_000_000:03d}Z"


class _SystemData(msgspec.Struct, frozen=True, gc=False):
    timestamp: str
    level: str
    logger: str
    message: str
    module: str
    function: str
    line: int


class _SystemLog(msgspec.Struct, frozen=True, tag_field="type", tag="system_log"):
    data: _SystemData


class _AuditData(msgspec.Struct, frozen=True):
    timestamp: str
    level: str
    logger: str
    message: str
    action: AnyValue | Unset = UNSET
    metadata: AnyValue | Unset = UNSET


class _AuditLog(msgspec.Struct, frozen=True, tag_field="type", tag="audit_log"):
    data: _AuditData


_encode = msgspec.json.Encoder().encode


def encode_v1(event: LogEvent) -> bytes:
    """The version 1 message of a record: UTF-8 JSON, exactly the keys of the protocol, in its order."""
    if event.is_audit:
        return _encode(
            _AuditLog(
                _AuditData(
                    format_timestamp(event.timestamp),
                    event.level,
                    event.logger,
                    event.message,
                    event.action,
                    event.metadata,
                )
            )
        )
    return _encode(
        _SystemLog(
            _SystemData(
                format_timestamp(event.timestamp),
                event.level,
                event.logger,
                event.message,
                event.module,
                event.function,
                event.line,
            )
        )
    )


class _RichData(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Version 2: what version 1 has, and everything else that is known. What is not known is left out."""

    timestamp: str
    level: str
    logger: str
    message: str
    action: AnyValue | Unset = UNSET
    metadata: AnyValue | Unset = UNSET
    module: str = ""
    function: str = ""
    line: int = 0
    severity_number: int = 0
    service: str = ""
    event_name: str = ""
    trace_id: str = ""
    span_id: str = ""
    id: str = ""
    actor: str = ""
    target: str = ""
    outcome: str = ""
    stream: str = ""
    sequence: int = 0
    hash: str = ""
    attributes: Mapping[str, AnyValue] = {}
    resource: Mapping[str, AnyValue] = {}
    exception: ExceptionInfo | None = None
    peer: str = ""


class _RichLog(msgspec.Struct, frozen=True):
    type: str
    cursor: str
    data: _RichData


def encode_v2(event: LogEvent, cursor: str) -> bytes:
    """The version 2 message of a record: version 1's, with a cursor beside ``type`` and more in ``data``."""
    attributes = event.attributes
    service = event.resource.get(names.SERVICE_NAME)
    audit = event.is_audit
    return _encode(
        _RichLog(
            "audit_log" if audit else "system_log",
            cursor,
            _RichData(
                timestamp=format_timestamp(event.timestamp),
                level=event.level,
                logger=event.logger,
                message=event.message,
                action=event.action,
                metadata=event.metadata,
                module=event.module,
                function=event.function,
                line=event.line,
                severity_number=event.severity_number,
                service=service if isinstance(service, str) else "",
                event_name=event.event_name,
                trace_id=event.trace_id,
                span_id=event.span_id,
                id=event.record_id,
                actor=as_text(attributes.get(names.AUDIT_ACTOR_ID)) if audit else "",
                target=as_text(attributes.get(names.AUDIT_TARGET_ID)) if audit else "",
                outcome=as_text(attributes.get(names.AUDIT_OUTCOME)) if audit else "",
                # Exceptions have a place of their own, and their stacks are long.
                attributes=attributes
                if event.exception is None
                else {key: value for key, value in attributes.items() if not key.startswith("exception.")},
                resource=event.resource,
                exception=event.exception,
                peer=event.peer,
            ),
        )
    )
