"""Conversations, without a socket: chunks of the rings and the client's words go in, messages and a verdict come out.

This module has what both versions share, and version 1; version 2 is in :mod:`bridge.live.session_v2`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from bridge.live.chunk import Chunk
    from bridge.record.filters import Filter

__all__ = [
    "CLOSE_FULL",
    "CLOSE_GOING_AWAY",
    "CLOSE_TOO_BIG",
    "CLOSE_TOO_SLOW",
    "CLOSE_UNAUTHORIZED",
    "CLOSE_WRONG_REQUEST",
    "MAX_CLIENT_TEXT",
    "Close",
    "Delivery",
    "SessionV1",
    "too_big",
]

CLOSE_GOING_AWAY: Final = 1001
CLOSE_TOO_BIG: Final = 1009
CLOSE_FULL: Final = 1013
CLOSE_WRONG_REQUEST: Final = 4400
CLOSE_UNAUTHORIZED: Final = 4401
CLOSE_TOO_SLOW: Final = 4408

# No message of a client is longer than a filter; a frame past this is a mistake or an attack.
MAX_CLIENT_TEXT: Final = 64 * 1024


class Close(NamedTuple):
    """How a conversation ends: a WebSocket close code and its reason (at most 123 bytes of UTF-8)."""

    code: int
    reason: str


class Delivery(NamedTuple):
    """What a chunk becomes for one client: ``before``, then the chunk (shared, or ``own`` messages), then ``after``."""

    before: list[bytes]
    own: list[bytes] | None
    """None: the chunk's shared bytes as they are."""
    after: list[bytes]


def too_big(text: str | bytes) -> Close | None:
    """How to close for a message over :data:`MAX_CLIENT_TEXT` bytes; None for any other."""
    size = len(text)
    if isinstance(text, str) and MAX_CLIENT_TEXT // 4 < size <= MAX_CLIENT_TEXT:
        size = len(text.encode(errors="surrogatepass"))
    if size <= MAX_CLIENT_TEXT:
        return None
    return Close(CLOSE_TOO_BIG, f"messages may have {MAX_CLIENT_TEXT} bytes, not {size}")


class SessionV1:
    """Version 1: records and nothing else, from now on, in order.

    A gap can't be told in version 1. Skipped system records are only counted (``skipped_system``); a client that
    would miss an audit record is closed with 4408 instead.
    """

    version: Final = 1
    batch: Final = False

    def __init__(self, filter: Filter, seq: int) -> None:
        self.filter = filter
        self.seq = seq
        """The number of the last record that is behind the client."""
        self.skipped_system = 0
        self.close: Close | None = None
        self.paused = False

    @property
    def wants_records(self) -> bool:
        """False once closed."""
        return self.close is None

    @property
    def follows(self) -> bool:
        """True while a chunk without gaps goes to this client just as it is."""
        return self.close is None

    def take_control(self) -> list[bytes]:
        """Version 1 has no control messages."""
        return []

    def deliver(self, chunk: Chunk, now: float) -> Delivery:
        """Go past a chunk that starts at :attr:`seq`; sets :attr:`close` if an audit record was missed."""
        self.seq = chunk.seq
        self.skipped_system += chunk.missed_system
        if chunk.missed_audit:
            self.close = Close(
                CLOSE_TOO_SLOW, f"too slow: {chunk.missed_audit} audit records were gone before they could be sent"
            )
            return Delivery([], [], [])
        return Delivery([], None, [])

    def receive(self, text: str | bytes, now: float) -> None:
        """A message from the client. Version 1 has none: it is ignored, unless it is too big."""
        self.close = too_big(text) or self.close

    def tick(self, now: float) -> None:
        """Time has passed: nothing to say in version 1."""

    def shut_down(self, retry_ms: int = 1_000) -> None:
        """The server ends: 1001."""
        if self.close is None:
            self.close = Close(CLOSE_GOING_AWAY, "the monitor is shutting down")

    def stuck(self, reason: str) -> None:
        """The client takes nothing any more: 4408."""
        self.close = Close(CLOSE_TOO_SLOW, reason)
