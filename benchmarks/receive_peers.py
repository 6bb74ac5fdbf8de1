"""Two gRPC servers that a user would write: `python -m benchmarks.receive_peers dict|bare`."""

from __future__ import annotations

import asyncio
import json
import sys
from collections import deque
from typing import Any

import grpc
import grpc.aio
from google.protobuf.json_format import MessageToDict
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest

SERVICE = "opentelemetry.proto.collector.logs.v1.LogsService"


async def main(peer: str) -> None:
    """Serve until terminated."""
    ring: deque[str] = deque(maxlen=20_000)

    async def with_dict(body: bytes, context: Any) -> bytes:
        for resource in MessageToDict(ExportLogsServiceRequest.FromString(body))["resourceLogs"]:
            for scope in resource["scopeLogs"]:
                for record in scope["logRecords"]:
                    ring.append(json.dumps(record))
        return b""

    async def bare(body: bytes, context: Any) -> bytes:
        ExportLogsServiceRequest.FromString(body)
        return b""

    server = grpc.aio.server(options=[("grpc.max_receive_message_length", 16 << 20)])
    handler = grpc.unary_unary_rpc_method_handler({"dict": with_dict, "bare": bare}[peer])
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, {"Export": handler}),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(f"gRPC port {port}", flush=True)
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
