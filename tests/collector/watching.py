"""`audit-bridge serve` at the end of a pipeline, and a client that watches it with version 2 of the wire protocol."""

import json
import re
import ssl
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from tests.collector.ports import free_port
from tests.collector.secrets import Secrets
from tests.serving import child, environment, eventually


class Monitor:
    """A running monitor; ``records`` are the messages that its client has got, as they came."""

    def __init__(self) -> None:
        self.http_endpoint = self.grpc_endpoint = ""
        self.records: list[dict[str, Any]] = []

    def texts(self, kind: str) -> list[str]:
        """What the records of one kind (`audit_log`, `system_log`) say."""
        return [each["data"]["message"] for each in list(self.records) if each["type"] == kind]

    def shows(self, kind: str, wanted: set[str]) -> None:
        """Wait until the client has got all of these."""
        eventually(lambda: wanted <= set(self.texts(kind)), f"the monitor shows {kind}: {sorted(wanted)}", 30)


@contextmanager
def monitor(secrets: Secrets | None = None, *, grpc_port: int = 0, http_port: int = 0) -> Iterator[Monitor]:
    """A monitor with one client; with ``secrets``, it speaks TLS and wants its token."""
    made = Monitor()
    grpc_port, http_port = grpc_port or free_port(), http_port or free_port()
    ports = ["--port", str(free_port()), "--otlp-grpc-port", str(grpc_port), "--otlp-http-port", str(http_port)]
    command = [sys.executable, "-m", "bridge", "serve", *ports]
    environ, headers, context = environment(), {}, None
    if secrets is not None:
        command += ["--tls-certificate", str(secrets.folder / "tls.crt"), "--tls-key", str(secrets.folder / "tls.key")]
        environ["BRIDGE_TOKEN"] = secrets.token("monitor")
        headers = {"Authorization": f"Bearer {secrets.token('monitor')}"}
        context = ssl.create_default_context(cafile=str(secrets.folder / "ca.crt"))
    with child(*command, env=environ) as process:
        line = process.line("audit-bridge serve: ")
        found = re.search(r"records: (\S+);", line)
        assert found, line
        made.http_endpoint = f"http{'s' if secrets else ''}://127.0.0.1:{http_port}"
        made.grpc_endpoint = f"127.0.0.1:{grpc_port}"
        url = f"{found[1]}?v=2&history=1000"
        with connect(url, ssl=context, additional_headers=headers, proxy=None, max_size=None) as client:

            def read() -> None:
                try:
                    for text in client:
                        message = json.loads(text)
                        if message["type"] in ("audit_log", "system_log"):
                            made.records.append(message)
                except ConnectionClosed:
                    pass

            reader = threading.Thread(target=read, name="test-monitor-client")
            reader.start()
            try:
                yield made
            finally:
                client.close()
                reader.join()
