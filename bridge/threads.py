"""The bridge's own threads: daemons that no signal is delivered to."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from typing import Final

__all__ = ["daemon"]

# A fault of the thread's own has to reach it, and whoever watches for faults (faulthandler).
_FAULTS: Final = frozenset(
    getattr(signal, name)
    for name in ("SIGSEGV", "SIGBUS", "SIGFPE", "SIGILL", "SIGABRT", "SIGTRAP", "SIGSYS")
    if hasattr(signal, name)
)


def daemon(target: Callable[[], None], name: str) -> threading.Thread:
    """A daemon thread, not started yet, in which signals are blocked.

    A program may mask a signal in its main thread around a critical section, and rely on that: billiard's pool
    children do so while they hold a lock that others wait for. The kernel then looks for any other thread, and ours
    would be one to kill the process by.
    """

    def run() -> None:
        if hasattr(signal, "pthread_sigmask"):  # Windows has none
            signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals() - _FAULTS)
        target()

    return threading.Thread(target=run, name=name, daemon=True)
