"""Links records: each carries its number, the hash of the one before it, and its own.

Pure: a `Chain` is where a stream stands, and whoever appends keeps the new one only once the record is committed.
Checkpoints, and what they say and sign, are here too, because a verifier reads them; the records that make them, and
the trail's other records about itself, come from :mod:`bridge.trail.housekeeping`.
"""

from __future__ import annotations

import hashlib
from typing import Final

import msgspec

from bridge.record import attributes as names
from bridge.record.values import AnyValue
from bridge.trail.canonical import CANONICALIZATION, AuditRecord, canonical_form, must_list

__all__ = [
    "CHECKPOINT_INTERVAL_NS",
    "CHECKPOINT_RECORDS",
    "EMPTY_HASH",
    "Anchor",
    "Chain",
    "Checkpoint",
    "checkpoint_due",
    "key_change_message",
]

EMPTY_HASH: Final = hashlib.sha256(b"").hexdigest()
"""What the first record of a stream has for the hash of the one before it."""

CHECKPOINT_RECORDS: Final = 1_000
CHECKPOINT_INTERVAL_NS: Final = 60_000_000_000

_RESERVED: Final = (names.AUDIT_SEQUENCE, names.AUDIT_INTEGRITY)
_AUDIT: Final = "audit."
_GIVEN: Final = "audit.given."


class Anchor(msgspec.Struct, frozen=True):
    """Where a stream stood once, kept where nobody who can write to the trail can write.

    Any receipt is one, and any checkpoint. ``retired`` says that everything up to this number has been given up on
    purpose (retention): then it is no gap if it is not there.
    """

    stream_id: str
    number: int
    head: str
    """Hash of the record with this number, in hex."""
    retired: bool = False


class Chain(msgspec.Struct, frozen=True):
    """Where one stream stands: its last record's number and hash (0 and `EMPTY_HASH` before the first)."""

    stream_id: str
    number: int = 0
    head: str = EMPTY_HASH

    def append(self, record: AuditRecord) -> tuple[AuditRecord, Chain]:
        """``record`` as the next of the stream, with its place and its hash, and the chain after it.

        Its attributes under ``audit.sequence.`` and ``audit.integrity.``, which a record of another trail that an
        application passes on may have, are kept under ``audit.given.``. Raises as
        :func:`~bridge.trail.canonical.canonical_bytes` for a record that can't be hashed; this chain stays good.
        """
        attributes: dict[str, AnyValue] = dict(record.attributes)
        for name in [name for name in attributes if name.startswith(_RESERVED)]:
            attributes[_unused(_GIVEN + name.removeprefix(_AUDIT), attributes)] = attributes.pop(name)
        listed = must_list(attributes)
        if listed:
            attributes[names.AUDIT_SEQUENCE_COVERED] = tuple(listed)
        number = self.number + 1
        attributes[names.AUDIT_SEQUENCE_STREAM_ID] = self.stream_id
        attributes[names.AUDIT_SEQUENCE_NUMBER] = number
        attributes[names.AUDIT_SEQUENCE_PREV_HASH] = self.head
        # Not structs.replace, which costs 2 µs more.
        chained = AuditRecord(
            record.event_name,
            record.body,
            record.timestamp,
            record.observed_timestamp,
            record.trace_id,
            record.span_id,
            record.trace_flags,
            record.severity_number,
            record.severity_text,
            record.scope,
            attributes,
        )
        head = hashlib.sha256(canonical_form(chained)[0]).hexdigest()
        # Outside the hashed bytes, and nobody else holds this dict yet.
        attributes[names.AUDIT_INTEGRITY_HASH] = head
        return chained, Chain(self.stream_id, number, head)

    @property
    def anchor(self) -> Anchor:
        """This place, for a verifier."""
        return Anchor(self.stream_id, self.number, self.head)


def _unused(name: str, taken: dict[str, AnyValue]) -> str:
    while name in taken:
        name += "#"
    return name


def checkpoint_due(*, records: int, elapsed: int) -> bool:
    """Whether a checkpoint is to be written now.

    ``records`` since the last one, the checkpoint itself not counted; ``elapsed`` ns since then (since the stream was
    opened, if there is none), by a clock that doesn't jump. An idle stream gets one too: it shows that the stream was
    alive and nothing was written.
    """
    return records >= CHECKPOINT_RECORDS or elapsed >= CHECKPOINT_INTERVAL_NS


class Checkpoint(msgspec.Struct, frozen=True):
    """What a checkpoint says: at ``time`` the stream's last record was ``number`` and its hash ``head``.

    The record that carries it follows that one. ``key_id`` and ``signature`` (raw bytes) are empty if nobody signed.
    """

    stream_id: str
    number: int
    head: str
    time: int
    key_id: str = ""
    canonicalization: str = CANONICALIZATION
    signature: bytes = b""

    def message(self) -> bytes:
        """The bytes to sign: RFC 8785 of everything but the signature, with all leaves strings, and of what it is."""
        return _sorted_json(
            canonicalization=self.canonicalization,
            head=self.head,
            key_id=self.key_id,
            number=str(self.number),
            stream_id=self.stream_id,
            time=str(self.time),
            type="audit.checkpoint",
        )

    @property
    def anchor(self) -> Anchor:
        """The same, for a verifier."""
        return Anchor(self.stream_id, self.number, self.head)

    @classmethod
    def read(cls, record: AuditRecord) -> Checkpoint | None:
        """What a record of a checkpoint says, None if it says it in no form that is known."""
        get = record.attributes.get
        try:
            return msgspec.convert(
                {
                    "stream_id": get(names.CHECKPOINT_STREAM_ID),
                    "number": get(names.CHECKPOINT_NUMBER),
                    "head": get(names.CHECKPOINT_HEAD),
                    "time": get(names.CHECKPOINT_TIME),
                    "key_id": get(names.CHECKPOINT_KEY_ID) or "",
                    "canonicalization": get(names.CHECKPOINT_CANONICALIZATION),
                    "signature": _from_hex(get(names.CHECKPOINT_SIGNATURE)),
                },
                cls,
            )
        except (msgspec.ValidationError, ValueError):
            return None


def key_change_message(chain: Chain, *, time: int, key_id: str, new_key_id: str, new_public: str) -> bytes:
    """The bytes that the key in use signs when it hands over: RFC 8785, all leaves strings.

    ``chain`` is where the stream stood just before the record of the change.
    """
    return _sorted_json(
        canonicalization=CANONICALIZATION,
        head=chain.head,
        key_id=key_id,
        new_key_id=new_key_id,
        new_public=new_public,
        number=str(chain.number),
        stream_id=chain.stream_id,
        time=str(time),
        type="audit.key.change",
    )


def _sorted_json(**members: str) -> bytes:
    # The callers name them in the order of RFC 8785, and all names are ASCII.
    return msgspec.json.encode(members)


def _from_hex(text: object) -> bytes:
    """Raises ValueError for what is neither hex nor nothing."""
    if text is None or text == "":
        return b""
    if not isinstance(text, str):
        raise ValueError("no text")
    return bytes.fromhex(text)
