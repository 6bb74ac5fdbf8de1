"""The bridge's own voice: a private logger that never feeds back into the bridge.

Everything the bridge has to say about itself (drops, a refused peer, a handler it put back) goes to the
logger ``bridge.diagnostics``. It does not propagate, so that no record of it can travel through the very
pipeline it speaks of; by default it writes to standard error. Add handlers to it, or set its level, to
send the words elsewhere.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

__all__ = ["LOGGER_NAME", "say", "say_rarely", "speaking"]

LOGGER_NAME = "bridge.diagnostics"

# The same complaint at most this often: a broken collector must not fill a disk with our words.
_REPEAT_SECONDS = 60.0
# Remembered complaints; past it the oldest is forgotten, so hostile input can't grow the memory.
_MAX_REMEMBERED = 256

_said: dict[str, float] = {}
_said_lock = threading.Lock()
_voice = threading.local()


if TYPE_CHECKING:
    _StreamHandler = logging.StreamHandler[Any]
else:
    _StreamHandler = logging.StreamHandler


class _StandardError(_StreamHandler):
    """Looks up ``sys.stderr`` at each record, as ``logging.lastResort`` does, and never raises."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)
        self.setFormatter(logging.Formatter("audit-bridge: %(levelname)s: %(message)s"))

    @property
    def stream(self) -> Any:
        import sys

        return sys.stderr

    def handleError(self, record: logging.LogRecord) -> None:
        """A closed standard error is nobody's business here."""


def _logger() -> logging.Logger:
    logger = logging.getLogger(LOGGER_NAME)
    logger.propagate = False
    # dictConfig disables every logger it does not name; this one has to stay heard.
    logger.disabled = False
    if logger.level == logging.NOTSET:
        # Else it had the root's level, WARNING by default, and where the live view is would never be said.
        logger.setLevel(logging.INFO)
    if not logger.handlers:
        logger.addHandler(_StandardError())
    return logger


def say(level: int, message: str, *args: object) -> None:
    """Log ``message % args`` on the private logger. Never raises."""
    _voice.speaking = True
    try:
        _logger().log(level, message, *args)
    except Exception:  # noqa: S110  (the last voice there is: nobody is left to tell)
        pass
    finally:
        _voice.speaking = False


def speaking() -> bool:
    """Whether this thread is in :func:`say`: a standard error that leads back into logging must not feed us."""
    return getattr(_voice, "speaking", False)


def say_rarely(key: str, level: int, message: str, *args: object, clock: Callable[[], float] = time.monotonic) -> bool:
    """As :func:`say`, but at most once a minute for each ``key``. True if it was said."""
    now = clock()
    with _said_lock:
        last = _said.get(key)
        if last is not None and now - last < _REPEAT_SECONDS:
            return False
        _said.pop(key, None)
        while len(_said) >= _MAX_REMEMBERED:
            del _said[next(iter(_said))]
        _said[key] = now
    say(level, message, *args)
    return True


def _forget() -> None:
    """Forget what was said (for tests), and make the lock anew (in a forked child)."""
    global _said_lock
    _said_lock = threading.Lock()
    _said.clear()
