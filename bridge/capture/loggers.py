"""What other libraries log: structlog's events, loguru's records, and the access records of servers.

Each is made a LogRecord and given to the handlers that take audit events as well: the running bridge's, a test's
recorder. Without any of them nothing happens. Neither structlog nor loguru is imported: both hand us plain values.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping, MutableMapping
from datetime import UTC, datetime
from types import FrameType
from typing import Any, Final, TypeAlias

from bridge.capture import audit
from bridge.capture.handler import STANDARD_FIELDS, CaptureHandler, format_message
from bridge.diagnostics import say_rarely
from bridge.record import attributes as names
from bridge.record.classify import is_flagged
from bridge.record.values import AnyValue, safe_repr

__all__ = ["SERVER_LOGGERS", "RelayedRecord", "is_turned_off", "loguru_sink", "structlog_processor", "with_request"]

SERVER_LOGGERS: Final = (
    "uvicorn",
    "uvicorn.error",
    "uvicorn.access",
    "gunicorn.error",
    "gunicorn.access",
    "hypercorn.error",
    "hypercorn.access",
    "celery.task",
)
"""Loggers of uvicorn, gunicorn, hypercorn and Celery that may not propagate: what ``b.attach()`` attaches to."""

# Keys that an event may have but an attribute of a LogRecord may not: they would change what the record says.
_RESERVED: Final = frozenset(STANDARD_FIELDS) | {"message", "asctime", "taskName", audit.AUDIT_EVENT}


class RelayedRecord(logging.LogRecord):
    """A record whose own library shows it: it is not for ``logging.lastResort``."""


_Site: TypeAlias = tuple[str, int, str, str, int, str]
"""Logger, level, its name, file, line and function."""

# Lines of a program that log. Code that is made at run time must not let this grow for ever.
_MAX_SITES: Final = 4_096
_sites: dict[_Site, dict[str, Any]] = {}


def _new_record(site: _Site, message: Any, args: Any, exc_info: Any) -> RelayedRecord:
    """As LogRecord's constructor, but what all records of a line have in common is worked out once: 3 µs become 1."""
    process = os.getpid()
    common = _sites.get(site)
    if common is None or common["process"] != process:
        name, levelno, levelname, path, line, function = site
        made = logging.LogRecord(name, levelno, path, line, "", (), None, function)
        made.levelname, made.process = levelname, process
        if len(_sites) >= _MAX_SITES:
            _sites.clear()
        common = _sites[site] = made.__dict__
    record = RelayedRecord.__new__(RelayedRecord)
    record.__dict__ = fields = common.copy()
    fields["msg"] = message
    fields["args"] = args
    fields["exc_info"] = exc_info
    now = time.time()
    fields["relativeCreated"] += (now - fields["created"]) * 1_000
    fields["created"] = now
    fields["msecs"] = now % 1 * 1_000
    fields["thread"] = threading.get_ident()
    fields["threadName"] = threading.current_thread().name
    if "taskName" in fields:
        fields["taskName"] = _task_name()
    return record


def _task_name() -> str | None:
    asyncio = sys.modules.get("asyncio")
    try:
        return asyncio.current_task().get_name() if asyncio is not None else None
    except Exception:  # no loop runs here, or no task
        return None


def _takers(levelno: int) -> list[CaptureHandler]:
    return [each for each in audit.targets if isinstance(each, CaptureHandler) and levelno >= each.level]


def _add(fields: dict[str, Any], key: Any, value: Any) -> None:
    """Set an extra attribute that can't be taken for one of the record's own."""
    if type(key) is not str:
        key = safe_repr(key, 200)
    if key in _RESERVED:
        key = f"extra.{key}"
    fields[key] = value


def _failed(library: str, error: Exception) -> None:
    for each in audit.targets:
        if isinstance(each, CaptureHandler):
            each._drops.add("capture_error")
    say_rarely(
        f"relay-{library}", logging.WARNING, "a record of %s could not be captured: %s", library, safe_repr(error, 200)
    )


Event: TypeAlias = MutableMapping[str, Any]


# -- structlog ----------------------------------------------------------------------------------------------------

_LEVELS: Final = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "msg": logging.INFO,
    "warning": logging.WARNING,
    "warn": logging.WARNING,
    "error": logging.ERROR,
    "err": logging.ERROR,
    "exception": logging.ERROR,
    "critical": logging.CRITICAL,
    "fatal": logging.CRITICAL,
}

_LEVEL_NAMES: Final = {method: logging.getLevelName(number) for method, number in _LEVELS.items()}

# The record is made of these.
_USED: Final = frozenset({"event", "exc_info", "stack_info", "stacklevel", "positional_args"})

# What CallsiteParameterAdder adds, and the attribute of the record that says the same.
_CALL_SITE: Final = {
    "pathname": "pathname",
    "filename": "filename",
    "module": "module",
    "func_name": "funcName",
    "lineno": "lineno",
    "thread": "thread",
    "thread_name": "threadName",
    "process": "process",
    "process_name": "processName",
    "task_name": "taskName",
}

# Every other key is an extra and needs no second look.
_DOUBTFUL: Final = (
    _USED | _RESERVED | set(_CALL_SITE) | {"logger", "logger_name", "timestamp", "level", "level_number", "stack"}
)

_NOW_SECONDS: Final = 60.0
_STACK_TITLE: Final = "Stack (most recent call last)"


def structlog_processor(logger: Any, method_name: str, event_dict: Event) -> Event:
    """A structlog processor that captures each event and passes it on unchanged.

    It stands anywhere before the renderer, after what adds to the event (``merge_contextvars``) and before what turns
    exceptions into text. The event is captured as a logging call would be: ``event`` (with ``positional_args``) is the
    message, ``logger`` or ``logger_name`` the logger's name, ``exc_info`` and ``stack_info`` are what they are there,
    ``timestamp`` is the record's own time, and every other key is an attribute. Where structlog ends in ``logging``,
    loggers' levels hold and the record that comes out there is not captured a second time.

    Never raises; does nothing while no bridge runs.
    """
    if audit.targets:
        try:
            _relay_event(logger, method_name, event_dict)
        except Exception as error:
            _failed("structlog", error)
    return event_dict


def _relay_event(logger: Any, method_name: str, event: Any) -> None:
    levelno = _LEVELS.get(method_name)
    if levelno is None:
        levelno = logging.getLevelNamesMapping().get(method_name.upper(), logging.INFO)
    takers = _takers(levelno)
    if not takers:
        return
    if type(event) is not dict and not isinstance(event, Mapping):
        say_rarely(
            "structlog-order", logging.WARNING, "structlog_processor stands after the renderer: nothing is captured"
        )
        return
    if isinstance(event.get("_record"), logging.LogRecord):
        return  # inside a ProcessorFormatter: logging has given us the record
    in_logging = isinstance(logger, logging.Logger)
    if in_logging and not logger.isEnabledFor(levelno):
        return

    get = event.get
    frame, thread = _structlog_caller(get("stacklevel"))
    name = get("logger")
    if type(name) is not str:
        name = get("logger_name")
        if type(name) is not str:
            name = _name_of(logger) or frame.f_globals.get("__name__") or "structlog"
    levelname = _LEVEL_NAMES.get(method_name)
    if levelname is None:
        levelname = method_name.upper()
    code = frame.f_code
    site = (name, levelno, levelname, code.co_filename, frame.f_lineno, code.co_name)
    args = get("positional_args")
    record = _new_record(
        site,
        get("event", ""),
        None if args is None else _arguments(args),
        _exc_info(get("exc_info", method_name == "exception")),
    )
    stack = get("stack_info")
    if stack is not None:
        if type(stack) is not str:
            stack = _stack_of(frame) if is_flagged(stack) else None
        record.stack_info = stack or None
    if thread is not None:
        record.thread, record.threadName = thread
    fields = record.__dict__
    for key, value in event.items():
        if key not in _DOUBTFUL and type(key) is str:
            fields[key] = value
        elif key not in _USED and not _says_already(fields, method_name, key, value):
            _add(fields, key, value)

    _mark.sent = None
    for taker in takers:
        taker.handle(record)
    if in_logging:
        for taker in takers:
            if not any(type(each) is _NoSecondCopy for each in taker.filters):
                taker.addFilter(_NoSecondCopy(taker))
        _mark.sent = (logger.name, levelno, code.co_filename, frame.f_lineno, takers)


def _arguments(given: Any) -> Any:
    if not isinstance(given, list | tuple):
        return None
    # As LogRecord and structlog's PositionalArgumentsFormatter have it.
    return given[0] if len(given) == 1 and isinstance(given[0], dict) and given[0] else tuple(given)


def _name_of(logger: Any) -> str | None:
    try:
        name = getattr(logger, "name", None)
    except Exception:
        return None
    return name if type(name) is str else None


def _structlog_caller(stacklevel: Any) -> tuple[FrameType, tuple[int, str] | None]:
    """The frame that called structlog; and of its ``await log.ainfo()``, which run elsewhere, the thread as well."""
    thread: tuple[int, str] | None = None
    frame: FrameType | None = None
    variables = sys.modules.get("structlog.contextvars")
    if variables is not None:
        calling = getattr(variables, "_ASYNC_CALLING_STACK", None)
        frame = calling.get(None) if calling is not None else None
        if frame is not None:
            calling = getattr(variables, "_ASYNC_CALLING_THREAD", None)
            thread = calling.get(None) if calling is not None else None
    if frame is None:
        frame = nearest = sys._getframe(3)
        # Between structlog and us there may be a processor that calls us.
        while not _is_structlog(frame.f_globals.get("__name__")):
            if frame.f_back is None:
                frame = nearest
                break
            frame = frame.f_back
    while _is_structlog(frame.f_globals.get("__name__")) and frame.f_back is not None:
        frame = frame.f_back
    if type(stacklevel) is int:
        while stacklevel > 1 and frame.f_back is not None:
            frame = frame.f_back
            stacklevel -= 1
    return frame, thread


def _is_structlog(module: Any) -> bool:
    return type(module) is str and (module == "structlog" or module.startswith("structlog."))


def _stack_of(frame: FrameType) -> str:
    return f"{_STACK_TITLE}:\n{''.join(traceback.format_stack(frame))}".rstrip("\n")


def _exc_info(value: Any) -> Any:
    if value is False or value is None:
        return None
    if isinstance(value, BaseException):
        return (type(value), value, value.__traceback__)
    if not isinstance(value, tuple):
        value = sys.exc_info() if is_flagged(value) else None
    return value if value and value[0] is not None else None


def _says_already(fields: dict[str, Any], method_name: str, key: Any, value: Any) -> bool:
    """Whether the record says what this key of an event says; structlog's own processors add such keys."""
    if key == "timestamp":
        return _is_now(value)
    if key == "stack":  # of StackInfoRenderer
        if not fields["stack_info"] and type(value) is str and value.startswith(_STACK_TITLE):
            fields["stack_info"] = value
        return fields["stack_info"] is value
    if type(value) is not str and type(value) is not int:
        return False
    if key == "level":
        return value in (method_name, fields["levelname"].lower())
    if key == "level_number":
        return bool(value == fields["levelno"])
    if key == "logger" or key == "logger_name":
        return bool(value == fields["name"])
    return key in _CALL_SITE and bool(value == fields.get(_CALL_SITE[key]))


def _is_now(value: Any) -> bool:
    """Whether a ``timestamp`` is what TimeStamper writes: the time of the call, as a number or as ISO 8601."""
    if type(value) is float or type(value) is int:
        return abs(value - time.time()) < _NOW_SECONDS
    if type(value) is not str:
        return False
    try:
        moment = datetime.fromisoformat(value)
        candidates = [moment] if moment.tzinfo is not None else [moment, moment.replace(tzinfo=UTC)]
        return any(abs(each.timestamp() - time.time()) < _NOW_SECONDS for each in candidates)
    except (ValueError, OverflowError, OSError):
        return False


class _Mark(threading.local):
    sent: tuple[str, int, str, int, list[CaptureHandler]] | None = None
    """Logger, level, file and line of the event just sent, and the handlers that have not seen it come by again."""


_mark = _Mark()


class _NoSecondCopy(logging.Filter):
    """Stands on a handler since structlog was seen to end in ``logging``: what it says there was captured before.

    Only the record that this thread's last event turned into is refused: of the same logger, level and line.
    """

    def __init__(self, handler: CaptureHandler) -> None:
        super().__init__()
        self._handler = handler

    def filter(self, record: logging.LogRecord) -> bool:
        sent = _mark.sent
        if sent is None or record.name != sent[0] or record.levelno != sent[1] or self._handler not in sent[4]:
            return True
        # A logger that structlog did not make takes structlog itself for the caller.
        if (record.lineno != sent[3] or record.pathname != sent[2]) and not _in_structlog(record.pathname):
            return True
        sent[4].remove(self._handler)
        if record.levelno >= logging.WARNING:
            self._handler._on_warning(record)  # with no handler but ours it still goes to standard error
        return False


def _in_structlog(path: str) -> bool:
    return "structlog" in path.replace("\\", "/").split("/")[:-1]


# -- loguru -------------------------------------------------------------------------------------------------------

_CALL_HANDLERS: Final = logging.Logger.callHandlers.__code__

# Frames from our sink up to logging, through a handler that passes its records to loguru: 7 in loguru's own recipe.
_MAX_HOPS: Final = 10


def loguru_sink(message: Any) -> None:
    """A sink for loguru: ``logger.add(bridge.loguru_sink, format="{message}", level=0)``.

    The record is captured as a logging call would be: message, level (custom ones by their name and number), name,
    caller's line, thread, process, time and exception are loguru's, and everything in ``extra`` is an attribute. What
    a handler passed on to loguru from ``logging``, where it is captured too, is not captured a second time.

    Never raises; does nothing while no bridge runs. Don't add it with ``enqueue=True``: it does not block anyway, and
    loguru's own thread knows neither the span nor the actor.
    """
    if audit.targets:
        try:
            _relay_message(message.record)
        except Exception as error:
            _failed("loguru", error)


def _relay_message(given: Mapping[str, Any]) -> None:
    level = given["level"]
    takers = _takers(level.no)
    if takers:
        takers = _not_from_logging(takers, given["message"])
    if not takers:
        return
    site = (given["name"] or "loguru", level.no, level.name, given["file"].path, given["line"], given["function"])
    exception, thread, process = given["exception"], given["thread"], given["process"]
    record = _new_record(site, given["message"], None, tuple(exception) if exception else None)
    fields = record.__dict__
    # As it was at the call; with enqueue=True this is another thread, and later.
    fields["created"] = created = given["time"].timestamp()
    fields["msecs"] = created % 1 * 1_000
    fields["thread"], fields["threadName"] = thread.id, thread.name
    fields["process"], fields["processName"] = process.id, process.name
    for key, value in given["extra"].items():
        _add(fields, key, value)
    for taker in takers:
        taker.handle(record)


def _not_from_logging(takers: list[CaptureHandler], message: str) -> list[CaptureHandler]:
    """Those of ``takers`` to which ``logging`` does not give the record that this one was made of."""
    frame: FrameType | None = sys._getframe(2).f_back
    for _ in range(_MAX_HOPS):
        if frame is None:
            break
        if frame.f_code is _CALL_HANDLERS:
            variables = frame.f_locals
            source = variables["record"]
            text = format_message(source.msg, source.args)[0]
            if text == message or (text and text in message):
                return [each for each in takers if not _gets(each, variables["self"], source)]
            break  # a handler that has something of its own to say
        frame = frame.f_back
    return takers


def _gets(taker: CaptureHandler, logger: logging.Logger, record: logging.LogRecord) -> bool:
    if taker._knows(record.__dict__.get("audit_record_id")):
        return True
    place: logging.Logger | None = logger
    while place is not None:
        for handler in place.handlers:
            if (handler is taker or getattr(handler, "_target", None) is taker) and record.levelno >= taker.level:
                return True
        place = place.parent if place.propagate else None
    return False


# -- servers ------------------------------------------------------------------------------------------------------


def is_turned_off(logger: logging.Logger) -> bool:
    """Whether it is an access log without handlers and cut off, as ``uvicorn --no-access-log`` leaves it.

    uvicorn asks for handlers before it logs a request: one of ours would turn the log on again.
    """
    return logger.name in _REQUESTS and not logger.handlers and not logger.propagate


def with_request(record: logging.LogRecord) -> logging.LogRecord:
    """The record; of a server's access record a copy that has what it says of the request as attributes too."""
    read = _REQUESTS.get(record.name)
    if read is None:
        return record
    try:
        found = read(record.args)
    except Exception:
        return record  # not in the known shape: the message says it all
    copy = logging.LogRecord.__new__(logging.LogRecord)
    copy.__dict__.update(record.__dict__)
    for key, value in found.items():
        copy.__dict__.setdefault(key, value)
    return copy


def _request(client: str, method: str, path: str, status: Any) -> dict[str, AnyValue]:
    found: dict[str, AnyValue] = {
        "http.request.method": method,
        "url.path": path.partition("?")[0],
        "http.response.status_code": int(status),
    }
    if client not in ("", "-"):
        found[names.CLIENT_ADDRESS] = client
    return found


def _uvicorn_request(args: Any) -> dict[str, AnyValue]:
    client, method, path, _, status = args
    return _request(client.rpartition(":")[0], method, path, status)


def _gunicorn_request(args: Any) -> dict[str, AnyValue]:
    return _request(args["h"], args["m"], args["U"], args["s"])


_REQUESTS: Final[dict[str, Callable[[Any], dict[str, AnyValue]]]] = {
    "uvicorn.access": _uvicorn_request,
    "gunicorn.access": _gunicorn_request,
}
