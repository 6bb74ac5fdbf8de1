"""Records of the trail as OTLP and back, by the protocol's own definitions and not by code of the bridge."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from typing import Any

from google.protobuf import json_format
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue as Value
from opentelemetry.proto.common.v1.common_pb2 import ArrayValue, KeyValue, KeyValueList

from bridge.record.values import AnyValue
from bridge.trail.canonical import AuditRecord


def value_to_otlp(value: AnyValue) -> Value:
    match value:
        case None:
            return Value()
        case bool():
            return Value(bool_value=value)
        case int():
            return Value(int_value=value)
        case float():
            return Value(double_value=value)
        case str():
            return Value(string_value=value)
        case bytes():
            return Value(bytes_value=value)
        case dict():
            return Value(kvlist_value=KeyValueList(values=pairs(value)))
        case _:
            return Value(array_value=ArrayValue(values=[value_to_otlp(each) for each in value]))


def pairs(mapping: Mapping[str, AnyValue]) -> list[KeyValue]:
    return [KeyValue(key=key, value=value_to_otlp(value)) for key, value in mapping.items()]


def value_from_otlp(value: Any) -> AnyValue:
    kind = value.WhichOneof("value")
    if kind is None:
        return None
    found: Any = getattr(value, kind)
    if kind == "array_value":
        return tuple(value_from_otlp(each) for each in found.values)
    if kind == "kvlist_value":
        return {each.key: value_from_otlp(each.value) for each in found.values}
    return found  # type: ignore[no-any-return]


def request(records: Iterable[AuditRecord]) -> Any:
    made = ExportLogsServiceRequest()
    for record in records:
        scope = made.resource_logs.add().scope_logs.add()
        scope.scope.name = record.scope
        log = scope.log_records.add(
            time_unix_nano=record.timestamp,
            observed_time_unix_nano=record.observed_timestamp,
            severity_number=record.severity_number,
            severity_text=record.severity_text,
            event_name=record.event_name,
            trace_id=bytes.fromhex(record.trace_id),
            span_id=bytes.fromhex(record.span_id),
            flags=record.trace_flags,
            attributes=pairs(record.attributes),
        )
        if record.body is not None:
            log.body.CopyFrom(value_to_otlp(record.body))
    return made


def to_protobuf(records: Iterable[AuditRecord]) -> bytes:
    data: bytes = request(records).SerializeToString()
    return data


def from_protobuf(data: bytes) -> list[AuditRecord]:
    return [
        AuditRecord(
            event_name=log.event_name,
            body=value_from_otlp(log.body),
            timestamp=log.time_unix_nano,
            observed_timestamp=log.observed_time_unix_nano,
            trace_id=log.trace_id.hex(),
            span_id=log.span_id.hex(),
            trace_flags=log.flags,
            severity_number=log.severity_number,
            severity_text=log.severity_text,
            scope=scope.scope.name,
            attributes={each.key: value_from_otlp(each.value) for each in log.attributes},
        )
        for resource in ExportLogsServiceRequest.FromString(data).resource_logs
        for scope in resource.scope_logs
        for log in scope.log_records
    ]


def to_json(records: Iterable[AuditRecord]) -> dict[str, Any]:
    """OTLP/JSON: protobuf's own JSON, but with ids in hex and enums as numbers."""
    made: dict[str, Any] = json_format.MessageToDict(request(records), use_integers_for_enums=True)
    for resource in made.get("resourceLogs", []):
        for log in resource["scopeLogs"][0]["logRecords"]:
            for name in ("traceId", "spanId"):
                if name in log:
                    log[name] = base64.b64decode(log[name]).hex()
    return made


def from_json(made: dict[str, Any]) -> list[AuditRecord]:
    return [
        record_from_json(log, scope.get("scope", {}).get("name", ""))
        for resource in made.get("resourceLogs", [])
        for scope in resource["scopeLogs"]
        for log in scope["logRecords"]
    ]


def record_from_json(log: dict[str, Any], scope: str) -> AuditRecord:
    return AuditRecord(
        event_name=log.get("eventName", ""),
        body=value_from_json(log.get("body")),
        timestamp=int(log.get("timeUnixNano", 0)),
        observed_timestamp=int(log.get("observedTimeUnixNano", 0)),
        trace_id=log.get("traceId", ""),
        span_id=log.get("spanId", ""),
        trace_flags=log.get("flags", 0),
        severity_number=log.get("severityNumber", 0),
        severity_text=log.get("severityText", ""),
        scope=scope,
        attributes={each.get("key", ""): value_from_json(each.get("value")) for each in log.get("attributes", [])},
    )


def value_from_json(value: Any) -> AnyValue:
    for kind, found in (value or {}).items():
        match kind:
            case "stringValue" | "boolValue":
                return found  # type: ignore[no-any-return]
            case "intValue":
                return int(found)
            case "doubleValue":
                return float(found)
            case "bytesValue":
                return base64.b64decode(found)
            case "arrayValue":
                return tuple(value_from_json(each) for each in found.get("values", []))
            case "kvlistValue":
                return {each.get("key", ""): value_from_json(each.get("value")) for each in found.get("values", [])}
    return None
