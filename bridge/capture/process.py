"""The process around us: forks, the end of the process, SIGTERM."""

from __future__ import annotations

import atexit
import os
import signal
import sys
import threading
import weakref
from collections.abc import Callable
from typing import Any, Protocol

from bridge import diagnostics

__all__ = ["Lifecycle", "watch_process"]


class Lifecycle(Protocol):
    """What wants to hear of it."""

    def after_fork(self) -> None:
        """Called in a forked child, before any of its code runs."""
        ...

    def at_exit(self) -> None:
        """Called once when the process ends in an orderly way; must return within its own deadline."""
        ...


_watched: weakref.WeakSet[Any] = weakref.WeakSet()
_registered = False
_multiprocessing_hooked = False


def _after_fork_in_child() -> None:
    diagnostics._forget()  # its lock may be held by a thread that is gone
    for each in list(_watched):
        try:
            each.after_fork()
        except Exception:  # noqa: S112  (a fork must succeed whatever happens to our part)
            continue


def _at_exit() -> None:
    for each in list(_watched):
        try:
            each.at_exit()
        except Exception:  # noqa: S112  (the process is ending; the others still want their turn)
            continue


def _in_multiprocessing_child(_: Any) -> None:
    # A multiprocessing child ends by os._exit(): atexit never runs, but its own finalizers do.
    from multiprocessing import util

    util.Finalize(None, _at_exit, exitpriority=100)


def _celery_child_ends(**_: Any) -> None:
    _at_exit()


class _Anchor:
    """multiprocessing remembers objects to call after a fork by weak reference; this one lives as long as we do."""


_anchor = _Anchor()


def watch_process(each: Lifecycle, *, sigterm: bool) -> Callable[[], None]:
    """Tell ``each`` of forks and of the end. Returns what ends that. ``each`` is held weakly.

    With ``sigterm``, and only if nobody handles SIGTERM now and this is the main thread, the end by SIGTERM counts as
    an orderly one: ``at_exit`` runs, then the signal does what it would have done.
    """
    global _registered
    _watched.add(each)
    if not _registered:
        _registered = True
        atexit.register(_at_exit)
        if hasattr(os, "register_at_fork"):  # Windows has no fork
            os.register_at_fork(before=_hook_multiprocessing, after_in_child=_after_fork_in_child)
        # At once as well: a forkserver's child imports the program, and so gets here, before it is a child by name.
        _hook_multiprocessing()
        process: Any = sys.modules.get("multiprocessing.process")
        if process is not None and process.parent_process() is not None:
            _in_multiprocessing_child(None)
    restore = _handle_sigterm() if sigterm else None

    def stop() -> None:
        _watched.discard(each)
        if restore is not None:
            restore()

    return stop


def _hook_multiprocessing() -> None:
    # Before a fork, not at import: importing multiprocessing costs 10 ms and most services never use it, but a fork
    # that is multiprocessing's finds it imported.
    global _multiprocessing_hooked
    celery: Any = sys.modules.get("celery.signals")
    if celery is not None:
        # Celery's pool is billiard's, whose children end by os._exit() and have no finalizers; but it says so before.
        celery.worker_process_shutdown.connect(_celery_child_ends, weak=False, dispatch_uid="bridge")
    util: Any = sys.modules.get("multiprocessing.util")
    if util is not None and not _multiprocessing_hooked:
        _multiprocessing_hooked = True
        util.register_after_fork(_anchor, _in_multiprocessing_child)


class _CapturedSignals(list[int]):
    """uvicorn's list of the signals that it ended by; it goes through it once, last of all, and raises them again."""

    def __reversed__(self) -> Any:
        _at_exit()
        return super().__reversed__()


def _hear_uvicorn(handler: Any) -> None:
    # uvicorn's workers import the program with uvicorn's handler in place; after their orderly end they put the default
    # one back, and raise the signal again: that is the end, without atexit.
    server: Any = getattr(handler, "__self__", None)
    if type(server).__module__ == "uvicorn.server" and type(getattr(server, "_captured_signals", None)) is list:
        server._captured_signals = _CapturedSignals(server._captured_signals)


def _handle_sigterm() -> Callable[[], None] | None:
    if threading.current_thread() is not threading.main_thread():
        return None
    present = signal.getsignal(signal.SIGTERM)
    if present is not signal.SIG_DFL:
        _hear_uvicorn(present)
        return None

    def handler(number: int, frame: Any) -> None:
        _at_exit()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTERM)

    try:
        signal.signal(signal.SIGTERM, handler)
    except ValueError:  # a subinterpreter
        return None

    def restore() -> None:
        if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) is handler:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)

    return restore
