"""What a receiver answers: gRPC codes, their HTTP statuses, and the ``google.rpc.Status`` of a refusal. Pure.

Sources: "OTLP/gRPC Response", "OTLP/HTTP Response" and "Failures" of the OpenTelemetry protocol specification;
google/rpc/code.proto, status.proto and error_details.proto.
"""

from __future__ import annotations

import enum
from typing import Final, NamedTuple

import msgspec

__all__ = ["RETRY_SECONDS", "Answer", "Code", "encode_status", "encode_status_json"]

RETRY_SECONDS: Final = 1
"""When a sender that was turned away for overload should come again."""


class Code(enum.IntEnum):
    """The codes of gRPC that a receiver uses."""

    OK = 0
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    UNAUTHENTICATED = 16


class Answer(NamedTuple):
    """The end of one request. ``OK`` with ``rejected`` records, or a problem without any: a partial success."""

    code: Code
    message: str = ""
    rejected: int = 0


def encode_status(code: Code, message: str) -> bytes:
    """A ``google.rpc.Status`` in protobuf; with a ``RetryInfo`` if it is UNAVAILABLE: come again, nothing was taken."""
    status = b"\x08" + _varint(code) + _field(2, message.encode())
    if code is Code.UNAVAILABLE:
        retry_delay = _field(1, b"\x08" + _varint(RETRY_SECONDS))
        status += _field(3, _field(1, b"type.googleapis.com/google.rpc.RetryInfo") + _field(2, retry_delay))
    return status


def encode_status_json(code: Code, message: str) -> bytes:
    """The same in JSON; the code and the words are all that senders read."""
    return msgspec.json.encode({"code": int(code), "message": message})


def _field(number: int, content: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)
