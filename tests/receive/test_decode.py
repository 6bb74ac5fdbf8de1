"""What both decoders make of a request: the same events from protobuf as from JSON."""

import json
import math
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest, ExportLogsServiceResponse

from bridge.receive import records
from bridge.receive.decode import decode_protobuf, encode_success
from bridge.receive.decode_json import decode_json
from bridge.receive.records import Decoded, Malformed, Origins, TooMany
from bridge.record.event import LogEvent
from bridge.record.message import encode_v2
from tests.receiving import TIME, as_json, builder, field, put_all, request, said

ARRIVED = 1_760_000_000_000_000_000
TRACE, SPAN = bytes(range(16)), bytes(range(8))


def from_protobuf(made: ExportLogsServiceRequest | bytes, **options: Any) -> Decoded:
    body = made if isinstance(made, bytes) else made.SerializeToString()
    made_by = builder(**options)
    return decode_protobuf(body, made_by, Origins(made_by), arrived=ARRIVED, peer="192.0.2.1:5")


def from_json(made: Any, **options: Any) -> Decoded:
    if isinstance(made, ExportLogsServiceRequest):
        made = as_json(made)
    made_by = builder(**options)
    body = made if isinstance(made, bytes) else json.dumps(made).encode()
    return decode_json(body, made_by, Origins(made_by), arrived=ARRIVED, peer="192.0.2.1:5")


Decode = Callable[..., Decoded]
both = pytest.mark.parametrize("decode", [from_protobuf, from_json])


def only(decoded: Decoded) -> LogEvent:
    assert (decoded.rejected, decoded.problem) == (0, "")
    (event,) = decoded.events
    return event


@both
def test_a_whole_record(decode: Decode) -> None:
    """Every field of a record arrives in the event's field for it."""
    event = only(
        decode(
            request(
                {
                    "time_unix_nano": TIME,
                    "observed_time_unix_nano": TIME + 5,
                    "severity_number": 13,
                    "severity_text": "warn",
                    "body": "paid",
                    "attributes": {
                        "order.id": 7,
                        "code.file.path": "/srv/shop/orders.py",
                        "code.function.name": "pay",
                        "code.line.number": 12,
                        "exception.type": "ValueError",
                        "exception.message": "no",
                        "exception.stacktrace": "Traceback",
                    },
                    "dropped_attributes_count": 3,
                    "flags": 0x101,
                    "trace_id": TRACE,
                    "span_id": SPAN,
                    "event_name": "order.paid",
                },
                resource={"service.name": "shop", "host.name": "a"},
            )
        )
    )
    assert (event.timestamp, event.observed_timestamp) == (TIME, TIME + 5)
    assert (event.severity_number, event.level, event.logger, event.message) == (13, "WARNING", "shop.orders", "paid")
    assert (event.attributes["order.id"], event.attributes["otel.dropped_attributes_count"]) == (7, 3)
    assert (event.trace_id, event.span_id, event.trace_flags) == (TRACE.hex(), SPAN.hex(), 1)
    assert (event.module, event.function, event.line) == ("orders", "pay", 12)
    assert (event.event_name, event.peer) == ("order.paid", "192.0.2.1:5")
    assert event.exception is not None
    assert (event.exception.type, event.exception.message) == ("ValueError", "no")
    assert event.resource == {"service.name": "shop", "host.name": "a"}
    assert event.is_audit is False


VALUES: list[tuple[Any, Any]] = [
    ("text", "text"),
    ("", ""),
    ("a\0b", "a\0b"),
    (True, True),
    (False, False),
    (0, 0),
    (2**63 - 1, 2**63 - 1),
    (-(2**63), -(2**63)),
    (1.5, 1.5),
    (math.inf, math.inf),
    (-math.inf, -math.inf),
    (b"\x00\xff", b"\x00\xff"),
    (b"", b""),
    (None, None),
    ([], ()),
    ([1, "a", None, [b"b"]], (1, "a", None, (b"b",))),
    ({}, {}),
    ({"a": {"b": [True]}, "": 1}, {"a": {"b": (True,)}, "": 1}),
]


@both
@pytest.mark.parametrize(("value", "kept"), VALUES, ids=[repr(value) for value, _ in VALUES])
def test_values(decode: Decode, value: Any, kept: Any) -> None:
    """An attribute of any type stays what it is; the same as a body shows as text."""
    event = only(decode(request({"body": value, "attributes": {"key": value}})))
    assert event.attributes == {"key": kept}
    assert type(event.attributes["key"]) is type(kept)
    if isinstance(kept, str):
        assert event.message == kept
    assert encode_v2(event, "c")


@both
def test_not_a_number(decode: Decode) -> None:
    """NaN is a double like any other."""
    value = only(decode(request({"attributes": {"key": math.nan}}))).attributes["key"]
    assert isinstance(value, float)
    assert math.isnan(value)


@both
@pytest.mark.parametrize(
    ("time", "observed", "expected"),
    [(5, 7, (5, 7)), (0, 7, (7, 7)), (5, 0, (5, ARRIVED)), (0, 0, (ARRIVED, ARRIVED)), (2**64 - 1, 7, (2**63 - 1, 7))],
)
def test_times(decode: Decode, time: int, observed: int, expected: tuple[int, int]) -> None:
    """An unset time is the observed one, and that the time of arrival; what no clock can show is clamped."""
    event = only(decode(request({"time_unix_nano": time, "observed_time_unix_nano": observed})))
    assert (event.timestamp, event.observed_timestamp) == expected


@both
@pytest.mark.parametrize("trace", [b"", bytes(16), TRACE[:-1], TRACE + b"x"])
def test_ids_that_are_none(decode: Decode, trace: bytes) -> None:
    """An id that is missing, all zero or of a wrong length counts as none."""
    event = only(decode(request({"trace_id": trace, "span_id": bytes(8)})))
    assert (event.trace_id, event.span_id) == ("", "")
    assert only(decode(request({"span_id": SPAN + b"x"}))).span_id == ""


@both
def test_scopes(decode: Decode) -> None:
    """A scope's version and attributes become attributes, and a record's own win."""
    made = said("one")
    scope = made.resource_logs[0].scope_logs[0].scope
    scope.version = "1.2"
    put_all({"team": "orders", "rate": 5}, scope.attributes)
    put_all({"otel.scope.rate": 6}, made.resource_logs[0].scope_logs[0].log_records[0].attributes)
    assert only(decode(made)).attributes == {
        "otel.scope.version": "1.2",
        "otel.scope.team": "orders",
        "otel.scope.rate": 6,
    }


@both
def test_order(decode: Decode) -> None:
    """Records of one scope keep the request's order; those of several scopes of one resource go by time."""
    made = said("a", "b", "c")
    assert [event.message for event in decode(made).events] == ["a", "b", "c"]
    for record, time in zip(made.resource_logs[0].scope_logs[0].log_records, (30, 10, 20), strict=True):
        record.time_unix_nano = time
    assert [event.message for event in decode(made).events] == ["a", "b", "c"]
    other = made.resource_logs[0].scope_logs.add().log_records.add(time_unix_nano=15)
    other.body.string_value = "other"
    made.MergeFrom(said("next"))
    assert [event.message for event in decode(made).events] == ["b", "other", "c", "a", "next"]


@both
@pytest.mark.parametrize("where", ["record", "scope", "resource"])
def test_too_many_attributes(decode: Decode, where: str) -> None:
    """Of more than 1,024 attributes the first are kept, and ``…`` says how many more there were."""
    made = said("one")
    resource_logs = made.resource_logs[0]
    holder = {
        "record": resource_logs.scope_logs[0].log_records[0],
        "scope": resource_logs.scope_logs[0].scope,
        "resource": resource_logs.resource,
    }[where]
    del holder.attributes[:]
    put_all({f"key{number}": number for number in range(1_030)}, holder.attributes)
    event = only(decode(made))
    found = event.resource if where == "resource" else event.attributes
    prefix = "otel.scope." if where == "scope" else ""
    assert (len(found), found[prefix + "…"], found[prefix + "key1023"]) == (1_025, "(+6 more)", 1_023)


@both
def test_depth(decode: Decode) -> None:
    """What lies deeper than 16 values within values is replaced; no depth that protobuf allows is an error."""
    for shell in (lambda value: [value], lambda value: {"k": value}):
        value: Any = "deep"
        for _ in range(20):
            value = shell(value)
        event = only(decode(request({"attributes": {"key": value}})))
        found, depth = event.attributes["key"], 0
        while isinstance(found, tuple | dict):
            found, depth = next(iter(found.values() if isinstance(found, dict) else found)), depth + 1
        assert (found, depth) == ("<depth limit>", 15)


@both
def test_budget(decode: Decode, monkeypatch: pytest.MonkeyPatch) -> None:
    """Elements within values are looked at up to a number a request; then ``…`` says how many there were."""
    monkeypatch.setattr(records, "MAX_ELEMENTS", 5)
    decoded = decode(
        request(
            {"body": "1", "attributes": {"a": [1, 2, 3]}}, {"attributes": {"m": {"x": 1, "y": 2, "z": 3}, "b": [7, 8]}}
        )
    )
    first, second = decoded.events
    assert first.attributes == {"a": (1, 2, 3)}
    assert second.attributes == {"m": {"x": 1, "y": 2, "…": "(+1 more)"}, "b": ("…(+2 more)",)}


@both
@pytest.mark.parametrize("what", ["records", "scopes", "resources"])
def test_too_many(decode: Decode, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A request with too many records, scopes or resources is refused as a whole, whatever they hold."""
    monkeypatch.setattr(records, "MAX_RECORDS", 3)
    made = said("one", "two", "three")
    assert len(decode(made).events) == 3
    for _ in range(3):
        if what == "records":
            made.resource_logs[0].scope_logs.add().log_records.add()
        elif what == "scopes":
            made.resource_logs[0].scope_logs.add()
        else:
            made.resource_logs.add()
    with pytest.raises(TooMany, match="at most 3: send smaller batches"):
        decode(made)


def test_unknown_fields() -> None:
    """What a later OTLP may add is ignored, in protobuf and in JSON, at every level."""
    extra = field(15, b"later")
    record = said("one").resource_logs[0].scope_logs[0].log_records[0].SerializeToString()
    scope_logs = field(2, record + extra) + extra
    body = field(1, field(2, scope_logs) + extra) + extra
    assert only(from_protobuf(body)).message == "one"
    more: dict[str, Any] = {"later": {"x": [1]}}
    value = {"stringValue": "one"} | more
    tree: dict[str, Any] = {"body": value, "attributes": [{"key": "k", "value": value} | more]} | more
    tree = {"scope": more, "logRecords": [tree]} | more
    tree = {"resourceLogs": [{"resource": more, "scopeLogs": [tree]} | more]} | more
    assert only(from_json(tree)).attributes == {"k": "one"}


@both
def test_nothing_in_it(decode: Decode) -> None:
    """A request without records, scopes or resources is a request."""
    assert decode(ExportLogsServiceRequest()).events == []
    assert decode(request()).events == []


@both
def test_cut_and_redacted(decode: Decode) -> None:
    """Texts that are too long are cut and secrets replaced, wherever they stand."""
    made = request(
        {"body": "x" * 400, "attributes": {"password": "hunter2", "long": "y" * 400}}, resource={"api_key": "k3y"}
    )
    event = only(decode(made, text_chars=256))
    assert event.message == "x" * 256 + "… [cut: 400 characters]"
    assert event.attributes == {"password": "[REDACTED]", "long": "y" * 256 + "… [cut: 400 characters]"}
    assert event.resource == {"api_key": "[REDACTED]"}


@pytest.mark.parametrize("body", [b"\x00", b"\x0a\xff", b"garbage", b"\x0a\x05\x12", b"{}"])
def test_not_protobuf(body: bytes) -> None:
    """What is no request in protobuf is refused with words."""
    with pytest.raises(Malformed, match="not an ExportLogsServiceRequest in protobuf"):
        from_protobuf(body)


def test_text_that_is_not_utf8() -> None:
    """A body or an attribute that is no UTF-8 is shown with escapes; elsewhere it makes a request malformed."""
    made = request({"body": "abc", "attributes": {"kuk": "vuv"}, "severity_text": "sus"})
    body = made.SerializeToString()
    for was, shown in ((b"abc", b"a\xffc"), (b"kuk", b"k\xffk"), (b"vuv", b"v\xffv")):
        body = body.replace(was, shown)
    event = only(from_protobuf(body))
    assert (event.message, event.attributes) == (r"a\xffc", {r"k\xffk": r"v\xffv"})
    with pytest.raises(Malformed, match="not an ExportLogsServiceRequest"):
        from_protobuf(body.replace(b"sus", b"s\xffs"))


def test_attributes_of_every_form_unfold() -> None:
    """Short and long names and texts, empty ones, fields in the other order, and more fields than there are."""
    names = ["", "k", "k" * 127, "k" * 128, "k" * 300]
    texts = ["", "v", "v" * 123, "v" * 124, "v" * 125, "v" * 126, "v" * 127, "v" * 128, "v" * 300, "v" * 20_000]
    for name in names:
        for text in texts:
            for _ in range(2):  # the second time it is known
                event = only(from_protobuf(request({"body": text, "attributes": {name: text}})))
                assert (event.message, event.attributes) == (text, {name: text})
    raw_pairs = {
        b"\x12\x03\x0a\x01v\x0a\x01k": {"k": "v"},
        b"\x0a\x01k\x12\x03\x0a\x01v\x7a\x01x": {"k": "v"},
        b"\x0a\x01k\x12\x05\x0a\x01v\x18\x07": {"k": 7},
        b"\x0a\x01k\x0a\x01l\x12\x03\x0a\x01v": {"l": "v"},
        b"\x0a\x01k": {"k": None},
        b"\x0a\x01k\x12\x00": {"k": None},
        b"": {"": None},
    }
    for raw, shown in raw_pairs.items():
        record = b"\x32" + bytes([len(raw)]) + raw
        scope = b"\x12" + bytes([len(record)]) + record
        resource = b"\x12" + bytes([len(scope)]) + scope
        decoded = from_protobuf(b"\x0a" + bytes([len(resource)]) + resource)
        assert ([event.attributes for event in decoded.events], decoded.rejected) == ([shown], 0), raw


def test_an_attribute_that_is_no_protobuf() -> None:
    """It costs its record."""
    decoded = from_protobuf(b"\x0a\x09\x12\x07\x12\x05\x32\x03\x0a\x05k")
    assert (decoded.events, decoded.rejected) == ([], 1)


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Attributes that came before are known again; long ones and containers are not remembered."""
    monkeypatch.setattr(records, "_MAX_PAIRS", 3)
    made_by = builder()
    origins = Origins(made_by)
    for number in range(9):
        told = {"n": number, "long": "x" * 200, "many": [1], "password": "hunter2"}
        made = request({"attributes": told})
        (event,) = decode_protobuf(made.SerializeToString(), made_by, origins, arrived=1, peer="").events
        assert event.attributes == told | {"many": (1,), "password": "[REDACTED]"}
    assert list(origins.pairs.known.values()) == [("password", "[REDACTED]")]


def test_a_record_that_can_not_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault in one record costs that record alone, and is told."""

    def refuse(logger: str, message: str, *_: Any) -> bool:
        if message == "b":
            raise ArithmeticError("thirteen")
        return False

    monkeypatch.setattr("bridge.record.received.is_audit", refuse)
    decoded = from_protobuf(said("a", "b", "c"))
    assert [event.message for event in decoded.events] == ["a", "c"]
    assert (decoded.rejected, "thirteen" in decoded.problem) == (1, True)


def test_answers() -> None:
    """All taken is an empty answer; else it says how many not, and why."""
    assert encode_success(0, "") == b""
    partial = ExportLogsServiceResponse.FromString(encode_success(2, "bad")).partial_success
    assert (partial.rejected_log_records, partial.error_message) == (2, "bad")


# -- equal, whatever the encoding -----------------------------------------------------------------------------------

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
SCALARS = st.one_of(
    TEXTS, st.booleans(), st.integers(-(2**63), 2**63 - 1), st.floats(allow_nan=False), st.binary(max_size=9), st.none()
)
ANY = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3), max_leaves=8
)
NAMES = st.sampled_from(
    ["is_audit", "password", "metadata", "audit.record.id", "audit.metadata.x", "code.filepath", "exception.type", "…"]
)
ATTRIBUTES = st.dictionaries(NAMES | TEXTS, ANY, max_size=4)
RECORDS = st.fixed_dictionaries(
    {"body": ANY | st.just("[AUDIT] x"), "attributes": ATTRIBUTES},
    optional={
        "time_unix_nano": st.integers(0, 2**64 - 1),
        "observed_time_unix_nano": st.integers(0, 2**64 - 1),
        "severity_number": st.integers(0, 24),
        "severity_text": TEXTS | st.sampled_from(["INFO", "warn2"]),
        "dropped_attributes_count": st.integers(0, 2**32 - 1),
        "flags": st.integers(0, 2**32 - 1),
        "trace_id": st.binary(max_size=17) | st.binary(min_size=16, max_size=16),
        "span_id": st.binary(max_size=9) | st.binary(min_size=8, max_size=8),
        "event_name": TEXTS,
    },
)


@st.composite
def requests(draw: st.DrawFn) -> ExportLogsServiceRequest:
    made = ExportLogsServiceRequest()
    for _ in range(draw(st.integers(0, 2))):
        part = request(
            *draw(st.lists(RECORDS, max_size=3)),
            scope=draw(TEXTS | st.just("audit.x")),
            resource=draw(ATTRIBUTES),
        )
        scope = part.resource_logs[0].scope_logs[0].scope
        scope.version = draw(TEXTS)
        put_all(draw(ATTRIBUTES), scope.attributes)
        made.MergeFrom(part)
        if draw(st.booleans()):
            made.resource_logs[0].scope_logs.append(part.resource_logs[0].scope_logs[0])
    return made


@settings(max_examples=150, deadline=None)
@given(requests())
def test_protobuf_and_json_agree(made: ExportLogsServiceRequest) -> None:
    """The same request gives equal events in equal order, whichever way it is encoded."""
    ours, theirs = from_protobuf(made), from_json(made)
    assert [repr(event) for event in ours.events] == [repr(event) for event in theirs.events]
    assert (ours.rejected, theirs.rejected) == (0, 0)
