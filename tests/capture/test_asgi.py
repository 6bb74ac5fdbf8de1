from __future__ import annotations

import logging
from collections.abc import MutableMapping
from typing import Any, ClassVar

import anyio
import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route, WebSocketRoute
from starlette.testclient import TestClient
from starlette.websockets import WebSocket

import bridge
from bridge.capture.asgi import AuditContextMiddleware
from bridge.capture.context import AuditContext, current_audit_context
from bridge.testing import RecordedEvents

logger = logging.getLogger("audit.web")


def context_of(scope: MutableMapping[str, Any], **arguments: Any) -> AuditContext:
    """The context that an application sees for a scope."""
    seen: list[AuditContext] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(current_audit_context())

    middleware: Any = AuditContextMiddleware(app, **arguments)
    anyio.run(middleware, scope, None, None)
    assert current_audit_context() == AuditContext()
    return seen[0]


def test_a_request_fills_the_context() -> None:
    """Client address, user agent and request id, cut where the client makes them long."""
    scope = {
        "type": "http",
        "client": ("10.0.0.1", 5000),
        "headers": [(b"user-agent", b"x" * 5_000), (b"x-request-id", b"r1"), (b"x-request-id", b"r2")],
    }
    assert context_of(scope) == AuditContext(client_address="10.0.0.1", user_agent="x" * 1_024, request_id="r1")


@pytest.mark.parametrize("scope", [{"type": "http"}, {"type": "websocket", "client": None, "headers": []}])
def test_a_bare_request_fills_nothing(scope: MutableMapping[str, Any]) -> None:
    """Without peer and headers there is nothing to know."""
    assert context_of(scope) == AuditContext()


def test_lifespan_is_passed_on() -> None:
    """Only requests have a context."""
    assert context_of({"type": "lifespan", "client": ("10.0.0.1", 1)}) == AuditContext()


@pytest.mark.parametrize(
    ("session", "expected"),
    [
        ({"session_id": "a", "id": "b"}, "a"),
        ({"id": 7}, "7"),
        ({"sid": "c" * 2_000}, "c" * 1_024),
        ({"id": True}, ""),
        ({"id": ["x"]}, ""),
        ({"user": "u"}, ""),
        ("a", ""),
        (None, ""),
    ],
)
def test_the_session_id_is_looked_for_in_the_session(session: Any, expected: str) -> None:
    """Under three usual names, as text or number."""
    assert context_of({"type": "http", "session": session}).session_id == expected


def test_names_can_be_chosen() -> None:
    """The header of the request id and the way to the session id are the application's."""
    scope = {"type": "http", "headers": [(b"x-trace", b"t")], "user": {"session": "s"}}
    context = context_of(scope, request_id_header="X-Trace", session_id=lambda scope: scope["user"]["session"])
    assert (context.request_id, context.session_id) == ("t", "s")
    assert context_of(scope, session_id=lambda scope: None).session_id == ""


class Sessions:
    """Stands for a session middleware: one session for all."""

    session: ClassVar[dict[str, Any]] = {}

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        scope["session"] = self.session
        await self.app(scope, receive, send)


async def grant(request: Request) -> PlainTextResponse:
    request.session["id"] = "s1"
    with bridge.actor("u1"):
        await bridge.audit_log_async(logger, "Role granted", action="role_grant")
    return PlainTextResponse("ok")


def read(request: Request) -> PlainTextResponse:
    bridge.audit_log(logger, "Read", action="read")
    return PlainTextResponse("ok")


async def socket(websocket: WebSocket) -> None:
    await websocket.accept()
    bridge.audit_log(logger, "Connected", action="connect")
    await websocket.close()


def test_events_in_a_real_application_know_the_request(audit_events: RecordedEvents) -> None:
    """In an endpoint of any kind the event has the request's client, agent, id and session."""
    app = Starlette(
        routes=[Route("/grant", grant), Route("/read", read), WebSocketRoute("/ws", socket)],
        middleware=[Middleware(Sessions), Middleware(AuditContextMiddleware)],
    )
    with TestClient(app, headers={"user-agent": "pytest", "x-request-id": "r1"}) as client:
        client.get("/grant")
        client.get("/read")
        with client.websocket_connect("/ws"):
            pass
    common: Any = {"client.address": "testclient", "user_agent.original": "pytest", "request.id": "r1"}
    audit_events.assert_logged(action="role_grant", actor="u1", actor_type="user", **common)
    audit_events.assert_logged(action="read", session="s1", actor="test", actor_type="service", **common)
    audit_events.assert_logged(action="connect", session="s1", **common)
