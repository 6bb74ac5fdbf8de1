"""The bytes that are hashed: RFC 8785 of what the specification names, and nothing that a hop may change."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import struct
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from bridge.record.values import AnyValue
from bridge.trail import canonical
from bridge.trail.canonical import (
    AuditRecord,
    canonical_bytes,
    covered,
    double_text,
    hash_of,
    mapping_bytes,
    must_list,
    uncovered,
)
from tests.trail.chains import NAMES, RECORDS, TEXTS, VALUES, event
from tests.trail.otlp import record_from_json

GOLDEN = json.loads((Path(__file__).parent / "golden.json").read_text())

ALWAYS_HASHED = (
    "is_audit log.record.uid client.address user_agent.original session.id user.id request.id code.file.path "
    "code.function.name code.line.number code.stacktrace thread.id thread.name exception.type exception.message "
    "exception.stacktrace"
).split()


# -- against an oracle: the specification in plain words, and somebody else's RFC 8785 --------------------------------


def plain_value(value: AnyValue) -> Any:
    if value is None or value == "" or value == b"" or value == () or value == {}:
        return None
    if isinstance(value, bool):
        return {"boolValue": json.dumps(value)}
    if isinstance(value, int):
        return {"intValue": str(value)}
    if isinstance(value, float):
        special = math.isnan(value) or math.isinf(value)
        text = json.dumps(value) if special else rfc8785.dumps(value).decode()
        return {"doubleValue": text}
    if isinstance(value, str):
        return {"stringValue": value}
    if isinstance(value, bytes):
        return {"bytesValue": base64.standard_b64encode(value).decode()}
    if isinstance(value, dict):
        members = plain_members(value)
        return {"kvlistValue": members} if members else None
    return {"arrayValue": [plain_value(each) or {} for each in value]}


def plain_members(mapping: Mapping[str, AnyValue]) -> dict[str, Any]:
    told = {key: plain_value(value) for key, value in mapping.items()}
    return {key: value for key, value in told.items() if value is not None}


def plain_form(record: AuditRecord) -> dict[str, Any]:
    listed = record.attributes.get("audit.sequence.covered")
    listed = listed if isinstance(listed, tuple) else ()
    counting = {
        name: value
        for name, value in record.attributes.items()
        if not name.startswith("audit.integrity.")
        and (name.startswith("audit.") or name in ("", *ALWAYS_HASHED) or name in listed)
    }
    form: dict[str, Any] = {
        "attributes": plain_members(counting),
        "body": plain_value(record.body),
        "canonicalization": "1",
    }
    for name in ("event_name", "scope", "severity_text"):
        form[name] = getattr(record, name)
    for name in ("observed_timestamp", "timestamp", "severity_number", "trace_flags"):
        form[name] = str(getattr(record, name) or "")
    for name in ("trace_id", "span_id"):
        text = getattr(record, name)
        form[name] = text if text.strip("0") else ""
    return {name: value for name, value in form.items() if value}


@given(RECORDS)
def test_canonical_bytes_are_rfc_8785(record: AuditRecord) -> None:
    """Whatever the record, the bytes are another implementation's of the object that the specification names."""
    assert canonical_bytes(record) == rfc8785.dumps(plain_form(record))


@given(st.dictionaries(TEXTS, VALUES, max_size=5))
def test_a_map_by_itself(mapping: dict[str, AnyValue]) -> None:
    """All of it counts, whatever its names are."""
    assert mapping_bytes(mapping) == rfc8785.dumps(plain_members(mapping))


@given(st.floats(allow_nan=False, allow_infinity=False) | st.integers(-400, 400).map(lambda n: 1.5 * 2.0**n))
def test_doubles_as_ecmascript_writes_them(number: float) -> None:
    """The shortest digits that read back as the same double, in the notation of RFC 8785."""
    text = double_text(number)
    assert text == rfc8785.dumps(number).decode()
    assert float(text) == number


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (math.nan, "NaN"),
        (struct.unpack("<d", b"\x01\0\0\0\0\0\xf8\xff")[0], "NaN"),
        (math.inf, "Infinity"),
        (-math.inf, "-Infinity"),
        (0.0, "0"),
        (-0.0, "0"),
        (1.0, "1"),
        (-1.5, "-1.5"),
        (1e20, "100000000000000000000"),
        (1.2345678901234567e20, "123456789012345670000"),
        (1e21, "1e+21"),
        (1e-6, "0.000001"),
        (-1.25e-6, "-0.00000125"),
        (1e-7, "1e-7"),
        (5e-324, "5e-324"),
        (sys.float_info.max, "1.7976931348623157e+308"),
    ],
)
def test_special_doubles(number: float, text: str) -> None:
    """What JSON has no number for has a name, and zero has no sign."""
    assert double_text(number) == text


# -- golden vectors ---------------------------------------------------------------------------------------------------


def test_there_are_golden_vectors_for_everything() -> None:
    """At least twenty, with names of their own."""
    assert len({each["name"] for each in GOLDEN}) == len(GOLDEN) >= 20


@pytest.mark.parametrize("vector", GOLDEN, ids=lambda each: each["name"])
def test_golden_vector(vector: dict[str, Any]) -> None:
    """Bytes and hash are what they were when version 1 was fixed: trails on disks depend on it."""
    record = record_from_json(vector["record"], vector["scope"])
    assert canonical_bytes(record).decode() == vector["canonical"]
    assert hash_of(record) == hashlib.sha256(vector["canonical"].encode()).hexdigest() == vector["sha256"]


# -- what is the same -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("nothing", [None, "", b"", (), {}, {"a": ""}, {"a": {"b": None}}], ids=repr)
def test_absent_and_empty_are_the_same(nothing: AnyValue) -> None:
    """As attribute, as member of a map, as body: hops turn one into the other."""
    record = event(1)
    assert canonical_bytes(event(1, **{"audit.metadata.note": nothing})) == canonical_bytes(record)
    outer: AnyValue = {"a": 1, "note": nothing}
    assert canonical_bytes(event(1, session=outer)) == canonical_bytes(event(1, session={"a": 1}))
    assert canonical_bytes(AuditRecord(body=nothing)) == canonical_bytes(AuditRecord()) == b'{"canonicalization":"1"}'


@pytest.mark.parametrize("nothing", [None, "", b"", (), {}, {"a": ""}], ids=repr)
def test_in_an_array_the_place_is_kept(nothing: AnyValue) -> None:
    """An empty element counts as one, whichever it is."""
    assert canonical_bytes(AuditRecord(body=(nothing, "a"))) == canonical_bytes(AuditRecord(body=(None, "a")))
    assert canonical_bytes(AuditRecord(body=(nothing, "a"))) != canonical_bytes(AuditRecord(body=("a",)))
    assert canonical_bytes(AuditRecord(body=(nothing,))) != canonical_bytes(AuditRecord(body=()))


def test_values_that_are_no_absence() -> None:
    """False and zero are said, and OTLP keeps them."""
    bodies: list[AnyValue] = [None, False, 0, 0.0, "0", "false", True, 1, "1", b"1", (1,), {"1": 1}, 1.5]
    assert len({canonical_bytes(AuditRecord(body=each)) for each in bodies}) == len(bodies)


def test_lists_are_as_good_as_tuples() -> None:
    """JSON readers give lists."""
    body: Any = [1, ["a", {"k": [2]}]]
    assert canonical_bytes(AuditRecord(body=body)) == canonical_bytes(AuditRecord(body=(1, ("a", {"k": (2,)}))))


def test_ids_of_zeros_are_none() -> None:
    """As OTLP has it."""
    assert canonical_bytes(AuditRecord(trace_id="0" * 32, span_id="0" * 16)) == canonical_bytes(AuditRecord())


@given(RECORDS, st.randoms(use_true_random=False))
def test_the_order_of_attributes_does_not_count(record: AuditRecord, random: Any) -> None:
    """At no level."""

    def shuffled(value: AnyValue) -> AnyValue:
        if isinstance(value, dict):
            items = list(value.items())
            random.shuffle(items)
            return {key: shuffled(each) for key, each in items}
        return tuple(shuffled(each) for each in value) if isinstance(value, tuple) else value

    attributes = shuffled(dict(record.attributes))
    body = shuffled(record.body)
    other = msgspec.structs.replace(record, attributes=attributes, body=body)
    assert canonical_bytes(other) == canonical_bytes(record)


# -- which attributes count -------------------------------------------------------------------------------------------


def with_list(**attributes: AnyValue) -> AuditRecord:
    given = {name.replace("__", "."): value for name, value in attributes.items()}
    return AuditRecord(attributes={"audit.action": "x", "amount": 7, "audit.sequence.covered": ("amount",), **given})


def test_attributes_that_are_added_on_the_way_do_not_count() -> None:
    """But they are named."""
    added = with_list(host__name="h", k8s__pod__name="p", audit__integrity__hash="x", audit__integrity__more="y")
    assert hash_of(added) == hash_of(with_list())
    assert uncovered(added.attributes) == ["audit.integrity.more", "host.name", "k8s.pod.name"]
    assert uncovered(with_list().attributes) == []


@pytest.mark.parametrize("name", [*ALWAYS_HASHED, "audit.actor.id", "audit.anything", "audit.integrity", ""])
def test_nobody_can_add_who_and_from_where(name: str) -> None:
    """These names count whether the record lists them or not."""
    added = msgspec.structs.replace(with_list(), attributes={**with_list().attributes, name: "x"})
    assert hash_of(added) != hash_of(with_list())
    assert must_list([name]) == []


@pytest.mark.parametrize(
    "other",
    [
        with_list(amount=8),
        with_list(amount=None),
        with_list(amount="7"),
        with_list(audit__sequence__covered=()),
        with_list(audit__sequence__covered=("amount", "host.name")),
        with_list(audit__sequence__covered=("sum",), amount=None, sum=7),
        with_list(amount=None, sum=7),
        with_list(audit__sequence__covered="amount"),
        with_list(audit__sequence__covered=("amount", 1)),
        with_list(audit__sequence__covered=("amount", {"a": 1})),
    ],
)
def test_what_is_listed_is_proven_and_so_is_the_list(other: AuditRecord) -> None:
    """Changed, removed, renamed, or listed otherwise: another hash."""
    assert hash_of(other) != hash_of(with_list())


@given(st.lists(NAMES, unique=True), st.lists(NAMES | st.none() | st.integers(), max_size=4))
def test_every_attribute_is_proven_or_named(some: list[str], listed: list[Any]) -> None:
    """A changed value changes the hash, or the attribute is among the uncovered, or it is the hash."""
    before: dict[str, AnyValue] = dict.fromkeys(some, "x")
    before["audit.sequence.covered"] = tuple(listed)
    free = {*uncovered(before), "audit.integrity.hash"}
    for name in some:
        changed = {**before, name: "y"}
        same = hash_of(AuditRecord(attributes=changed)) == hash_of(AuditRecord(attributes=before))
        assert same == (name in free or (name == "audit.sequence.covered" and changed == before))


def test_covered_names() -> None:
    """Texts in a list; anything else lists nothing."""
    assert covered({"audit.sequence.covered": ("a", None, 1, "b")}) == {"a", "b"}
    assert covered({"audit.sequence.covered": "a"}) == covered({}) == frozenset()


def test_memory_for_names_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Records that each have other names, or very long ones, leave nothing behind for good."""
    plans: dict[Any, Any] = {}
    monkeypatch.setattr(canonical, "_PLANS", plans)
    for number in range(2_000):
        canonical_bytes(AuditRecord(attributes={f"audit.{number}": 1}))
        assert len(plans) <= 512
    plans.clear()
    canonical_bytes(AuditRecord(attributes={"x" * 5_000: 1}))
    canonical_bytes(AuditRecord(attributes={"a": 1, "audit.sequence.covered": ("x" * 5_000,)}))
    canonical_bytes(AuditRecord(attributes={"a": 1, "audit.sequence.covered": ({"a": 1},)}))
    assert plans == {}


# -- what can't be hashed ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "record",
    [
        AuditRecord(body="\ud800"),
        AuditRecord(scope="\udc80"),
        AuditRecord(attributes={"audit.x": "\ud800"}),
        AuditRecord(attributes={"audit.\ud800": "x"}),
        AuditRecord(body={"\ud800": 1}),
    ],
)
def test_text_that_is_no_unicode_is_refused(record: AuditRecord) -> None:
    """Lone surrogates are escaped when a record is captured; here they are an error."""
    with pytest.raises(ValueError, match="surrogates not allowed"):
        canonical_bytes(record)


def test_what_is_no_any_value_is_refused() -> None:
    """Values are to be frozen before."""
    body: Any = {"a": {1, 2}}
    with pytest.raises(TypeError, match="no AnyValue: set"):
        canonical_bytes(AuditRecord(body=body))


def test_nesting_without_end_is_refused() -> None:
    """With the error that says so, not with a crash."""
    body: AnyValue = ()
    for _ in range(100_000):
        body = (body,)
    with pytest.raises(RecursionError):
        canonical_bytes(AuditRecord(body=body))
