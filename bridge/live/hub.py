"""The hub: publishing threads on one side, event loops with clients on the other.

A client is a position in the rings and nothing else. Publishing costs the same for one client and for a thousand; a
client that does not read costs its own gap. Threads append under one short lock and wake a loop only if nobody has
since it last looked: never a coroutine or a future per record.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
import uuid
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import attrgetter
from typing import NamedTuple

from bridge.live.ring import Entry, Read, Ring, entry_size, merge
from bridge.record.event import LogEvent
from bridge.record.values import AnyValue, size_of

__all__ = ["Hub", "HubStatistics", "process_hub"]

_SEQ = attrgetter("seq")

DEFAULT_RECORDS = 20_000
DEFAULT_BYTES = 32 << 20

# Numbers of evicted audit records that are remembered (0.5 MB), so that a client which comes back from far behind is
# told how many audit records it has missed, and not only how many records.
_REMEMBERED_AUDITS = 65_536


class HubStatistics(NamedTuple):
    """A snapshot of the hub."""

    system: int
    """System records published."""
    audit: int
    """Audit records published."""
    system_held: int
    audit_held: int
    held_bytes: int
    clients: int
    skipped_system: int
    """System records that some client was too slow for, summed over clients."""
    skipped_audit: int
    """The same for audit records; each such client was closed, or told by a gap."""


class _Loop:
    """One event loop's door bell."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.rung = False
        self.waiters: set[asyncio.Future[None]] = set()
        self.listeners: tuple[Callable[[], None], ...] = ()

    def wake(self) -> None:
        # Before the readers look: what is appended from here on rings again.
        self.rung = False
        waiters, self.waiters = self.waiters, set()
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)
        for listener in self.listeners:
            listener()


class Hub:
    """Two rings with one counter, and whoever waits for them.

    :meth:`publish` is for any thread; :meth:`wait` for any event loop; the rest for both.
    """

    def __init__(
        self,
        *,
        system_records: int = DEFAULT_RECORDS,
        system_bytes: int = DEFAULT_BYTES,
        audit_records: int = DEFAULT_RECORDS,
        audit_bytes: int = DEFAULT_BYTES,
    ) -> None:
        self._lock = threading.RLock()
        self._publishing = False
        self._deferred: list[Entry] = []
        self._loops: dict[int, _Loop] = {}
        self._clients = 0
        self._skipped_system = 0
        self._skipped_audit = 0
        self._seq = 0
        self._closed = False
        self._charged: Mapping[str, AnyValue] = {}
        self.epoch = uuid.uuid4().hex[:12]
        """Names this numbering of records: another process, or a forked child, has another."""
        self._system = Ring(system_records, system_bytes)
        self._audit = Ring(audit_records, audit_bytes, remember_evicted=_REMEMBERED_AUDITS)
        _hubs.add(self)

    def resize(self, *, system_records: int, system_bytes: int, audit_records: int, audit_bytes: int) -> None:
        """Give the rings other bounds. What they hold moves over, the newest first to stay."""
        with self._lock:
            bounds = (system_records, system_bytes, audit_records, audit_bytes)
            if bounds == (
                self._system.max_records,
                self._system.max_bytes,
                self._audit.max_records,
                self._audit.max_bytes,
            ):
                return
            self._system = self._system.resized(system_records, system_bytes)
            self._audit = self._audit.resized(audit_records, audit_bytes)

    # -- publishing -----------------------------------------------------------------------------------------------

    def publish(self, events: Sequence[LogEvent]) -> None:
        """Append records, in order, and wake whoever waits. Any thread. Never blocks on a client."""
        entries = self._entries(events)
        with self._lock:
            if self._publishing:
                # A signal handler or a finalizer, in the middle of our own append, on this very thread.
                self._deferred.extend(entries)
                return
            while entries:
                self._publishing = True
                try:
                    self._append(entries)
                finally:
                    self._publishing = False
                # Looked at last: what comes from here on is not deferred any more.
                entries, self._deferred = self._deferred, []
            bells = [each for each in self._loops.values() if (each.waiters or each.listeners) and not each.rung]
        for bell in bells:
            bell.rung = True
            try:
                bell.loop.call_soon_threadsafe(bell.wake)
            except RuntimeError:  # the loop is closed: its clients are gone with it
                with self._lock:
                    self._loops.pop(id(bell.loop), None)

    def _append(self, entries: Iterable[Entry]) -> None:
        system, audit = self._system, self._audit
        for entry in entries:
            self._seq = entry.seq = self._seq + 1
            (audit if entry.event.is_audit else system).append(entry)

    def _entries(self, events: Sequence[LogEvent]) -> list[Entry]:
        """Entries without their numbers, which are drawn under the lock."""
        entries = []
        resource = self._charged
        for event in events:
            size = entry_size(event)
            if event.resource is not resource and event.resource:
                # Records of one sender share theirs, and the first in a row pays for it. Else records that each bring
                # a large one would hold more than the rings' bounds allow.
                resource = event.resource
                size += size_of(dict(resource))
            entries.append(Entry(0, event, size))
        self._charged = resource
        return entries

    # -- reading --------------------------------------------------------------------------------------------------

    def end(self) -> int:
        """The number of the newest record published: the place after everything."""
        return self._seq

    def start(self) -> int:
        """The place before everything still held."""
        with self._lock:
            oldest = [entry.seq for ring in (self._system, self._audit) if (entry := ring.oldest()) is not None]
            return min(oldest, default=self._seq + 1) - 1

    def read(self, seq: int, limit: int) -> Read:
        """Up to ``limit`` records after number ``seq``, and what was evicted between them. Never waits."""
        with self._lock:
            return merge(self._system, self._audit, seq, limit)

    def backwards(self, seq: int, limit: int) -> list[Entry]:
        """Up to ``limit`` held records with numbers up to ``seq``, newest first."""
        with self._lock:
            found = self._system.before(seq, limit) + self._audit.before(seq, limit)
        return sorted(found, key=_SEQ, reverse=True)[:limit]

    async def wait(self, seq: int) -> None:
        """Return once there is something after number ``seq``, or the hub is closed, or a fellow waiter was woken."""
        loop = asyncio.get_running_loop()
        bell = self._bell(loop)
        waiter: asyncio.Future[None] = loop.create_future()
        bell.waiters.add(waiter)
        try:
            # Registered before looking, so that nothing falls between the look and the sleep.
            if self._closed or self._seq != seq:
                return
            await waiter
        finally:
            bell.waiters.discard(waiter)

    def listen(self, loop: asyncio.AbstractEventLoop, listener: Callable[[], None]) -> None:
        """Call ``listener`` on ``loop`` after every burst of records, and when the hub closes. From that loop only."""
        bell = self._bell(loop)
        bell.listeners = (*bell.listeners, listener)

    def unlisten(self, loop: asyncio.AbstractEventLoop, listener: Callable[[], None]) -> None:
        """Call it no more."""
        bell = self._bell(loop)
        bell.listeners = tuple(each for each in bell.listeners if each != listener)

    def _bell(self, loop: asyncio.AbstractEventLoop) -> _Loop:
        bell = self._loops.get(id(loop))
        if bell is None or bell.loop is not loop:
            bell = _Loop(loop)
            with self._lock:
                self._loops = {key: each for key, each in self._loops.items() if not each.loop.is_closed()}
                self._loops[id(loop)] = bell
        return bell

    # -- clients --------------------------------------------------------------------------------------------------

    @property
    def clients(self) -> int:
        """Clients now."""
        return self._clients

    @property
    def closed(self) -> bool:
        """True after :meth:`close`: clients say goodbye."""
        return self._closed

    def join(self, max_clients: int) -> bool:
        """Count a client in; False if there are ``max_clients`` already."""
        with self._lock:
            if self._clients >= max_clients:
                return False
            self._clients += 1
            return True

    def leave(self) -> None:
        """Count a client out."""
        with self._lock:
            self._clients -= 1

    def skipped(self, system: int, audit: int) -> None:
        """Count what a client was too slow for."""
        with self._lock:
            self._skipped_system += system
            self._skipped_audit += audit

    def statistics(self) -> HubStatistics:
        """A consistent snapshot."""
        with self._lock:
            return HubStatistics(
                self._system.last,
                self._audit.last,
                len(self._system),
                len(self._audit),
                self._system.bytes + self._audit.bytes,
                self._clients,
                self._skipped_system,
                self._skipped_audit,
            )

    # -- its life -------------------------------------------------------------------------------------------------

    def wake_all(self) -> None:
        """Wake every waiter, e.g. to let it see that it should end."""
        with self._lock:
            bells = list(self._loops.values())
        for bell in bells:
            try:
                bell.loop.call_soon_threadsafe(bell.wake)
            except RuntimeError:
                continue

    def close(self) -> None:
        """No more records: every client is woken and says goodbye."""
        self._closed = True
        self.wake_all()

    def drain(self, timeout: float) -> bool:
        """Close, and wait until every client has read what there was and is gone. Not for a thread that serves them.

        False if some still were there after ``timeout`` seconds.
        """
        self.close()
        deadline = time.monotonic() + timeout
        while self._clients and time.monotonic() < deadline:
            time.sleep(0.01)
        return not self._clients

    def reopen(self) -> None:
        """Take records and clients again."""
        self._closed = False

    def after_fork(self) -> None:
        """In a forked child: a new epoch with nothing in it; the clients and their loops are the parent's."""
        self._lock = threading.RLock()
        self._publishing = False
        self._deferred = []
        self._loops = {}
        self._clients = 0
        self._skipped_system = 0
        self._skipped_audit = 0
        self._seq = 0
        self.epoch = uuid.uuid4().hex[:12]
        self._system.clear()
        self._audit.clear()


_hubs: weakref.WeakSet[Hub] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    global _process_hub_lock
    _process_hub_lock = threading.Lock()
    for hub in list(_hubs):
        hub.after_fork()


if hasattr(os, "register_at_fork"):  # Windows has no fork
    # Here, because a hub may live without a Bridge: a team's exporter on a team's provider.
    os.register_at_fork(after_in_child=_after_fork_in_child)

_process_hub: Hub | None = None
_process_hub_lock = threading.Lock()


def process_hub(make: Callable[[], Hub] = Hub) -> Hub:
    """The process-wide hub, made at the first call."""
    global _process_hub
    with _process_hub_lock:
        if _process_hub is None:
            _process_hub = make()
        return _process_hub


def _forget_process_hub() -> None:
    global _process_hub, _process_hub_lock
    _process_hub_lock = threading.Lock()
    _process_hub = None
