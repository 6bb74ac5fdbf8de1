"""What verification found out: data for a program, words for a person."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

import msgspec

__all__ = ["Finding", "Kind", "Numbers", "Report", "StreamReport"]


class Kind(StrEnum):
    """What can be said of a stream. Several may be true at once, but OK."""

    OK = "OK"
    """Nothing is wrong as far as could be seen."""
    MODIFIED = "MODIFIED"
    """A record is not what was written: its own hash, the next record or a signature says so."""
    GAP = "GAP"
    """Records are missing before others that are there."""
    DUPLICATE = "DUPLICATE"
    """A record came more than once, the same each time. Delivery does that: a note."""
    CONFLICT = "CONFLICT"
    """Two records, each whole in itself, have the same number; or a record is not the one that an anchor names."""
    FORK = "FORK"
    """From some number on there are two chains, as when a copy of a trail's file was written on."""
    UNSIGNED_TAIL = "UNSIGNED_TAIL"
    """No signature reaches to the end. A note, unless signatures are required."""
    TRUNCATED = "TRUNCATED"
    """The stream's end is missing: an anchor, or the stream that was opened next, knows of more records."""
    UNSIGNED_STREAM = "UNSIGNED_STREAM"
    """There is no signature that could be checked. A note, unless signatures are required."""
    UNKNOWN_KEY = "UNKNOWN_KEY"
    """A signature by a key that is not among those given."""
    MISSING_STREAM = "MISSING_STREAM"
    """A whole stream is missing of which an anchor, or the stream that was opened next, knows."""


class Finding(msgspec.Struct, frozen=True):
    """One thing about one stream. ``ranges`` are numbers, from and to, both included.

    ``count`` is right, while of ``ranges`` only the first `Numbers.MAX` are kept. Both are empty where a number makes
    no sense. ``note``: worth knowing, and no reason to distrust the trail.
    """

    kind: Kind
    stream_id: str
    words: str
    count: int = 0
    ranges: tuple[tuple[int, int], ...] = ()
    note: bool = False

    def __str__(self) -> str:
        shown = ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in self.ranges[:_SHOWN])
        more = ", …" if len(self.ranges) > _SHOWN else ""
        return f"{self.kind} {self.stream_id or '(no stream)'}{f' [{shown}{more}]' if shown else ''}: {self.words}"


_SHOWN: Final = 20


class StreamReport(msgspec.Struct, frozen=True):
    """One stream. ``records`` are distinct ones; ``first`` and ``last`` are 0 if there is none."""

    stream_id: str
    records: int = 0
    first: int = 0
    last: int = 0
    signed_to: int = 0
    """The last record that a good signature proves, 0 if none does."""
    anchored_to: int = 0
    """The last record that an anchor proves, 0 if none does."""
    closed: bool = False
    """Its last record says that it is the last."""
    findings: tuple[Finding, ...] = ()
    """Findings and notes."""
    unknown: tuple[str, ...] = ()
    """What could not be known about it."""

    @property
    def kinds(self) -> frozenset[Kind]:
        """All that was found, or `Kind.OK`; notes included."""
        return frozenset(each.kind for each in self.findings) or frozenset((Kind.OK,))


class Report(msgspec.Struct, frozen=True):
    """All streams, in the order of their ids."""

    streams: tuple[StreamReport, ...] = ()
    unchained: int = 0
    """Records that have no place in any stream. Nothing was checked of them."""
    unknown: tuple[str, ...] = ()
    """What could not be known, whatever the stream."""

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What is wrong."""
        return tuple(each for stream in self.streams for each in stream.findings if not each.note)

    @property
    def notes(self) -> tuple[Finding, ...]:
        """What is worth knowing, and no reason to distrust the trail."""
        return tuple(each for stream in self.streams for each in stream.findings if each.note)

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong: no finding. The command's exit code is 0 then, else 1."""
        return not self.findings


class Numbers:
    """Numbers as ranges. They must come in ascending order; equal ones count once."""

    MAX: Final = 1_000
    """Ranges that are kept. What is beyond is counted."""

    def __init__(self) -> None:
        self.count = 0
        self._ranges: list[list[int]] = []
        self._last = -1

    def add(self, first: int, last: int | None = None) -> None:
        """One number, or all from ``first`` to ``last``."""
        last = first if last is None else last
        first = max(first, self._last + 1)
        if first > last:
            return
        self.count += last - first + 1
        if self._ranges and self._last == first - 1 and self._ranges[-1][1] == self._last:
            self._ranges[-1][1] = last
        elif len(self._ranges) < self.MAX:
            self._ranges.append([first, last])
        self._last = last

    def without(self, others: Numbers) -> Numbers:
        """Those that are not among ``others``. Of both, the kept ranges only; for few."""
        left = Numbers()
        for first, last in self._ranges:
            for number in range(first, last + 1):
                if not any(low <= number <= high for low, high in others._ranges):
                    left.add(number)
        return left

    def finding(self, kind: Kind, stream_id: str, words: str, *, note: bool = False) -> list[Finding]:
        """One finding for all of them, none if there are none."""
        if not self.count:
            return []
        ranges = tuple((first, last) for first, last in self._ranges)
        return [Finding(kind, stream_id, words, self.count, ranges, note)]
