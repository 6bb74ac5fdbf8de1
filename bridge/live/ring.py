"""A bounded ring of records, read by position. Pure: no clock, no lock, no I/O."""

from __future__ import annotations

from typing import NamedTuple

from bridge.record.event import LogEvent
from bridge.record.values import size_of

__all__ = ["Entry", "Position", "Read", "Ring", "entry_size", "merge"]

# What an entry costs beside its texts: the event, its dicts and short strings, roughly.
_ENTRY_OVERHEAD_BYTES = 1_024


class Entry(NamedTuple):
    """A record in a ring, encoded once."""

    seq: int
    """Number over both rings, from 1, in the order of publication."""
    wire: bytes
    """The version 1 message."""
    event: LogEvent
    size: int
    """Bytes that it counts for: :func:`entry_size`."""


class Position(NamedTuple):
    """How far a reader is: the number of records of each kind that it has passed."""

    system: int
    audit: int


class Read(NamedTuple):
    """What a read gave: entries in order, the position after them, and how many of each kind were evicted unread."""

    entries: list[Entry]
    position: Position
    missed_system: int
    missed_audit: int


class Ring:
    """The newest records of one kind, bounded by count and by bytes; the oldest go first.

    Records have an ordinal from 1. ``first`` is the ordinal of the oldest still held, ``last`` that of the newest
    (``first == last + 1`` when empty).
    """

    def __init__(self, max_records: int, max_bytes: int) -> None:
        if max_records < 1 or max_bytes < 1:
            raise ValueError(f"a ring needs room for one record, not {max_records} records in {max_bytes} bytes")
        self.max_records = max_records
        self.max_bytes = max_bytes
        self.first = 1
        self.last = 0
        self.bytes = 0
        self._slots: list[Entry | None] = []

    def __len__(self) -> int:
        return self.last - self.first + 1

    def append(self, entry: Entry) -> None:
        """Add the newest record. One larger than the whole ring is held alone."""
        size = entry.size
        while self.first <= self.last and (len(self) >= self.max_records or self.bytes + size > self.max_bytes):
            self._evict()
        self.last += 1
        if len(self._slots) < self.max_records:
            # Slots are made as they are needed: a small service never pays for the bound.
            self._slots.append(entry)
        else:
            self._slots[(self.last - 1) % self.max_records] = entry
        self.bytes += size

    def _evict(self) -> None:
        index = (self.first - 1) % self.max_records
        entry = self._slots[index]
        self._slots[index] = None
        if entry is not None:
            self.bytes -= entry.size
        self.first += 1

    def slice(self, after: int, limit: int) -> tuple[list[Entry], int]:
        """Up to ``limit`` records with ordinals above ``after``, and how many between were evicted."""
        missed = max(0, min(self.first - 1, self.last) - after)
        start = max(after, self.first - 1)
        count = min(limit, self.last - start)
        if count <= 0:
            return [], missed
        low = start % self.max_records
        high = low + count
        slots = self._slots
        found = slots[low:high]
        if high > self.max_records:
            found += slots[: high - self.max_records]
        return found, missed  # type: ignore[return-value]  # every slot from first to last holds an entry

    def clear(self) -> None:
        """Forget everything, ordinals too."""
        self.__init__(self.max_records, self.max_bytes)  # type: ignore[misc]


def entry_size(wire: bytes, event: LogEvent) -> int:
    """Bytes that a record holds, roughly: its message, its attributes (a traceback is one), and what both cost."""
    size = len(wire) + _ENTRY_OVERHEAD_BYTES + 2 * len(event.message)
    for value in event.attributes.values():
        kind = type(value)
        if kind is str or kind is bytes:
            size += len(value)  # type: ignore[arg-type]
        elif kind is dict or kind is tuple:
            size += size_of(value)
    return size


def merge(system: Ring, audit: Ring, position: Position, limit: int) -> Read:
    """Up to ``limit`` records after ``position`` from both rings, in the order of their ``seq``.

    The position after a read is past everything returned and everything missed, and before everything else, so that
    the next read goes on exactly there.
    """
    systems, missed_system = system.slice(position.system, limit)
    audits, missed_audit = audit.slice(position.audit, limit)
    if not audits:
        entries, taken_audit = systems, 0
    elif not systems:
        entries, taken_audit = audits, len(audits)
    else:
        entries = sorted(systems + audits)[:limit]  # two sorted runs: timsort merges them in one pass
        taken_audit = sum(entry.event.is_audit for entry in entries)
    return Read(
        entries,
        Position(
            position.system + missed_system + len(entries) - taken_audit,
            position.audit + missed_audit + taken_audit,
        ),
        missed_system,
        missed_audit,
    )
