"""The monitor of a fleet: OTLP in, by gRPC and HTTP; the live view out. One process, one event loop."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import ssl
import sys
from collections.abc import Mapping
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from starlette.applications import Starlette
from starlette.routing import BaseRoute, Mount, Route

from bridge.assembly import version
from bridge.diagnostics import say, say_rarely
from bridge.errors import MissingDependency, SettingsError
from bridge.live.hub import Hub
from bridge.record.classify import WIRE_LOGGERS
from bridge.record.conditions import FilterError
from bridge.record.received import EventBuilder
from bridge.record.redact import redactor_for
from bridge.server.app import MONITOR_PATH, build_app, build_routes
from bridge.server.auth import Policy, Refusal, judge_ingest, judge_peer
from bridge.server.standalone import StandaloneServer, Tls, bind, check_address, server_url
from bridge.settings import Settings, unknown_names

if TYPE_CHECKING:
    from bridge.receive.answers import Code
    from bridge.receive.otlp_http import Guard
    from bridge.receive.receiver import Receiver

__all__ = ["run_serve"]

# What senders have left for a request that is under way when the server ends.
_GRACE_SECONDS: Final = 2.0

# Loggers that speak while a request is received. Were they sent to the collector that feeds this monitor (by
# opentelemetry-instrument, say), each of its requests would beget the next. urllib3 speaks while they are sent there.
_INGEST_LOGGERS: Final = (*WIRE_LOGGERS[:-1], "uvicorn.access", "grpc", "asyncio", "urllib3")


def run_serve(settings: Settings, environ: Mapping[str, str]) -> int:
    """Serve until Ctrl-C or SIGTERM; the exit code.

    Raises :class:`~bridge.errors.BridgeError` if a port can't be had or a setting can't be used; then nothing listens.
    """
    for sentence in unknown_names(environ):
        say(logging.WARNING, "%s", sentence)
    # What goes wrong is said by us, in one line; gRPC's library would add its own to standard error.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    try:
        import bridge.receive.otlp_grpc  # noqa: F401
    except ImportError as error:
        raise MissingDependency(error.name or "grpcio", "audit-bridge serve", "serve") from None
    with ExitStack() as undo:
        # This process is ours alone. With every write the loop lets go of the interpreter, and would wait Python's
        # 5 ms for it whenever a large request is decoded in its thread.
        undo.callback(sys.setswitchinterval, sys.getswitchinterval())
        sys.setswitchinterval(0.000_5)
        # Rings hold tens of thousands of objects that live for a while; the collector would look at them all the time.
        undo.callback(gc.set_threshold, *gc.get_threshold())
        gc.set_threshold(20_000, 20, 50)
        for name in _INGEST_LOGGERS:
            logger = logging.getLogger(name)
            undo.callback(logger.setLevel, logger.level)
            logger.setLevel(logging.WARNING)
        hint = _NoHttp(settings)
        logging.getLogger("uvicorn.error").addFilter(hint)
        undo.callback(logging.getLogger("uvicorn.error").removeFilter, hint)
        asyncio.run(_Monitor(settings).run())
    return 0


class _NoHttp(logging.Filter):
    """Says in our words, and rarely, what uvicorn says of every connection that does not speak HTTP."""

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self._words = "somebody does not speak HTTP on an HTTP port: " + (
            "OTLP over gRPC has a port of its own; https:// needs tls_certificate (--tls-certificate)"
            if settings.tls_certificate is None
            else "OTLP over gRPC has a port of its own; all ports speak TLS, so addresses begin with https://"
        )

    def filter(self, record: logging.LogRecord) -> bool:
        if record.msg != "Invalid HTTP request received.":
            return True
        say_rarely("serve:no-http", logging.WARNING, "%s", self._words)
        return False


class _Monitor:
    """All parts, while they run."""

    def __init__(self, settings: Settings) -> None:
        from bridge.receive.receiver import Receiver

        self._settings = settings
        self._policy = Policy(settings.token, settings.allowed_origins, settings.allowed_hosts)
        self._hub = Hub(
            system_records=settings.ring_system_records,
            system_bytes=settings.ring_system_bytes,
            audit_records=settings.ring_audit_records,
            audit_bytes=settings.ring_audit_bytes,
        )
        builder = EventBuilder(redactor_for(settings), rules=settings.audit_rules, text_chars=settings.live_text_chars)
        try:
            self._receiver: Receiver = Receiver(
                self._hub.publish,
                builder,
                audit_sources=settings.audit_sources,
                dedupe_records=settings.dedupe_records,
                max_bytes=settings.receive_bytes,
                max_pending_bytes=settings.receive_pending_bytes,
            )
        except FilterError as error:
            raise SettingsError("audit_sources", settings.audit_sources, error.rule, error.remedy) from None
        self._tls = _tls(settings)

    async def run(self) -> None:
        """Bind, say where, serve until told to stop, and say goodbye."""
        from bridge.receive.otlp_grpc import OtlpGrpcServer

        settings, receiver, hub = self._settings, self._receiver, self._hub
        check_address(settings.host, token=settings.token)
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        async with AsyncExitStack() as undo:
            for number in (signal.SIGINT, signal.SIGTERM):
                previous = signal.signal(number, lambda *_: loop.call_soon_threadsafe(stop.set))
                undo.callback(signal.signal, number, previous)
            # All ports before anything answers: whoever is let in finds the whole of it.
            view_listener = bind(settings.host, settings.port, token=settings.token)
            undo.callback(view_listener.close)
            logs_listener = bind(
                settings.host,
                settings.otlp_http_port,
                token=settings.token,
                option="--otlp-http-port N, BRIDGE_OTLP_HTTP_PORT=N",
            )
            undo.callback(logs_listener.close)
            grpc_server = OtlpGrpcServer(receiver, self._guard_peer)
            grpc_server.bind(settings.host, settings.otlp_grpc_port, self._grpc_tls())
            undo.push_async_callback(grpc_server.stop, _GRACE_SECONDS)
            undo.callback(receiver.close)

            routes = build_routes(
                hub,
                self._policy,
                prefix="",
                max_clients=settings.max_clients,
                statistics=self.statistics,
                version=version(),
                # The live view asks nobody for a certificate: on its port a sender has the token, or is local.
                ingest=self._endpoints(self._guard_view),
            )
            view_tls = self._tls and self._tls._replace(client_ca=None)
            servers = [
                StandaloneServer(build_app(routes), view_listener, view_tls),
                StandaloneServer(self._otlp_app(server_url(view_listener, view_tls)), logs_listener, self._tls),
            ]
            serving = [asyncio.create_task(server.serve()) for server in servers]
            await grpc_server.start()
            for server in servers:
                await server.ready.wait()
            view, http = servers
            print(
                f"audit-bridge serve: {_openable(view.url)}/ (records: {_openable(view.url).replace('http', 'ws', 1)}"
                f"{MONITOR_PATH}; OTLP in: {_openable(http.url)}, gRPC port {grpc_server.port}); Ctrl-C ends",
                flush=True,
            )
            stopped = asyncio.create_task(stop.wait())
            await asyncio.wait({stopped, *serving}, return_when=asyncio.FIRST_COMPLETED)
            stopped.cancel()
            # Senders first, so that what they were told was taken is still shown; then the watchers' goodbye.
            await grpc_server.stop(_GRACE_SECONDS)
            await receiver.stop()
            hub.close()
            for server in servers:
                server.stop()
            await asyncio.gather(*serving)
        taken = receiver.statistics()
        print(
            f"audit-bridge serve: shown {taken.accepted} records of {taken.requests} requests; {taken.duplicates} "
            f"copies left out, {taken.rejected} records and {sum(taken.refused.values())} requests refused",
            flush=True,
        )

    def _otlp_app(self, view: str) -> Starlette:
        from bridge.receive.otlp_http import Elsewhere

        routes: list[BaseRoute] = [Route(path, app) for path, app in self._endpoints(self._guard).items()]
        return Starlette(routes=[*routes, Mount("/", Elsewhere(self._receiver, _openable(view)))])

    def _endpoints(self, guard: Guard) -> dict[str, Any]:
        from bridge.receive.otlp_http import OtlpHttpEndpoint

        return {
            "/v1/logs": OtlpHttpEndpoint(self._receiver, guard),
            "/v1/traces": OtlpHttpEndpoint(self._receiver, guard, signal="spans"),
            "/v1/metrics": OtlpHttpEndpoint(self._receiver, guard, signal="data_points"),
        }

    def statistics(self) -> dict[str, Any]:
        """What the hub and the receiver count."""
        return self._hub.statistics()._asdict() | self._receiver.statistics()._asdict()

    # -- who may send -----------------------------------------------------------------------------------------------

    @property
    def _mutual(self) -> bool:
        return self._tls is not None and self._tls.client_ca is not None

    def _guard(self, scope: Mapping[str, Any]) -> tuple[Code, str] | None:
        if self._mutual:  # the handshake has asked for a certificate already
            return None
        return self._guard_view(scope)

    def _guard_view(self, scope: Mapping[str, Any]) -> tuple[Code, str] | None:
        return _told(judge_ingest(scope, self._policy))

    def _guard_peer(self, address: str, metadata: Mapping[str, str]) -> tuple[Code, str] | None:
        if self._mutual:
            return None
        return _told(judge_peer(address, metadata.get("authorization", ""), self._policy))

    def _grpc_tls(self) -> Any:
        from bridge.receive.otlp_grpc import GrpcTls

        if self._tls is None:
            return None
        certificate, key, client_ca = self._tls
        return GrpcTls(
            Path(certificate).read_bytes(),
            Path(key).read_bytes(),
            Path(client_ca).read_bytes() if client_ca is not None else None,
        )


def _told(refusal: Refusal | None) -> tuple[Code, str] | None:
    from bridge.receive.answers import Code

    if refusal is None:
        return None
    return (Code.UNAUTHENTICATED if refusal.kind == "token" else Code.PERMISSION_DENIED), str(refusal)


def _tls(settings: Settings) -> Tls | None:
    if settings.tls_certificate is None or settings.tls_key is None:
        return None
    # Tried here, because servers that can't read them say so in many words and none of ours.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(settings.tls_certificate, settings.tls_key)
    except (ssl.SSLError, OSError) as error:
        raise SettingsError(
            "tls_certificate",
            settings.tls_certificate,
            f"can't be used with tls_key={settings.tls_key!r} ({error})",
            "give a certificate in PEM and its key, without a passphrase",
        ) from None
    if settings.tls_client_ca is not None:
        try:
            context.load_verify_locations(settings.tls_client_ca)
        except (ssl.SSLError, OSError) as error:
            raise SettingsError(
                "tls_client_ca", settings.tls_client_ca, f"can't be read ({error})", "give certificates in PEM"
            ) from None
    return Tls(settings.tls_certificate, settings.tls_key, settings.tls_client_ca)


def _openable(url: str) -> str:
    """The address to write into a browser of this machine, where the server listens on all of them."""
    return url.replace("//0.0.0.0:", "//127.0.0.1:").replace("//[::]:", "//[::1]:")
