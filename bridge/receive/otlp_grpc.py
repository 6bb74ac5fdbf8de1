"""``LogsService/Export``: OTLP over gRPC, on an asyncio server.

gRPC gives and takes the messages' bytes; parsing is the decoder's, as for HTTP.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any, Final, NamedTuple, TypeAlias
from urllib.parse import unquote

import grpc
import grpc.aio

from bridge.errors import AddressUnavailable
from bridge.receive.answers import Answer, Code, encode_status
from bridge.receive.decode import encode_success
from bridge.receive.other_signals import SERVICES, Signal, encode_left_out
from bridge.receive.receiver import Encoding, Receiver

__all__ = ["GrpcTls", "OtlpGrpcServer", "PeerGuard"]

PeerGuard: TypeAlias = Callable[[str, Mapping[str, str]], tuple[Code, str] | None]
"""Called with the peer's address (``127.0.0.1``) and the metadata: why it may not send, or None."""

_SERVICE: Final = "opentelemetry.proto.collector.logs.v1.LogsService"
_CODES: Final = {code.value[0]: code for code in grpc.StatusCode}

_OPTION: Final = "--otlp-grpc-port N, BRIDGE_OTLP_GRPC_PORT=N"

# More calls on one connection wait in the sender. Each may hold a message of the largest size.
_MAX_CONCURRENT_STREAMS: Final = 32


class GrpcTls(NamedTuple):
    """Contents of PEM files. With ``client_ca`` a sender must show a certificate that it signed."""

    certificate: bytes
    key: bytes
    client_ca: bytes | None = None


class OtlpGrpcServer:
    """The service on a port of its own. To be made, started and stopped on one event loop."""

    def __init__(self, receiver: Receiver, guard: PeerGuard) -> None:
        self._receiver = receiver
        self._guard = guard
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
            methods = {"Export": grpc.unary_unary_rpc_method_handler(export)}
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

    async def _export(self, request: bytes, context: Any) -> bytes:
        answer = await self._answer(self._receiver.take, request, context)
        return encode_success(answer.rejected, answer.message)

    async def _leave_out(self, signal: Signal, request: bytes, context: Any) -> bytes:
        async def leave_out(body: bytes, encoding: Encoding, peer: str) -> Answer:
            return await self._receiver.leave_out(body, encoding, signal, peer)

        answer = await self._answer(leave_out, request, context)
        return encode_left_out(signal, "protobuf", answer.rejected)

    async def _answer(
        self, take: Callable[[bytes, Encoding, str], Awaitable[Answer]], request: bytes, context: Any
    ) -> Answer:
        """What ``take`` answers, if it is OK; else the call ends here."""
        peer = await self._admit(context)
        with self._receiver.admit() as admission:
            if not admission.grow(len(request)):
                words = f"{self._receiver.pending_bytes} bytes are on their way already; try again"
                self._receiver.refused("overload", words, peer)
                await _abort(context, Code.UNAVAILABLE, words)
            answer = await take(request, "protobuf", peer)
        if answer.code is not Code.OK:
            await _abort(context, answer.code, answer.message)
        return answer

    async def _admit(self, context: Any) -> str:
        """The peer, if it may send; else the call ends here."""
        address, peer = _address(context.peer())
        metadata = {str(key).lower(): value for key, value in context.invocation_metadata() or () if type(value) is str}
        refused = self._guard(address, metadata)
        if refused is not None:
            code, words = refused
            self._receiver.refused("forbidden", words, peer)
            await _abort(context, code, words)
        return peer


async def _abort(context: Any, code: Code, words: str) -> None:
    # The status in binary carries what the plain one can't: when to come again.
    context.set_trailing_metadata((("grpc-status-details-bin", encode_status(code, words)),))
    abort: Awaitable[None] = context.abort(_CODES[int(code)], words)
    await abort


def _address(peer: str) -> tuple[str, str]:
    """``ipv4:127.0.0.1:5678`` → (``127.0.0.1``, ``127.0.0.1:5678``); ``ipv6:%5B::1%5D:5678`` likewise."""
    kind, _, rest = unquote(peer).partition(":")
    if kind not in ("ipv4", "ipv6"):
        return "", peer
    host, _, _ = rest.rpartition(":")
    return host.strip("[]"), rest
