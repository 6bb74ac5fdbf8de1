"""What the tests of the receiver share: OTLP requests, in protobuf and JSON, and a real ``audit-bridge serve``."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import re
import sys
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import grpc
from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped]
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest, ExportLogsServiceResponse

from bridge.live.hub import Hub
from bridge.receive.receiver import Receiver
from bridge.record.event import LogEvent
from bridge.record.received import EventBuilder
from bridge.record.redact import Redactor
from tests.serving import PATIENCE_SECONDS, Child, child, environment

EXPORT = "/opentelemetry.proto.collector.logs.v1.LogsService/Export"
PROTOBUF = "application/x-protobuf"
JSON = "application/json"
TIME = 1_759_948_245_123_456_789


def put(value: Any, target: Any) -> None:
    """Write a Python value into a protobuf AnyValue."""
    if isinstance(value, bool):
        target.bool_value = value
    elif isinstance(value, int):
        target.int_value = value
    elif isinstance(value, float):
        target.double_value = value
    elif isinstance(value, str):
        target.string_value = value
    elif isinstance(value, bytes):
        target.bytes_value = value
    elif isinstance(value, list | tuple):
        target.array_value.SetInParent()
        for each in value:
            put(each, target.array_value.values.add())
    elif isinstance(value, dict):
        target.kvlist_value.SetInParent()
        put_all(value, target.kvlist_value.values)
    else:
        assert value is None


def put_all(attributes: Mapping[str, Any], pairs: Any) -> None:
    """Write attributes into a repeated KeyValue."""
    for key, value in attributes.items():
        pair = pairs.add()
        pair.key = key
        put(value, pair.value)


def request(
    *records: Mapping[str, Any], scope: str = "shop.orders", resource: Mapping[str, Any] | None = None
) -> ExportLogsServiceRequest:
    """A request; a record's ``body`` and ``attributes`` are Python values, the rest is as in OTLP."""
    made = ExportLogsServiceRequest()
    resource_logs = made.resource_logs.add()
    put_all({"service.name": "shop"} if resource is None else resource, resource_logs.resource.attributes)
    scope_logs = resource_logs.scope_logs.add()
    scope_logs.scope.name = scope
    for record in records:
        fields = dict(record)
        log = scope_logs.log_records.add()
        put(fields.pop("body", None), log.body)
        put_all(fields.pop("attributes", {}), log.attributes)
        for name, value in fields.items():
            setattr(log, name, value)
    return made


def said(*bodies: str, scope: str = "shop.orders") -> ExportLogsServiceRequest:
    """A request with one record a text."""
    records = ({"body": body, "severity_number": 9, "time_unix_nano": TIME} for body in bodies)
    return request(*records, scope=scope)


def as_json(made: ExportLogsServiceRequest) -> dict[str, Any]:
    """The same request as OTLP/JSON has it: names in lowerCamelCase, ids in hex, 64-bit integers as texts."""
    return {"resourceLogs": [_resource_logs_json(each) for each in made.resource_logs]}


def _resource_logs_json(each: Any) -> dict[str, Any]:
    return {
        "resource": {"attributes": _pairs_json(each.resource.attributes)},
        "scopeLogs": [
            {
                "scope": {
                    "name": scope_logs.scope.name,
                    "version": scope_logs.scope.version,
                    "attributes": _pairs_json(scope_logs.scope.attributes),
                },
                "logRecords": [_record_json(record) for record in scope_logs.log_records],
            }
            for scope_logs in each.scope_logs
        ],
    }


def _record_json(record: Any) -> dict[str, Any]:
    return {
        "timeUnixNano": str(record.time_unix_nano),
        "observedTimeUnixNano": str(record.observed_time_unix_nano),
        "severityNumber": record.severity_number,
        "severityText": record.severity_text,
        "body": _value_json(record.body),
        "attributes": _pairs_json(record.attributes),
        "droppedAttributesCount": record.dropped_attributes_count,
        "flags": record.flags,
        "traceId": record.trace_id.hex(),
        "spanId": record.span_id.hex(),
        "eventName": record.event_name,
    }


def _pairs_json(pairs: Any) -> list[dict[str, Any]]:
    return [{"key": pair.key, "value": _value_json(pair.value)} for pair in pairs]


def _value_json(value: Any) -> dict[str, Any]:
    kind = value.WhichOneof("value")
    if kind is None:
        return {}
    given = getattr(value, kind)
    shown: Any = given
    if kind == "int_value":
        shown = str(given)
    elif kind == "double_value" and given != given:
        shown = "NaN"
    elif kind == "double_value" and given in (float("inf"), float("-inf")):
        shown = "Infinity" if given > 0 else "-Infinity"
    elif kind == "bytes_value":
        shown = base64.b64encode(given).decode()
    elif kind == "array_value":
        shown = {"values": [_value_json(each) for each in given.values]}
    elif kind == "kvlist_value":
        shown = {"values": _pairs_json(given.values)}
    head, _, tail = kind.partition("_")
    return {head + tail.capitalize(): shown}


def field(number: int, content: bytes) -> bytes:
    """A protobuf field with a length."""
    size, head = len(content), bytearray([number << 3 | 2])
    while size > 0x7F:
        head.append(size & 0x7F | 0x80)
        size >>= 7
    head.append(size)
    return bytes(head) + content


def gzip_bomb(mib: int) -> bytes:
    """A thousandth of that, which unpacks to that much; its checksum is wrong, but nobody gets so far."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    block = packer.compress(bytes(1 << 20)) + packer.flush(zlib.Z_FULL_FLUSH)
    return b"\x1f\x8b\x08\0\0\0\0\0\0\xff" + block * mib + b"\x03\0" + bytes(8)


class Shown:
    """A receiver, and what it has shown."""

    def __init__(self, **options: Any) -> None:
        self.hub = Hub()
        self.events: list[LogEvent] = []
        self.receiver = Receiver(self.publish, builder(), **options)

    def publish(self, events: Any) -> None:
        self.events += events
        self.hub.publish(events)

    @property
    def messages(self) -> list[str]:
        return [event.message for event in self.events]

    def counts(self) -> dict[str, Any]:
        """The statistics that are not zero."""
        return {name: value for name, value in self.receiver.statistics()._asdict().items() if value}


def builder(**options: Any) -> EventBuilder:
    """What makes events, without redaction's further settings."""
    return EventBuilder(Redactor(), **options)


def status_of(body: bytes) -> tuple[int, str, list[int]]:
    """Code and words of a ``google.rpc.Status``, and the seconds of its RetryInfo."""
    status = status_pb2.Status.FromString(body)
    seconds = []
    for detail in status.details:
        retry = error_details_pb2.RetryInfo()
        assert detail.Unpack(retry)
        seconds.append(retry.retry_delay.seconds)
    return status.code, status.message, seconds


class Answered:
    """An HTTP answer."""

    def __init__(self, response: http.client.HTTPResponse) -> None:
        self.status = response.status
        self.headers = {name.lower(): value for name, value in response.getheaders()}
        self.body = response.read()

    @property
    def rejected(self) -> tuple[int, str]:
        """Of a partial success."""
        if self.headers["content-type"] == JSON:
            partial = json.loads(self.body).get("partialSuccess", {})
            return int(partial.get("rejectedLogRecords", 0)), partial.get("errorMessage", "")
        found = ExportLogsServiceResponse.FromString(self.body).partial_success
        return found.rejected_log_records, found.error_message

    @property
    def code(self) -> int:
        """That of its Status."""
        if self.headers["content-type"] == JSON:
            return int(json.loads(self.body)["code"])
        return status_of(self.body)[0]


def post(
    port: int,
    body: Any,
    content_type: str = PROTOBUF,
    path: str = "/v1/logs",
    *,
    method: str = "POST",
    address: str = "127.0.0.1",
    context: Any = None,
    **headers: str,
) -> Answered:
    """One request over a connection of its own; underscores in names of headers stand for hyphens."""
    connection: http.client.HTTPConnection
    if context is None:
        connection = http.client.HTTPConnection(address, port, timeout=PATIENCE_SECONDS)
    else:
        connection = http.client.HTTPSConnection(address, port, timeout=PATIENCE_SECONDS, context=context)
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    with contextlib.closing(connection):
        connection.request(method, path, body, {"content-type": content_type} | named)
        return Answered(connection.getresponse())


def call(
    channel: Any, body: bytes, *, compression: Any = None, **metadata: str
) -> tuple[grpc.StatusCode, bytes, dict[str, Any]]:
    """Code, answer (or the words of a refusal) and trailing metadata of one export."""
    export = channel.unary_unary(EXPORT)
    try:
        answer, done = export.with_call(
            body, timeout=PATIENCE_SECONDS, metadata=tuple(metadata.items()), compression=compression
        )
    except grpc.RpcError as error:
        failed: Any = error
        return failed.code(), failed.details().encode(), dict(failed.trailing_metadata() or ())
    return grpc.StatusCode.OK, answer, dict(done.trailing_metadata() or ())


class Serving:
    """A running ``audit-bridge serve``."""

    def __init__(self, process: Child) -> None:
        self.process = process
        self.pid = process.process.pid
        line = process.line("; OTLP in: ")
        found = re.search(r"(https?)://([^/]+):(\d+)/ .* OTLP in: https?://.*:(\d+), gRPC port (\d+)\)", line)
        assert found is not None, line
        self.line = line
        self.scheme, self.host = found[1], found[2]
        self.view, self.http, self.grpc = int(found[3]), int(found[4]), int(found[5])

    def statistics(self) -> dict[str, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self.view, timeout=PATIENCE_SECONDS)
        with contextlib.closing(connection):
            connection.request("GET", "/api/stats")
            return dict(json.loads(connection.getresponse().read()))

    def memory(self, name: str = "VmRSS") -> int:
        """Resident bytes now, or with ``VmHWM`` their peak."""
        found = re.search(rf"{name}:\s+(\d+) kB", Path(f"/proc/{self.pid}/status").read_text())
        assert found is not None
        return int(found[1]) << 10

    def forget_peak(self) -> int:
        """Begin a new peak; what is resident now."""
        Path(f"/proc/{self.pid}/clear_refs").write_text("5")
        return self.memory("VmHWM")

    @contextlib.contextmanager
    def channel(self, **options: int) -> Iterator[Any]:
        """A gRPC channel of its own."""
        arguments = [("grpc.use_local_subchannel_pool", 1), *options.items()]
        with grpc.insecure_channel(f"127.0.0.1:{self.grpc}", options=arguments) as channel:
            yield channel

    def end(self) -> list[str]:
        """End it as a service manager does; what it has said. Exit code 0, nothing of Python's own."""
        if self.process.process.poll() is None:
            self.process.process.terminate()
        assert self.process.wait() == 0
        odd = ("Traceback", "Error: ", "Exception", "never retrieved", "RuntimeWarning")
        found = [line for line in self.process.lines if any(word in line for word in odd)]
        assert found == [], "\n".join(self.process.lines)
        return self.process.lines


def serve_command(*options: str) -> list[str]:
    """``audit-bridge serve`` on free ports."""
    ports = ["--port", "0", "--otlp-grpc-port", "0", "--otlp-http-port", "0"]
    return [sys.executable, "-W", "error", "-m", "bridge", "serve", *ports, *options]


@contextlib.contextmanager
def serving(*options: str, **variables: str) -> Iterator[Serving]:
    """One that runs; settings come as ``BRIDGE_*`` variables."""
    with child(*serve_command(*options), env=environment(**variables)) as process:
        yield Serving(process)
