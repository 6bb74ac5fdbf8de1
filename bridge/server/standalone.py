"""Serving an ASGI application on a port of our own, with uvicorn: in this thread, or beside the application."""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from bridge.errors import AddressUnavailable, MissingDependency, SettingsError
from bridge.live.session import MAX_CLIENT_TEXT
from bridge.server.http_protocol import http_protocol
from bridge.server.uvicorn_protocol import websocket_protocol
from bridge.threads import daemon

__all__ = ["StandaloneServer", "Tls", "bind", "check_address", "server_url"]


class Tls(NamedTuple):
    """Paths of PEM files. With ``client_ca`` every peer must show a certificate that it signed."""

    certificate: str
    key: str
    client_ca: str | None = None


def check_address(host: str, *, token: str | None) -> None:
    """Raise :class:`SettingsError` for an address that other machines reach while no token is set."""
    if token is None and not _is_loopback(host):
        raise SettingsError(
            "host",
            host,
            "other machines could reach this address, and no token is set",
            "set a token (BRIDGE_TOKEN), or listen on 127.0.0.1",
        )


def bind(host: str, port: int, *, token: str | None, option: str = "--port N, BRIDGE_PORT=N") -> socket.socket:
    """A listening socket. ``option`` is how a user chooses another port.

    Raises :class:`AddressUnavailable` if the address can't be had, and :class:`SettingsError` for an address that
    other machines reach while no token is set.
    """
    check_address(host, token=token)
    try:
        family, kind, proto, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, proto)
    except OSError as error:
        raise AddressUnavailable(host, port, error.strerror or str(error), option) from None
    try:
        # Lets a restarted server have its port back at once; on Linux it does not let two listen.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(2048)
    except OSError as error:
        listener.close()
        reason = "taken" if error.errno == errno.EADDRINUSE else (error.strerror or str(error))
        raise AddressUnavailable(host, port, reason, option) from None
    listener.setblocking(False)
    return listener


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def server_url(listener: socket.socket, tls: Tls | None = None) -> str:
    """``http://127.0.0.1:8765``, or https, without a slash at its end."""
    host, port = listener.getsockname()[:2]
    scheme = "http" if tls is None else "https"
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


def _tls_options(tls: Tls | None) -> dict[str, Any]:
    if tls is None:
        return {}
    options: dict[str, Any] = {"ssl_certfile": tls.certificate, "ssl_keyfile": tls.key}
    if tls.client_ca is not None:
        options |= {"ssl_ca_certs": tls.client_ca, "ssl_cert_reqs": ssl.CERT_REQUIRED}
    return options


class StandaloneServer:
    """uvicorn on a socket that is bound already. It leaves logging and signal handlers alone."""

    def __init__(self, app: Any, listener: socket.socket, tls: Tls | None = None) -> None:
        try:
            import uvicorn
            import websockets  # noqa: F401  (uvicorn would serve without it, and refuse every WebSocket)
        except ImportError as error:
            listener.close()
            raise MissingDependency(error.name or "uvicorn", "the stand-alone server", "server") from None
        self._listener = listener
        self._thread: threading.Thread | None = None
        self.port: int = listener.getsockname()[1]
        self.url = server_url(listener, tls)

        self.ready = ready = asyncio.Event()
        """Set once connections are answered; for whoever runs :meth:`serve` on the same loop."""

        class Server(uvicorn.Server):
            @contextmanager
            def capture_signals(self) -> Iterator[None]:
                yield  # SIGINT and SIGTERM are the application's

            async def startup(self, sockets: list[socket.socket] | None = None) -> None:
                await super().startup(sockets)
                ready.set()

        self._server = Server(
            uvicorn.Config(
                app,
                log_config=None,
                access_log=False,
                lifespan="off",
                # Compressing costs 40 to 60 % more CPU, and on loopback buys nothing.
                ws_per_message_deflate=False,
                # What is longer is refused before it is read, and not after.
                ws_max_size=MAX_CLIENT_TEXT,
                ws=websocket_protocol(),
                http=http_protocol(),
                timeout_graceful_shutdown=2,
                **_tls_options(tls),
            )
        )

    async def serve(self) -> None:
        """Serve until :meth:`stop`, or until this task is cancelled."""
        await self._server.serve(sockets=[self._listener])

    def start(self) -> None:
        """Serve in a daemon thread of its own."""
        self._thread = daemon(self._run, "bridge-server")
        self._thread.start()

    def _run(self) -> None:
        asyncio.run(self.serve())

    @property
    def started(self) -> bool:
        """True once connections are answered."""
        return bool(self._server.started)

    def close_after_fork(self) -> None:
        """In a forked child: let go of the port, which the parent serves.

        Else connections made after the parent's end would wait here for an answer that nobody gives.
        """
        self._listener.close()

    def stop(self, timeout: float = 5.0) -> None:
        """End it; waits for the thread if there is one."""
        self._server.should_exit = True
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(timeout)
