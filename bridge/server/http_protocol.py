"""uvicorn's own HTTP protocol, with a time limit for a request's head.

uvicorn waits for ever for a first request that does not come whole: such connections cost a descriptor each. Bodies
are the application's to wait for.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

__all__ = ["http_protocol"]

_HEAD_SECONDS: Final = 10.0

_TOO_LATE: Final = (
    b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-type: text/plain\r\ncontent-length: 44\r\n\r\n"
    b"the request's head was not here after 10 s.\n"
)


def http_protocol() -> Any:
    """What to give to ``uvicorn.Config(http=...)``."""
    from uvicorn.protocols.http.auto import AutoHTTPProtocol

    base: Any = AutoHTTPProtocol

    class HeadDeadlineProtocol(base):  # type: ignore[misc]
        """One connection."""

        head_seconds = _HEAD_SECONDS
        _deadline: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:
            super().connection_made(transport)
            self._deadline = self.loop.call_later(self.head_seconds, self._too_late)

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self._waiting():
                if self._deadline is None:  # a further request on this connection has begun
                    self._deadline = self.loop.call_later(self.head_seconds, self._too_late)
            else:
                self._cancel()

        def connection_lost(self, exc: Exception | None) -> None:
            self._cancel()
            super().connection_lost(exc)

        def _waiting(self) -> bool:
            """Whether a request's head is what comes next. False once the connection is a WebSocket's."""
            if self.transport.get_protocol() is not self:
                return False
            return self.cycle is None or bool(self.cycle.response_complete)

        def _too_late(self) -> None:
            self._deadline = None
            if self._waiting() and not self.transport.is_closing():
                self.transport.write(_TOO_LATE)
                self.transport.close()

        def _cancel(self) -> None:
            if self._deadline is not None:
                self._deadline.cancel()
                self._deadline = None

    return HeadDeadlineProtocol
