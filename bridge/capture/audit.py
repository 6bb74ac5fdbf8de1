"""``audit_log``: one audit event, said once, whatever levels, filters or ``logging.disable()`` say."""

from __future__ import annotations

import asyncio
import logging
import sys
import uuid
from collections.abc import Coroutine, Mapping
from datetime import datetime
from typing import Any, Final, Protocol

import msgspec

from bridge.record import attributes as names
from bridge.record.classify import is_flagged
from bridge.record.values import AnyValue, freeze, safe_repr, safe_text

__all__ = ["AUDIT_EVENT", "AuditEvent", "AuditReceipt", "AuditTarget", "audit_log", "audit_log_async"]

AUDIT_EVENT: Final = "bridge.audit_event"
"""Key under which the event travels in a captured record; no attribute of a LogRecord."""

_OUTCOMES: Final = frozenset({"success", "failure", "unknown"})
_OWN_FIELDS: Final = (
    "actor",
    "target",
    "outcome",
    "event",
    "source",
    "ack",
    "stacklevel",
    "exc_info",
    "stack_info",
)


class AuditReceipt(msgspec.Struct, frozen=True):
    """What is known of an audit event when the call returns.

    ``id`` is the event's UUID. ``committed_at`` (UTC) is None while it is not known to be durable: this release has
    no durable trail yet, so it is always None, ``stream`` and ``hash`` are ``""`` and ``sequence`` is 0.
    """

    id: str
    stream: str = ""
    sequence: int = 0
    hash: str = ""
    committed_at: datetime | None = None

    def wait_delivered(self, timeout: float | None = None) -> bool:
        """True only after a collector's verified acknowledgement. Without a durable trail: False, at once."""
        return False


class AuditEvent(msgspec.Struct, frozen=True, kw_only=True):
    """What `audit_log` was told, as text; ``""`` where nothing was said."""

    id: str
    actor: str = ""
    target: str = ""
    outcome: str = ""
    event: str = ""
    source: str = ""

    def attributes(self) -> dict[str, AnyValue]:
        """The event's attributes, by their names."""
        found: dict[str, AnyValue] = {names.AUDIT_RECORD_ID: self.id, names.RECORD_UID: self.id}
        if self.actor:
            found[names.AUDIT_ACTOR_ID] = self.actor
        if self.target:
            found[names.AUDIT_TARGET_ID] = self.target
        if self.source:
            found[names.AUDIT_SOURCE_ID] = self.source
        if self.outcome in _OUTCOMES:
            found[names.AUDIT_OUTCOME] = self.outcome
        elif self.outcome:
            # The vocabulary has three words; what was said instead is kept beside it.
            found[names.AUDIT_OUTCOME] = "unknown"
            found[names.AUDIT_OUTCOME + ".given"] = self.outcome
        return found


class AuditTarget(Protocol):
    """Whoever takes audit events: the running bridge, a test's recorder."""

    def submit(self, record: logging.LogRecord, event: AuditEvent) -> AuditReceipt:
        """Take the event, durably if there is a trail. ``record`` is not handed to any logger yet."""
        ...


targets: list[AuditTarget] = []
"""Who is told of audit events; the first one's receipt is the caller's. Kept by those who come and go."""


def audit_log(
    logger: logging.Logger | logging.LoggerAdapter[Any],
    message: str,
    action: str | None = None,
    metadata: Mapping[str, Any] | None = None,
    level: int = logging.INFO,
    **fields: Any,
) -> AuditReceipt:
    """Log an audit event on ``logger`` and return its receipt.

    The event is captured first, whatever the logger's level and filters say; then the record goes to the logger's
    handlers, if the logger is enabled for ``level``. It carries ``is_audit``, ``action``, ``metadata`` (``{}`` if
    none), ``audit_record_id`` and every further field as its own attributes.

    Fields with a meaning: ``actor`` (who; else :func:`bridge.actor`, the middleware, the service itself),
    ``target`` (what it was done to), ``outcome`` (``success``, ``failure``, ``unknown``; with ``exc_info`` the default
    is ``failure``), ``event`` (dot-separated event name; else derived from ``action``), ``source`` (where from),
    ``ack`` (kept for the durable trail), and logging's ``exc_info``, ``stack_info``, ``stacklevel``.

    ``message`` is taken as it is: no ``%`` formatting. Never raises because of what it is given.
    """
    record, event = _make(logger, message, action, metadata, level, fields)
    return _submit(_plain(logger), record, event)


def audit_log_async(
    logger: logging.Logger | logging.LoggerAdapter[Any],
    message: str,
    action: str | None = None,
    metadata: Mapping[str, Any] | None = None,
    level: int = logging.INFO,
    **fields: Any,
) -> Coroutine[Any, Any, AuditReceipt]:
    """As :func:`audit_log`, without blocking the event loop. The event is captured when the result is awaited.

    The record is made at the call, so caller and time are those of the call, whatever task awaits it. Nothing waits
    for a disk in this release, so nothing is handed to another thread either.
    """
    # No `async def`: as a task of its own it would find its caller in asyncio's code.
    record, event = _make(logger, message, action, metadata, level, fields)
    return _submit_async(_plain(logger), record, event)


async def _submit_async(logger: logging.Logger, record: logging.LogRecord, event: AuditEvent) -> AuditReceipt:
    receipt = _submit(logger, record, event)
    await asyncio.sleep(0)
    return receipt


def _plain(logger: object) -> logging.Logger:
    while isinstance(logger, logging.LoggerAdapter):
        logger = logger.logger
    if isinstance(logger, logging.Logger):
        return logger
    # An event under a doubtful name is worth more than an exception in the place of one.
    return logging.getLogger(logger if isinstance(logger, str) and logger else "audit.unnamed")


def _adapter_fields(logger: object) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    while isinstance(logger, logging.LoggerAdapter):
        if isinstance(logger.extra, Mapping):
            fields = {**logger.extra, **fields}  # of nested ones the outer one's word counts
        logger = logger.logger
    return fields


def _text(value: object) -> str:
    if value is None:
        return ""
    frozen = freeze(value)
    return safe_text(frozen) if isinstance(frozen, str) else safe_repr(value, 4_096)


def _make(
    logger: logging.Logger | logging.LoggerAdapter[Any],
    message: str,
    action: str | None,
    metadata: Mapping[str, Any] | None,
    level: int,
    fields: dict[str, Any],
) -> tuple[logging.LogRecord, AuditEvent]:
    """The record and the event, as seen from the caller of our caller."""
    own = {name: fields.pop(name) for name in _OWN_FIELDS if name in fields}
    extra = _adapter_fields(logger)
    plain = _plain(logger)
    event = AuditEvent(
        id=str(uuid.uuid4()),
        actor=_text(own.get("actor")),
        target=_text(own.get("target")),
        outcome=_text(own.get("outcome")),
        event=_text(own.get("event")),
        source=_text(own.get("source")),
    )
    stacklevel = own.get("stacklevel", 1)
    if isinstance(stacklevel, bool) or not isinstance(stacklevel, int) or stacklevel < 1:
        stacklevel = 1
    try:
        path, line, function, stack = plain.findCaller(is_flagged(own.get("stack_info")), stacklevel + 2)
    except ValueError:
        path, line, function, stack = "(unknown file)", 0, "(unknown function)", None
    exc_info = own.get("exc_info")
    if isinstance(exc_info, BaseException):
        exc_info = (type(exc_info), exc_info, exc_info.__traceback__)
    elif not (isinstance(exc_info, tuple) and len(exc_info) == 3 and isinstance(exc_info[1], BaseException)):
        exc_info = sys.exc_info() if is_flagged(exc_info) else None
    if exc_info is not None and exc_info[1] is None:
        exc_info = None
    if isinstance(level, bool) or not isinstance(level, int):
        level = logging.INFO
    record = plain.makeRecord(plain.name, level, path, line, message, (), exc_info, function, sinfo=stack)
    # Set on the record itself: makeRecord() refuses extras that are named like one of its own attributes.
    taken = record.__dict__
    for key, value in (extra | fields).items():
        taken[key if key not in taken and key not in ("message", "asctime") else f"audit_{key}"] = value
    taken["is_audit"] = True
    taken["action"] = action
    taken["metadata"] = {} if metadata is None else metadata
    taken["audit_record_id"] = event.id
    return record, event


def _submit(logger: logging.Logger, record: logging.LogRecord, event: AuditEvent) -> AuditReceipt:
    receipt: AuditReceipt | None = None
    for target in tuple(targets):
        answer = target.submit(record, event)
        receipt = receipt or answer
    if logger.isEnabledFor(record.levelno):
        logger.handle(record)
    return receipt or AuditReceipt(event.id)
