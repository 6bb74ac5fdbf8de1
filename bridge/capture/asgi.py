"""ASGI middleware: puts the request's client address, user agent, id and session into the audit context."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, TypeAlias

from bridge.capture.context import audit_context

__all__ = ["AuditContextMiddleware"]

Scope: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send: TypeAlias = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]

# A header is the client's to choose; what enters every audit record of the request has to stay small.
_MAX_CHARS = 1_024


def _header(scope: Scope, name: bytes) -> str:
    for key, value in scope.get("headers") or ():
        if key == name:
            return str(bytes(value[:_MAX_CHARS]).decode("latin-1"))
    return ""


def _session_id(scope: Scope) -> str:
    session = scope.get("session")  # Starlette's SessionMiddleware, and those modelled on it
    if not isinstance(session, dict):
        return ""
    for key in ("session_id", "id", "sid"):
        value = session.get(key)
        if isinstance(value, str | int) and not isinstance(value, bool):
            return str(value)[:_MAX_CHARS]
    return ""


class AuditContextMiddleware:
    """Pure ASGI: ``app = AuditContextMiddleware(app)`` or ``app.add_middleware(AuditContextMiddleware)``.

    For every HTTP and WebSocket request sets ``client.address`` (the peer as the server sees it; let the server
    judge ``X-Forwarded-For``, e.g. uvicorn's ``--proxy-headers``), ``user_agent.original``, ``request.id`` (the
    header named by ``request_id_header``) and ``session.id``. The session id comes from ``session_id(scope)`` if
    given, else from ``session_id``, ``id`` or ``sid`` in ``scope["session"]``; a session *cookie* is a secret and
    is never taken. Place it inside the session middleware (added before it) so that the session is there.
    """

    def __init__(
        self,
        app: App,
        *,
        request_id_header: str = "x-request-id",
        session_id: Callable[[Scope], str | None] | None = None,
    ) -> None:
        self.app = app
        self._request_id_header = request_id_header.lower().encode("latin-1")
        self._session_id = session_id

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        client = scope.get("client")
        session = (self._session_id(scope) or "") if self._session_id is not None else _session_id(scope)
        fields = {
            "client_address": str(client[0]) if client else "",
            "user_agent": _header(scope, b"user-agent"),
            "request_id": _header(scope, self._request_id_header),
            "session_id": session,
        }
        with audit_context(**{key: value for key, value in fields.items() if value}):
            await self.app(scope, receive, send)
