"""An OTLP/gRPC endpoint in its own process that acknowledges every request and reads none of it.

`python -m benchmarks.otlp_sink` prints its address and serves until its standard input closes.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from benchmarks.harness import BenchError, child_environment


@contextmanager
def otlp_sink() -> Iterator[str]:
    """Run the sink for the length of the block; gives `host:port`."""
    command = [sys.executable, "-m", "benchmarks.otlp_sink"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=child_environment()
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            address = process.stdout.readline().strip()
            if not address:
                raise BenchError("the OTLP sink did not start")
            yield address
        finally:
            process.stdin.close()


def main() -> None:
    import grpc

    service = "opentelemetry.proto.collector.logs.v1.LogsService"
    export = grpc.unary_unary_rpc_method_handler(lambda request, context: b"")
    server = grpc.server(ThreadPoolExecutor(max_workers=2), options=[("grpc.max_receive_message_length", -1)])
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {"Export": export}),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    print(f"127.0.0.1:{port}", flush=True)
    sys.stdin.read()
    server.stop(None)


if __name__ == "__main__":
    main()
