"""The WebSocket endpoint, on plain ASGI: one writer a client, reading from the rings."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress
from typing import Any, Final, TypeAlias
from urllib.parse import parse_qsl

from bridge.diagnostics import say_rarely
from bridge.live.hub import Hub
from bridge.live.ring import Position
from bridge.live.session import (
    CLOSE_FULL,
    CLOSE_GOING_AWAY,
    CLOSE_TOO_SLOW,
    CLOSE_UNAUTHORIZED,
    Close,
    SessionV1,
    check_query,
)
from bridge.server.auth import Policy, judge

__all__ = ["MonitorEndpoint"]

Scope: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send: TypeAlias = Callable[[MutableMapping[str, Any]], Awaitable[None]]

# Records read from the rings at a time: enough to be quick, few enough that a slow client holds little.
_READ_LIMIT: Final = 256
# A client that takes nothing for so long is not slow, it is stuck. The server's own pings can't end it: their close
# waits behind the same full buffer.
_STUCK_SECONDS: Final = 60.0
_CLOSE_SECONDS: Final = 2.0


class _Progress:
    """Of one client's writer."""

    def __init__(self) -> None:
        self.sending_since: float | None = None
        """When the send that is under way began, by the loop's clock."""


class MonitorEndpoint:
    """An ASGI application for the scope type ``websocket``."""

    def __init__(self, hub: Hub, policy: Policy, *, max_clients: int, stuck_seconds: float = _STUCK_SECONDS) -> None:
        self._hub = hub
        self._policy = policy
        self._max_clients = max_clients
        self._stuck_seconds = stuck_seconds

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
                await _accept_and_close(scope, send, Close(CLOSE_UNAUTHORIZED, str(refusal)))
            else:
                await _deny(scope, send, str(refusal))
            return
        query = parse_qsl(scope.get("query_string", b"").decode("latin-1"), keep_blank_values=True)
        wrong = check_query(query)
        if wrong is not None:
            await _accept_and_close(scope, send, wrong)
            return
        if self._hub.closed:
            await _accept_and_close(scope, send, Close(CLOSE_GOING_AWAY, "the monitor is shutting down"))
            return
        if not self._hub.join(self._max_clients):
            say_rarely("full", logging.WARNING, "refused a client: %d are connected (max_clients)", self._max_clients)
            await _accept_and_close(
                scope, send, Close(CLOSE_FULL, f"full: {self._max_clients} clients are connected (max_clients)")
            )
            return
        try:
            await self._serve(scope, receive, send)
        finally:
            self._hub.leave()

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        # Registered before the handshake ends: a client that was accepted misses nothing from then on.
        position = self._hub.end()
        try:
            await send({"type": "websocket.accept"})
        except Exception as error:
            if _is_disconnect(error):  # it left in the middle of the handshake
                return
            raise
        session = SessionV1()
        progress = _Progress()
        reader = asyncio.create_task(_read(receive, session))
        writer = asyncio.create_task(self._write(session, position, send, progress))
        try:
            await self._until_done(session, progress, {reader, writer})
        finally:
            for task in (reader, writer):
                task.cancel()
            # Whatever ended it (the peer vanished in a send, the server cancelled us), both tasks end with us.
            results = await asyncio.gather(reader, writer, return_exceptions=True)
        if session.close is not None:
            with suppress(Exception):
                async with asyncio.timeout(_CLOSE_SECONDS):
                    await send(
                        {"type": "websocket.close", "code": session.close.code, "reason": _reason(session.close.reason)}
                    )
        for result in results:
            if isinstance(result, Exception) and not _is_disconnect(result):
                raise result

    async def _until_done(self, session: SessionV1, progress: _Progress, tasks: set[asyncio.Task[None]]) -> None:
        """Return once one of ``tasks`` is done, or with ``session.close`` set if the client takes nothing any more."""
        now = asyncio.get_running_loop().time
        while True:
            done, _ = await asyncio.wait(tasks, timeout=self._stuck_seconds / 2, return_when=asyncio.FIRST_COMPLETED)
            if done:
                return
            if progress.sending_since is not None and now() - progress.sending_since >= self._stuck_seconds:
                reason = f"too slow: nothing was read for {self._stuck_seconds:g} s"
                session.close = Close(CLOSE_TOO_SLOW, reason)
                say_rarely("stuck", logging.WARNING, "closed a client of /ws/monitor: %s", reason)
                return

    async def _write(self, session: SessionV1, position: Position, send: Send, progress: _Progress) -> None:
        hub = self._hub
        now = asyncio.get_running_loop().time
        while True:
            read = hub.read(position, _READ_LIMIT)
            position = read.position
            if read.missed_system or read.missed_audit:
                hub.skipped(read.missed_system, read.missed_audit)
            frames = session.records(read)
            if session.close is not None:
                return
            for frame in frames:
                progress.sending_since = now()
                await send({"type": "websocket.send", "text": frame.decode()})
            progress.sending_since = None
            if not frames:
                if hub.closed:
                    session.close = Close(CLOSE_GOING_AWAY, "the monitor is shutting down")
                    return
                await hub.wait(position)
            else:
                # A send that does not have to wait does not let others run either.
                await asyncio.sleep(0)


async def _read(receive: Receive, session: SessionV1) -> None:
    while session.close is None:
        message = await receive()
        if message["type"] == "websocket.disconnect":
            return
        session.receive(message.get("text") or message.get("bytes") or "")


def _is_disconnect(error: Exception) -> bool:
    # Servers say "the peer is gone" in a send by exceptions of their own: uvicorn's ClientDisconnected and
    # Starlette's WebSocketDisconnect are OSErrors or carry it in their names.
    return isinstance(error, OSError | RuntimeError) or "disconnect" in type(error).__name__.lower()


async def _accept_and_close(scope: Scope, send: Send, close: Close) -> None:
    # A close before accept is a bare HTTP 403 to a browser; only after accept it sees code and reason.
    with suppress(Exception):
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.close", "code": close.code, "reason": _reason(close.reason)})


def _reason(text: str) -> str:
    return text.encode()[:123].decode(errors="ignore")


async def _deny(scope: Scope, send: Send, text: str) -> None:
    if "websocket.http.response" in (scope.get("extensions") or {}):
        body = (text + "\n").encode()
        await send(
            {
                "type": "websocket.http.response.start",
                "status": 403,
                "headers": [
                    (b"content-type", b"text/plain; charset=utf-8"),
                    (b"content-length", str(len(body)).encode()),
                ],
            }
        )
        await send({"type": "websocket.http.response.body", "body": body})
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
