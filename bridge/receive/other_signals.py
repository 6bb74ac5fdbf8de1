"""Traces and metrics that come along: taken off the sender's hands, and said to be refused.

A service that is told OTEL_EXPORTER_OTLP_ENDPOINT sends all its signals there. Were the others answered with an error,
it would fill its log, and so this monitor, with complaints; a partial success that rejects all of it is OTLP's way to
say "understood, not taken".
"""

from __future__ import annotations

from typing import Any, Final, Literal, TypeAlias

import msgspec
from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsPartialSuccess,
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTracePartialSuccess,
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

from bridge.receive.decode_json import parse_json
from bridge.receive.records import Malformed

__all__ = ["LOGS_ONLY", "SERVICES", "Signal", "count_json", "count_protobuf", "encode_left_out"]

Signal: TypeAlias = Literal["spans", "data_points"]

LOGS_ONLY: Final = "this monitor takes logs only"

SERVICES: Final[dict[str, Signal]] = {
    "opentelemetry.proto.collector.trace.v1.TraceService": "spans",
    "opentelemetry.proto.collector.metrics.v1.MetricsService": "data_points",
}
"""gRPC services, and what they export."""


def count_protobuf(body: bytes, signal: Signal) -> int:
    """How many spans or data points a request has. Raises :class:`Malformed`."""
    try:
        if signal == "spans":
            request = ExportTraceServiceRequest.FromString(body)
            return sum(len(scope.spans) for resource in request.resource_spans for scope in resource.scope_spans)
        metrics = ExportMetricsServiceRequest.FromString(body)
    except DecodeError as error:
        raise Malformed(f"not an export request in protobuf: {error}") from None
    count = 0
    for resource in metrics.resource_metrics:
        for scope in resource.scope_metrics:
            for metric in scope.metrics:
                kind = metric.WhichOneof("data")
                count += len(getattr(metric, kind).data_points) if kind is not None else 0
    return count


def count_json(body: bytes, signal: Signal) -> int:
    """The same of a request in JSON."""
    request = parse_json(body)
    if signal == "spans":
        return len(_below([request], "resourceSpans", "scopeSpans", "spans"))
    metrics = _below([request], "resourceMetrics", "scopeMetrics", "metrics")
    data = [kind for metric in metrics if isinstance(metric, dict) for kind in metric.values()]
    return len(_below(data, "dataPoints"))


def _below(holders: list[Any], *keys: str) -> list[Any]:
    for key in keys:
        lists = [holder.get(key) for holder in holders if isinstance(holder, dict)]
        holders = [each for found in lists if isinstance(found, list) for each in found]
    return holders


def encode_left_out(signal: Signal, encoding: Literal["protobuf", "json"], count: int) -> bytes:
    """The answer: a partial success that rejects all ``count``."""
    if encoding == "json":
        key = "rejectedSpans" if signal == "spans" else "rejectedDataPoints"
        return msgspec.json.encode({"partialSuccess": {key: str(count), "errorMessage": LOGS_ONLY}})
    if signal == "spans":
        spans = ExportTracePartialSuccess(rejected_spans=count, error_message=LOGS_ONLY)
        return bytes(ExportTraceServiceResponse(partial_success=spans).SerializeToString())
    points = ExportMetricsPartialSuccess(rejected_data_points=count, error_message=LOGS_ONLY)
    return bytes(ExportMetricsServiceResponse(partial_success=points).SerializeToString())
