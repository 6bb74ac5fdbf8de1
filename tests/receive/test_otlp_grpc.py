"""The gRPC server: addresses, ports, and answers over a real channel."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any

import grpc
import grpc.aio
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

from bridge.errors import AddressUnavailable
from bridge.receive import otlp_grpc
from bridge.receive.answers import Code
from bridge.receive.otlp_grpc import OtlpGrpcServer, _address
from tests.receiving import EXPORT, Shown, said, status_of
from tests.serving import listening_socket

pytestmark = pytest.mark.anyio

ONE = said("one").SerializeToString()


@pytest.mark.parametrize(
    ("peer", "found"),
    [
        ("ipv4:127.0.0.1:5678", ("127.0.0.1", "127.0.0.1:5678")),
        ("ipv6:%5B::1%5D:5678", ("::1", "[::1]:5678")),
        ("ipv6:[::ffff:192.0.2.7]:5", ("::ffff:192.0.2.7", "[::ffff:192.0.2.7]:5")),
        ("unix:/run/x", ("", "unix:/run/x")),
        ("", ("", "")),
    ],
)
def test_peers(peer: str, found: tuple[str, str]) -> None:
    """The address of a peer, as a guard wants it; a peer that has none has none."""
    assert _address(peer) == found


class Running:
    def __init__(self, shown: Shown, port: int) -> None:
        self.shown = shown
        self.asked: list[tuple[str, Mapping[str, str]]] = []
        self.refusal: tuple[Code, str] | None = None
        self.channel = grpc.aio.insecure_channel(f"127.0.0.1:{port}")

    def guard(self, address: str, metadata: Mapping[str, str]) -> tuple[Code, str] | None:
        self.asked.append((address, metadata))
        return self.refusal

    async def call(self, body: bytes, method: str = EXPORT) -> tuple[Any, bytes, bytes]:
        """Code, answer or words, and the status in the trailing metadata."""
        try:
            return grpc.StatusCode.OK, await self.channel.unary_unary(method)(body, metadata=(("x-a", "b"),)), b""
        except grpc.aio.AioRpcError as error:
            status = dict(error.trailing_metadata()).get("grpc-status-details-bin", b"")
            return error.code(), str(error.details()).encode(), bytes(status)


@pytest.fixture
async def running() -> AsyncIterator[Running]:
    shown = Shown(max_pending_bytes=10_000, max_bytes=20_000)
    server = OtlpGrpcServer(
        shown.receiver, lambda address, metadata: found.guard(address, metadata), message_seconds=0.3
    )
    found = Running(shown, server.bind("127.0.0.1", 0))
    await server.start()
    yield found
    await found.channel.close()
    await server.stop(0)
    assert shown.receiver.pending_bytes == 0


async def test_taken(running: Running) -> None:
    """A request is shown, answered with nothing, and its guard has seen address and metadata."""
    assert await running.call(ONE) == (grpc.StatusCode.OK, b"", b"")
    assert running.shown.messages == ["one"]
    (asked,) = running.asked
    assert (asked[0], asked[1]["x-a"]) == ("127.0.0.1", "b")
    assert running.shown.events[0].peer.startswith("127.0.0.1:")


async def test_refusals(running: Running) -> None:
    """Every refusal has its code, its words and its Status, and is counted; too large is gRPC's own."""
    code, words, status = await running.call(b"\xff")
    assert (code, status_of(status)) == (grpc.StatusCode.INVALID_ARGUMENT, (3, words.decode(), []))
    code, words, status = await running.call(bytes(10_001))
    assert (code, status_of(status)) == (grpc.StatusCode.UNAVAILABLE, (14, words.decode(), [1]))
    assert (await running.call(bytes(20_001)))[0] is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert (await running.call(ONE, EXPORT + "s"))[0] is grpc.StatusCode.UNIMPLEMENTED
    for refusal in (Code.UNAUTHENTICATED, Code.PERMISSION_DENIED):
        running.refusal = (refusal, "no")
        code, words, status = await running.call(ONE)
        assert (code.value[0], words, status_of(status)) == (refusal, b"no", (refusal, "no", []))
    assert running.shown.events == []
    assert running.shown.counts() == {"refused": {"malformed": 1, "overload": 1, "too_large": 1, "forbidden": 2}}


async def unsent(running: Running) -> grpc.StatusCode:
    """How a call ends whose message does not come."""
    never = asyncio.Event()

    async def messages() -> AsyncIterator[bytes]:
        await never.wait()
        yield b""

    with pytest.raises(grpc.aio.AioRpcError) as ended:
        await running.channel.stream_unary(EXPORT)(messages(), timeout=10)
    never.set()
    code: grpc.StatusCode = ended.value.code()
    return code


async def test_a_message_that_does_not_come(running: Running) -> None:
    """It is waited for, not for ever; and not at all from somebody who may not send."""
    assert await unsent(running) is grpc.StatusCode.DEADLINE_EXCEEDED
    running.refusal = (Code.PERMISSION_DENIED, "no")
    assert await unsent(running) is grpc.StatusCode.PERMISSION_DENIED
    assert running.shown.counts() == {"refused": {"too_slow": 1, "forbidden": 1}}


async def test_too_many_messages_at_once(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """While many messages are on their way, a further sender is told to come again; later it may."""
    monkeypatch.setattr(otlp_grpc, "_MAX_READING", 1)
    slow = asyncio.create_task(unsent(running))
    async with asyncio.timeout(10):
        while not running.asked:  # noqa: ASYNC110  (the guard is no coroutine, it can't tell)
            await asyncio.sleep(0)
    code, _, status = await running.call(ONE)
    assert (code, status_of(status)[2]) == (grpc.StatusCode.UNAVAILABLE, [1])
    assert await slow is grpc.StatusCode.DEADLINE_EXCEEDED
    assert (await running.call(ONE))[0] is grpc.StatusCode.OK


async def test_traces(running: Running) -> None:
    """Traces are counted, guarded and bounded as log records are, and answered with a partial success."""
    method = EXPORT.replace("logs", "trace").replace("LogsService", "TraceService")
    made = ExportTraceServiceRequest()
    made.resource_spans.add().scope_spans.add().spans.add()
    code, answer, _ = await running.call(made.SerializeToString(), method)
    assert code is grpc.StatusCode.OK
    assert ExportTraceServiceResponse.FromString(answer).partial_success.rejected_spans == 1
    assert (await running.call(b"\xff", method))[0] is grpc.StatusCode.INVALID_ARGUMENT
    assert (await running.call(bytes(10_001), method))[0] is grpc.StatusCode.UNAVAILABLE


async def test_a_taken_port() -> None:
    """A port of somebody else's, or of another such server, is an error that names the option."""
    with listening_socket() as other:
        port = other.getsockname()[1]
        with pytest.raises(AddressUnavailable, match="--otlp-grpc-port"):
            OtlpGrpcServer(Shown().receiver, lambda *_: None).bind("127.0.0.1", port)
    first = OtlpGrpcServer(Shown().receiver, lambda *_: None)
    port = first.bind("127.0.0.1", 0)
    with pytest.raises(AddressUnavailable):
        OtlpGrpcServer(Shown().receiver, lambda *_: None).bind("127.0.0.1", port)
    await first.stop(0)


async def test_ipv6() -> None:
    """An IPv6 address is written as gRPC wants it."""
    server = OtlpGrpcServer(Shown().receiver, lambda *_: None)
    assert server.bind("::1", 0) > 0
    await server.stop(0)
