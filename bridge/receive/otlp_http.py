"""``POST /v1/logs``: OTLP over HTTP, as an ASGI application. Also ``/v1/traces`` and ``/v1/metrics``, to say no."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final, TypeAlias

from bridge.receive.answers import RETRY_SECONDS, Answer, Code, encode_status, encode_status_json
from bridge.receive.decode import encode_success
from bridge.receive.decode_json import encode_json_success
from bridge.receive.other_signals import Signal, encode_left_out
from bridge.receive.receiver import Admission, Encoding, Receiver, Refusal

__all__ = ["Elsewhere", "Guard", "OtlpHttpEndpoint"]

Scope: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send: TypeAlias = Callable[[MutableMapping[str, Any]], Awaitable[None]]

Guard: TypeAlias = Callable[[Scope], tuple[Code, str] | None]
"""Why a request may not send: ``PERMISSION_DENIED`` or ``UNAUTHENTICATED``, and words. None: it may."""

_STATUS: Final = {
    Code.OK: 200,
    Code.INVALID_ARGUMENT: 400,
    Code.UNAUTHENTICATED: 401,
    Code.PERMISSION_DENIED: 403,
    Code.NOT_FOUND: 404,
    Code.DEADLINE_EXCEEDED: 408,
    Code.RESOURCE_EXHAUSTED: 413,
    Code.UNIMPLEMENTED: 415,
    Code.UNAVAILABLE: 503,
}

_CONTENT_TYPES: Final[dict[str, Encoding]] = {"application/x-protobuf": "protobuf", "application/json": "json"}
_MEDIA_TYPES: Final[dict[Encoding, bytes]] = {"protobuf": b"application/x-protobuf", "json": b"application/json"}

# Members of a gzip body; one is what senders make. Each costs a copy of all that has come behind it.
_MAX_MEMBERS: Final = 100

# A whole body has to be here by then. A sender of 16 MiB manages that at 5 Mbit/s.
_BODY_SECONDS: Final = 30.0


class _Refused(Exception):
    def __init__(self, reason: Refusal, code: Code, message: str) -> None:
        super().__init__(message)
        self.reason: Refusal = reason
        self.code = code
        self.message = message


class _Gone(Exception):
    """The sender left before its request was whole: there is nobody to answer, and nothing was taken."""


class OtlpHttpEndpoint:
    """Protobuf and JSON, plain and gzip. Every answer comes in the encoding of its request.

    ``signal``: None for log records, else what is sent here and left out.
    """

    def __init__(
        self, receiver: Receiver, guard: Guard, *, signal: Signal | None = None, body_seconds: float = _BODY_SECONDS
    ) -> None:
        self._receiver = receiver
        self._signal = signal
        self._guard = guard
        self._body_seconds = body_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            return
        headers = {bytes(name).lower(): bytes(value).decode("latin-1") for name, value in scope["headers"]}
        peer = _peer(scope)
        encoding: Encoding = "json" if _media_type(headers) == "application/json" else "protobuf"
        if scope["method"] != "POST":
            words = f"{scope['method']} is not what {scope['path']} takes: POST log records there"
            await _answer(send, 405, encoding, encode_refusal(encoding, Code.UNIMPLEMENTED, words), allow=b"POST")
            return
        refused = self._guard(scope)
        if refused is not None:
            code, words = refused
            self._receiver.refused("forbidden", words, peer)
            await _refuse(send, encoding, code, words)
            return
        try:
            with self._receiver.admit() as admission:
                with self._receiver.reading():
                    body, encoding = await self._body(headers, receive, admission)
                if self._signal is None:
                    answer = await self._receiver.take(body, encoding, peer)
                else:
                    answer = await self._receiver.leave_out(body, encoding, self._signal, peer)
        except _Refused as refusal:
            self._receiver.refused(refusal.reason, refusal.message, peer)
            await _refuse(send, encoding, refusal.code, refusal.message)
        except _Gone:
            return
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if not self._receiver.stopping or task is None:
                raise
            task.uncancel()
            words = "the monitor is shutting down; try again"
            self._receiver.refused("shutdown", words, peer)
            await _refuse(send, encoding, Code.UNAVAILABLE, words)
        else:
            await self._finish(send, encoding, answer)

    async def _finish(self, send: Send, encoding: Encoding, answer: Answer) -> None:
        if answer.code is not Code.OK:
            await _refuse(send, encoding, answer.code, answer.message)
            return
        if self._signal is not None:
            body = encode_left_out(self._signal, encoding, answer.rejected)
        else:
            encode = encode_success if encoding == "protobuf" else encode_json_success
            body = encode(answer.rejected, answer.message)
        await _answer(send, 200, encoding, body)

    async def _body(self, headers: dict[bytes, str], receive: Receive, admission: Admission) -> tuple[bytes, Encoding]:
        encoding = _CONTENT_TYPES.get(_media_type(headers))
        if encoding is None:
            words = f"Content-Type {_media_type(headers)[:100]!r}: send application/x-protobuf or application/json"
            raise _Refused("unsupported", Code.UNIMPLEMENTED, words)
        coding = headers.get(b"content-encoding", "").strip().lower()
        if coding not in ("", "identity", "gzip"):
            words = f"Content-Encoding {coding[:100]!r}: send gzip or identity"
            raise _Refused("unsupported", Code.UNIMPLEMENTED, words)
        limit = self._receiver.max_bytes
        told = headers.get(b"content-length", "")
        if told.isdigit() and int(told) > limit:
            raise _too_large(f"{told} bytes", limit)
        unpack = _Gunzip(limit) if coding == "gzip" else None
        parts: list[bytes] = []
        packed = 0
        try:
            async with asyncio.timeout(self._body_seconds):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise _Gone
                    part: bytes = message.get("body", b"")
                    packed += len(part)
                    if packed > limit:
                        raise _too_large(f"more than {limit} bytes", limit)
                    # A part is at most 64 KiB on the servers there are, and gives at most `limit` bytes.
                    for piece in (part,) if unpack is None else unpack.feed(part):
                        if not admission.grow(len(piece)):
                            words = f"{self._receiver.pending_bytes} bytes are on their way already; try again"
                            raise _Refused("overload", Code.UNAVAILABLE, words)
                        if piece:
                            parts.append(piece)
                    if not message.get("more_body", False):
                        break
        except TimeoutError:
            words = f"the body was not here after {self._body_seconds:g} s ({packed} bytes were)"
            raise _Refused("too_slow", Code.DEADLINE_EXCEEDED, words) from None
        if unpack is not None:
            unpack.finish()
        return (parts[0] if len(parts) == 1 else b"".join(parts)), encoding


class Elsewhere:
    """Answers all other paths of the OTLP port: what is where. ``view`` is the address of the live view."""

    def __init__(self, receiver: Receiver, view: str) -> None:
        self._receiver = receiver
        self._view = view

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse one request, or one WebSocket."""
        words = (
            f"{scope['path'][:100]!r} is not served here: log records go to /v1/logs, the live view is at {self._view}/"
        )
        if scope["type"] == "http":
            headers = {bytes(name).lower(): bytes(value).decode("latin-1") for name, value in scope["headers"]}
            encoding: Encoding = "json" if _media_type(headers) != "application/x-protobuf" else "protobuf"
            if scope["method"] == "POST":
                self._receiver.refused("unsupported", words, _peer(scope))
            await _refuse(send, encoding, Code.NOT_FOUND, words)
        elif scope["type"] == "websocket" and "websocket.http.response" in (scope.get("extensions") or {}):
            body = words.encode()
            told = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", str(len(body)).encode())]
            await send({"type": "websocket.http.response.start", "status": 404, "headers": told})
            await send({"type": "websocket.http.response.body", "body": body})


class _Gunzip:
    """Unpacks as it comes, and stops at the limit: what a bomb would be, nobody finds out."""

    def __init__(self, limit: int) -> None:
        self._left = limit
        self._limit = limit
        self._stream = zlib.decompressobj(wbits=31)
        self._begun = False
        self._members = 1

    def feed(self, data: bytes) -> list[bytes]:
        pieces: list[bytes] = []
        while data:
            if self._stream.eof:  # a gzip file may have several members
                self._stream = zlib.decompressobj(wbits=31)
                self._members += 1
                if self._members > _MAX_MEMBERS:
                    words = f"more than {_MAX_MEMBERS} gzip members: send one"
                    raise _Refused("malformed", Code.INVALID_ARGUMENT, words)
            try:
                # One byte more than is left shows that there is more.
                piece = self._stream.decompress(data, self._left + 1)
            except zlib.error as error:
                raise _Refused("malformed", Code.INVALID_ARGUMENT, f"not gzip: {error}") from None
            self._begun = True
            self._left -= len(piece)
            if self._left < 0:
                raise _too_large(f"more than {self._limit} bytes, unpacked", self._limit)
            pieces.append(piece)
            data = self._stream.unused_data
        return pieces

    def finish(self) -> None:
        if self._begun and not self._stream.eof:
            raise _Refused("malformed", Code.INVALID_ARGUMENT, "the gzip stream has no end: it was cut off")


def _too_large(what: str, limit: int) -> _Refused:
    words = f"{what}: a request may have {limit} bytes; send smaller batches"
    return _Refused("too_large", Code.RESOURCE_EXHAUSTED, words)


def encode_refusal(encoding: Encoding, code: Code, words: str) -> bytes:
    """The ``Status`` of a refusal, in the request's encoding."""
    return encode_status(code, words) if encoding == "protobuf" else encode_status_json(code, words)


async def _refuse(send: Send, encoding: Encoding, code: Code, words: str) -> None:
    headers: dict[str, bytes] = {}
    if code is Code.UNAVAILABLE:
        headers["retry_after"] = str(RETRY_SECONDS).encode()
    if code is Code.UNAUTHENTICATED:
        headers["www_authenticate"] = b"Bearer"
    if code is Code.DEADLINE_EXCEEDED:
        # Nobody waits for the rest of the body. That of one that is too large is read and thrown away, for as long as
        # a head may take: were it cut off, many senders would see a broken connection, not why, and come again.
        headers["connection"] = b"close"
    await _answer(send, _STATUS[code], encoding, encode_refusal(encoding, code, words), **headers)


async def _answer(send: Send, status: int, encoding: Encoding, body: bytes, **headers: bytes) -> None:
    await send(
        {
            "type": "http.response.start",
            "status": status,
            "headers": [
                (b"content-type", _MEDIA_TYPES[encoding]),
                (b"content-length", str(len(body)).encode()),
                *((name.replace("_", "-").encode(), value) for name, value in headers.items()),
            ],
        }
    )
    await send({"type": "http.response.body", "body": body})


def _media_type(headers: dict[bytes, str]) -> str:
    return headers.get(b"content-type", "").partition(";")[0].strip().lower()


def _peer(scope: Scope) -> str:
    client = scope.get("client")
    return f"{client[0]}:{client[1]}" if client else ""
