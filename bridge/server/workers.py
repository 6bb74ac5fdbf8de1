"""Is this process one of several workers? Each of them then has a live view of its own."""

from __future__ import annotations

import multiprocessing
import sys
from types import FrameType
from typing import Any, Final, NamedTuple

__all__ = ["Workers", "sibling_workers"]

_SERVERS: Final = frozenset({"gunicorn", "hypercorn", "uvicorn"})


class Workers(NamedTuple):
    """A server and the number of worker processes that it runs."""

    server: str
    number: int


def sibling_workers(frame: FrameType | None = None) -> Workers | None:
    """The server that this code was called by, if it was told to run more than one worker process; else None.

    No variable of the environment says it: the number may stand in a command line, a file, or ``WEB_CONCURRENCY``.
    So it is read where all of them end up: in the configuration held by the server's own frames, which are below
    ours on the stack while it loads or starts the application. In another thread there are none, and we say None.
    """
    frame = frame if frame is not None else sys._getframe()
    while frame is not None:
        server = str(frame.f_globals.get("__name__", "")).partition(".")[0]
        if server in _SERVERS:
            number = _configured(frame)
            # uvicorn's and hypercorn's configurations may name more workers than whoever uses them starts.
            if number > 1 and (server == "gunicorn" or multiprocessing.parent_process() is not None):
                return Workers(server, number)
        frame = frame.f_back
    return None


def _configured(frame: FrameType) -> int:
    """Workers that a configuration among the frame's variables asks for; 0 if there is none."""
    variables = frame.f_locals
    owner = variables.get("self")
    candidates: tuple[Any, ...] = (variables.get("config"), getattr(owner, "cfg", None), getattr(owner, "config", None))
    for candidate in candidates:
        number = getattr(candidate, "workers", None)
        if isinstance(number, int) and not isinstance(number, bool):
            return number
    return 0
