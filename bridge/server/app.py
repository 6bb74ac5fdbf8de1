"""The routes, and the application made of them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import BaseRoute, Route, WebSocketRoute
from starlette.types import ASGIApp

from bridge.diagnostics import say_rarely
from bridge.errors import SettingsError
from bridge.live.hub import Hub
from bridge.server.auth import Policy, judge
from bridge.server.monitor import MonitorEndpoint
from bridge.server.workers import sibling_workers

__all__ = ["MONITOR_PATH", "build_app", "build_routes"]

MONITOR_PATH: Final = "/ws/monitor"

_INDEX: Final = """\
audit-bridge {version}: live log and audit records of {whose}.

  {monitor}   WebSocket, one JSON record a message
  {stats}   counts, drops, clients
  {health}   answers while the process lives
"""


def build_routes(
    hub: Hub,
    policy: Policy,
    *,
    prefix: str,
    max_clients: int,
    statistics: Callable[[], Mapping[str, Any]],
    version: str,
    ingest: Mapping[str, ASGIApp] | None = None,
    elsewhere: str | None = None,
) -> list[BaseRoute]:
    """``/ws/monitor`` as it is, everything else under ``prefix`` (``""`` for the root).

    ``ingest``: by their paths, what takes OTLP. ``elsewhere``: the address of the process that shows the records,
    which are not shown here then.
    """
    prefix = prefix.rstrip("/")
    if prefix and not prefix.startswith("/"):
        raise SettingsError("prefix", prefix, "must start with /", f"for example /{prefix}")
    endpoint: ASGIApp = MonitorEndpoint(
        hub, policy, max_clients=max_clients, statistics=statistics, elsewhere=elsewhere
    )
    workers = sibling_workers()
    if workers is not None and elsewhere is None:
        say_rarely(
            "workers",
            logging.WARNING,
            "%s runs %d worker processes, and each shows only its own records: "
            "a client of /ws/monitor sees those of the worker that it reaches; run audit-bridge serve and name it "
            "in monitor_endpoint (BRIDGE_MONITOR_ENDPOINT) to see all",
            workers.server,
            workers.number,
        )

    def guarded(answer: Callable[[], Response]) -> Callable[[Request], Any]:
        async def handle(request: Request) -> Response:
            refusal = judge(request.scope, policy)
            if refusal is None:
                return answer()
            say_rarely("refused:http", logging.WARNING, "refused %s: %s", request.url.path, refusal)
            if refusal.kind == "token":
                return PlainTextResponse(f"{refusal}\n", 401, {"www-authenticate": "Bearer"})
            return PlainTextResponse(f"{refusal}\n", 403)

        return handle

    index = _INDEX.format(
        version=version,
        whose="whoever sends them by OTLP"
        if ingest
        else "this process"
        if elsewhere is None
        else f"this process, which are shown by {elsewhere}",
        monitor=MONITOR_PATH,
        stats=f"{prefix}/api/stats",
        health=f"{prefix}/healthz",
    )

    def stats() -> Response:
        return Response(msgspec.json.encode(statistics()), media_type="application/json")

    return [
        WebSocketRoute(MONITOR_PATH, endpoint, name="bridge-monitor"),
        Route(MONITOR_PATH, endpoint, name="bridge-monitor-http"),
        Route(prefix + "/", guarded(lambda: PlainTextResponse(index)), name="bridge-index"),
        Route(prefix + "/api/stats", guarded(stats), name="bridge-stats"),
        Route(prefix + "/healthz", guarded(lambda: PlainTextResponse("ok\n")), name="bridge-healthz"),
        *[Route(path, app, name="bridge" + path.replace("/", "-")) for path, app in (ingest or {}).items()],
    ]


def build_app(routes: list[BaseRoute]) -> Starlette:
    """A Starlette application of these routes; it needs no lifespan."""
    return Starlette(routes=routes)
