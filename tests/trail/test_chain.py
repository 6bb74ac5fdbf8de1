"""Linking records, and what checkpoints say."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest

from bridge.record.values import AnyValue
from bridge.trail import housekeeping
from bridge.trail.canonical import AuditRecord, canonical_bytes, hash_of, uncovered
from bridge.trail.chain import EMPTY_HASH, Anchor, Chain, Checkpoint, checkpoint_due
from tests.trail.chains import KEY, OTHER, RESOURCE, STREAM, check, event, sign, stamp, with_attributes


def test_the_first_record_follows_nothing() -> None:
    """Number 1, and SHA-256 of no bytes."""
    record, chain = Chain(STREAM).append(event(0))
    assert EMPTY_HASH == hashlib.sha256(b"").hexdigest()
    assert record.attributes["audit.sequence.stream_id"] == STREAM
    assert record.attributes["audit.sequence.number"] == 1
    assert record.attributes["audit.sequence.prev_hash"] == EMPTY_HASH
    assert record.attributes["audit.integrity.hash"] == hash_of(record) == chain.head
    assert chain == Chain(STREAM, 1, hash_of(record))
    assert chain.anchor == Anchor(STREAM, 1, hash_of(record))


def test_each_record_names_the_one_before() -> None:
    """By its hash; and the record that was given stays as it was."""
    chain = Chain(STREAM)
    given = event(0)
    before = dict(given.attributes)
    for number in range(1, 5):
        record, after = chain.append(given)
        assert record.attributes["audit.sequence.number"] == number == after.number
        assert record.attributes["audit.sequence.prev_hash"] == chain.head
        chain = after
    assert given.attributes == before


def test_the_rest_of_the_record_is_kept() -> None:
    """Every field, and every attribute."""
    given = event(7)
    record, _ = Chain(STREAM).append(given)
    for name in AuditRecord.__struct_fields__:
        if name != "attributes":
            assert getattr(record, name) == getattr(given, name)
    assert given.attributes.items() <= record.attributes.items()


def test_all_that_the_application_said_is_proven() -> None:
    """Names that do not count by themselves are listed, sorted."""
    more: dict[str, AnyValue] = {"z": 1, "host.name": "mine", "empty": None}
    record, _ = Chain(STREAM).append(event(1, **more))
    assert record.attributes["audit.sequence.covered"] == ("amount", "empty", "host.name", "tenant", "z")
    assert uncovered(record.attributes) == []
    bare, _ = Chain(STREAM).append(AuditRecord(attributes={"audit.action": "x"}))
    assert "audit.sequence.covered" not in bare.attributes


def test_names_of_the_trail_are_not_the_applications() -> None:
    """A record of another trail that is passed on keeps what it said, under other names."""
    relayed: dict[str, AnyValue] = {
        "audit.sequence.number": 77,
        "audit.sequence.covered": ("amount",),
        "audit.integrity.hash": "x",
        "audit.given.integrity.hash": "older",
    }
    given = event(1, **relayed)
    record, _ = Chain(STREAM).append(given)
    assert record.attributes["audit.sequence.number"] == 1
    assert record.attributes["audit.given.sequence.number"] == 77
    assert record.attributes["audit.given.sequence.covered"] == ("amount",)
    assert record.attributes["audit.given.integrity.hash"] == "older"
    assert record.attributes["audit.given.integrity.hash#"] == "x"
    assert record.attributes["audit.sequence.covered"] == ("amount", "tenant")
    assert record.attributes["audit.integrity.hash"] == hash_of(record)


def test_a_record_that_cannot_be_hashed_costs_only_itself() -> None:
    """The chain goes on from where it was."""
    chain = Chain(STREAM)
    with pytest.raises(ValueError, match="surrogates"):
        chain.append(AuditRecord(body="\ud800"))
    assert chain.append(event(1))[1].number == 1


@pytest.mark.parametrize(
    ("records", "seconds", "due"),
    [(0, 0, False), (999, 59.9, False), (1_000, 0, True), (5_000, 0, True), (0, 60, True), (0, 61, True)],
)
def test_when_a_checkpoint_is_due(records: int, seconds: float, due: bool) -> None:
    """After 1,000 records or 60 seconds, whether anything was written or not."""
    assert checkpoint_due(records=records, elapsed=int(seconds * 1e9)) is due


# -- records about the trail ------------------------------------------------------------------------------------------


def test_a_signed_checkpoint() -> None:
    """It says where the chain stands, and the signature is one of exactly that."""
    chain = Chain(STREAM, 41, "ab" * 32)
    record = housekeeping.checkpoint(stamp(5), chain, key_id=KEY, sign=sign)
    told = Checkpoint.read(chain.append(record)[0])
    assert told == Checkpoint(STREAM, 41, "ab" * 32, stamp(5).time, KEY, "1", sign(told.message()) if told else b"")
    assert told is not None
    assert told.anchor == chain.anchor
    assert check(told.key_id, told.signature, told.message())
    assert json.loads(told.message()) == {
        "canonicalization": "1",
        "head": "ab" * 32,
        "key_id": KEY,
        "number": "41",
        "stream_id": STREAM,
        "time": str(stamp(5).time),
        "type": "audit.checkpoint",
    }


def test_a_checkpoint_that_nobody_signed() -> None:
    """It has no key and no signature."""
    record = housekeeping.checkpoint(stamp(5), Chain(STREAM), key_id=KEY)
    assert Checkpoint.read(record) == Checkpoint(STREAM, 0, EMPTY_HASH, stamp(5).time)
    assert not {"audit.checkpoint.key_id", "audit.checkpoint.signature"} & record.attributes.keys()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("stream_id", None),
        ("number", "41"),
        ("number", True),
        ("head", 1),
        ("time", 1.5),
        ("key_id", 7),
        ("canonicalization", None),
        ("signature", "no hex"),
        ("signature", 5),
    ],
)
def test_a_checkpoint_in_no_known_form(name: str, value: AnyValue) -> None:
    """Says nothing."""
    record = housekeeping.checkpoint(stamp(5), Chain(STREAM), key_id=KEY, sign=sign)
    changed: Any = {f"audit__checkpoint__{name}": value}
    assert Checkpoint.read(with_attributes(record, **changed)) is None


def made() -> list[AuditRecord]:
    chain = Chain(STREAM, 3, "ab" * 32)
    return [
        housekeeping.stream_open(stamp(1), resource=RESOURCE),
        housekeeping.stream_open(stamp(1), resource=RESOURCE, previous=Anchor(OTHER, 9, "cd" * 32)),
        housekeeping.stream_close(stamp(1), reason="shutdown"),
        housekeeping.loss(stamp(1), count=3, first=5, last=6, reason="disk full"),
        housekeeping.dead_letter(
            stamp(1), stream_id=OTHER, number=7, record_id="id", destination="http://c/v1/logs", answer="400"
        ),
        housekeeping.checkpoint(stamp(1), chain),
        housekeeping.key_change(stamp(1), chain, key_id=KEY, new_key_id="key-2", new_public=b"\x01", sign=sign),
        housekeeping.key_change(stamp(1), chain, key_id="", new_key_id=KEY, new_public=b"\x01"),
    ]


@pytest.mark.parametrize("record", made(), ids=lambda each: each.event_name)
def test_records_about_the_trail_are_audit_records(record: AuditRecord) -> None:
    """They have all that an audit record must have, everything of it is proven, and a text for people."""
    required = {
        "is_audit": True,
        "audit.schema.version": "1.0.0",
        "audit.record.id": stamp(1).record_id,
        "log.record.uid": stamp(1).record_id,
        "audit.actor.id": "orders",
        "audit.actor.type": "service",
        "audit.action": record.event_name,
    }
    assert required.items() <= record.attributes.items()
    assert record.attributes["audit.outcome"] in ("success", "failure")
    assert (record.timestamp, record.observed_timestamp, record.scope) == (stamp(1).time, stamp(1).time, "bridge.trail")
    assert all((record.severity_text, record.severity_number, record.body))
    chained, _ = Chain(STREAM).append(record)
    assert "audit.sequence.covered" not in chained.attributes
    assert canonical_bytes(chained)


def test_what_they_say() -> None:
    """Each its own."""
    first, opened, closed, loss, dead, _, change, unsigned = (each.attributes for each in made())
    assert first["audit.stream.resource"] == RESOURCE
    assert first["audit.stream.resource_hash"] == housekeeping.resource_hash(dict(reversed(RESOURCE.items())))
    assert first["audit.stream.canonicalization"] == "1"
    assert "audit.stream.previous.id" not in first
    assert (
        opened["audit.stream.previous.id"],
        opened["audit.stream.previous.number"],
        opened["audit.stream.previous.head"],
    ) == (OTHER, 9, "cd" * 32)
    assert closed["audit.stream.reason"] == "shutdown"
    assert (loss["audit.loss.count"], loss["audit.loss.from"], loss["audit.loss.to"], loss["audit.loss.reason"]) == (
        3,
        5,
        6,
        "disk full",
    )
    assert (loss["audit.outcome"], dead["audit.outcome"], closed["audit.outcome"]) == ("failure", "failure", "success")
    assert {name: value for name, value in dead.items() if name.startswith("audit.dead_letter.")} == {
        "audit.dead_letter.stream_id": OTHER,
        "audit.dead_letter.number": 7,
        "audit.dead_letter.record_id": "id",
        "audit.dead_letter.destination": "http://c/v1/logs",
        "audit.dead_letter.answer": "400",
    }
    assert (change["audit.key.id"], change["audit.key.new_id"], change["audit.key.new_public"]) == (KEY, "key-2", "01")
    assert change["audit.key.signature"]
    assert (unsigned["audit.key.id"], "audit.key.signature" in unsigned) == ("", False)
