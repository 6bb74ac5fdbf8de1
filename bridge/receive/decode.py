"""OTLP in protobuf → events. Parsing is protobuf's own; what is ours is a lean walk over what it gives."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any, Final

from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import (
    ExportLogsPartialSuccess,
    ExportLogsServiceRequest,
    ExportLogsServiceResponse,
)

from bridge.receive.records import (
    MAX_ATTRIBUTES,
    MAX_DEPTH,
    Budget,
    Decoded,
    Malformed,
    Origins,
    by_time,
    check_numbers,
    clamp_time,
)
from bridge.record import attributes as names
from bridge.record.event import LogEvent
from bridge.record.received import EventBuilder
from bridge.record.values import DEPTH_LIMIT, INT64_MAX, MORE_KEY, AnyValue

__all__ = ["decode_protobuf", "encode_success"]

_NO_TRACE: Final = bytes(16)
_NO_SPAN: Final = bytes(8)


def decode_protobuf(body: bytes, builder: EventBuilder, origins: Origins, *, arrived: int, peer: str) -> Decoded:
    """The records of an ``ExportLogsServiceRequest``. ``arrived`` is now, in ns, for records that bring no time.

    Raises :class:`Malformed` if it is none, and :class:`~bridge.receive.records.TooMany`.
    """
    try:
        request = ExportLogsServiceRequest.FromString(body)
    except DecodeError as error:
        raise Malformed(f"not an ExportLogsServiceRequest in protobuf: {error}") from None
    check_numbers(_numbers(request))
    # A text can't be longer than the request that it came in.
    large = len(body) > builder.text_chars
    budget = Budget()
    events: list[LogEvent] = []
    append = events.append
    build = builder.build
    rejected = 0
    problem = ""
    for resource_logs in request.resource_logs:
        resource, may_audit = origins.find(
            resource_logs.resource.SerializeToString(),
            lambda attributes=resource_logs.resource.attributes: _attributes(attributes, budget),  # type: ignore[misc]
        )
        start = len(events)
        for scope_logs in resource_logs.scope_logs:
            scope = scope_logs.scope
            logger = scope.name
            more = _scope_attributes(scope, budget)
            for record in scope_logs.log_records:
                try:
                    attributes = _attributes(record.attributes, budget)
                    if more:
                        attributes = more | attributes
                    if record.dropped_attributes_count:
                        attributes[names.DROPPED_ATTRIBUTES] = record.dropped_attributes_count
                    body_value = record.body
                    trace_id, span_id = record.trace_id, record.span_id
                    observed = record.observed_time_unix_nano or arrived
                    timestamp = record.time_unix_nano or observed
                    if timestamp > INT64_MAX or observed > INT64_MAX:
                        timestamp, observed = clamp_time(timestamp), clamp_time(observed)
                    append(
                        build(
                            timestamp,
                            observed,
                            record.severity_number,
                            record.severity_text,
                            logger,
                            body_value.string_value or _value(body_value, 1, budget),
                            attributes,
                            record.event_name,
                            trace_id.hex() if len(trace_id) == 16 and trace_id != _NO_TRACE else "",
                            span_id.hex() if len(span_id) == 8 and span_id != _NO_SPAN else "",
                            record.flags & 0xFF,
                            resource,
                            peer,
                            may_audit,
                            large,
                        )
                    )
                except Exception as error:
                    rejected += 1
                    problem = problem or f"a record could not be read: {error!r}"
        if len(resource_logs.scope_logs) > 1:
            by_time(events, start)
    return Decoded(events, rejected, problem)


def _numbers(request: Any) -> Iterator[int]:
    yield len(request.resource_logs)
    yield sum(len(resource.scope_logs) for resource in request.resource_logs)
    yield sum(len(scope.log_records) for resource in request.resource_logs for scope in resource.scope_logs)


def _scope_attributes(scope: Any, budget: Budget) -> dict[str, AnyValue]:
    """What a scope says beside its name, under the names that OpenTelemetry has for formats without scopes."""
    found: dict[str, AnyValue] = {}
    if scope.version:
        found[names.SCOPE_VERSION] = scope.version
    if scope.attributes:
        for key, value in _attributes(scope.attributes, budget).items():
            found[names.SCOPE_PREFIX + key] = value
    return found


def _attributes(pairs: Any, budget: Budget) -> dict[str, AnyValue]:
    found: dict[str, AnyValue] = {}
    if len(pairs) > MAX_ATTRIBUTES:
        found[MORE_KEY] = f"(+{len(pairs) - MAX_ATTRIBUTES} more)"
        pairs = pairs[:MAX_ATTRIBUTES]
    for pair in pairs:
        value = pair.value
        # Asking for the kind costs more than asking for the likeliest: what is not set is empty.
        found[pair.key] = value.string_value or value.int_value or value.double_value or _value(value, 1, budget)
    return found


def _value(value: Any, depth: int, budget: Budget) -> AnyValue:
    kind = value.WhichOneof("value")
    if kind == "string_value":
        return str(value.string_value)
    if kind == "int_value":
        return int(value.int_value)
    if kind == "double_value":
        return float(value.double_value)
    if kind == "bool_value":
        return bool(value.bool_value)
    if kind == "bytes_value":
        return bytes(value.bytes_value)
    if kind == "kvlist_value":
        if depth >= MAX_DEPTH:
            return DEPTH_LIMIT
        pairs = value.kvlist_value.values
        room = budget.take(len(pairs))
        # Not by a slice: protobuf makes an object an element, and takes half a minute to forget a million at once.
        found = {pair.key: _value(pair.value, depth + 1, budget) for pair in islice(pairs, room)}
        if room < len(pairs):
            found[MORE_KEY] = f"(+{len(pairs) - room} more)"
        return found
    if kind == "array_value":
        if depth >= MAX_DEPTH:
            return DEPTH_LIMIT
        items = value.array_value.values
        room = budget.take(len(items))
        more = () if room == len(items) else (f"{MORE_KEY}(+{len(items) - room} more)",)
        return (*[_value(each, depth + 1, budget) for each in islice(items, room)], *more)
    return None


def encode_success(rejected: int, problem: str) -> bytes:
    """An ``ExportLogsServiceResponse``: all of it taken, or all but ``rejected`` records."""
    if not rejected and not problem:
        return b""
    partial = ExportLogsPartialSuccess(rejected_log_records=rejected, error_message=problem)
    return bytes(ExportLogsServiceResponse(partial_success=partial).SerializeToString())
