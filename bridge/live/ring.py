"""A bounded ring of records, read by their numbers. Pure: no clock, no lock, no I/O."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from operator import attrgetter
from typing import NamedTuple

import msgspec

from bridge.live.encode import encode_plain
from bridge.record.event import LogEvent
from bridge.record.values import size_of

__all__ = ["ENTRY_OVERHEAD_BYTES", "Entry", "Gap", "Read", "Ring", "entry_size", "merge"]

# What an entry costs beside its texts: the event, its dicts and short strings, roughly; a message's frame and keys.
ENTRY_OVERHEAD_BYTES = 1_280

_SEQ = attrgetter("seq")


class Entry(msgspec.Struct):
    """A record in a ring."""

    seq: int
    """Number over both rings, from 1, in the order of publication."""
    event: LogEvent
    size: int
    """Bytes that it counts for: :func:`entry_size`."""
    _wire: bytes | None = None

    @property
    def wire(self) -> bytes:
        """The version 1 message, made when somebody first asks for it: most records are never asked for."""
        wire = self._wire
        if wire is None:
            wire = self._wire = encode_plain(self.event)
        return wire


class Gap(NamedTuple):
    """Records that were evicted unread: those with numbers above ``after`` and up to ``to``."""

    system: int
    audit: int
    after: int
    to: int


class Read(NamedTuple):
    """What a read gave: every held record with a number up to ``seq``, in order, and where between them some are gone.

    ``seq`` is the place to read on from.
    """

    entries: list[Entry]
    seq: int
    gaps: list[Gap]

    @property
    def missed_system(self) -> int:
        """System records in the gaps."""
        return sum(gap.system for gap in self.gaps)

    @property
    def missed_audit(self) -> int:
        """Audit records in the gaps."""
        return sum(gap.audit for gap in self.gaps)


class Ring:
    """The newest records of one kind, bounded by count and by bytes; the oldest go first.

    ``remember_evicted``: keep the numbers of at least so many evicted records (8 bytes each), to say later how many a
    reader has missed.

    Records have an ordinal from 1. ``first`` is the ordinal of the oldest still held, ``last`` that of the newest
    (``first == last + 1`` when empty).
    """

    def __init__(self, max_records: int, max_bytes: int, *, remember_evicted: int = 0) -> None:
        if max_records < 1 or max_bytes < 1:
            raise ValueError(f"a ring needs room for one record, not {max_records} records in {max_bytes} bytes")
        self.max_records = max_records
        self.max_bytes = max_bytes
        self.first = 1
        self.last = 0
        self.bytes = 0
        self._slots: list[Entry | None] = []
        self._remembered = remember_evicted
        self._evicted = array("Q")

    def __len__(self) -> int:
        return self.last - self.first + 1

    def append(self, entry: Entry) -> None:
        """Add the newest record. One larger than the whole ring is held alone."""
        size = entry.size
        room, slots = self.max_records, self._slots
        while self.first <= self.last and (self.last - self.first + 1 >= room or self.bytes + size > self.max_bytes):
            self._evict()
        self.last += 1
        if len(slots) < room:
            # Slots are made as they are needed: a small service never pays for the bound.
            slots.append(entry)
        else:
            slots[(self.last - 1) % room] = entry
        self.bytes += size

    def _evict(self) -> None:
        index = (self.first - 1) % self.max_records
        entry = self._slots[index]
        self._slots[index] = None
        if entry is not None:
            self.bytes -= entry.size
            if self._remembered:
                if len(self._evicted) >= 2 * self._remembered:
                    del self._evicted[: self._remembered]
                self._evicted.append(entry.seq)
        self.first += 1

    def after(self, seq: int, limit: int) -> list[Entry]:
        """Up to ``limit`` held records with numbers above ``seq``, oldest first."""
        return self._slice(self._ordinal_at(seq), limit)

    def before(self, seq: int, limit: int) -> list[Entry]:
        """Up to ``limit`` held records with numbers up to ``seq``, the newest of them; oldest first."""
        last = self._ordinal_at(seq)
        start = max(self.first - 1, last - limit)
        return self._slice(start, last - start)

    def oldest(self) -> Entry | None:
        """The oldest record held."""
        return self._slots[(self.first - 1) % self.max_records] if self.first <= self.last else None

    def evicted_between(self, after: int, to: int) -> int:
        """How many evicted records have numbers above ``after`` and up to ``to``, as far back as is remembered."""
        return bisect_right(self._evicted, to) - bisect_right(self._evicted, after)

    def resized(self, max_records: int, max_bytes: int) -> Ring:
        """A ring of other bounds with what this one holds, the newest first to stay. This one is used up."""
        held = self._slice(self.first - 1, len(self))
        new = Ring(max_records, max_bytes, remember_evicted=self._remembered)
        new._evicted = self._evicted
        # The ordinals go on where they were: they count what was ever published.
        new.last = self.first - 1
        new.first = self.first
        new._slots = [None] * min(max_records, self.first - 1)
        for entry in held:
            new.append(entry)
        return new

    def _ordinal_at(self, seq: int) -> int:
        """The ordinal of the last held record with a number up to ``seq``; ``first - 1`` if there is none."""
        low, high = self.first - 1, self.last
        while low < high:
            middle = (low + high + 1) // 2
            entry = self._slots[(middle - 1) % self.max_records]
            if entry is not None and entry.seq <= seq:
                low = middle
            else:
                high = middle - 1
        return low

    def _slice(self, after: int, limit: int) -> list[Entry]:
        """Up to ``limit`` records with ordinals above ``after``, which is ``first - 1`` or more."""
        count = min(limit, self.last - after)
        if count <= 0:
            return []
        low = after % self.max_records
        high = low + count
        slots = self._slots
        found = slots[low:high]
        if high > self.max_records:
            found += slots[: high - self.max_records]
        return found  # type: ignore[return-value]  # every slot from first to last holds an entry

    def clear(self) -> None:
        """Forget everything, ordinals too."""
        self.__init__(  # type: ignore[misc]
            self.max_records, self.max_bytes, remember_evicted=self._remembered
        )


def entry_size(event: LogEvent) -> int:
    """Bytes that a record holds, roughly: its texts, its messages once they are made, its attributes (a traceback is
    one), and what all of it costs."""
    size = ENTRY_OVERHEAD_BYTES + 3 * len(event.message) + len(event.logger) + len(event.event_name)
    for value in event.attributes.values():
        kind = type(value)
        if kind is str:
            size += len(value)  # type: ignore[arg-type]
        elif kind is bytes or kind is dict or kind is tuple:
            size += size_of(value)
    return size


def merge(system: Ring, audit: Ring, seq: int, limit: int) -> Read:
    """Up to ``limit`` records after ``seq`` from both rings, in the order of their numbers.

    Numbers are drawn from one counter, so a number that neither ring holds is a record that was evicted. Which of the
    two kinds it was is told by the audit ring, as far back as it remembers; before that, evicted records are taken for
    system records.
    """
    systems = system.after(seq, limit)
    audits = audit.after(seq, limit)
    if systems and audits:
        entries = sorted(systems + audits, key=_SEQ)[:limit]  # two sorted runs: timsort merges them in one pass
    else:
        entries = systems or audits
    if not entries:
        return Read([], seq, [])
    last = entries[-1].seq
    gaps: list[Gap] = []
    if last - seq > len(entries):
        before = seq
        for entry in entries:
            missing = entry.seq - before - 1
            if missing:
                audits_missing = min(missing, audit.evicted_between(before, entry.seq - 1))
                gaps.append(Gap(missing - audits_missing, audits_missing, before, entry.seq - 1))
            before = entry.seq
    return Read(entries, last, gaps)
