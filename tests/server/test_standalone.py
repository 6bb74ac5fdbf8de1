"""The server of our own: binding, starting, stopping."""

import asyncio
import contextlib
import gc
import logging
import os
import socket
import ssl
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import trustme

from bridge.errors import AddressUnavailable, MissingDependency, SettingsError
from bridge.live.hub import Hub
from bridge.record.event import LogEvent
from bridge.server.app import build_app, build_routes
from bridge.server.auth import Policy
from bridge.server.standalone import StandaloneServer, Tls, bind, check_address, server_url
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


def test_which_option() -> None:
    """A taken port names the option that the caller gives."""
    with listening_socket() as other, pytest.raises(AddressUnavailable, match=r"\(--other N; 0 takes any free one\)"):
        bind("127.0.0.1", other.getsockname()[1], token=None, option="--other N")


def test_check_address() -> None:
    """An address is checked without taking it: loopback by any name, or a token."""
    for host in ("localhost", "127.9.9.9", "::1"):
        check_address(host, token=None)
    check_address("0.0.0.0", token="t")
    with pytest.raises(SettingsError):
        check_address("0.0.0.0", token=None)


def papers(folder: Path) -> tuple[Tls, Any, Any]:
    authority = trustme.CA()
    server = authority.issue_cert("127.0.0.1")
    chain, key, known = folder / "chain.pem", folder / "key.pem", folder / "ca.pem"
    chain.write_bytes(b"".join(blob.bytes() for blob in server.cert_chain_pems))
    server.private_key_pem.write_to_path(str(key))
    authority.cert_pem.write_to_path(str(known))
    return Tls(str(chain), str(key), str(known)), authority, authority.issue_cert("client")


@pytest.mark.parametrize("mutual", [False, True])
def test_tls(mutual: bool, tmp_path: Path) -> None:
    """With a certificate it speaks TLS and says https; with an authority it asks for a certificate as well."""
    tls, authority, client = papers(tmp_path)
    if not mutual:
        tls = tls._replace(client_ca=None)
    server = StandaloneServer(app, bind("127.0.0.1", 0, token=None), tls)
    server.start()
    eventually(lambda: server.started)
    assert server.url == f"https://127.0.0.1:{server.port}"
    for cert in (None, client):
        context = ssl.create_default_context()
        authority.configure_trust(context)
        if cert is not None:
            cert.configure_cert(context)
        answer = b""
        with (
            contextlib.suppress(OSError),
            socket.create_connection(("127.0.0.1", server.port), 5) as plain,
            context.wrap_socket(plain, server_hostname="127.0.0.1") as connection,
        ):
            connection.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            answer = connection.recv(99)
        assert answer.startswith(b"HTTP/1.1 204") is (cert is not None or not mutual)
    server.stop()


def test_urls() -> None:
    """What is listened on, as a link."""
    with bind("::1", 0, token=None) as listener:
        port = listener.getsockname()[1]
        assert server_url(listener) == f"http://[::1]:{port}"
        assert server_url(listener, Tls("a", "b")) == f"https://[::1]:{port}"


@pytest.mark.anyio
async def test_ready_on_the_callers_loop() -> None:
    """Whoever runs it on a loop of his own is told when it answers, and ends it by ``stop``."""
    server = StandaloneServer(app, bind("127.0.0.1", 0, token=None))
    serving = asyncio.create_task(server.serve())
    await server.ready.wait()
    assert server.started
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    assert (await reader.read()).startswith(b"HTTP/1.1 204")
    writer.close()
    server.stop()
    await serving


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
