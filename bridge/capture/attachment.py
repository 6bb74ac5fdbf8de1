"""Putting the handler on the root logger, and keeping it there without anybody noticing.

The root logger is everybody's: ``dictConfig`` and ``basicConfig(force=True)`` wipe its handlers, a plain
``basicConfig()`` does nothing once it has one, ``logging.lastResort`` goes silent, OpenTelemetry's instrumentors add
handlers of their own. This module makes ours invisible to all of them, and takes it away without a trace.
"""

from __future__ import annotations

import functools
import logging
import logging.config
from collections.abc import Callable
from typing import Any, Final

from bridge.capture.handler import CaptureHandler
from bridge.capture.loggers import RelayedRecord, is_turned_off, with_request
from bridge.diagnostics import say, say_rarely

__all__ = ["RootAttachment"]

_AUDIT_LOGGER: Final = "audit"

# The three ways by which programs set up logging. `DictConfigurator.configure` and not `dictConfig`: whoever did
# `from logging.config import dictConfig` before us holds the function, but it looks the class up at the call.
_CONFIG_FUNCTIONS: Final[tuple[tuple[Any, str], ...]] = (
    (logging, "basicConfig"),
    (logging.config, "fileConfig"),
    (logging.config.DictConfigurator, "configure"),
)


class RootAttachment:
    """One handler's stay on the root logger.

    ``is_rival(handler)`` says whether a handler would send every record a second time to the same provider; such are
    taken off while we are there and come back at :meth:`detach`.
    """

    def __init__(self, handler: CaptureHandler, *, is_rival: Callable[[logging.Handler], bool] | None = None) -> None:
        self._handler = handler
        self._is_rival = is_rival
        self._root = logging.getLogger()
        self._rivals: list[logging.Handler] = []
        self._forwarders: list[_Forwarder] = []
        self._wrapped: list[tuple[Any, str, Any, Any]] = []
        self._audit_level_set = False
        self._attached = False
        self._configuring = 0

    def attach(self) -> None:
        """Add the handler, last, and wrap the configuration functions."""
        self._attached = True
        self._root.addHandler(self._handler)
        for owner, name in _CONFIG_FUNCTIONS:
            self._wrap(owner, name)
        audit = logging.getLogger(_AUDIT_LOGGER)
        if audit.level == logging.NOTSET:
            # At Python's defaults no INFO record gets past the root level; audit events have to.
            audit.setLevel(logging.INFO)
            self._audit_level_set = True
        self.check()

    def attach_logger(self, name: str) -> None:
        """Capture a logger that does not propagate as well (uvicorn's, gunicorn's).

        Safe on one that does, and to do twice: nothing is captured twice.
        """
        logger = logging.getLogger(name)
        if self._attached and all(each.logger is not logger for each in self._forwarders):
            forwarder = _Forwarder(self._handler, logger)
            self._forwarders.append(forwarder)
            self._put(forwarder)

    def detach(self) -> None:
        """Undo everything: the handlers, the wrappers, the rivals, the audit logger's level."""
        self._attached = False
        self._handler.watch(None)
        self._root.removeHandler(self._handler)
        for forwarder in self._forwarders:
            forwarder.logger.removeHandler(forwarder)
        self._forwarders.clear()
        for owner, name, original, wrapper in reversed(self._wrapped):
            if getattr(owner, name) is wrapper:  # else somebody wrapped ours: it stays, and only passes on
                setattr(owner, name, original)
        self._wrapped.clear()
        for rival in self._rivals:
            if rival not in self._root.handlers:
                self._root.addHandler(rival)
        self._rivals.clear()
        audit = logging.getLogger(_AUDIT_LOGGER)
        if self._audit_level_set and audit.level == logging.INFO:
            audit.setLevel(logging.NOTSET)

    def check(self) -> None:
        """Put things right if somebody changed them: at every change of the root's handlers, and once a second."""
        if not self._attached or self._configuring:
            return
        handlers = self._root.handlers
        if self._handler not in handlers:
            self._root.addHandler(self._handler)
            say_rarely("reattached", logging.INFO, "the handler was taken off the root logger; it is back")
        for forwarder in self._forwarders:
            self._put(forwarder)  # uvicorn.Config() sets up uvicorn's loggers anew
        if self._is_rival is not None:
            for other in list(handlers):
                if other is not self._handler and self._is_rival(other):
                    self._root.removeHandler(other)
                    self._rivals.append(other)
                    say(
                        logging.INFO,
                        "took %s.%s off the root logger: it would send every record twice; shutdown() puts it back",
                        type(other).__module__,
                        type(other).__qualname__,
                    )
        self._handler.watch(self._root.handlers, self.check, self._keep_last_resort)

    def _put(self, forwarder: _Forwarder) -> None:
        # uvicorn's worker for gunicorn gives its loggers gunicorn's list of handlers: one of ours there is enough.
        logger = forwarder.logger
        if not any(other in self._forwarders for other in logger.handlers) and not is_turned_off(logger):
            logger.addHandler(forwarder)

    def _wrap(self, owner: Any, name: str) -> None:
        original = getattr(owner, name)

        @functools.wraps(original)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            if not self._attached:
                return original(*args, **kwargs)
            # Hidden, so that basicConfig() sees an empty root logger and adds the user's handler.
            self._configuring += 1
            self._handler.watch(None)
            self._root.removeHandler(self._handler)
            try:
                return original(*args, **kwargs)
            finally:
                self._configuring -= 1
                if not self._configuring and self._attached:
                    self._root.addHandler(self._handler)
                    self.check()

        setattr(owner, name, wrapper)
        self._wrapped.append((owner, name, original, wrapper))

    def _keep_last_resort(self, record: logging.LogRecord) -> None:
        """With no handler but ours, a warning still goes where Python would have sent it: to standard error."""
        last_resort = logging.lastResort
        if last_resort is None or record.levelno < last_resort.level or isinstance(record, RelayedRecord):
            return
        # Not getLogger(): it takes logging's lock, and would make a logger of any name that a record brings.
        found = self._root.manager.loggerDict.get(record.name)
        logger: logging.Logger | None = found if isinstance(found, logging.Logger) else self._root
        while logger is not None:
            for handler in logger.handlers:
                if not isinstance(handler, CaptureHandler | _Forwarder):
                    return
            logger = logger.parent if logger.propagate else None
        last_resort.handle(record)


class _Forwarder(logging.NullHandler):
    """Stands on a logger that does not propagate and passes its records on; silent where they reach the root anyway."""

    def __init__(self, handler: CaptureHandler, logger: logging.Logger) -> None:
        super().__init__()
        self._target = handler
        self.logger = logger

    def createLock(self) -> None:
        self.lock = None

    def handle(self, record: logging.LogRecord) -> bool:
        logger: logging.Logger | None = self.logger
        while logger is not None and logger.propagate:
            logger = logger.parent
            if logger is not None and any(
                handler is self._target or (isinstance(handler, _Forwarder) and handler._target is self._target)
                for handler in logger.handlers
            ):
                return False
        return self._target.handle(with_request(record)) if record.levelno >= self._target.level else False
