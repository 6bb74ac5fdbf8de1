"""The server of our own: binding, starting, stopping."""

import gc
import logging
import os
import socket
import sys
import threading
import time
from typing import Any

import pytest

from bridge.errors import AddressUnavailable, MissingDependency, SettingsError
from bridge.live.hub import Hub
from bridge.record.event import LogEvent
from bridge.server.app import build_app, build_routes
from bridge.server.auth import Policy
from bridge.server.standalone import StandaloneServer, bind
from tests.serving import RawClient, eventually, free_port, listening_socket, run_python


def event(message: str) -> LogEvent:
    return LogEvent(timestamp=1, observed_timestamp=1, severity_number=9, level="INFO", logger="a", message=message)


async def app(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body"})


def test_bind_any_free_port() -> None:
    """Port 0 takes a free one, ready for connections at once."""
    with bind("127.0.0.1", 0, token=None) as listener, socket.create_connection(listener.getsockname(), 5):
        assert listener.getsockname()[1] > 0


def test_a_taken_port() -> None:
    """A port that is in use is an error that names address, reason and remedy."""
    with listening_socket() as other:
        port = other.getsockname()[1]
        with pytest.raises(AddressUnavailable) as caught:
            bind("127.0.0.1", port, token=None)
    assert (caught.value.host, caught.value.port, caught.value.reason) == ("127.0.0.1", port, "taken")
    assert "BRIDGE_PORT" in str(caught.value)


@pytest.mark.parametrize("host", ["203.0.113.9", "no-such-host.invalid"])
def test_an_address_of_somebody_else(host: str) -> None:
    """An address that this machine does not have is an error of the same kind."""
    with pytest.raises(AddressUnavailable):
        bind(host, 0, token="t")


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "203.0.113.9", "example.com"])
def test_other_machines_need_a_token(host: str) -> None:
    """Listening where other machines reach it is refused without a token."""
    with pytest.raises(SettingsError, match="no token is set"):
        bind(host, 0, token=None)


def test_everywhere_with_a_token() -> None:
    """With a token any address will do."""
    with bind("0.0.0.0", 0, token="t") as listener:
        assert listener.getsockname()[0] == "0.0.0.0"


def test_start_and_stop() -> None:
    """It serves from a thread of its own, touches no logging, and gives the port back."""
    handlers = logging.getLogger().handlers[:]
    server = StandaloneServer(app, bind("localhost", 0, token=None))
    server.start()
    eventually(lambda: server.started)
    assert server.url.endswith(f":{server.port}")
    with socket.create_connection(("127.0.0.1", server.port), 5) as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        assert client.recv(99).startswith(b"HTTP/1.1 204")
    server.stop()
    bind("127.0.0.1", server.port, token=None).close()
    assert logging.getLogger().handlers == handlers


def test_ipv6() -> None:
    """On the IPv6 loopback the link is written with brackets."""
    listener = bind("::1", 0, token=None)
    server = StandaloneServer(app, listener)
    assert server.url == f"http://[::1]:{server.port}"
    listener.close()


@pytest.mark.parametrize("package", ["uvicorn", "websockets"])
def test_without_a_server_installed(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without uvicorn or websockets one error names the package and the extra, and the port is free again."""
    monkeypatch.setitem(sys.modules, package, None)
    listener = bind("127.0.0.1", 0, token=None)
    with pytest.raises(MissingDependency, match=rf"needs the package {package}.*otel-audit-bridge\[server\]"):
        StandaloneServer(app, listener)
    assert listener.fileno() == -1


@pytest.mark.parametrize("reads", [True, False])
def test_stop_with_clients(reads: bool) -> None:
    """At the end a client gets what there is and then 1001; one that does not read delays the end by a second or so."""
    hub = Hub()
    routes = build_routes(hub, Policy(), prefix="", max_clients=9, statistics=dict, version="0")
    server = StandaloneServer(build_app(routes), bind("127.0.0.1", 0, token=None))
    server.start()
    eventually(lambda: server.started)
    descriptors = len(os.listdir("/dev/fd"))
    with RawClient(server.port, receive_buffer=None if reads else 2_048) as client:
        client.handshake()
        count = 10 if reads else 10_000
        hub.publish([event(f"{number} {'x' * 1_000}") for number in range(count)])
        if reads:
            client.read(count)
            reading = threading.Thread(target=client.read)
            reading.start()
        began = time.monotonic()
        server.stop()
        assert time.monotonic() - began < (2.0 if reads else 4.0)
        if reads:
            reading.join(10)
            assert (client.close, len(client.payloads)) == (1001, count)
    assert hub.clients == 0
    gc.collect()
    # The listener is closed as well.
    assert len(os.listdir("/dev/fd")) < descriptors


def test_a_forked_child_lets_go_of_the_port() -> None:
    """While a forked child of the program lives on, the port is free as soon as the program's own server has ended."""
    result = run_python(FORKED, BRIDGE_PORT=str(free_port()))
    assert (result.returncode, result.stderr.splitlines()[1:]) == (0, [])


FORKED = """
import os, socket, sys, time, warnings
warnings.simplefilter("ignore", DeprecationWarning)
from opentelemetry._logs import LogRecord
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import SimpleLogRecordProcessor
from bridge import autostart

provider = LoggerProvider(shutdown_on_exit=False)
provider.add_log_record_processor(SimpleLogRecordProcessor(autostart.AutostartExporter()))
provider.get_logger("a").emit(LogRecord(body="first"))
port = autostart.running_server().port
go_on, told = os.pipe()
pid = os.fork()
if pid == 0:
    os.close(told)
    os.read(go_on, 1)  # until the parent has done with it
    os._exit(0 if autostart.running_server() is None else 1)
provider.shutdown()
with socket.socket() as again:
    again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    again.bind(("127.0.0.1", port))
os.close(told)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""
