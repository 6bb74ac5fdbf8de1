"""Chunks: what one read of the rings gives to every client with the same filter at the same place. Pure.

A chunk is filtered once, encoded once and framed once; a hundred clients that stand together share its bytes.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from bridge.live.encode import encode_rich
from bridge.live.messages import format_cursor
from bridge.live.ring import ENTRY_OVERHEAD_BYTES, Entry, Gap, Read

if TYPE_CHECKING:
    from bridge.record.filters import Filter

__all__ = ["BATCH_BYTES", "CHUNK_BYTES", "Chunk", "RichEncoder", "join_frames", "make_batches", "text_frame"]

# Clients at the live end are within a chunk or two of each other; those that catch up pay for themselves.
_RICH_KEPT = 4_096
_RICH_BYTES = 16 << 20

# What goes to a client in one write, as entries count their texts, which is about twice a version 1 message: worth its
# system call, and little to hold for a slow client.
CHUNK_BYTES = 256 * 1024

# Of what an entry counts for, the part that is not sent.
_UNSENT_BYTES = ENTRY_OVERHEAD_BYTES - 160

# One `batch` message holds at most this much: browsers parse a message in one go.
BATCH_BYTES = 256 * 1024


def text_frame(payload: bytes) -> bytes:
    """A whole, unmasked WebSocket text frame (RFC 6455, section 5.2), as a server sends it."""
    size = len(payload)
    if size < 126:
        return b"\x81" + size.to_bytes(1) + payload
    if size < 65_536:
        return b"\x81\x7e" + size.to_bytes(2) + payload
    return b"\x81\x7f" + size.to_bytes(8) + payload


def join_frames(payloads: Iterable[bytes]) -> bytes:
    """Many text frames in one piece of bytes."""
    return b"".join([text_frame(payload) for payload in payloads])


def make_batches(records: Sequence[bytes]) -> list[bytes]:
    """Records as ``batch`` messages, none much larger than :data:`BATCH_BYTES` (a record is never split)."""
    batches: list[bytes] = []
    part: list[bytes] = []
    size = 0
    for record in records:
        if part and size + len(record) > BATCH_BYTES:
            batches.append(b'{"type":"batch","data":[' + b",".join(part) + b"]}")
            part, size = [], 0
        part.append(record)
        size += len(record)
    if part:
        batches.append(b'{"type":"batch","data":[' + b",".join(part) + b"]}")
    return batches


class RichEncoder:
    """Version 2 messages, each made once for all the filters that let its record through.

    Remembers those of the newest records that were asked for, bounded by count and bytes.
    """

    def __init__(self, epoch: str) -> None:
        self.epoch = epoch
        self._made: OrderedDict[int, bytes] = OrderedDict()
        self._bytes = 0

    def __call__(self, entry: Entry) -> bytes:
        """The message of ``entry``."""
        made = self._made.get(entry.seq)
        if made is None:
            made = self._made[entry.seq] = encode_rich(entry.event, format_cursor(self.epoch, entry.seq))
            self._bytes += len(made)
            while len(self._made) > _RICH_KEPT or (self._bytes > _RICH_BYTES and len(self._made) > 1):
                self._bytes -= len(self._made.popitem(last=False)[1])
        return made


class Chunk:
    """The records of one read that pass a filter, with the bytes made of them.

    It ends early once it is large; ``seq`` is the place after it: past filtered records too. ``gaps`` are those of the
    streams that the filter lets through: who watches one stream hears nothing of gaps in the other.
    """

    __slots__ = ("_encode", "_joined", "_payloads", "entries", "gaps", "seq")

    def __init__(self, encode: RichEncoder, read: Read, filter: Filter) -> None:
        self._encode = encode
        self.entries: list[Entry] = []
        self.seq = read.seq
        left = CHUNK_BYTES
        matches = None if filter.is_everything else filter.matches
        for entry in read.entries:
            if matches is None or matches(entry.event):
                self.entries.append(entry)
                left -= entry.size - _UNSENT_BYTES
                if left < 0:
                    self.seq = entry.seq
                    break
        self.gaps: list[Gap] = []
        for gap in read.gaps:
            if gap.to > self.seq:
                break
            system = gap.system if "system" in filter.streams else 0
            audit = gap.audit if "audit" in filter.streams else 0
            if system or audit:
                self.gaps.append(gap._replace(system=system, audit=audit))
        self._payloads: dict[tuple[int, bool], list[bytes]] = {}
        self._joined: dict[tuple[int, bool], bytes] = {}

    @property
    def missed_system(self) -> int:
        """System records in the gaps."""
        return sum(gap.system for gap in self.gaps)

    @property
    def missed_audit(self) -> int:
        """Audit records in the gaps."""
        return sum(gap.audit for gap in self.gaps)

    def payloads(self, version: int, batch: bool) -> list[bytes]:
        """The messages, without frames."""
        found = self._payloads.get((version, batch))
        if found is None:
            found = self.encode(self.entries, version, batch)
            self._payloads[version, batch] = found
        return found

    def joined(self, version: int, batch: bool) -> bytes:
        """The messages as frames, in one piece."""
        found = self._joined.get((version, batch))
        if found is None:
            found = self._joined[version, batch] = join_frames(self.payloads(version, batch))
        return found

    def encode(self, entries: Sequence[Entry], version: int, batch: bool) -> list[bytes]:
        """Messages for some of the entries."""
        if version == 1:
            return [entry.wire for entry in entries]
        records = [self._encode(entry) for entry in entries]
        return make_batches(records) if batch else records
