"""The logging handler: what happens on the calling thread, and nothing more than has to.

A call costs a tenth of the stock OpenTelemetry handler because everything that can wait is left to the publisher:
this side classifies, takes a snapshot of whatever could change later, keeps the caller's context, appends. It takes
no lock (handlers that do slow down two to three times at four threads), does no I/O and never raises.
"""

from __future__ import annotations

import logging
import sys
import traceback
from collections.abc import Callable, Sequence
from contextvars import Context, copy_context
from itertools import islice
from typing import Any, Final, TypeAlias

from bridge.capture.audit import AUDIT_EVENT, AuditEvent, AuditReceipt
from bridge.capture.intake import LARGE_BYTES, CallQueue, Drops
from bridge.diagnostics import speaking
from bridge.record.classify import (
    AUDIT_LOGGER_PREFIX,
    AUDIT_MESSAGE_PREFIX,
    Rule,
    audit_message_possible,
    is_audit,
    is_flagged,
    is_wire_logger,
)
from bridge.record.event import ExceptionInfo
from bridge.record.values import SCALARS, freeze, qualified_name, safe_repr, size_of

__all__ = [
    "FORMAT_ERROR",
    "STANDARD_FIELDS",
    "CaptureHandler",
    "Captured",
    "format_message",
    "freeze_exception",
]

FORMAT_ERROR: Final = "log.format_error"
"""Extra attribute of a record whose arguments did not fit its message."""

# Attributes that every LogRecord of this Python has, in the order its constructor sets them; extras follow.
STANDARD_FIELDS: Final = tuple(logging.LogRecord("", 0, "", 0, "", (), None).__dict__)
_STANDARD_COUNT: Final = len(STANDARD_FIELDS)
_STANDARD: Final = frozenset(STANDARD_FIELDS)

# What needs neither freezing nor weighing. Strings are weighed where they stand; bytes go the longer way.
_SMALL_SCALARS: Final = SCALARS - {str, bytes}
_DEBUG: Final = logging.DEBUG
_WARNING: Final = logging.WARNING

# A traceback is text that a hostile or runaway program chooses; deep recursion is already folded by Python.
_MAX_STACKTRACE_CHARS: Final = 256 * 1024

_PLAIN, _AUDIT, _WIRE, _IGNORED, _REDIRECTED = range(5)

# Celery turns standard error into this logger: what we say there ourselves comes back by it.
_REDIRECTED_LOGGERS: Final = ("celery.redirected",)

# A logger is looked up once; programs that make a logger per request must not grow this for ever.
_MAX_NAMES: Final = 10_000

# Events of audit_log() whose records, or copies of them, may still come by through a handler.
_MAX_RECENT: Final = 16_384


Captured: TypeAlias = tuple[dict[str, Any], Context, bool, int]
"""A record as it was at the call: ``(fields, context, is_audit, large)``.

``fields`` is the LogRecord's ``__dict__``, with values that could change frozen and ``exc_info`` an ExceptionInfo;
``large`` are the bytes counted in at the queue, 0 for a small record. A bare tuple: a NamedTuple takes 0.3 µs to make,
a sixth of the whole call.
"""


def format_message(msg: object, args: object) -> tuple[str, str | None]:
    """``record.getMessage()`` that never raises: the text, and what went wrong, if something did."""
    try:
        text = msg if type(msg) is str else str(msg)
        return (text % args if args else text), None
    except Exception as error:
        shown = msg if isinstance(msg, str) else safe_repr(msg, 4_096)
        problem = f"{qualified_name(type(error))}: {safe_repr(error, 200)}"
        return f"{shown} [arguments {safe_repr(args, 4_096)} do not fit]", problem


def freeze_exception(exc_info: Any) -> ExceptionInfo | None:
    """An ``exc_info`` triple as text: qualified type, ``str(exc)``, the whole chain with groups. Never raises."""
    try:
        if isinstance(exc_info, BaseException):
            exc_info = (type(exc_info), exc_info, exc_info.__traceback__)
        kind, value, trace = exc_info
        if kind is None:
            return None
        name = qualified_name(kind)
    except Exception:
        return None
    try:
        message = str(value)
    except Exception:
        message = f"<{name}: str() raised>"
    try:
        stack = "".join(traceback.format_exception(kind, value, trace))
    except Exception as error:
        stack = f"<traceback can't be formatted: {qualified_name(type(error))}>"
    if len(stack) > _MAX_STACKTRACE_CHARS:
        half = _MAX_STACKTRACE_CHARS // 2
        stack = f"{stack[:half]}\n… [{len(stack) - 2 * half} characters left out] …\n{stack[-half:]}"
    return ExceptionInfo(name, message, stack)


class CaptureHandler(logging.NullHandler):
    """Puts every record into the publisher's queue. Nothing of OpenTelemetry's own handlers, and it takes no lock.

    A NullHandler to whoever asks (Celery does, before it adds a console): we print nothing, so we are no reason for a
    program to go without a handler that does.

    ``flush()`` and ``close()`` do nothing on purpose: ``uvicorn.Config()`` and ``dictConfig`` call both on every
    handler in the process, and neither means that the application ends.
    """

    def __init__(
        self,
        queue: CallQueue[Any],
        drops: Drops,
        *,
        level: int = logging.NOTSET,
        rules: tuple[Rule, ...] = (),
        ignored_loggers: tuple[str, ...] = (),
    ) -> None:
        super().__init__(min(level, _WARNING))
        self._queue = queue
        self._items = queue.items
        self._max_records = queue.max_records
        self._drops = drops
        self._rules = rules
        self._ignored_loggers = ignored_loggers
        self._recent: dict[str, None] = {}
        self._names: dict[str, int] = {}
        self.watch(None)
        if level > _WARNING:
            # Python hands us warnings all the same: if nobody else takes them they belong on standard error.
            self.addFilter(lambda record: self._not_below(level, record))

    # -- what the logging module calls ----------------------------------------------------------------------------

    def handle(self, record: logging.LogRecord) -> bool:
        """Capture ``record``. Never raises, never blocks."""
        try:
            if self.filters:
                kept: Any = self.filter(record)
                if not kept:
                    return False
                if isinstance(kept, logging.LogRecord):  # Python 3.12: a filter may replace the record
                    record = kept
            if len(self._roots) != self._root_count:
                self._on_root_change()
            name = record.name
            kind = self._names.get(name)
            if kind is None:
                kind = self._learn(name)
            fields = record.__dict__.copy()
            msg = record.msg
            args = record.args

            audit = kind == _AUDIT
            if type(msg) is not str:
                msg = self._format_now(fields, msg, args)
                args = None
            first = msg[:1]
            if (first == "[" or first == "%") and not audit:
                if msg.startswith(AUDIT_MESSAGE_PREFIX):
                    audit = True
                elif args and audit_message_possible(msg):
                    msg = self._format_now(fields, msg, args)
                    args = None
                    audit = msg.startswith(AUDIT_MESSAGE_PREFIX)
            if "is_audit" in fields and is_flagged(fields["is_audit"]):
                audit = True

            size = len(msg)
            if args:
                if type(args) is tuple:
                    for value in args:
                        of = type(value)
                        if of is str:
                            size += len(value)  # type: ignore[arg-type]
                        elif of not in _SMALL_SCALARS:
                            size = len(self._format_now(fields, msg, args))
                            break
                else:
                    size = len(self._format_now(fields, msg, args))
            extras = len(fields) - _STANDARD_COUNT
            if extras > 0:
                # Extras are the last fields; from the end is the shortest way to them.
                for value in reversed(fields.values()):
                    of = type(value)
                    if of is str:
                        size += len(value)
                    elif of not in _SMALL_SCALARS:
                        size += self._freeze_extras(fields)
                        break
                    extras -= 1
                    if not extras:
                        break
            if fields["exc_info"]:
                fields["exc_info"] = frozen = freeze_exception(fields["exc_info"])
                if frozen is not None:
                    size += len(frozen.stacktrace)
            if self._rules and not audit:
                text = self._format_now(fields, fields["msg"], fields["args"])
                audit = is_audit(str(name), text, fields, self._rules)

            taken = True
            if audit:
                # If known, audit_log() has captured this very record, or the one it was copied from.
                if not ("audit_record_id" in fields and self._knows(fields["audit_record_id"])):
                    self.put(fields, True, size)
            elif kind and _left_out(kind, record.levelno):
                taken = False
            else:
                items = self._items
                if size > LARGE_BYTES or len(items) >= self._max_records:
                    self.put(fields, False, size)
                else:
                    # put() for the common case, written out: a call of it would be a tenth of the whole.
                    items.append((fields, copy_context(), False, 0))
                    if self._queue.idle:
                        self._queue.wake()
            if record.levelno >= _WARNING:
                self._on_warning(record)
            return taken
        except Exception:
            self._failed(record)
            return False

    def emit(self, record: logging.LogRecord) -> None:
        """As :meth:`handle`, for those who call it directly."""
        self.handle(record)

    def flush(self) -> None:
        """Nothing: ask the Bridge to flush."""

    def close(self) -> None:
        """Nothing: ask the Bridge to shut down."""

    def createLock(self) -> None:
        """No lock: nothing here needs one, and one could only be held at the wrong moment."""
        self.lock = None

    # -- what the rest of the bridge calls -----------------------------------------------------------------------

    def watch(
        self,
        roots: list[logging.Handler] | None,
        on_change: Callable[[], None] = lambda: None,
        on_warning: Callable[[logging.LogRecord], None] = lambda record: None,
    ) -> None:
        """Call ``on_change`` before the next record once the length of ``roots`` differs from now, and
        ``on_warning`` after every record from WARNING up, captured or not. ``None`` ends both."""
        # No lock: a thread between two of these assignments calls on_change once too often, which is harmless.
        self._on_root_change = on_change
        self._on_warning = on_warning
        self._roots: Sequence[logging.Handler] = () if roots is None else roots
        self._root_count = len(self._roots)

    # -- the parts ------------------------------------------------------------------------------------------------

    def submit(self, record: logging.LogRecord, event: AuditEvent) -> AuditReceipt:
        """Capture an event of `audit_log`, before any logger sees its record. Never raises.

        Later copies of the record (a QueueHandler makes one) are known by their ``audit_record_id``.
        """
        try:
            recent = self._recent
            while len(recent) >= _MAX_RECENT:
                recent.pop(next(iter(recent)), None)
            recent[event.id] = None
            fields = record.__dict__.copy()
            fields.pop("audit_record_id", None)
            size = len(self._format_now(fields, record.msg, record.args)) + self._freeze_extras(fields)
            if fields["exc_info"]:
                fields["exc_info"] = frozen = freeze_exception(fields["exc_info"])
                size += len(frozen.stacktrace) if frozen is not None else 0
            fields[AUDIT_EVENT] = event
            self.put(fields, True, size)
        except Exception:
            self._failed(record)
        return AuditReceipt(event.id)

    def put(self, fields: dict[str, Any], audit: bool, size: int) -> bool:
        """Append a finished snapshot to the queue, in the caller's context. False if it was refused (and counted).

        A full queue refuses the newest system record. An audit record is let in past the count, up to twice the
        bound of bytes: the count of what may still come is bounded by the memory that it takes.
        """
        items = self._items
        large = 0
        if size > LARGE_BYTES:
            if not self._queue.reserve(size, overdraft=2 if audit else 1):
                self._drops.add("audit_queue_full" if audit else "queue_full")
                return False
            large = size
        if len(items) >= self._max_records and (not audit or len(items) >= 2 * self._max_records):
            if large:
                self._queue.release(large)
            self._drops.add("audit_queue_full" if audit else "queue_full")
            return False
        items.append((fields, copy_context(), audit, large))
        if self._queue.idle:
            self._queue.wake()
        return True

    def _not_below(self, level: int, record: logging.LogRecord) -> bool:
        if record.levelno >= level:
            return True
        if record.levelno >= _WARNING:
            self._on_warning(record)
        return False

    def _knows(self, record_id: object) -> bool:
        return type(record_id) is str and record_id in self._recent

    def _learn(self, name: str) -> int:
        kind = _PLAIN
        text = str(name)  # makeLogRecord({}) has the name None
        if text.startswith(AUDIT_LOGGER_PREFIX):
            kind = _AUDIT
        elif _covers(self._ignored_loggers, text) or text == "bridge.diagnostics":
            kind = _IGNORED
        elif is_wire_logger(text):
            kind = _WIRE
        elif text in _REDIRECTED_LOGGERS:
            kind = _REDIRECTED
        if len(self._names) >= _MAX_NAMES:
            self._names.clear()
        self._names[name] = kind
        return kind

    def _format_now(self, fields: dict[str, Any], msg: object, args: object) -> str:
        # The arguments may change before the publisher reads them, or their text may decide what the record is.
        text, problem = format_message(msg, args)
        fields["msg"] = text
        fields["args"] = None
        if problem is not None:
            fields[FORMAT_ERROR] = problem
        return text

    def _freeze_extras(self, fields: dict[str, Any]) -> int:
        size = 0
        for key in list(islice(fields, _STANDARD_COUNT, None)):
            value = fields[key]
            # A record factory of the application's may have set its own fields before the standard ones.
            if type(value) is bytes:
                size += len(value)
            elif type(value) not in SCALARS and key not in _STANDARD:
                fields[key] = frozen = freeze(value)
                size += size_of(frozen)
        return size

    def _failed(self, record: logging.LogRecord) -> None:
        try:
            self._drops.add("capture_error")
            if logging.raiseExceptions and sys.stderr is not None:
                self.handleError(record)
        except Exception:  # noqa: S110  (telling it failed as well; the application must not hear of it)
            pass


def _left_out(kind: int, levelno: int) -> bool:
    if kind == _WIRE:
        return levelno <= _DEBUG
    return kind == _IGNORED or speaking()


def _covers(parents: tuple[str, ...], name: str) -> bool:
    return any(name == parent or name.startswith(parent + ".") for parent in parents)
