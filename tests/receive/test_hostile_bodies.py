"""Bodies that nobody meant to send: whatever they hold, a decoder gives events or says what is wrong."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bridge.receive.decode import decode_protobuf
from bridge.receive.decode_json import decode_json
from bridge.receive.records import Decoded, Malformed, Origins, TooMany
from bridge.record.message import encode_v1, encode_v2
from tests.receiving import TIME, as_json, builder, request

BUILDER = builder(text_chars=256)
RECORD: dict[str, Any] = {
    "time_unix_nano": TIME,
    "severity_number": 9,
    "severity_text": "info",
    "body": {"a": [1, 2.5, True, b"x", None]},
    "attributes": {"password": "x", "exception.type": "E", "log.record.uid": "u", "n": [[{"k": "v"}]]},
    "trace_id": bytes(range(16)),
    "span_id": bytes(range(8)),
    "flags": 1,
    "event_name": "e",
    "dropped_attributes_count": 2,
}
VALID = request(RECORD, RECORD, {"body": "[AUDIT] x"})
PROTOBUF = VALID.SerializeToString()
TREE = as_json(VALID)
JSON = json.dumps(TREE).encode()


def holds(decode: Callable[..., Decoded], body: bytes) -> None:
    """It is decoded into events that can be shown, no more than the body has room for, or refused."""
    decoded, refusal = Decoded([]), ""
    try:
        decoded = decode(body, BUILDER, Origins(BUILDER), arrived=1, peer="127.0.0.1:1")
    except (Malformed, TooMany) as error:
        refusal = str(error)
    assert len(refusal) < 500
    assert 2 * (len(decoded.events) + decoded.rejected) <= len(body)
    assert bool(decoded.rejected) == bool(decoded.problem)
    assert len(decoded.problem) < 1_000
    for event in decoded.events:
        shown = encode_v1(event) + encode_v2(event, "c")
        assert len(shown) < 50_000 + 20 * len(body)
        json.loads(encode_v2(event, "c"))


@st.composite
def mutated(draw: st.DrawFn, valid: bytes) -> bytes:
    """A valid request with bytes changed, slices cut out, doubled or moved."""
    body = bytearray(valid)
    for _ in range(draw(st.integers(1, 6))):
        start = draw(st.integers(0, len(body)))
        end = draw(st.integers(start, min(len(body), start + 40)))
        match draw(st.sampled_from(["flip", "cut", "double", "move", "insert"])):
            case "flip" if start < len(body):
                body[start] ^= 1 << draw(st.integers(0, 7))
            case "cut":
                del body[start:end]
            case "double":
                body[end:end] = body[start:end]
            case "move":
                part = body[start:end]
                del body[start:end]
                place = draw(st.integers(0, len(body)))
                body[place:place] = part
            case _:
                body[start:start] = draw(st.binary(max_size=8))
    return bytes(body)


@pytest.mark.parametrize("decode", [decode_protobuf, decode_json])
@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes(decode: Callable[..., Decoded], body: bytes) -> None:
    """Arbitrary bytes."""
    holds(decode, body)


@settings(max_examples=400, deadline=None)
@given(mutated(PROTOBUF))
def test_mutated_protobuf(body: bytes) -> None:
    """A request in protobuf that was damaged on its way."""
    holds(decode_protobuf, body)


@settings(max_examples=300, deadline=None)
@given(mutated(JSON))
def test_mutated_json(body: bytes) -> None:
    """A request in JSON that was damaged on its way."""
    holds(decode_json, body)


def places(tree: Any) -> list[list[Any]]:
    """The way to every place in a tree."""
    found: list[list[Any]] = [[]]
    pairs = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, inner in pairs:
        found += [[key, *rest] for rest in places(inner)]
    return found


def replaced(tree: Any, way: list[Any], value: Any) -> Any:
    """A copy of the tree with another value in one place."""
    if not way:
        return value
    key, *rest = way
    copy = dict(tree) if isinstance(tree, dict) else list(tree)
    copy[key] = replaced(tree[key], rest, value)
    return copy


SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(2**63 - 2, 2**64 + 2)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20)
    | st.sampled_from(["NaN", "-Infinity", "1.7e18", "-0", "00", "\ud800", "9" * 70, "AAE=", "…"])
)
KEYS = st.sampled_from(["values", "key", "value", "stringValue", "intValue", "arrayValue", "kvlistValue"]) | st.text(
    max_size=3
)
ANY_JSON = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3), max_leaves=10
)


@settings(max_examples=600, deadline=None)
@given(st.sampled_from(places(TREE)), ANY_JSON)
def test_any_value_in_any_place(way: list[Any], value: Any) -> None:
    """Any JSON value in any place of a request in JSON."""
    holds(decode_json, json.dumps(replaced(TREE, way, value)).encode("utf-8", "surrogatepass"))


@pytest.mark.parametrize(
    "value", [None, True, 0, -1, 10**30, 1.5, "", "x", "\ud800", [], [[]], {}, {"x": {}}], ids=repr
)
def test_every_place_once(value: Any) -> None:
    """The usual suspects in every place there is."""
    for way in places(TREE):
        holds(decode_json, json.dumps(replaced(TREE, way, value)).encode())
