"""The records that a trail keeps about itself, chained like all others.

Each function makes one, still without a place: :meth:`bridge.trail.chain.Chain.append` gives it one. A checkpoint and a
key change speak of the chain as it is just before them, so nothing may come between making and appending them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Final, TypeAlias

import msgspec

from bridge.record import attributes as names
from bridge.record.values import AnyValue
from bridge.trail.canonical import CANONICALIZATION, AuditRecord, mapping_bytes
from bridge.trail.chain import Anchor, Chain, Checkpoint, key_change_message

__all__ = [
    "CHECKPOINT",
    "DEAD_LETTER",
    "KEY_CHANGE",
    "LOSS",
    "SCOPE",
    "STREAM_CLOSE",
    "STREAM_OPEN",
    "Sign",
    "Stamp",
    "checkpoint",
    "dead_letter",
    "key_change",
    "loss",
    "resource_hash",
    "stream_close",
    "stream_open",
]

# Names of events.
STREAM_OPEN: Final = "audit.stream.open"
STREAM_CLOSE: Final = "audit.stream.close"
LOSS: Final = "audit.loss"
DEAD_LETTER: Final = "audit.dead_letter"
CHECKPOINT: Final = "audit.checkpoint"
KEY_CHANGE: Final = "audit.key.change"

SCOPE: Final = "bridge.trail"
_INFO: Final = 9
_WARN: Final = 13
_ERROR: Final = 17
_TEXTS: Final = {_INFO: "INFO", _WARN: "WARN", _ERROR: "ERROR"}

Sign: TypeAlias = Callable[[bytes], bytes]
"""Signs a message with the private key whose id is passed beside it."""


class Stamp(msgspec.Struct, frozen=True):
    """What is new with each record: ``time`` in ns since 1970, a UUID, and on whose behalf (the service's name)."""

    time: int
    record_id: str
    actor_id: str


def resource_hash(resource: Mapping[str, AnyValue]) -> str:
    """SHA-256 of a resource's canonical form, in hex."""
    return hashlib.sha256(mapping_bytes(resource)).hexdigest()


def stream_open(stamp: Stamp, *, resource: Mapping[str, AnyValue], previous: Anchor | None = None) -> AuditRecord:
    """The first record of a stream.

    It holds the resource, so that a copy of a record under another resource is found out, and where the directory's
    ``previous`` stream stood, so that a stream that was taken away, or the end of one, is missed.
    """
    attributes: dict[str, AnyValue] = {
        names.STREAM_RESOURCE: dict(resource),
        names.STREAM_RESOURCE_HASH: resource_hash(resource),
        names.STREAM_CANONICALIZATION: CANONICALIZATION,
    }
    words = "Audit stream opened; it is the first of its directory"
    if previous is not None:
        attributes[names.STREAM_PREVIOUS_ID] = previous.stream_id
        attributes[names.STREAM_PREVIOUS_NUMBER] = previous.number
        attributes[names.STREAM_PREVIOUS_HEAD] = previous.head
        words = f"Audit stream opened after {previous.stream_id}, which had {previous.number} records"
    return _record(stamp, STREAM_OPEN, words, attributes)


def stream_close(stamp: Stamp, *, reason: str) -> AuditRecord:
    """The last record of a stream, but for a checkpoint."""
    return _record(stamp, STREAM_CLOSE, f"Audit stream closed: {reason}", {names.STREAM_REASON: reason})


def loss(stamp: Stamp, *, count: int, first: int, last: int, reason: str) -> AuditRecord:
    """``count`` events, called between ``first`` and ``last`` (ns), are known not to be in the trail."""
    attributes: dict[str, AnyValue] = {
        names.LOSS_COUNT: count,
        names.LOSS_FROM: first,
        names.LOSS_TO: last,
        names.LOSS_REASON: reason,
    }
    return _record(stamp, LOSS, f"Audit events lost: {count} ({reason})", attributes, severity=_ERROR)


def dead_letter(
    stamp: Stamp, *, stream_id: str, number: int, record_id: str, destination: str, answer: str
) -> AuditRecord:
    """A destination refused one record for good. ``stream_id`` may be another stream, which this process adopted."""
    attributes: dict[str, AnyValue] = {
        names.DEAD_LETTER_STREAM_ID: stream_id,
        names.DEAD_LETTER_NUMBER: number,
        names.DEAD_LETTER_RECORD_ID: record_id,
        names.DEAD_LETTER_DESTINATION: destination,
        names.DEAD_LETTER_ANSWER: answer,
    }
    words = f"{destination} refused audit record {number} of stream {stream_id}: {answer}"
    return _record(stamp, DEAD_LETTER, words, attributes, severity=_WARN)


def checkpoint(stamp: Stamp, chain: Chain, *, key_id: str = "", sign: Sign | None = None) -> AuditRecord:
    """Where ``chain`` stands, signed by ``sign`` if there is one."""
    told = Checkpoint(chain.stream_id, chain.number, chain.head, stamp.time, key_id if sign is not None else "")
    attributes: dict[str, AnyValue] = {
        names.CHECKPOINT_STREAM_ID: told.stream_id,
        names.CHECKPOINT_NUMBER: told.number,
        names.CHECKPOINT_HEAD: told.head,
        names.CHECKPOINT_TIME: told.time,
        names.CHECKPOINT_CANONICALIZATION: told.canonicalization,
    }
    if sign is not None:
        attributes[names.CHECKPOINT_KEY_ID] = told.key_id
        attributes[names.CHECKPOINT_SIGNATURE] = sign(told.message()).hex()
    return _record(stamp, CHECKPOINT, f"Audit checkpoint after record {told.number}", attributes)


def key_change(
    stamp: Stamp, chain: Chain, *, key_id: str, new_key_id: str, new_public: bytes, sign: Sign | None = None
) -> AuditRecord:
    """From here on ``new_key_id`` signs. ``sign`` is the key in use, ``key_id``; neither if none was."""
    attributes: dict[str, AnyValue] = {
        names.KEY_ID: key_id if sign is not None else "",
        names.KEY_NEW_ID: new_key_id,
        names.KEY_NEW_PUBLIC: new_public.hex(),
    }
    if sign is not None:
        message = key_change_message(
            chain, time=stamp.time, key_id=key_id, new_key_id=new_key_id, new_public=new_public.hex()
        )
        attributes[names.KEY_SIGNATURE] = sign(message).hex()
    return _record(stamp, KEY_CHANGE, f"Audit signing key is {new_key_id} from here on", attributes)


def _record(
    stamp: Stamp, event_name: str, body: str, attributes: dict[str, AnyValue], *, severity: int = _INFO
) -> AuditRecord:
    return AuditRecord(
        event_name=event_name,
        body=body,
        timestamp=stamp.time,
        observed_timestamp=stamp.time,
        severity_number=severity,
        severity_text=_TEXTS[severity],
        scope=SCOPE,
        attributes={
            names.AUDIT_FLAG: True,
            names.AUDIT_SCHEMA_VERSION: names.SCHEMA_VERSION,
            names.AUDIT_RECORD_ID: stamp.record_id,
            names.RECORD_UID: stamp.record_id,
            names.AUDIT_ACTOR_ID: stamp.actor_id,
            names.AUDIT_ACTOR_TYPE: "service",
            names.AUDIT_ACTION: event_name,
            names.AUDIT_OUTCOME: "success" if severity == _INFO else "failure",
            **attributes,
        },
    )
