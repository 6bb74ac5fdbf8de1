"""OTLP in protobuf → events. Parsing is protobuf's own; what is ours is to unfold what did not come before."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import islice
from typing import Any, Final

from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import (
    ExportLogsPartialSuccess,
    ExportLogsServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import AnyValue as Value
from opentelemetry.proto.common.v1.common_pb2 import InstrumentationScope, KeyValue
from opentelemetry.proto.resource.v1.resource_pb2 import Resource

from bridge.receive.folded import FoldedRequest
from bridge.receive.records import (
    MAX_ATTRIBUTES,
    MAX_DEPTH,
    Budget,
    Decoded,
    Malformed,
    Origins,
    Pairs,
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
        request = FoldedRequest.FromString(body)
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
    known = origins.pairs.known.get
    unfold = partial(_unfold, builder, origins.pairs, budget)
    for resource_logs in request.resource_logs:
        raw_resource = resource_logs.resource
        try:
            resource, may_audit = origins.find(raw_resource, partial(_resource, raw_resource, budget))
        except DecodeError as error:
            raise Malformed(f"a resource is no protobuf: {error}") from None
        start = len(events)
        for scope_logs in resource_logs.scope_logs:
            logger, about_scope = _scope(scope_logs.scope, budget)
            about_scope = builder.redacted(about_scope)
            for record in scope_logs.log_records:
                try:
                    raw = record.attributes
                    if len(raw) <= MAX_ATTRIBUTES:
                        attributes = dict([known(each) or unfold(each) for each in raw])
                    if len(raw) > MAX_ATTRIBUTES or len(attributes) != len(raw):  # too many, or two of one name
                        attributes = builder.redacted(_pairs_of(raw, budget))
                    if about_scope:
                        attributes = about_scope | attributes
                    if record.dropped_attributes_count:
                        attributes[names.DROPPED_ATTRIBUTES] = record.dropped_attributes_count
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
                            _body(record.body, budget),
                            attributes,
                            record.event_name,
                            trace_id.hex() if len(trace_id) == 16 and trace_id != _NO_TRACE else "",
                            span_id.hex() if len(span_id) == 8 and span_id != _NO_SPAN else "",
                            record.flags & 0xFF,
                            resource,
                            peer,
                            may_audit,
                            large,
                            True,
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


def _resource(raw: bytes, budget: Budget) -> dict[str, AnyValue]:
    return _attributes(Resource.FromString(raw).attributes, budget)


def _scope(raw: bytes, budget: Budget) -> tuple[str, dict[str, AnyValue]]:
    """A scope's name, and what it says beside it, under the names that OpenTelemetry has for formats without scopes."""
    try:
        scope = InstrumentationScope.FromString(raw)
    except DecodeError as error:
        raise Malformed(f"a scope is no protobuf: {error}") from None
    found: dict[str, AnyValue] = {}
    if scope.version:
        found[names.SCOPE_VERSION] = scope.version
    if scope.attributes:
        for key, value in _attributes(scope.attributes, budget).items():
            found[names.SCOPE_PREFIX + key] = value
    return scope.name, found


def _unfold(builder: EventBuilder, pairs: Pairs, budget: Budget, raw: bytes) -> tuple[str, AnyValue]:
    """An attribute, redacted; remembered if nobody could change it."""
    pair = builder.redacted_pair(*_pair(raw, budget))
    if type(pair[1]) is not dict and type(pair[1]) is not tuple:
        pairs.keep(raw, pair)
    return pair


def _pair(raw: bytes, budget: Budget) -> tuple[str, AnyValue]:
    # Most are a short name (field 1) and a short text (field 2, and in it field 1). Anything else is protobuf's.
    if len(raw) > 5 and raw[0] == 0x0A and raw[1] < 0x80:
        end = raw[1] + 2
        if len(raw) - end > 4 and raw[end : end + 3 : 2] == b"\x12\x0a":
            size = len(raw) - end - 4
            if size < 0x7E and raw[end + 1] == size + 2 and raw[end + 3] == size:
                return _text(raw[2:end]), _text(raw[end + 4 :])
    pair = KeyValue.FromString(raw)
    return pair.key, _value(pair.value, 1, budget)


def _body(raw: bytes, budget: Budget) -> AnyValue:
    if not raw:
        return None
    if raw[0] == 0x0A:  # a text (field 1) of less than 16 KiB, as most are
        size = len(raw)
        if size > 1 and raw[1] == size - 2 < 0x80:
            return _text(raw[2:])
        if size > 2 and raw[1] > 0x7F and raw[2] < 0x80 and raw[1] & 0x7F | raw[2] << 7 == size - 3:
            return _text(raw[3:])
    return _value(Value.FromString(raw), 1, budget)


def _text(raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        # Against the rules of protobuf, but no reason to lose a record.
        return raw.decode(errors="backslashreplace")


def _pairs_of(raws: Any, budget: Budget) -> dict[str, AnyValue]:
    found: dict[str, AnyValue] = {}
    if len(raws) > MAX_ATTRIBUTES:
        found[MORE_KEY] = f"(+{len(raws) - MAX_ATTRIBUTES} more)"
    found.update(_pair(raw, budget) for raw in islice(raws, MAX_ATTRIBUTES))
    return found


def _attributes(pairs: Any, budget: Budget) -> dict[str, AnyValue]:
    """Those of a resource or a scope."""
    found: dict[str, AnyValue] = {}
    if len(pairs) > MAX_ATTRIBUTES:
        found[MORE_KEY] = f"(+{len(pairs) - MAX_ATTRIBUTES} more)"
    for pair in islice(pairs, MAX_ATTRIBUTES):
        found[pair.key] = _value(pair.value, 1, budget)
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
