"""uvicorn's own WebSocket protocol, with a way to send many ready frames in one write.

An application finds it in ``scope["extensions"]["bridge.frames"]["writer"]`` (a
:class:`~bridge.live.fanout.FrameWriter`). Everything else is uvicorn's: handshake, control frames, keep-alive, closing.
If this uvicorn has no such protocol, :func:`websocket_protocol` says so and plain sends do.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final

__all__ = ["EXTENSION", "websocket_protocol"]

EXTENSION: Final = "bridge.frames"

# Bytes a connection may have waiting in this process. A chunk of records is about half of it.
_BUFFER_BYTES: Final = 256 * 1024

# How long a client may take to read what is left when the server ends; uvicorn itself waits 2 s.
_GOODBYE_SECONDS: Final = 1.0

# The same when only its own connection ends. uvicorn waits as long for the answer to a close.
_LINGER_SECONDS: Final = 10.0


def websocket_protocol() -> Any:
    """What to give to ``uvicorn.Config(ws=...)``: the class, or ``"auto"`` where uvicorn has no sans-I/O protocol."""
    try:
        from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
        from websockets.protocol import State
    except ImportError:
        return "auto"

    class JoinedFramesProtocol(WebSocketsSansIOProtocol):
        """One connection."""

        _on_writable: Callable[[], None] | None = None
        _on_shutdown: Callable[[], None] | None = None
        _linger: asyncio.TimerHandle | None = None
        _lost = False
        can_write = True

        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            super().connection_made(transport)
            self.transport.set_write_buffer_limits(high=_BUFFER_BYTES)

        async def run_asgi(self) -> None:
            self.scope["extensions"][EXTENSION] = {"writer": _Writer(self)}
            try:
                await super().run_asgi()
            finally:
                self._abort_after(_LINGER_SECONDS)

        def connection_lost(self, exc: Exception | None) -> None:
            super().connection_lost(exc)
            self._lost = True
            if self._linger is not None:
                self._linger.cancel()

        def _abort_after(self, seconds: float) -> None:
            """End the connection: closing waits until all is written, for a client that does not read for ever."""
            if not self._lost and (self._linger is None or self._linger.when() > self.loop.time() + seconds):
                if self._linger is not None:
                    self._linger.cancel()
                self._linger = self.loop.call_later(seconds, self.transport.abort)

        def pause_writing(self) -> None:
            self.can_write = False
            super().pause_writing()

        def resume_writing(self) -> None:
            self.can_write = True
            super().resume_writing()
            if self._on_writable is not None:
                self._on_writable()

        def shutdown(self) -> None:
            self._abort_after(_GOODBYE_SECONDS)
            if not self.handshake_complete or self.close_sent:
                super().shutdown()
                return
            if self.conn.state is State.OPEN:
                # uvicorn closes with 1012 before the application hears of the end: let that say goodbye.
                code, reason = 1012, ""
                if self._on_shutdown is not None:
                    self._on_shutdown()
                    code, reason = 1001, "the monitor is shutting down"
                self.queue.put_nowait({"type": "websocket.disconnect", "code": code})
                self.conn.send_close(code, reason)
                self.transport.write(b"".join(self.conn.data_to_send()))
                self.close_sent = True
            # Else the client has closed, and does not take the answer.
            self.transport.close()

    return JoinedFramesProtocol


class _Writer:
    """The FrameWriter of one connection."""

    __slots__ = ("_protocol",)

    def __init__(self, protocol: Any) -> None:
        self._protocol = protocol

    @property
    def writable(self) -> bool:
        return bool(self._protocol.can_write)

    def write(self, frames: bytes) -> None:
        protocol = self._protocol
        if protocol.handshake_complete and not protocol.close_sent and not protocol.transport.is_closing():
            protocol.transport.write(frames)

    def abort(self) -> None:
        self._protocol.transport.abort()

    def listen(self, on_writable: Callable[[], None] | None, on_shutdown: Callable[[], None] | None) -> None:
        self._protocol._on_writable = on_writable
        self._protocol._on_shutdown = on_shutdown
