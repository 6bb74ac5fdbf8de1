"""The files of collector_config/, run as they are: on loopback, on ports that were free, with folders of the test."""

import contextlib
import http.client
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc

from tests.collector.binaries import CONFIGS, otelcol
from tests.collector.ports import free_port
from tests.collector.secrets import Secrets
from tests.collector.sinks import request_of
from tests.serving import Child, environment

READY = "Everything is ready"


def folders(folder: Path, secrets: Secrets) -> dict[str, str]:
    """The variables that every configuration may need to be valid."""
    return {
        "OTELCOL_SECRETS_DIR": str(secrets.folder),
        "OTELCOL_STATE_DIR": str(folder / "state"),
        "OTELCOL_AUDIT_FILE": str(folder / "audit" / "audit.jsonl"),
        "KAFKA_PASSWORD": "of-the-broker",
    }


class Collector:
    """A collector with one of the project's configurations. It can be killed, and started again on the same ports."""

    def __init__(self, config: str, folder: Path, secrets: Secrets, **variables: str) -> None:
        self.config = CONFIGS / config
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.grpc_port, self.http_port, self.health_port = free_port(), free_port(), free_port()
        self.address = f"127.0.0.1:{self.grpc_port}"
        self.metrics_port = free_port()
        ports = {
            "OTELCOL_GRPC_PORT": str(self.grpc_port),
            "OTELCOL_HTTP_PORT": str(self.http_port),
            "OTELCOL_HEALTH_PORT": str(self.health_port),
            "OTELCOL_METRICS_PORT": str(self.metrics_port),
        }
        self._program = otelcol()
        # Nothing of this machine's own settings.
        kept = {name: value for name, value in environment().items() if not name.startswith("OTELCOL")}
        self._environ = {**kept, **folders(folder, secrets), **ports, **variables}
        self.process: Child | None = None

    def start(self) -> "Collector":
        """Run it; it is ready when this returns."""
        self.process = Child(self._program, "--config", str(self.config), env=self._environ, cwd=self.folder)
        try:
            self.process.line(READY, timeout=40)
            # It warns of old names as it starts, and not when it validates.
            assert not [line for line in self.process.lines if "deprecated" in line]
        except BaseException:
            self.end()
            raise
        return self

    def kill(self) -> None:
        """End it as a power cut ends a process: SIGKILL, no goodbye."""
        assert self.process is not None
        self.process.process.kill()
        self.process.wait()
        self.end()

    def end(self) -> None:
        """End it, however it stands."""
        if self.process is not None:
            self.process.end()
            self.process = None

    def said(self) -> list[str]:
        """The lines of its log, since it was started last."""
        return list(self.process.lines) if self.process is not None else []

    @property
    def audit_file(self) -> Path:
        """The second copy that the gateway writes."""
        return self.folder / "audit" / "audit.jsonl"


@contextlib.contextmanager
def collector(
    config: str, folder: Path, secrets: Secrets, *, started: bool = True, **variables: str
) -> Iterator[Collector]:
    """A running collector."""
    made = Collector(config, folder, secrets, **variables)
    if started:
        made.start()
    try:
        yield made
    finally:
        made.end()


def post(port: int, rows: list[dict[str, Any]], *, seconds: float = 20.0, **headers: str) -> int:
    """Send records in one request, by OTLP/HTTP without TLS; the status of the answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=seconds)
    try:
        headers = {"content-type": "application/x-protobuf"} | headers
        connection.request("POST", "/v1/logs", body=request_of(rows).SerializeToString(), headers=headers)
        response = connection.getresponse()
        # Go's server closes what it refuses without reading it all: the answer is here, its rest may be lost.
        with contextlib.suppress(ConnectionError):
            response.read()
        return response.status
    finally:
        connection.close()


def grpc_export(
    address: str, secrets: Secrets | None, token: str | None, row: dict[str, Any] | None = None
) -> grpc.StatusCode:
    """Send one record; the status of the answer."""
    credentials = grpc.ssl_channel_credentials(secrets.text("ca.crt").encode()) if secrets else None
    channel = grpc.secure_channel(address, credentials) if credentials else grpc.insecure_channel(address)
    with channel:
        export = channel.unary_unary("/opentelemetry.proto.collector.logs.v1.LogsService/Export")
        metadata = [("authorization", f"Bearer {token}")] if token else []
        try:
            export(request_of([row or {"body": "x"}]).SerializeToString(), metadata=metadata, timeout=10)
        except grpc.RpcError as error:
            code: grpc.StatusCode = error.code()
            return code
    return grpc.StatusCode.OK


def file_bodies(path: Path) -> list[str]:
    """What the records in the gateway's file say."""
    if not path.exists():
        return []
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return [
        record["body"]["stringValue"]
        for line in lines
        for resource in line["resourceLogs"]
        for scope in resource["scopeLogs"]
        for record in scope["logRecords"]
    ]
