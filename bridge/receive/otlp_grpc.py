"""``LogsService/Export``: OTLP over gRPC, on an asyncio server.

gRPC gives and takes the messages' bytes; parsing is the decoder's, as for HTTP.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from functools import partial
from typing import Any, Final, NamedTuple, NoReturn, TypeAlias
from urllib.parse import unquote

import grpc
import grpc.aio

from bridge.errors import AddressUnavailable
from bridge.receive.answers import Answer, Code, encode_status
from bridge.receive.decode import encode_success
from bridge.receive.other_signals import SERVICES, Signal, encode_left_out
from bridge.receive.receiver import Encoding, Receiver, Refusal

__all__ = ["GrpcTls", "OtlpGrpcServer", "PeerGuard"]

PeerGuard: TypeAlias = Callable[[str, Mapping[str, str]], tuple[Code, str] | None]
"""Called with the peer's address (``127.0.0.1``) and the metadata: why it may not send, or None."""

_SERVICE: Final = "opentelemetry.proto.collector.logs.v1.LogsService"
_CODES: Final = {code.value[0]: code for code in grpc.StatusCode}

_OPTION: Final = "--otlp-grpc-port N, BRIDGE_OTLP_GRPC_PORT=N"

# A whole message has to be here by then, as over HTTP.
_MESSAGE_SECONDS: Final = 30.0

# Messages that are on their way at once, from all peers that may send. Each may be of the largest size.
_MAX_READING: Final = 128

# More calls on one connection wait in the sender. Each may hold a message of the largest size.
_MAX_CONCURRENT_STREAMS: Final = 32


class GrpcTls(NamedTuple):
    """Contents of PEM files. With ``client_ca`` a sender must show a certificate that it signed."""

    certificate: bytes
    key: bytes
    client_ca: bytes | None = None


class OtlpGrpcServer:
    """The service on a port of its own. To be made, started and stopped on one event loop."""

    def __init__(self, receiver: Receiver, guard: PeerGuard, *, message_seconds: float = _MESSAGE_SECONDS) -> None:
        self._receiver = receiver
        self._guard = guard
        self._message_seconds = message_seconds
        self._reading = 0
        self._server = grpc.aio.server(
            options=[
                ("grpc.max_receive_message_length", receiver.max_bytes),
                # Else a second server would have the same port without a word, and half of the senders.
                ("grpc.so_reuseport", 0),
                ("grpc.max_concurrent_streams", _MAX_CONCURRENT_STREAMS),
                # A peer that vanished is found out within a minute; a sender may ask as often as it likes.
                ("grpc.keepalive_time_ms", 30_000),
                ("grpc.keepalive_timeout_ms", 20_000),
                ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
                ("grpc.keepalive_permit_without_calls", 1),
            ],
        )
        for service, export in (
            (_SERVICE, self._export),
            *((service, partial(self._leave_out, signal)) for service, signal in SERVICES.items()),
        ):
            # Unary to the sender. As a stream to us: gRPC reads the one message of a unary call before it asks anybody,
            # and so would hold what strangers send, and what they never end.
            methods = {"Export": grpc.stream_unary_rpc_method_handler(export)}
            self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, methods),))
        self.port = 0

    def bind(self, host: str, port: int, tls: GrpcTls | None = None) -> int:
        """Take a port (0: any free one) and return it. Raises :class:`AddressUnavailable`."""
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        try:
            if tls is None:
                self.port = self._server.add_insecure_port(address)
            else:
                credentials = grpc.ssl_server_credentials(
                    [(tls.key, tls.certificate)],
                    root_certificates=tls.client_ca,
                    require_client_auth=tls.client_ca is not None,
                )
                self.port = self._server.add_secure_port(address, credentials)
        except RuntimeError:
            self.port = 0
        if not self.port:
            raise AddressUnavailable(host, port, "taken, or not an address of this machine", _OPTION)
        return self.port

    async def start(self) -> None:
        """Answer calls."""
        await self._server.start()

    async def stop(self, grace: float) -> None:
        """Take no more calls; those under way have ``grace`` seconds."""
        await self._server.stop(grace)

    async def _export(self, messages: AsyncIterator[bytes], context: Any) -> bytes:
        peer = await self._guarded(context)
        return encode_success(*await self._served(self._receiver.take, messages, context, peer))

    async def _leave_out(self, signal: Signal, messages: AsyncIterator[bytes], context: Any) -> bytes:
        peer = await self._guarded(context)

        def leave_out(body: bytes, encoding: Encoding, peer: str) -> Awaitable[Answer]:
            return self._receiver.leave_out(body, encoding, signal, peer)

        rejected, _ = await self._served(leave_out, messages, context, peer)
        return encode_left_out(signal, "protobuf", rejected)

    async def _guarded(self, context: Any) -> str:
        """The peer, if it may send; else the call ends here, and nothing of it has been read."""
        address, peer = _address(context.peer())
        metadata = {str(key).lower(): value for key, value in context.invocation_metadata() or () if type(value) is str}
        refused = self._guard(address, metadata)
        if refused is not None:
            code, words = refused
            await self._refuse(context, "forbidden", code, words, peer)
        return peer

    async def _served(
        self,
        work: Callable[[bytes, Encoding, str], Awaitable[Answer]],
        messages: AsyncIterator[bytes],
        context: Any,
        peer: str,
    ) -> tuple[int, str]:
        """How many records were rejected, and why the first one. Any other answer ends the call here."""
        with self._receiver.admit() as admission:
            request = await self._read(messages, context, peer)
            if not admission.grow(len(request)):
                words = f"{self._receiver.pending_bytes} bytes are on their way already; try again"
                await self._refuse(context, "overload", Code.UNAVAILABLE, words, peer)
            answer = await work(request, "protobuf", peer)
        if answer.code is not Code.OK:
            await _abort(context, answer.code, answer.message)
        return answer.rejected, answer.message

    async def _read(self, messages: AsyncIterator[bytes], context: Any, peer: str) -> bytes:
        """The one message of a call. How large it will be nobody knows before it is here: their number is bounded."""
        if self._reading >= _MAX_READING:
            words = f"{self._reading} requests are being received already; try again"
            await self._refuse(context, "overload", Code.UNAVAILABLE, words, peer)
        self._reading += 1
        try:
            async with asyncio.timeout(self._message_seconds):
                return await anext(messages)
        except TimeoutError:
            words = f"the message was not here after {self._message_seconds:g} s"
            await self._refuse(context, "too_slow", Code.DEADLINE_EXCEEDED, words, peer)
        except StopAsyncIteration:
            # So it looks here when gRPC itself has refused the message for its size.
            words = f"no message, or one of more than {self._receiver.max_bytes} bytes"
            await self._refuse(context, "too_large", Code.RESOURCE_EXHAUSTED, words, peer)
        finally:
            self._reading -= 1

    async def _refuse(self, context: Any, reason: Refusal, code: Code, words: str, peer: str) -> NoReturn:
        self._receiver.refused(reason, words, peer)
        await _abort(context, code, words)


async def _abort(context: Any, code: Code, words: str) -> NoReturn:
    # The status in binary carries what the plain one can't: when to come again.
    context.set_trailing_metadata((("grpc-status-details-bin", encode_status(code, words)),))
    await context.abort(_CODES[int(code)], words)
    raise AssertionError("abort() raises")


def _address(peer: str) -> tuple[str, str]:
    """``ipv4:127.0.0.1:5678`` → (``127.0.0.1``, ``127.0.0.1:5678``); ``ipv6:%5B::1%5D:5678`` likewise."""
    kind, _, rest = unquote(peer).partition(":")
    if kind not in ("ipv4", "ipv6"):
        return "", peer
    host, _, _ = rest.rpartition(":")
    return host.strip("[]"), rest
