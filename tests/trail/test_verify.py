"""What the report says of keys, anchors, resources and of what it can't know; what is kept of a record."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.record.values import AnyValue
from bridge.trail import housekeeping
from bridge.trail.canonical import AuditRecord
from bridge.trail.chain import Anchor
from bridge.trail.evidence import Evidence
from bridge.trail.findings import Finding, Kind, Numbers
from bridge.trail.verify import Verifier
from tests.trail.chains import (
    KEY,
    OTHER,
    RECORDS,
    RESOURCE,
    STREAM,
    Writer,
    check,
    event,
    judged,
    place,
    rehashed,
    shown,
    sign,
    signed_stream,
    stamp,
    with_attributes,
)

WHOLE = signed_stream()


# -- keys -------------------------------------------------------------------------------------------------------------


def test_a_stream_that_nobody_signed() -> None:
    """Is a note, or a finding if signatures are required."""
    writer = Writer()
    writer.append(housekeeping.stream_open(stamp(0), resource=RESOURCE))
    writer.append(housekeeping.checkpoint(stamp(1), writer.chain))
    expected = [("UNSIGNED_STREAM", STREAM, ())]
    assert shown(judged(writer.records)) == expected
    assert judged(writer.records).ok
    required = judged(writer.records, require_signed=True)
    assert shown(required) == expected
    assert [str(each.kind) for each in required.findings] == ["UNSIGNED_STREAM"]


def test_signatures_without_keys() -> None:
    """Count as none, and the report says that they are there."""
    report = judged(WHOLE, verify=None)
    assert shown(report) == [("UNSIGNED_STREAM", STREAM, ())]
    assert "3 signatures, and no keys" in report.notes[0].words
    assert "without keys: who wrote the streams" in report.unknown
    assert not judged(WHOLE, verify=None, require_signed=True).ok


def test_an_unsigned_tail() -> None:
    """Begins after the last signed checkpoint, which comes right after what it signs."""
    assert shown(judged(WHOLE[:5])) == []
    assert shown(judged(WHOLE[:8])) == [("UNSIGNED_TAIL", STREAM, ((6, 8),))]
    assert judged(WHOLE[:8]).ok
    assert not judged(WHOLE[:8], require_signed=True).ok


def test_an_unknown_key() -> None:
    """Is a finding, and all that it signed counts as unsigned no second time."""
    writer = Writer()
    writer.events(2)
    writer.checkpoint("key-9")
    writer.events(1)
    writer.checkpoint("key-9")
    report = judged(writer.records)
    assert shown(report) == [("UNKNOWN_KEY", STREAM, ((3, 3), (5, 5)))]
    assert "'key-9'" in report.findings[0].words
    assert report.streams[0].signed_to == 0


def test_a_wrong_signature() -> None:
    """Names the checkpoint; its own hash fits."""
    writer = Writer()
    writer.events(2)
    record = housekeeping.checkpoint(stamp(1), writer.chain, key_id=KEY, sign=lambda message: sign(message, "key-9"))
    writer.append(record)
    report = judged(writer.records)
    assert shown(report) == [("MODIFIED", STREAM, ((3, 3),))]
    assert "not one of key 'key-1'" in report.findings[0].words


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("number", 1),
        ("number", None),
        ("head", "00" * 32),
        ("stream_id", OTHER),
        ("canonicalization", "2"),
        ("signature", "no hex"),
    ],
)
def test_a_checkpoint_that_says_what_is_not_so(name: str, value: AnyValue) -> None:
    """Names it, signed or not."""
    writer = Writer()
    writer.events(2)
    made = housekeeping.checkpoint(stamp(1), writer.chain, key_id=KEY, sign=sign)
    changed: Any = {f"audit__checkpoint__{name}": value}
    writer.append(with_attributes(made, **changed))
    assert shown(judged(writer.records))[0] == ("MODIFIED", STREAM, ((3, 3),))


def handed_over(signature: Any = None, *, by: str = KEY) -> list[AuditRecord]:
    """1-2 events, 3 checkpoint, 4 key change, 5 checkpoint by the new key."""
    writer = Writer()
    writer.events(2)
    writer.checkpoint()
    record = housekeeping.key_change(
        stamp(4), writer.chain, key_id=by, new_key_id="key-2", new_public=b"\x02", sign=lambda m: sign(m, by)
    )
    writer.append(record if signature is None else with_attributes(record, audit__key__signature=signature))
    writer.checkpoint("key-2")
    return writer.records


def test_a_key_change() -> None:
    """Brings in a key, which counts once it is given too."""
    report = judged(handed_over())
    assert shown(report) == [("UNKNOWN_KEY", STREAM, ((5, 5),))]
    assert "a record that key 'key-1' signed brings it in" in report.findings[0].words
    assert "keys that signed records bring in, and that count only if given: key-2" in report.streams[0].unknown
    assert report.streams[0].signed_to == 3

    def both(key_id: str, signature: bytes, message: bytes) -> bool | None:
        return signature == sign(message, key_id)

    assert shown(judged(handed_over(), verify=both)) == []


@pytest.mark.parametrize("signature", ["00", "no hex"])
def test_a_key_change_with_a_wrong_signature(signature: str) -> None:
    """Brings in nothing."""
    report = judged(handed_over(signature))
    assert shown(report) == [("MODIFIED", STREAM, ((4, 4),)), ("UNKNOWN_KEY", STREAM, ((5, 5),))]
    assert not any("bring" in each for each in (report.findings[1].words, *report.streams[0].unknown))


def test_key_changes_that_nobody_or_nobody_known_signed() -> None:
    """Bring in nothing."""
    assert shown(judged(handed_over(""))) == [("UNKNOWN_KEY", STREAM, ((5, 5),))]
    assert [each[::2] for each in shown(judged(handed_over(by="key-8")))] == [
        ("UNKNOWN_KEY", ((4, 4),)),
        ("UNKNOWN_KEY", ((5, 5),)),
    ]


def test_an_applications_event_with_a_name_of_the_trails() -> None:
    """Is an event like any other."""
    writer = Writer()
    for name in ("audit.checkpoint", "audit.stream.close", "audit.key.change"):
        writer.append(msgspec.structs.replace(event(1), event_name=name))
    report = judged(writer.records)
    assert shown(report) == [("UNSIGNED_STREAM", STREAM, ())]
    assert not report.streams[0].closed


# -- anchors ----------------------------------------------------------------------------------------------------------


def test_an_anchor_that_fits() -> None:
    """Proves what comes before it."""
    report = judged(WHOLE, anchors=[place(WHOLE[6]), place(WHOLE[3]), Anchor(OTHER, 0, "")])
    assert shown(report) == []
    assert report.streams[0].anchored_to == 7
    assert report.unknown == ()


@pytest.mark.parametrize("head", ["00" * 32, "no hex", ""])
def test_an_anchor_that_says_otherwise(head: str) -> None:
    """Is a conflict with the record, and with the next one if the record is missing."""
    anchor = Anchor(STREAM, 4, head)
    assert shown(judged(WHOLE, anchors=[anchor])) == [("CONFLICT", STREAM, ((4, 4),))]
    report = judged([*WHOLE[:3], *WHOLE[4:]], anchors=[anchor])
    assert shown(report) == [("CONFLICT", STREAM, ((4, 4),)), ("GAP", STREAM, ((4, 4),))]
    fitting = judged([*WHOLE[:3], *WHOLE[4:]], anchors=[place(WHOLE[3])])
    assert shown(fitting) == [("GAP", STREAM, ((4, 4),))]
    assert fitting.streams[0].anchored_to == 4


def test_what_was_retired() -> None:
    """Is no gap, and the rest must follow it."""
    retired = msgspec.structs.replace(place(WHOLE[4]), retired=True)
    assert shown(judged(WHOLE[5:], anchors=[retired])) == []
    assert shown(judged(WHOLE[6:], anchors=[retired])) == [("GAP", STREAM, ((6, 6),))]
    assert shown(judged([], anchors=[retired])) == []
    assert shown(judged([*WHOLE[:2], *WHOLE[5:]], anchors=[retired])) == []
    other = msgspec.structs.replace(retired, head="00" * 32)
    assert shown(judged(WHOLE[5:], anchors=[other])) == [("CONFLICT", STREAM, ((5, 5),))]


def test_a_first_record_that_is_not_the_first() -> None:
    """Names one before it."""
    writer = Writer()
    writer.chain = msgspec.structs.replace(writer.chain, head="ab" * 32)
    writer.events(2)
    assert shown(judged(writer.records, verify=None))[0] == ("MODIFIED", STREAM, ((1, 1),))


# -- resources, readers, forms ----------------------------------------------------------------------------------------


def test_records_under_another_resource() -> None:
    """Is found, and names what differs; what a collector added does not."""
    verifier = Verifier(verify=check)
    for number, record in enumerate(WHOLE):
        service: AnyValue = "billing" if number == 4 else "orders"
        verifier.add(record, resource={**RESOURCE, "service.name": service, "host.name": "node-7"})
    report = verifier.report()
    assert shown(report) == [("MODIFIED", STREAM, ())]
    assert report.findings[0].words.endswith(": service.name")


def test_a_resource_that_cannot_be_read() -> None:
    """Is another one, and no crash."""
    verifier = Verifier(verify=check)
    for record in WHOLE:
        verifier.add(record, resource={"service.name": "\ud800"})
    assert shown(verifier.report()) == [("MODIFIED", STREAM, ())]


def test_resources_that_were_not_told() -> None:
    """Are something that could not be known, as is a stream without its first record."""
    verifier = Verifier(verify=check)
    for record in WHOLE:
        verifier.add(record)
    assert any("their reader did not tell" in each for each in verifier.report().streams[0].unknown)
    assert any("no opening record" in each for each in judged(WHOLE[1:]).streams[0].unknown)


def test_what_a_reader_saw_and_a_record_cannot_hold() -> None:
    """Makes the copy a modified one."""
    verifier = Verifier(verify=check)
    for number, record in enumerate(WHOLE, 1):
        verifier.add(record, resource=RESOURCE, defect="audit.actor.id is there twice" if number in (3, 4) else "")
    report = verifier.report()
    assert shown(report) == [("MODIFIED", STREAM, ((3, 4),))]
    assert "audit.actor.id is there twice" in report.findings[0].words


def test_a_copy_that_cannot_be_hashed() -> None:
    """Is modified, and fills its place; two of them are not known to be the same."""
    other = msgspec.structs.replace(WHOLE[3], body="\ud800")
    report = judged([*WHOLE[:3], other, other, *WHOLE[4:]])
    assert shown(report) == [("MODIFIED", STREAM, ((4, 4),))]
    assert "surrogates" in report.findings[0].words


def test_a_stream_in_a_form_of_another_release() -> None:
    """Does not fit, and the report says why that may be."""
    first = with_attributes(WHOLE[0], audit__stream__canonicalization="2")
    report = judged([first, *WHOLE[1:]])
    assert shown(report) == [("MODIFIED", STREAM, ((1, 1),))]
    assert "what canonical form 2 is: this release knows 1" in report.streams[0].unknown


@pytest.mark.parametrize("previous", ["xx" * 32, "ab", 5, "", "AB" * 32])
def test_a_previous_hash_in_no_known_form(previous: AnyValue) -> None:
    """Fits no record, even under a hash of its own that fits."""
    other = rehashed(with_attributes(WHOLE[3], audit__sequence__prev_hash=previous))
    assert not judged([*WHOLE[:3], other, *WHOLE[4:]]).ok


def test_an_opening_record_that_names_its_previous_stream_in_no_known_form() -> None:
    """Names none."""
    writer = Writer()
    made = housekeeping.stream_open(stamp(0), resource=RESOURCE, previous=Anchor(OTHER, 3, "ab" * 32))
    writer.append(with_attributes(made, audit__stream__previous__number="3", audit__stream__resource="none"))
    assert shown(judged(writer.records)) == [("UNSIGNED_STREAM", STREAM, ())]


def test_attributes_that_were_added() -> None:
    """Are named, be there a hash or not."""
    for record in (WHOLE[3], with_attributes(WHOLE[3], audit__integrity__hash=None), rehashed(WHOLE[3])):
        added = with_attributes(record, host__name="node-7")
        report = judged([*WHOLE[:3], added, *WHOLE[4:]])
        assert shown(report) == []
        assert "attributes that no hash covers, added on the way or by anybody: host.name" in report.streams[0].unknown


def test_records_in_no_chain() -> None:
    """Are counted, and nothing is said of them."""
    report = judged([event(1), event(2)])
    assert (report.streams, report.unchained, report.ok) == ((), 2, True)
    assert "2 records are in no chain; nothing was checked of them" in report.unknown


def test_whether_a_stream_went_on() -> None:
    """Can't be known unless it was closed, or an anchor reaches its end."""
    went_on = "whether it went on after record 8: it was not closed, and no anchor reaches there"
    assert went_on in judged(WHOLE[:8]).streams[0].unknown
    assert went_on not in judged(WHOLE[:8], anchors=[place(WHOLE[7])]).streams[0].unknown
    assert judged(WHOLE).streams[0].unknown == ()


def test_hashes_that_got_lost() -> None:
    """Are counted; the chain proves the records all the same."""
    report = judged([with_attributes(each, audit__integrity__hash=None) for each in WHOLE])
    assert shown(report) == []
    assert any(each.startswith("11 records came without a hash") for each in report.streams[0].unknown)


def test_memory_for_what_is_added_is_bounded() -> None:
    """However many names and resources come by."""
    verifier = Verifier(verify=check)
    for number, record in enumerate(WHOLE):
        more: dict[str, AnyValue] = {f"added.{number}.{each}": 1 for each in range(100)}
        for each in range(30):
            verifier.add(
                msgspec.structs.replace(record, attributes={**record.attributes, **more}),
                resource={**RESOURCE, "n": each * 100 + number},
            )
    report = verifier.report()
    assert report.ok
    assert max(len(each) for each in report.streams[0].unknown) < 3_000


@given(st.lists(st.tuples(RECORDS, st.integers(0, 12), st.sampled_from([STREAM, OTHER, "", 5]))))
def test_nothing_in_a_record_makes_it_raise(some: list[tuple[AuditRecord, int, Any]]) -> None:
    """Whatever it holds, and whatever it says of itself."""
    verifier = Verifier(verify=check)
    for record, index, stream_id in some:
        scope, name = ("bridge.trail", WHOLE[index % 11].event_name) if index < 11 else (record.scope, "")
        own = {**WHOLE[index % 11].attributes, **record.attributes, "audit.sequence.stream_id": stream_id}
        made = rehashed(msgspec.structs.replace(record, scope=scope, event_name=name, attributes=own))
        verifier.add(made, resource=record.attributes)
        verifier.add(record)
    for finding in verifier.report().findings:
        assert str(finding)


# -- what is kept -----------------------------------------------------------------------------------------------------


def test_bytes_kept_a_record() -> None:
    """41 if each comes right after the one before it, 77 if not."""
    writer = Writer()
    writer.events(1_000)
    in_order, reversed_ = Verifier(), Verifier()
    for record in writer.records:
        in_order.add(record)
    for record in reversed(writer.records):
        reversed_.add(record)
    assert in_order.size == 41 * 1_000 + 36
    assert reversed_.size == 77 * 1_000
    assert in_order.report() == reversed_.report()


def test_evidence_gives_back_what_came() -> None:
    """By number, each hash once, copies counted."""
    hashes = [bytes([each]) * 32 for each in range(10)]
    kept = Evidence()
    for number, digest, previous, wrong in ((3, 3, 2, False), (4, 4, 3, False), (1, 1, 0, False), (4, 4, 3, False)):
        kept.add(number, hashes[digest], hashes[previous], wrong=wrong)
    kept.add(4, hashes[9], hashes[3], wrong=True)
    kept.add(4, hashes[5], hashes[1], wrong=False)
    kept.add(6, hashes[6], hashes[5], bare=True)
    groups = [(each.number, each.whole, each.wrong, each.repeated, each.bare) for each in kept.groups()]
    assert groups == [
        (1, {hashes[1]: hashes[0]}, 0, 0, False),
        (3, {hashes[3]: hashes[2]}, 0, 0, False),
        (4, {hashes[4]: hashes[3], hashes[5]: hashes[1]}, 1, 1, False),
        (6, {hashes[6]: hashes[5]}, 0, 0, True),
    ]
    assert (len(kept), kept.highest_whole, kept.bare) == (7, 6, 1)
    assert list(Evidence().groups()) == []


def test_numbers_become_ranges() -> None:
    """Those beyond what is kept are counted."""
    numbers = Numbers()
    numbers.add(1)
    numbers.add(1)
    numbers.add(2, 5)
    numbers.add(4, 6)
    numbers.add(9)
    [finding] = numbers.finding(Kind.GAP, "s", "missing")
    assert finding == Finding(Kind.GAP, "s", "missing", 7, ((1, 6), (9, 9)))
    assert str(finding) == "GAP s [1-6, 9]: missing"
    many = Numbers()
    for each in range(0, 5_000, 2):
        many.add(each)
    many.add(5_000, 5_001)
    [finding] = many.finding(Kind.GAP, "", "missing")
    assert (finding.count, len(finding.ranges)) == (2_502, 1_000)
    assert str(finding).startswith("GAP (no stream) [0, 2, 4,")
    assert str(finding).endswith("38, …]: missing")
    assert Numbers().finding(Kind.GAP, "s", "missing") == []
    left = numbers.without(many)
    assert left.finding(Kind.GAP, "s", "")[0].ranges == ((1, 1), (3, 3), (5, 5), (9, 9))
