"""The control messages of protocol version 2, both ways. Pure.

Every message is one JSON object with a ``type``. Records themselves are encoded by :mod:`bridge.record.message`.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import msgspec

__all__ = [
    "MAX_HISTORY",
    "BadMessage",
    "Cursor",
    "HistoryRequest",
    "Pause",
    "Ping",
    "Resume",
    "Subscribe",
    "encode",
    "format_cursor",
    "parse_cursor",
    "read_client_message",
]

MAX_HISTORY: Final = 1_000
"""Records that one ``history`` answer holds at most."""

_MAX_ID_CHARS: Final = 128
_MAX_SEQ: Final = 2**63 - 1

_encode = msgspec.json.Encoder().encode


def encode(type: str, **fields: Any) -> bytes:
    """A server's message."""
    return _encode({"type": type, **fields})


class Cursor(NamedTuple):
    """A place in a numbering of records: everything up to ``seq`` of ``epoch`` is behind it."""

    epoch: str
    seq: int


def format_cursor(epoch: str, seq: int) -> str:
    """``<epoch>:<seq>``."""
    return f"{epoch}:{seq}"


def parse_cursor(text: object) -> Cursor | None:
    """The cursor, or None if the text is not one."""
    if not isinstance(text, str) or len(text) > _MAX_ID_CHARS:
        return None
    epoch, colon, digits = text.rpartition(":")
    if not colon or not epoch or not digits.isascii() or not digits.isdigit() or len(digits) > 19:
        return None
    seq = int(digits)
    return Cursor(epoch, seq) if seq <= _MAX_SEQ else None


class BadMessage(ValueError):
    """A client's message that can't be acted on. ``code`` is the protocol's word for it, ``id`` the message's."""

    def __init__(self, code: str, message: str, id: object = None) -> None:
        super().__init__(message)
        self.code = code
        self.id = id


class Subscribe(NamedTuple):
    """Replace the filter."""

    id: object
    filter: object


class Pause(NamedTuple):
    """Send no more records; discard nothing."""


class Resume(NamedTuple):
    """Go on, after ``after`` if given, else where it stopped."""

    after: Cursor | None


class HistoryRequest(NamedTuple):
    """Up to ``limit`` records before a cursor (None: the newest up to where the client is)."""

    id: object
    before: Cursor | None
    limit: int


class Ping(NamedTuple):
    """Answer with a pong."""

    id: object


ClientMessage = Subscribe | Pause | Resume | HistoryRequest | Ping


def read_client_message(text: str | bytes) -> ClientMessage:
    """Parse a client's message. Raises :class:`BadMessage`."""
    try:
        given = msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise BadMessage("bad_message", f"not JSON: {error}") from None
    if not isinstance(given, dict):
        raise BadMessage("bad_message", "a message must be a JSON object with a type")
    identity = given.get("id")
    if not (identity is None or isinstance(identity, str | int)) or len(str(identity)) > _MAX_ID_CHARS:
        raise BadMessage("bad_message", f"id must be text or a number of at most {_MAX_ID_CHARS} characters")
    match given.get("type"):
        case "subscribe":
            return Subscribe(identity, given.get("filter") if given.get("filter") is not None else {})
        case "pause":
            return Pause()
        case "resume":
            return Resume(_cursor(given, "after", identity))
        case "history":
            limit = given.get("limit", 100)
            if isinstance(limit, bool) or not isinstance(limit, int) or not 1 <= limit <= MAX_HISTORY:
                raise BadMessage("bad_message", f"limit must be a whole number from 1 to {MAX_HISTORY}", identity)
            return HistoryRequest(identity, _cursor(given, "before", identity), limit)
        case "ping":
            return Ping(identity)
        case other:
            raise BadMessage(
                "unknown_type",
                f"type {str(other)[:40]!r} is not known; there are subscribe, pause, resume, history and ping",
                identity,
            )


def _cursor(given: dict[str, Any], name: str, identity: object) -> Cursor | None:
    value = given.get(name)
    if value is None:
        return None
    cursor = parse_cursor(value)
    if cursor is None:
        raise BadMessage("bad_cursor", f"{name} must be a cursor of the server's, not {str(value)[:60]!r}", identity)
    return cursor
