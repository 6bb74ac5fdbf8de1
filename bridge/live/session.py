"""One client's conversation, without a socket: what is read from the rings goes in, frames and a verdict come out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from bridge.live.ring import Read

__all__ = [
    "CLOSE_FULL",
    "CLOSE_GOING_AWAY",
    "CLOSE_TOO_BIG",
    "CLOSE_TOO_SLOW",
    "CLOSE_UNAUTHORIZED",
    "CLOSE_WRONG_REQUEST",
    "MAX_CLIENT_TEXT",
    "Close",
    "SessionV1",
    "check_query",
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


class SessionV1:
    """Version 1: records and nothing else, from now on, in order.

    A gap can't be told in version 1. Skipped system records are only counted (``skipped_system``); a client that
    would miss an audit record is closed with 4408 instead.
    """

    def __init__(self) -> None:
        self.skipped_system = 0
        self.close: Close | None = None

    def records(self, read: Read) -> Sequence[bytes]:
        """Frames to send for what was read. Empty, with :attr:`close` set, if an audit record was missed."""
        self.skipped_system += read.missed_system
        if read.missed_audit:
            self.close = Close(
                CLOSE_TOO_SLOW, f"too slow: {read.missed_audit} audit records were gone before they could be sent"
            )
            return ()
        return [entry.wire for entry in read.entries]

    def receive(self, text: str | bytes) -> None:
        """A message from the client. Version 1 has none: it is ignored, unless it is too big."""
        size = len(text) if isinstance(text, bytes) else len(text.encode(errors="replace"))
        if size > MAX_CLIENT_TEXT:
            self.close = Close(CLOSE_TOO_BIG, f"messages may have {MAX_CLIENT_TEXT} bytes, not {size}")


def check_query(parameters: Sequence[tuple[str, str]]) -> Close | None:
    """None if a query can be served as it stands, else how to refuse it.

    A parameter that would change what is shown is never ignored in silence.
    """
    for name, value in parameters:
        if name == "v":
            if value != "1":
                return Close(CLOSE_WRONG_REQUEST, f"v={value[:20]}: this server speaks version 1; leave v out")
        else:
            return Close(CLOSE_WRONG_REQUEST, f"{name[:40]}: this server has no such parameter; version 1 takes none")
    return None
