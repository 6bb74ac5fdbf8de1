"""The queue between the calling threads and a worker: lock-free to append, bounded, every refusal counted."""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from typing import Final, Generic, TypeVar

__all__ = ["LARGE_BYTES", "CallQueue", "Drops"]

T = TypeVar("T")

_LOOKS: Final = 25
_LOOK_SECONDS: Final = 0.000_2

# Records above this size are counted in bytes, under a lock; below it the count of records bounds the memory
# (65,536 of 2 KiB are 128 MiB at the very most) and the calling thread is spared the lock, 0.25 µs.
LARGE_BYTES: Final = 2_048


class Drops:
    """Records that were lost, counted by reason. Thread-safe, re-entrant (a signal handler may log)."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._counts: Counter[str] = Counter()

    def add(self, reason: str, count: int = 1) -> None:
        with self._lock:
            self._counts[reason] += count

    def snapshot(self) -> dict[str, int]:
        with self._lock:
            return dict(self._counts)

    def after_fork(self) -> None:
        """In a forked child: the counts are the parent's, and the lock may be held by a thread that is gone."""
        self.__init__()  # type: ignore[misc]


class CallQueue(Generic[T]):
    """Many appending threads, one taking worker.

    ``items.append(item)`` is the append (atomic, no lock); after it ``if queue.idle: queue.wake()``. The caller
    checks :meth:`full` first: the bound may be passed by as many records as there are threads between the check and
    the append, never by more.
    """

    def __init__(self, max_records: int, max_bytes: int) -> None:
        self.items: deque[T] = deque()
        self.max_records = max_records
        self.max_bytes = max_bytes
        self.idle = True
        """True while the worker sleeps, or does not run: the next append has to wake it."""
        self.on_wake: Callable[[], None] | None = None
        self._large_bytes = 0
        self._lock = threading.RLock()
        self._bell = threading.Lock()
        self._bell.acquire()

    def __len__(self) -> int:
        return len(self.items)

    def reserve(self, size: int, *, overdraft: int = 1) -> bool:
        """Count a large record in; False if it would pass ``overdraft`` times the bound, and nothing is counted.

        One record larger than the whole bound is let in when nothing else is there: it must get through somehow.
        """
        with self._lock:
            if self._large_bytes and self._large_bytes + size > self.max_bytes * overdraft:
                return False
            self._large_bytes += size
            return True

    def release(self, size: int) -> None:
        """Count a large record out."""
        with self._lock:
            self._large_bytes -= size

    def wake(self) -> None:
        """Wake the worker. Never blocks; callable from a signal handler."""
        self.idle = False
        if self.on_wake is not None:
            self.on_wake()
        try:
            self._bell.release()
        except RuntimeError:
            pass  # already rung

    def wait(self, timeout: float) -> None:
        """The worker sleeps until something is appended, :meth:`wake` is called, or ``timeout`` seconds are over."""
        self.idle = False
        if self.items:
            return
        # Before it sleeps the worker looks around a while. Waking a thread that sleeps costs the caller 5 to 10 µs, a
        # system call; programs that log a few hundred times a second and more never pay it, and a record is shown at
        # most this much later.
        for _ in range(_LOOKS):
            time.sleep(_LOOK_SECONDS)
            if self.items:
                return
        self.idle = True
        if not self.items:
            self._bell.acquire(timeout=timeout)
        self.idle = False

    def take(self, limit: int) -> list[T]:
        """Up to ``limit`` items, oldest first. Only the worker calls this."""
        items = self.items
        return [items.popleft() for _ in range(min(limit, len(items)))]

    def after_fork(self) -> None:
        """In a forked child: what is queued is the parent's to deliver; locks may be held by threads that are gone."""
        self.items.clear()
        self._large_bytes = 0
        self._lock = threading.RLock()
        self._bell = threading.Lock()
        self._bell.acquire()
        self.idle = True
