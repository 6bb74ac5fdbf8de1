"""Rotel, a collector that knows nothing of us, on ports that were free."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from tests.collector.binaries import rotel
from tests.senders.monitored import listens
from tests.serving import Child, child, environment, eventually, free_port


class Rotel:
    """A running Rotel."""

    def __init__(self, process: Child, grpc_port: int, http_port: int) -> None:
        self.process = process
        self.grpc_endpoint = f"http://127.0.0.1:{grpc_port}"
        self.http_endpoint = f"http://127.0.0.1:{http_port}"

    def endpoint(self, protocol: str) -> str:
        """Where a sender with this protocol sends to."""
        return self.grpc_endpoint if protocol == "grpc" else self.http_endpoint


@contextlib.contextmanager
def collector(folder: Path, protocol: str, endpoint: str, *, grpc_port: int = 0, http_port: int = 0) -> Iterator[Rotel]:
    """Rotel, that sends all it gets to ``endpoint``, by ``grpc`` or ``http``."""
    grpc_port, http_port = grpc_port or free_port(), http_port or free_port()
    env = environment(
        ROTEL_OTLP_GRPC_ENDPOINT=f"127.0.0.1:{grpc_port}",
        ROTEL_OTLP_HTTP_ENDPOINT=f"127.0.0.1:{http_port}",
        ROTEL_EXPORTER="otlp",
        ROTEL_OTLP_EXPORTER_PROTOCOL=protocol,
        ROTEL_OTLP_EXPORTER_ENDPOINT=endpoint,
        ROTEL_OTLP_EXPORTER_RETRY_INITIAL_BACKOFF="200ms",
        ROTEL_OTLP_EXPORTER_RETRY_MAX_BACKOFF="1s",
        ROTEL_BATCH_TIMEOUT="50ms",
        ROTEL_LOG_FILE=str(folder / "rotel.log"),
        ROTEL_PID_FILE=str(folder / "rotel.pid"),
    )
    with child(rotel(), "start", env=env, cwd=folder) as process:
        eventually(lambda: listens(grpc_port) and listens(http_port), "Rotel listens")
        yield Rotel(process, grpc_port, http_port)
