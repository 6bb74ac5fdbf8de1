"""What somebody may do to a trail is found, and named for what it is, and nothing else is said."""

from __future__ import annotations

import random
from typing import Any

import msgspec
import pytest
from google.protobuf.message import DecodeError
from hypothesis import assume, given
from hypothesis import strategies as st

from bridge.trail import housekeeping
from bridge.trail.canonical import AuditRecord, canonical_bytes
from bridge.trail.chain import Anchor, Chain
from tests.trail.chains import (
    OTHER,
    RECORDS,
    RESOURCE,
    STREAM,
    Writer,
    event,
    judged,
    place,
    rehashed,
    shown,
    signed_stream,
    stamp,
    with_attributes,
)
from tests.trail.otlp import from_protobuf, to_protobuf

# 1 opened, 2-4 events, 5 checkpoint, 6-8 events, 9 checkpoint, 10 closed, 11 checkpoint
WHOLE = signed_stream()
LAST = len(WHOLE)


def found(*kinds: tuple[str, int, int], stream: str = STREAM) -> list[tuple[str, str, tuple[tuple[int, int], ...]]]:
    return [(kind, stream, ((first, last),)) for kind, first, last in kinds]


def stated(record: AuditRecord) -> Any:
    return record.attributes.get("audit.integrity.hash")


def changed(number: int, record: AuditRecord) -> list[AuditRecord]:
    return [*WHOLE[: number - 1], record, *WHOLE[number:]]


@pytest.mark.parametrize("seed", range(5))
def test_a_whole_stream_in_any_order(seed: int) -> None:
    """Nothing is found, from the first record to the last."""
    report = judged(random.Random(seed).sample(WHOLE, LAST))
    assert shown(report) == []
    [stream] = report.streams
    assert (stream.records, stream.first, stream.last, stream.signed_to, stream.closed) == (11, 1, 11, 10, True)
    assert stream.kinds == {"OK"}
    assert report.ok


def test_every_byte_flip_detected() -> None:
    """Of every byte of every record as it goes over the wire, three other values."""
    stream = signed_stream(events=1, checkpoints=1)
    flips = 0
    for index, record in enumerate(stream):
        data = to_protobuf([record])
        for place_, byte in enumerate(data):
            for mask in (0x01, 0x20, 0x80):
                try:
                    others = from_protobuf(data[:place_] + bytes([byte ^ mask]) + data[place_ + 1 :])
                except DecodeError:
                    continue
                if others == [record]:  # on the wire 0x21 is as true as 0x01
                    continue
                flips += 1
                report = judged([*stream[:index], *others, *stream[index + 1 :]])
                if [*map(canonical_bytes, others)] == [canonical_bytes(record)] and not stated(others[0]):
                    # Only its own hash is gone. The next record proves it all the same, if there is one.
                    assert any("without a hash of their own" in each for each in report.streams[0].unknown)
                    assert report.ok == (index < len(stream) - 1)
                elif others:
                    assert not report.ok, (index, place_, mask)
                else:  # the last record gone is a note, without an anchor
                    assert shown(report), (index, place_, mask)
    assert flips > 5_000


@given(st.lists(RECORDS, min_size=2, max_size=5), RECORDS, st.sampled_from(AuditRecord.__struct_fields__), st.data())
def test_every_changed_field_is_found(some: list[AuditRecord], other: AuditRecord, field: str, data: Any) -> None:
    """Whatever a field held and whatever it is changed to, unless it says the same."""
    writer = Writer()
    writer.append(*some)
    number = data.draw(st.integers(1, len(some)))
    before = writer.records[number - 1]
    value = getattr(other, field)
    if field == "attributes":
        name = data.draw(st.sampled_from(sorted(before.attributes)))
        value = {**before.attributes, name: data.draw(st.sampled_from([*other.attributes.values(), "x"]))}
    after = msgspec.structs.replace(before, **{field: value})
    mine, theirs = before.attributes["audit.integrity.hash"], after.attributes.get("audit.integrity.hash")
    assume(canonical_bytes(after) != canonical_bytes(before) or mine != theirs)
    assume(theirs)  # without a hash of its own the next record must find it
    records = [*writer.records[: number - 1], after, *writer.records[number:]]
    assert not judged(records, verify=None).ok


@pytest.mark.parametrize("number", range(1, LAST + 1))
def test_a_changed_record(number: int) -> None:
    """Only it is named, and so is one whose own hash alone was changed."""
    record = WHOLE[number - 1]
    for other in (
        msgspec.structs.replace(record, body="nothing happened"),
        with_attributes(record, audit__actor__id="somebody else"),
        with_attributes(record, audit__integrity__hash="0" * 64),
    ):
        # What a record of the trail itself said no longer counts: without the last checkpoint the end is unsigned.
        tail = found(("UNSIGNED_TAIL", 10, 11)) if number == LAST else []
        assert shown(judged(changed(number, other))) == found(("MODIFIED", number, number)) + tail


@pytest.mark.parametrize("number", range(2, 9))
def test_a_rewritten_record_with_a_hash_that_fits(number: int) -> None:
    """The next one tells."""
    other = rehashed(msgspec.structs.replace(WHOLE[number - 1], body="nothing happened"))
    assert shown(judged(changed(number, other))) == found(("MODIFIED", number, number))


@pytest.mark.parametrize("number", range(2, 9))
def test_a_rewritten_record_without_a_hash(number: int) -> None:
    """The next one tells, too."""
    other = with_attributes(WHOLE[number - 1], audit__integrity__hash=None, audit__actor__id="somebody else")
    assert shown(judged(changed(number, other))) == found(("MODIFIED", number, number))


def test_a_last_record_without_a_hash() -> None:
    """Is proven by nothing, unless an anchor does; where no record has a hash, that is no news."""
    bare = [with_attributes(each, audit__integrity__hash=None) for each in WHOLE]
    assert shown(judged([*WHOLE[:10], bare[10]])) == found(("MODIFIED", 11, 11))
    assert shown(judged([*WHOLE[:10], bare[10], WHOLE[10]])) == found(("DUPLICATE", 11, 11))
    assert shown(judged([*WHOLE[:10], bare[10]], anchors=[place(WHOLE[10])])) == []
    assert shown(judged([*WHOLE[:6], bare[6], *WHOLE[8:]])) == found(("MODIFIED", 7, 7), ("GAP", 8, 8))
    assert shown(judged(bare)) == []


@pytest.mark.parametrize("number", range(1, LAST))
def test_a_removed_record(number: int) -> None:
    """Is a gap, be it the first or a checkpoint."""
    records = [*WHOLE[: number - 1], *WHOLE[number:]]
    assert shown(judged(records)) == found(("GAP", number, number))


def test_records_whose_numbers_are_swapped() -> None:
    """Both are named, with the old hashes and with new ones."""
    third, fourth = WHOLE[2], WHOLE[3]
    a = with_attributes(fourth, **{"audit.sequence.number": 3})
    b = with_attributes(third, **{"audit.sequence.number": 4})
    assert shown(judged([*WHOLE[:2], a, b, *WHOLE[4:]])) == found(("MODIFIED", 3, 4))
    # Placed and linked anew as well: then it is the record after them that tells.
    chain = Chain(STREAM, 2, place(WHOLE[1]).head)
    first, chain = chain.append(event(3))
    second, chain = chain.append(event(2))
    assert shown(judged([*WHOLE[:2], first, second, *WHOLE[4:]])) == found(("MODIFIED", 4, 4))


def test_a_repeated_record() -> None:
    """Is a note, however often it came."""
    report = judged([*WHOLE, WHOLE[3], *WHOLE[6:8], WHOLE[3]])
    assert shown(report) == [("DUPLICATE", STREAM, ((4, 4), (7, 8)))]
    assert report.ok
    assert report.streams[0].records == LAST


def test_a_changed_copy_beside_an_intact_one() -> None:
    """The changed one is named, and it is no conflict."""
    other = msgspec.structs.replace(WHOLE[3], body="nothing happened")
    assert shown(judged([*WHOLE, other])) == found(("MODIFIED", 4, 4))


@pytest.mark.parametrize("last", range(1, LAST))
def test_tail_cut_found_against_anchor(last: int) -> None:
    """All that is missing is named; what no signature reaches any more is a note."""
    anchor = place(WHOLE[-1])
    report = judged(WHOLE[:last], anchors=[anchor])
    assert [each for each in shown(report) if "UNSIGNED" not in each[0]] == found(("TRUNCATED", last + 1, LAST))
    assert not report.ok
    assert judged(WHOLE[:last]).ok  # nobody could know


def test_a_splice_from_another_stream() -> None:
    """Records of another stream don't fit in, with old hashes or new ones."""
    other = signed_stream(OTHER)
    moved = [with_attributes(each, audit__sequence__stream_id=STREAM) for each in other[5:8]]
    assert shown(judged([*WHOLE[:5], *moved, *WHOLE[8:]])) == found(("MODIFIED", 6, 8))
    chain = Chain(STREAM, 5, place(WHOLE[4]).head)
    spliced = []
    for each in (event(70), event(71), event(72)):
        record, chain = chain.append(each)
        spliced.append(record)
    assert shown(judged([*WHOLE[:5], *spliced, *WHOLE[8:]])) == found(("MODIFIED", 8, 8))


def test_a_whole_stream_missing() -> None:
    """The stream that was opened next tells; if that is missing too, an anchor does."""
    second = signed_stream(OTHER, previous=place(WHOLE[-1]))
    assert shown(judged([*WHOLE, *second])) == []
    assert shown(judged(second)) == found(("MISSING_STREAM", 1, LAST))
    third = place(WHOLE[4])
    assert shown(judged([], anchors=[third])) == found(("MISSING_STREAM", 1, 5))


def test_the_end_of_the_previous_stream_missing() -> None:
    """The stream that was opened next tells."""
    second = signed_stream(OTHER, previous=place(WHOLE[-1]))
    assert shown(judged([*WHOLE[:9], *second])) == found(("TRUNCATED", 10, LAST))


def idle() -> list[AuditRecord]:
    """1 opened, 2-3 events, 4-6 checkpoints, 7-8 events, 9 closed, 10 checkpoint."""
    writer = Writer()
    writer.append(housekeeping.stream_open(stamp(0), resource=RESOURCE))
    writer.events(2)
    for _ in range(3):
        writer.checkpoint()
    writer.events(2)
    writer.append(housekeeping.stream_close(stamp(9), reason="shutdown"))
    writer.checkpoint()
    return writer.records


def chained_anew(records: list[AuditRecord]) -> list[AuditRecord]:
    """As somebody leaves them who knows the format and has no key: renumbered and linked, with hashes that fit."""
    chain = Chain(STREAM)
    made = []
    for record in records:
        attributes = {
            name: value
            for name, value in record.attributes.items()
            if not name.startswith(("audit.sequence.", "audit.integrity."))
        }
        again, chain = chain.append(msgspec.structs.replace(record, attributes=attributes))
        made.append(again)
    return made


def test_two_adjacent_checkpoints_deleted() -> None:
    """A gap of two; linked anew, what was signed later does not fit."""
    stream = idle()
    assert shown(judged(stream)) == []
    without = [*stream[:3], *stream[5:]]
    assert shown(judged(without)) == found(("GAP", 4, 5))
    # The checkpoints that were 6 and 10 are 4 and 8 now, and say that others stood before them.
    assert shown(judged(chained_anew(without))) == [
        ("MODIFIED", STREAM, ((4, 4), (8, 8))),
        ("UNSIGNED_STREAM", STREAM, ()),
    ]


def test_all_checkpoints_deleted_and_chained_anew() -> None:
    """Nothing in the stream can tell, which is said; an anchor can."""
    rewritten = chained_anew([each for each in idle() if each.event_name != "audit.checkpoint"])
    report = judged(rewritten)
    assert shown(report) == [("UNSIGNED_STREAM", STREAM, ())]
    assert report.ok
    assert not judged(rewritten, require_signed=True).ok
    anchored = judged(rewritten, anchors=[place(idle()[3])])
    assert [each[0] for each in shown(anchored)] == ["CONFLICT", "UNSIGNED_STREAM"]


def test_a_history_written_anew_up_to_a_signed_checkpoint() -> None:
    """It does not lead to what was signed."""
    rewritten = chained_anew([WHOLE[0], event(66), *WHOLE[2:4]])
    assert shown(judged([*rewritten, *WHOLE[4:]])) == found(("MODIFIED", 4, 4))


def test_an_end_written_anew() -> None:
    """Shows as unsigned; an anchor tells."""
    rewritten = [*WHOLE[:5], *branch(6, 6)]
    assert shown(judged(rewritten)) == found(("UNSIGNED_TAIL", 6, LAST))
    report = judged(rewritten, anchors=[place(WHOLE[7])])
    assert shown(report) == found(("CONFLICT", 8, 8), ("UNSIGNED_TAIL", 6, LAST))
    assert not report.ok


def branch(number: int, count: int) -> list[AuditRecord]:
    writer = Writer()
    before = place(WHOLE[number - 2])
    writer.chain = Chain(STREAM, before.number, before.head)
    for extra in range(count):
        writer.append(event(100 + extra))
    return writer.records


def test_a_conflict() -> None:
    """Two records with one number, each whole in itself."""
    assert shown(judged([*WHOLE, *branch(4, 1)])) == found(("CONFLICT", 4, 4))


def test_a_fork() -> None:
    """Two chains that go on with the same numbers, as long as both do."""
    assert shown(judged([*WHOLE, *branch(4, 3)])) == found(("FORK", 4, 6))
    beyond = judged([*WHOLE[:5], *branch(4, 5)])
    assert shown(beyond) == found(("FORK", 4, 5), ("UNSIGNED_TAIL", 6, 8))


def test_a_record_that_lost_its_place() -> None:
    """Without any of it, it is a gap and in no chain; with a part of it, it is modified, too."""
    names = ("audit__sequence__stream_id", "audit__sequence__number", "audit__sequence__prev_hash")
    bare = with_attributes(WHOLE[3], **dict.fromkeys(names))
    report = judged(changed(4, bare))
    assert shown(report) == found(("GAP", 4, 4))
    assert report.unchained == 1
    for name in names[1:]:
        part = judged(changed(4, with_attributes(WHOLE[3], **{name: None})))
        assert shown(part) == [("MODIFIED", STREAM, ()), ("GAP", STREAM, ((4, 4),))]
    nowhere = judged(changed(4, with_attributes(WHOLE[3], audit__sequence__stream_id=None)))
    assert shown(nowhere) == [("MODIFIED", "", ()), ("GAP", STREAM, ((4, 4),))]


def test_a_number_far_off_opens_no_gap() -> None:
    """It is the record that is named, and where it is missing."""
    far = with_attributes(WHOLE[3], audit__sequence__number=2**62)
    assert shown(judged(changed(4, far))) == found(("GAP", 4, 4), ("MODIFIED", 2**62, 2**62))


@given(st.data())
def test_the_report_does_not_depend_on_the_order(data: st.DataObject) -> None:
    """Whatever was done, any permutation of the copies gives the same report."""
    pool = [
        *WHOLE,
        *signed_stream(OTHER, previous=Anchor(STREAM, 12, "ab" * 32)),
        *branch(4, 3),
        *branch(9, 1),
        with_attributes(WHOLE[3], audit__actor__id="x"),
        rehashed(with_attributes(WHOLE[5], audit__actor__id="x")),
        with_attributes(WHOLE[6], audit__sequence__number="7"),
        rehashed(with_attributes(WHOLE[0], audit__stream__resource={"service.name": "billing"})),
        rehashed(with_attributes(WHOLE[0], audit__stream__resource={"service.name": "x"}, host__name="h")),
    ]
    some = data.draw(st.lists(st.sampled_from(range(len(pool))), max_size=40))
    others = data.draw(st.permutations(some))
    assert judged(pool[each] for each in some) == judged(pool[each] for each in others)
