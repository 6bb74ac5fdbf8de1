"""One sender of records with ids, fast: requests of 512 are made once, and only their ids change.

    python -m benchmarks.fleet_sender '{"protocol": "grpc", "port": …, "sender": 0, "each": 250000, "rate": 0}'

One request at a time, so that no two of them can change places; a request that is refused is sent again.
"""

from __future__ import annotations

import http.client
import json
import sys
import time
from collections.abc import Callable
from typing import Any

import grpc
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest

BATCH = 512
AUDIT_EVERY = 10
DIGITS = 8
METHOD = "/opentelemetry.proto.collector.logs.v1.LogsService/Export"


def uid(sender: int, index: int) -> bytes:
    """Always of the same length."""
    return b"%d-%0*d" % (sender, DIGITS, index)


def request_of(sender: int, count: int) -> tuple[bytearray, list[int]]:
    """A request for the records 0 to ``count``, and where their numbers stand in it, in order, two for each."""
    request = ExportLogsServiceRequest()
    resource_logs = request.resource_logs.add()
    attribute = resource_logs.resource.attributes.add(key="service.name")
    attribute.value.string_value = f"shop-{sender}"
    scope_logs = resource_logs.scope_logs.add()
    scope_logs.scope.name = "shop.orders"
    now = time.time_ns()
    for index in range(count):
        name = uid(sender, index).decode()
        record = scope_logs.log_records.add(
            time_unix_nano=now, observed_time_unix_nano=now, severity_number=9, severity_text="INFO"
        )
        record.body.string_value = f"order {name} placed"
        record.attributes.add(key="log.record.uid").value.string_value = name
        record.attributes.add(key="shop.items").value.int_value = index % 7
        record.attributes.add(key="code.function.name").value.string_value = "place_order"
        if index % AUDIT_EVERY == 0:
            record.attributes.add(key="is_audit").value.bool_value = True
    body = bytearray(request.SerializeToString())
    places, at = [], 0
    for index in range(count):
        for _ in range(2):
            at = body.index(uid(sender, index), at) + len(uid(sender, 0)) - DIGITS
            places.append(at)
    return body, places


def sending(protocol: str, port: int) -> Callable[[bytes], bool]:
    """A function that sends a request; whether it was taken."""
    if protocol == "grpc":
        channel = grpc.insecure_channel(f"127.0.0.1:{port}")
        call = channel.unary_unary(METHOD)

        def by_grpc(body: bytes) -> bool:
            try:
                call(body, timeout=60)
            except grpc.RpcError:
                return False
            return True

        return by_grpc

    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)

    def by_http(body: bytes) -> bool:
        try:
            connection.request("POST", "/v1/logs", body, {"content-type": "application/x-protobuf"})
            answer = connection.getresponse()
            answer.read()
        except (OSError, http.client.HTTPException):
            connection.close()
            return False
        return answer.status == 200

    return by_http


def main() -> None:
    """Send all, then say how it went."""
    spec: dict[str, Any] = json.loads(sys.argv[1])
    sender, each, rate = spec["sender"], spec["each"], spec["rate"]
    send = sending(spec["protocol"], spec["port"])
    body, places = request_of(sender, BATCH)
    again = 0
    began = time.monotonic()
    for first in range(0, each, BATCH):
        if each - first < BATCH:
            body, places = request_of(sender, each - first)
        for place_number, at in enumerate(places):
            body[at : at + DIGITS] = b"%0*d" % (DIGITS, first + place_number // 2)
        while not send(bytes(body)):
            again += 1
            time.sleep(0.1)
        if rate:
            time.sleep(max(0.0, began + (first + BATCH) / rate - time.monotonic()))
    print(json.dumps({"sender": sender, "again": again, "seconds": round(time.monotonic() - began, 2)}), flush=True)


if __name__ == "__main__":
    main()
