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

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self.conn.handshake_exc is not None and not self.handshake_initiated:
                # E.g. an address of more than 8 KB. uvicorn would never answer, and fail when it ends.
                self.transport.write(b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-length: 0\r\n\r\n")
                self.transport.close()

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
            if self.transport.is_closing():
                return  # the client has closed, and does not take what is left; uvicorn would raise InvalidState
            if self._on_shutdown is None or not self.handshake_complete or self.close_sent:
                super().shutdown()
                return
            # uvicorn closes every socket with 1012 before the application hears of the end: let it say goodbye.
            self._on_shutdown()
            self.queue.put_nowait({"type": "websocket.disconnect", "code": 1001})
            self.conn.send_close(1001, "the monitor is shutting down")
            self.transport.write(b"".join(self.conn.data_to_send()))
            self.close_sent = True
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
