"""A record as a message, come what may: one that can't be encoded is shown with the least of it."""

from __future__ import annotations

import logging

import msgspec

from bridge.diagnostics import say_rarely
from bridge.record.event import UNSET, LogEvent
from bridge.record.message import encode_v1, encode_v2

__all__ = ["encode_plain", "encode_rich"]


def encode_plain(event: LogEvent) -> bytes:
    """The version 1 message."""
    try:
        return encode_v1(event)
    except Exception as error:
        return encode_v1(_least(event, error))


def encode_rich(event: LogEvent, cursor: str) -> bytes:
    """The version 2 message."""
    try:
        return encode_v2(event, cursor)
    except Exception as error:
        return encode_v2(_least(event, error), cursor)


def _least(event: LogEvent, error: Exception) -> LogEvent:
    say_rarely("encode", logging.ERROR, "a record's values could not be encoded: %r", error)
    metadata = {"bridge.encoding": "failed"} if event.is_audit else UNSET
    return msgspec.structs.replace(event, action=None, metadata=metadata, attributes={"bridge.encoding": "failed"})
