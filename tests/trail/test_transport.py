"""A record keeps its hash over OTLP, whatever order its attributes come in and whatever a hop adds or drops."""

from __future__ import annotations

import json
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from bridge.trail.canonical import AuditRecord, hash_of
from bridge.trail.chain import Chain
from bridge.trail.verify import Verifier
from tests.trail.chains import RECORDS, RESOURCE, STREAM, judged, shown, signed_stream
from tests.trail.otlp import from_json, from_protobuf, to_json, to_protobuf


@given(RECORDS)
def test_protobuf_keeps_the_hash(record: AuditRecord) -> None:
    """Out and back."""
    chained, _ = Chain(STREAM).append(record)
    [back] = from_protobuf(to_protobuf([chained]))
    assert hash_of(back) == back.attributes["audit.integrity.hash"] == chained.attributes["audit.integrity.hash"]


@given(RECORDS)
def test_json_keeps_the_hash(record: AuditRecord) -> None:
    """Out, through a text, and back; by two readers, of which one loses the sign of zero."""
    chained, _ = Chain(STREAM).append(record)
    text = json.dumps(to_json([chained]))
    for tree in (json.loads(text), msgspec.json.decode(text.replace('"doubleValue": -0.0', '"doubleValue": -0'))):
        [back] = from_json(tree)
        assert hash_of(back) == chained.attributes["audit.integrity.hash"]


def lossy(value: Any, drop: st.DataObject) -> Any:
    """OTLP/JSON as some hops leave it: without some of what is empty, or null in its place."""
    if isinstance(value, dict):
        kept: dict[str, Any] = {}
        for key, each in value.items():
            left = lossy(each, drop)
            if key == "values" and isinstance(left, list) and left and "key" in left[0]:
                left = [pair for pair in left if pair.get("value") not in ({}, None) or drop.draw(st.booleans())]
            if left in ("", [], {}, {"values": []}) and drop.draw(st.booleans()):
                continue
            kept[key] = left
        return kept
    return [lossy(each, drop) for each in value] if isinstance(value, list) else value


@given(RECORDS, st.data())
def test_what_is_empty_may_get_lost(record: AuditRecord, data: st.DataObject) -> None:
    """Empty texts, bytes, arrays and maps, null, and the attributes that held them."""
    chained, _ = Chain(STREAM).append(record)
    tree = to_json([chained])
    log = tree["resourceLogs"][0]["scopeLogs"][0]["logRecords"][0]
    log["attributes"] = [lossy(each, data) for each in log["attributes"]]
    if "body" in log:
        log["body"] = lossy(log["body"], data)
    [back] = from_json(tree)
    assert hash_of(back) == chained.attributes["audit.integrity.hash"]


def test_verify_collector_file_with_reordered_attributes() -> None:
    """What a collector's file exporter writes, with attributes in another order and some of its own, verifies."""
    records = signed_stream()
    tree = to_json(records)
    for resource in tree["resourceLogs"]:
        for log in resource["scopeLogs"][0]["logRecords"]:
            log["attributes"].reverse()
            log["attributes"].insert(2, {"key": "host.name", "value": {"stringValue": "node-7"}})
            log["attributes"].append({"key": "log.file.name", "value": {"stringValue": "audit.json"}})
    report = judged(from_json(json.loads(json.dumps(tree))))
    assert shown(report) == []
    assert any("host.name, log.file.name" in words for words in report.streams[0].unknown)


def test_a_collector_may_add_to_the_resource() -> None:
    """What the stream was opened under must still be there."""
    verifier = Verifier()
    for record in signed_stream():
        verifier.add(record, resource={"host.name": "node-7", **RESOURCE})
    assert verifier.report().ok
