"""The WebSocket endpoint: who may come in, what they asked for, and how they leave. The serving is live/fanout's."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from contextlib import suppress
from typing import Any, Final, TypeAlias
from urllib.parse import parse_qsl

from bridge.diagnostics import say_rarely
from bridge.live.fanout import FanOut, FrameWriter, JoinedClient, PlainClient, Session
from bridge.live.hub import Hub
from bridge.live.messages import BadMessage
from bridge.live.session import (
    CLOSE_FULL,
    CLOSE_GOING_AWAY,
    CLOSE_UNAUTHORIZED,
    CLOSE_WRONG_REQUEST,
    Close,
    SessionV1,
)
from bridge.live.session_v2 import OPTIONS, SessionV2, parse_options
from bridge.record.filters import FilterError, parse_query
from bridge.server.auth import Policy, judge
from bridge.server.uvicorn_protocol import EXTENSION

__all__ = ["MonitorEndpoint"]

Scope: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send: TypeAlias = Callable[[MutableMapping[str, Any]], Awaitable[None]]

# A client that takes nothing for so long is not slow, it is stuck. The server's own pings can't end it: their close
# waits behind the same full buffer.
_STUCK_SECONDS: Final = 60.0
_CLOSE_SECONDS: Final = 2.0


class MonitorEndpoint:
    """An ASGI application for the scope type ``websocket``."""

    def __init__(
        self,
        hub: Hub,
        policy: Policy,
        *,
        max_clients: int,
        statistics: Callable[[], Mapping[str, Any]] = dict,
        stuck_seconds: float = _STUCK_SECONDS,
        elsewhere: str | None = None,
    ) -> None:
        self._hub = hub
        self._policy = policy
        self._max_clients = max_clients
        self._statistics = statistics
        self._stuck_seconds = stuck_seconds
        self._elsewhere = elsewhere
        self._fan_outs: dict[int, FanOut] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one client until it leaves, is refused, or the hub closes."""
        if scope["type"] != "websocket":
            await _upgrade_required(send)
            return
        if (await receive())["type"] != "websocket.connect":
            return
        refusal = judge(scope, self._policy)
        if refusal is not None:
            say_rarely(f"refused:{refusal.kind}", logging.WARNING, "refused a client of /ws/monitor: %s", refusal)
            if refusal.kind == "token":
                await _accept_and_close(send, Close(CLOSE_UNAUTHORIZED, str(refusal)))
            else:
                await _deny(scope, receive, send, str(refusal))
            return
        if self._elsewhere is not None:
            words = f"this process shows nothing itself: its records are at {self._elsewhere} (monitor_endpoint)"
            await _deny(scope, receive, send, words, 404)
            return
        if self._hub.closed:
            await _accept_and_close(send, Close(CLOSE_GOING_AWAY, "the monitor is shutting down"))
            return
        if not self._hub.join(self._max_clients):
            say_rarely("full", logging.WARNING, "refused a client: %d are connected (max_clients)", self._max_clients)
            await _accept_and_close(
                send, Close(CLOSE_FULL, f"full: {self._max_clients} clients are connected (max_clients)")
            )
            return
        try:
            try:
                # Made before the handshake ends: a client that was accepted misses nothing from then on.
                session = self._session(scope)
            except (FilterError, BadMessage) as error:
                await _accept_and_close(send, Close(CLOSE_WRONG_REQUEST, str(error)))
                return
            try:
                await send({"type": "websocket.accept"})
            except Exception as error:
                if _is_disconnect(error):  # it left in the middle of the handshake
                    return
                raise
            await self._serve(scope, receive, send, session)
        finally:
            self._hub.leave()

    def _session(self, scope: Scope) -> Session:
        query = parse_qsl(scope.get("query_string", b"").decode("latin-1"), keep_blank_values=True)
        version = next((value for name, value in query if name == "v"), "1")
        # A name that is nobody's goes to the filters, who know how to suggest the one that was meant.
        filter = parse_query([(name, value) for name, value in query if name not in OPTIONS])
        rest = [(name, value) for name, value in query if name in OPTIONS]
        if version == "2":
            session = SessionV2(
                self._hub,
                filter,
                parse_options(rest),
                pid=os.getpid(),
                statistics=self._statistics,
                now=asyncio.get_running_loop().time(),
            )
            session.begin()
            return session
        if version != "1":
            raise FilterError("v", version, "there are versions 1 and 2", "write v=2, or leave v out")
        for name, value in rest:
            if name != "v":
                # A parameter that would change what is shown is never ignored in silence.
                raise FilterError(name, value, "version 1 has filters only", "ask for v=2")
        return SessionV1(filter, self._hub.end())

    async def _serve(self, scope: Scope, receive: Receive, send: Send, session: Session) -> None:
        writer: FrameWriter | None = ((scope.get("extensions") or {}).get(EXTENSION) or {}).get("writer")

        async def send_text(text: str) -> None:
            await send({"type": "websocket.send", "text": text})

        fan_out = self._fan_out()
        client = (
            JoinedClient(fan_out, session, writer, self._stuck_seconds)
            if writer is not None
            else PlainClient(fan_out, session, send_text, self._stuck_seconds)
        )
        reader = asyncio.create_task(_read(receive, client))
        try:
            client.start()
            await asyncio.wait({reader, client.done}, return_when=asyncio.FIRST_COMPLETED)
            failed = _look_at(client.done) if client.done.done() else None
            if isinstance(failed, Exception) and _is_disconnect(failed):
                # The peer is gone, and in a moment the server will say so. Were we back before it does, uvicorn would
                # complain of a handshake that was never completed.
                await asyncio.wait({reader}, timeout=_CLOSE_SECONDS)
        finally:
            client.stop()
            reader.add_done_callback(_look_at)
            reader.cancel()
            # Not by awaiting it: cancelled here ourselves, we would raise its CancelledError, and anyio, which knows
            # its cancellations by their message, would let it out.
            await asyncio.wait({reader})
        if session.close is not None and not client.left:
            with suppress(Exception):
                async with asyncio.timeout(_CLOSE_SECONDS):
                    await send(
                        {"type": "websocket.close", "code": session.close.code, "reason": _reason(session.close.reason)}
                    )
            if writer is not None and not writer.writable:
                writer.abort()
        for part in (reader, client.done):
            error = _look_at(part) if part.done() else None
            if isinstance(error, Exception) and not _is_disconnect(error):
                raise error

    def _fan_out(self) -> FanOut:
        loop = asyncio.get_running_loop()
        fan_out = self._fan_outs.get(id(loop))
        if fan_out is None or fan_out.loop is not loop:
            self._fan_outs = {key: each for key, each in self._fan_outs.items() if not each.loop.is_closed()}
            fan_out = self._fan_outs[id(loop)] = FanOut(self._hub, loop)
        return fan_out


async def _read(receive: Receive, client: JoinedClient | PlainClient) -> None:
    while True:
        message = await receive()
        if message["type"] == "websocket.disconnect":
            client.left = True
            return
        client.heard(message.get("text") or message.get("bytes") or "")


def _look_at(part: asyncio.Future[None]) -> BaseException | None:
    """The exception of what has ended; one that nobody looks at is complained about."""
    return None if part.cancelled() else part.exception()


def _is_disconnect(error: Exception) -> bool:
    # Servers say "the peer is gone" in a send by exceptions of their own: uvicorn's ClientDisconnected and
    # Starlette's WebSocketDisconnect are OSErrors or carry it in their names.
    return isinstance(error, OSError | RuntimeError) or "disconnect" in type(error).__name__.lower()


async def _accept_and_close(send: Send, close: Close) -> None:
    # A close before accept is a bare HTTP 403 to a browser; only after accept it sees code and reason.
    with suppress(Exception):
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.close", "code": close.code, "reason": _reason(close.reason)})


def _reason(text: str) -> str:
    return text.encode()[:123].decode(errors="ignore")


async def _deny(scope: Scope, receive: Receive, send: Send, text: str, status: int = 403) -> None:
    if "websocket.http.response" in (scope.get("extensions") or {}):
        body = (text + "\n").encode()
        await send(
            {
                "type": "websocket.http.response.start",
                "status": status,
                "headers": [
                    (b"content-type", b"text/plain; charset=utf-8"),
                    (b"content-length", str(len(body)).encode()),
                ],
            }
        )
        await send({"type": "websocket.http.response.body", "body": body})
        # Were we back before the connection is closed, uvicorn would complain, as an error, of a handshake that was
        # never completed.
        with suppress(Exception):
            async with asyncio.timeout(_CLOSE_SECONDS):
                while (await receive())["type"] != "websocket.disconnect":
                    pass
        await asyncio.sleep(0)
    else:
        await send({"type": "websocket.close", "code": 1008, "reason": _reason(text)})


async def _upgrade_required(send: Send) -> None:
    body = b"/ws/monitor speaks WebSocket: connect with a WebSocket client.\n"
    await send(
        {
            "type": "http.response.start",
            "status": 426,
            "headers": [
                (b"content-type", b"text/plain; charset=utf-8"),
                (b"upgrade", b"websocket"),
                (b"connection", b"upgrade"),
                (b"content-length", str(len(body)).encode()),
            ],
        }
    )
    await send({"type": "http.response.body", "body": body})
