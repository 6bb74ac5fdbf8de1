"""Another collector than OpenTelemetry's own, in another language, between a service and the monitor."""

import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.collector.ports import free_port
from tests.collector.watching import monitor
from tests.serving import child, environment, eventually
from tests.telemetry import run_script

pytestmark = pytest.mark.timeout(120)

SERVICE = """
    import json, logging
    import bridge

    b = bridge.setup(service_name="orders", otlp_endpoint={endpoint!r}, otlp_protocol={protocol!r})
    bridge.audit_log(logging.getLogger("orders"), "Role granted", action="role_grant", metadata={{"role": "admin"}})
    logging.getLogger("orders").warning("Stock is low")
    print(json.dumps(b.force_flush(timeout=20)))
    b.shutdown()
"""


def listens(port: int) -> bool:
    """Whether somebody does, on this port."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


@contextlib.contextmanager
def rotel(program: str, folder: Path, *options: str) -> Iterator[dict[str, int]]:
    """A running Rotel; its ports, by protocol."""
    ports = {"grpc": free_port(), "http/protobuf": free_port()}
    addresses = ["--otlp-grpc-endpoint", f"127.0.0.1:{ports['grpc']}"]
    addresses += ["--otlp-http-endpoint", f"127.0.0.1:{ports['http/protobuf']}"]
    # It writes these wherever it runs; the defaults are in a folder that everybody shares.
    files = ["--pid-file", str(folder / "rotel.pid"), "--log-file", str(folder / "rotel.log")]
    with child(program, "start", *addresses, *files, *options, env=environment(), cwd=folder) as process:

        def up() -> bool:
            assert process.process.poll() is None, process.lines
            return all(map(listens, ports.values()))

        eventually(up, "Rotel listens")
        yield ports


@pytest.mark.parametrize("sent_by", ["grpc", "http/protobuf"])
@pytest.mark.parametrize("taken_by", ["grpc", "http"])
def test_service_to_rotel_to_monitor(sent_by: str, taken_by: str, real_rotel: str, tmp_path: Path) -> None:
    """It takes what the bridge sends, and the monitor takes what it sends."""
    # Without TLS: 0.0.1a15 refuses to start with an authority's certificate, whatever else it is given.
    with monitor() as watched:
        endpoint = f"http://{watched.grpc_endpoint}" if taken_by == "grpc" else watched.http_endpoint
        options = ["--exporter", "otlp", "--otlp-exporter-protocol", taken_by, "--otlp-exporter-endpoint", endpoint]
        with rotel(real_rotel, tmp_path, *options) as ports:
            endpoint = f"http://127.0.0.1:{ports[sent_by]}"
            delivered, errors = run_script(tmp_path, SERVICE.format(endpoint=endpoint, protocol=sent_by))
            assert delivered is True, errors
            watched.shows("audit_log", {"Role granted"})
            watched.shows("system_log", {"Stock is low"})
        (granted,) = [each["data"] for each in watched.records if each["type"] == "audit_log"]
        assert (granted["action"], granted["metadata"], granted["service"]) == (
            "role_grant",
            {"role": "admin"},
            "orders",
        )
