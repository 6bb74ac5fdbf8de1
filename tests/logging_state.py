"""The logging module as it is in a fresh process, for the length of a block."""

from __future__ import annotations

import io
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def fresh_logging() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level, factory = root.handlers[:], root.level, logging.getLogRecordFactory()
    disabled = {
        name: logger.disabled
        for name, logger in logging.Logger.manager.loggerDict.items()
        if isinstance(logger, logging.Logger)
    }
    root.handlers[:] = []
    root.setLevel(logging.WARNING)
    try:
        yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
        logging.setLogRecordFactory(factory)
        logging.disable(logging.NOTSET)
        for name, value in disabled.items():
            logging.getLogger(name).disabled = value


@contextmanager
def standard_error() -> Iterator[io.StringIO]:
    """What is written to standard error inside the block. No fixture: pytest puts its own back after the set-up."""
    text, before = io.StringIO(), sys.stderr
    sys.stderr = text
    try:
        yield text
    finally:
        sys.stderr = before
