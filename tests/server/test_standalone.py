"""The server of our own: binding, starting, stopping."""

import logging
import socket
import sys
from typing import Any

import pytest

from bridge.errors import AddressUnavailable, MissingDependency, SettingsError
from bridge.server.standalone import StandaloneServer, bind
from tests.serving import eventually, listening_socket


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
