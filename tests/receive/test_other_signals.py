"""Counting what is not taken."""

import json

import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

from bridge.receive.other_signals import LOGS_ONLY, count_json, count_protobuf, encode_left_out
from bridge.receive.records import Malformed


def test_spans() -> None:
    """Spans count over all scopes and resources."""
    made = ExportTraceServiceRequest()
    for _ in range(2):
        made.resource_spans.add().scope_spans.add().spans.add()
    assert count_protobuf(made.SerializeToString(), "spans") == 2
    tree = {"resourceSpans": [{"scopeSpans": [{"spans": [{}, {}]}, {"spans": None}, 5]}, {}]}
    assert count_json(json.dumps(tree).encode(), "spans") == 2


def test_data_points() -> None:
    """Data points count over metrics of every kind; a metric without data has none."""
    made = ExportMetricsServiceRequest()
    metrics = made.resource_metrics.add().scope_metrics.add().metrics
    metrics.add()
    for kind in ("gauge", "sum", "histogram", "exponential_histogram", "summary"):
        getattr(metrics.add(), kind).data_points.add()
    assert count_protobuf(made.SerializeToString(), "data_points") == 5
    tree = {"resourceMetrics": [{"scopeMetrics": [{"metrics": [{"name": "n", "gauge": {"dataPoints": [{}]}}, 5]}]}]}
    assert count_json(json.dumps(tree).encode(), "data_points") == 1


@pytest.mark.parametrize("body", [b"\xff", b"[" * 100_000, b'"\xff"'])
def test_not_a_request(body: bytes) -> None:
    """What can't be parsed is malformed; any other JSON holds nothing."""
    with pytest.raises(Malformed):
        count_json(body, "spans")
    with pytest.raises(Malformed):
        count_protobuf(b"\xff", "data_points")
    for other in (b"7", b"[]", b"{}", b'{"resourceSpans":{"a":1}}', b'{"resourceSpans":[[[1]]]}'):
        assert count_json(other, "spans") == 0


def test_answers() -> None:
    """The answer rejects all of it, in the encoding of the request."""
    spans = ExportTraceServiceResponse.FromString(encode_left_out("spans", "protobuf", 3)).partial_success
    points = ExportMetricsServiceResponse.FromString(encode_left_out("data_points", "protobuf", 4)).partial_success
    assert (spans.rejected_spans, spans.error_message) == (3, LOGS_ONLY)
    assert (points.rejected_data_points, points.error_message) == (4, LOGS_ONLY)
    for signal, key in (("spans", "rejectedSpans"), ("data_points", "rejectedDataPoints")):
        answer = json.loads(encode_left_out(signal, "json", 5))  # type: ignore[arg-type]
        assert answer == {"partialSuccess": {key: "5", "errorMessage": LOGS_ONLY}}
