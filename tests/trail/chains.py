"""Chains to judge, keys to sign them with, and values of every kind."""

from __future__ import annotations

import hmac
from collections.abc import Iterable

import msgspec
from hypothesis import strategies as st

from bridge.record.values import INT64_MAX, INT64_MIN, AnyValue
from bridge.trail import housekeeping
from bridge.trail.canonical import AuditRecord, hash_of
from bridge.trail.chain import Anchor, Chain
from bridge.trail.findings import Report
from bridge.trail.verify import CheckSignature, Verifier

STREAM = "11111111-1111-4111-8111-111111111111"
OTHER = "22222222-2222-4222-8222-222222222222"
KEY = "key-1"
RESOURCE: dict[str, AnyValue] = {"service.name": "orders", "service.version": "1.2"}
_START = 1_759_948_245_000_000_000


def sign(message: bytes, key_id: str = KEY) -> bytes:
    """Not a real signature, but like one: nobody else makes it, and it fits one message."""
    return hmac.digest(f"secret of {key_id}".encode(), message, "sha256")


def check(key_id: str, signature: bytes, message: bytes) -> bool | None:
    """Knows `KEY` alone."""
    return hmac.compare_digest(signature, sign(message)) if key_id == KEY else None


def stamp(number: int) -> housekeeping.Stamp:
    return housekeeping.Stamp(_START + number * 1_000, f"5f0c8e1e-1b7a-4c8e-9d9c-{number:012x}", "orders")


def event(number: int, **attributes: AnyValue) -> AuditRecord:
    """What the application says: one event with extras of its own."""
    uid = f"0aaaaaaa-1b7a-4c8e-9d9c-{number:012x}"
    return AuditRecord(
        event_name="role.grant",
        body=f"Role granted ({number})",
        timestamp=_START + number * 1_000 + 1,
        observed_timestamp=_START + number * 1_000 + 2,
        trace_id=f"{number + 1:032x}",
        span_id=f"{number + 1:016x}",
        trace_flags=1,
        severity_number=9,
        severity_text="INFO",
        scope="audit.roles",
        attributes={
            "is_audit": True,
            "audit.record.id": uid,
            "log.record.uid": uid,
            "audit.action": "role_grant",
            "audit.actor.id": "u8472",
            "audit.metadata.role": "admin",
            "amount": 12.5,
            "tenant": {"id": number, "tags": ("a", "b")},
            **attributes,
        },
    )


class Writer:
    """A chain and all that was appended to it."""

    def __init__(self, stream_id: str = STREAM) -> None:
        self.chain = Chain(stream_id)
        self.records: list[AuditRecord] = []

    def append(self, *records: AuditRecord) -> None:
        for record in records:
            chained, self.chain = self.chain.append(record)
            self.records.append(chained)

    def events(self, count: int) -> None:
        for _ in range(count):
            self.append(event(self.chain.number))

    def checkpoint(self, key_id: str = KEY) -> None:
        number = self.chain.number
        self.append(housekeeping.checkpoint(stamp(number), self.chain, key_id=key_id, sign=lambda m: sign(m, key_id)))


def signed_stream(
    stream_id: str = STREAM, *, events: int = 3, checkpoints: int = 2, previous: Anchor | None = None
) -> list[AuditRecord]:
    """Opened, ``checkpoints`` times ``events`` and a checkpoint, closed, and a last checkpoint."""
    writer = Writer(stream_id)
    writer.append(housekeeping.stream_open(stamp(0), resource=RESOURCE, previous=previous))
    for _ in range(checkpoints):
        writer.events(events)
        writer.checkpoint()
    writer.append(housekeeping.stream_close(stamp(writer.chain.number), reason="shutdown"))
    writer.checkpoint()
    return writer.records


def place(record: AuditRecord) -> Anchor:
    """Where the stream stood with this record."""
    attributes = record.attributes
    stream_id, number, head = (
        attributes["audit.sequence.stream_id"],
        attributes["audit.sequence.number"],
        attributes["audit.integrity.hash"],
    )
    assert isinstance(stream_id, str)
    assert isinstance(number, int)
    assert isinstance(head, str)
    return Anchor(stream_id, number, head)


def judged(
    records: Iterable[AuditRecord],
    *,
    anchors: Iterable[Anchor] = (),
    verify: CheckSignature | None = check,
    require_signed: bool = False,
) -> Report:
    verifier = Verifier(anchors=anchors, verify=verify, require_signed=require_signed)
    for record in records:
        verifier.add(record, resource=RESOURCE)
    return verifier.report()


def shown(report: Report) -> list[tuple[str, str, tuple[tuple[int, int], ...]]]:
    """Kind, stream and numbers of all findings and notes."""
    return [(str(each.kind), each.stream_id, each.ranges) for each in (*report.findings, *report.notes)]


def with_attributes(record: AuditRecord, **changed: AnyValue) -> AuditRecord:
    """The record with attributes changed (``__`` stands for a dot)."""
    names = {name.replace("__", "."): value for name, value in changed.items()}
    return msgspec.structs.replace(record, attributes={**record.attributes, **names})


def without(record: AuditRecord, *names: str) -> AuditRecord:
    kept = {name: value for name, value in record.attributes.items() if name not in names}
    return msgspec.structs.replace(record, attributes=kept)


def rehashed(record: AuditRecord) -> AuditRecord:
    """As somebody leaves it who knows the format: with a hash that fits."""
    return with_attributes(record, audit__integrity__hash=hash_of(record))


TEXTS = st.text(st.characters(codec="utf-8"), max_size=8) | st.sampled_from(
    ["\ue000", "\U00010000", "é", '"\\\b\x00\x7f']
)
SCALARS: st.SearchStrategy[AnyValue] = (
    st.none() | st.booleans() | st.integers(INT64_MIN, INT64_MAX) | st.floats() | TEXTS | st.binary(max_size=6)
)
VALUES: st.SearchStrategy[AnyValue] = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3).map(tuple) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)
NAMES = TEXTS | st.sampled_from(
    [
        "audit.action",
        "audit.metadata.x",
        "audit.integrity.hash",
        "audit.sequence.covered",
        "session.id",
        "host.name",
        "a",
    ]
)
HEX = "0123456789abcdef"
RECORDS = st.builds(
    AuditRecord,
    event_name=TEXTS,
    body=VALUES,
    timestamp=st.integers(0, 2**63 - 1),
    observed_timestamp=st.integers(0, 2**63 - 1),
    trace_id=st.just("") | st.text(HEX, min_size=32, max_size=32),
    span_id=st.just("") | st.text(HEX, min_size=16, max_size=16),
    trace_flags=st.integers(0, 2**32 - 1),
    severity_number=st.integers(0, 24),
    severity_text=TEXTS,
    scope=TEXTS,
    attributes=st.dictionaries(NAMES, VALUES, max_size=6),
)
