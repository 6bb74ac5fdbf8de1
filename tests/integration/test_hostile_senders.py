"""Senders that mean harm, at a real ``audit-bridge serve``; beside each an honest one and a client that watches."""

import contextlib
import gzip
import os
import random
import socket
import struct
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from opentelemetry.exporter.otlp.proto.grpc._log_exporter import OTLPLogExporter as GrpcExporter
from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter as HttpExporter
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import InMemoryLogRecordExporter, LogRecordExportResult, SimpleLogRecordProcessor

from tests.monitors import FrameClient, kind, numbers, record
from tests.receiving import JSON, PROTOBUF, Answered, Serving, call, field, gzip_bomb, post, said, serving, status_of
from tests.serving import PATIENCE_SECONDS, eventually

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="platform: memory is read from /proc"
)

MIB = 1 << 20
LIMIT = 16 * MIB


class Honest:
    """A service that sends a record at a time by gRPC and HTTP in turn, and a version 2 client that must see each."""

    def __init__(self, running: Serving) -> None:
        self._running = running
        self.sent = 0
        self.seen: list[int] = []
        self.slowest = 0.0
        self.error: BaseException | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            with FrameClient(self._running.view, "?v=2&logger=honest") as client, self._running.channel() as channel:
                client.until(kind("ready"))
                while not self._stop.is_set():
                    self.sent += 1
                    body = said(f"n={self.sent}", scope="honest").SerializeToString()
                    began = time.monotonic()
                    if self.sent % 2:
                        code, words, _ = call(channel, body)
                        assert code is grpc.StatusCode.OK, words
                    else:
                        answer = post(self._running.http, body)
                        assert answer.status == 200, answer.body
                    self.seen += numbers(client.until(record(self.sent)))
                    self.slowest = max(self.slowest, time.monotonic() - began)
        except BaseException as error:
            self.error = error

    def goes_on(self, records: int = 5) -> None:
        """Wait until some more have been sent and seen."""
        wanted = len(self.seen) + records
        eventually(lambda: len(self.seen) >= wanted or self.error is not None)
        if self.error is not None:
            raise self.error

    def end(self) -> None:
        self._stop.set()
        self._thread.join(PATIENCE_SECONDS)


@pytest.fixture(scope="module")
def lasting() -> Iterator[Serving]:
    with serving() as running:
        yield running
        running.end()


@pytest.fixture
def honest(lasting: Serving) -> Iterator[Honest]:
    """The honest sender: each of its records is taken and seen, once and in order, and none takes for ever."""
    honest = Honest(lasting)
    try:
        honest.goes_on()
        yield honest
        honest.goes_on()
    finally:
        honest.end()
    assert honest.error is None
    assert honest.seen == list(range(1, honest.sent + 1))
    # While protobuf parses the largest request there may be, everybody waits: most of a second.
    assert honest.slowest < 8
    eventually(lambda: lasting.statistics()["pending_bytes"] == 0)


@contextlib.contextmanager
def at_most(running: Serving, mib: int, seconds: float) -> Iterator[None]:
    """The process needs no more than so much more memory, at its peak, and the block no longer than that."""
    before, began = running.forget_peak(), time.monotonic()
    yield
    took, grown = time.monotonic() - began, running.memory("VmHWM") - before
    assert grown < mib * MIB, f"{grown >> 20} MiB"
    assert took < seconds


def counted(running: Serving, reason: str) -> int:
    return int(running.statistics()["refused"].get(reason, 0))


# -- large -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("told", [True, False])
def test_a_hundred_megabytes(lasting: Serving, honest: Honest, told: bool) -> None:
    """A body far too large, told or in chunks, is 413 to a sender that reads the answer only at the end."""
    before = counted(lasting, "too_large")
    with at_most(lasting, 60, 15):
        body: Any = bytes(100 * MIB) if told else (bytes(MIB) for _ in range(100))
        answer = post(lasting.http, body)
        assert (answer.status, answer.code) == (413, 8)
    assert counted(lasting, "too_large") == before + 1


def test_a_hundred_megabytes_by_grpc(lasting: Serving, honest: Honest) -> None:
    """gRPC refuses a message by the length in its head."""
    with at_most(lasting, 60, 15), lasting.channel() as channel:
        code, words, _ = call(channel, bytes(100 * MIB))
        assert (code, b"larger than max" in words) == (grpc.StatusCode.RESOURCE_EXHAUSTED, True)


def test_a_gzip_bomb(lasting: Serving, honest: Honest) -> None:
    """A megabyte that unpacks to a gigabyte is 413 once it is too large, and no more of it is unpacked."""
    bomb = gzip_bomb(1_024)
    assert len(bomb) < 2 * MIB
    for content_type in (PROTOBUF, JSON):
        with at_most(lasting, 80, 10):
            answer = post(lasting.http, bomb, content_type, content_encoding="gzip")
            assert (answer.status, answer.code) == (413, 8)


def test_a_gzip_bomb_by_grpc(lasting: Serving, honest: Honest) -> None:
    """The same over gRPC, which unpacks by itself, and must stop as early."""
    zeros = zlib.compressobj(9, zlib.DEFLATED, 31)
    packed = b"".join(zeros.compress(bytes(MIB)) for _ in range(256)) + zeros.flush()
    with at_most(lasting, 80, 10):
        assert raw_grpc(lasting.grpc, b"\x01" + struct.pack(">I", len(packed)) + packed) == 8


def raw_grpc(port: int, message: bytes) -> int:
    """Send what no client library would: a message that is packed already; the code of the answer."""
    import h2.connection
    import h2.events

    path = "/opentelemetry.proto.collector.logs.v1.LogsService/Export"
    with socket.create_connection(("127.0.0.1", port), PATIENCE_SECONDS) as connection:
        h2_connection: Any = h2.connection.H2Connection()
        h2_connection.initiate_connection()
        head = {":method": "POST", ":scheme": "http", ":path": path, ":authority": "localhost"}
        head |= {"content-type": "application/grpc", "te": "trailers", "grpc-encoding": "gzip"}
        h2_connection.send_headers(1, list(head.items()))
        sent = 0
        while True:
            while sent < len(message):
                room = min(h2_connection.local_flow_control_window(1), h2_connection.max_outbound_frame_size)
                if room <= 0:
                    break
                part = message[sent : sent + room]
                sent += len(part)
                h2_connection.send_data(1, part, end_stream=sent == len(message))
            connection.sendall(h2_connection.data_to_send())
            data = connection.recv(65_536)
            assert data, "closed without an answer"
            for event in h2_connection.receive_data(data):
                if isinstance(event, h2.events.ResponseReceived | h2.events.TrailersReceived):
                    for name, value in event.headers:
                        if name in (b"grpc-status", "grpc-status"):
                            return int(value)


def test_many_gzip_members(lasting: Serving, honest: Honest) -> None:
    """Sixteen megabytes of empty gzip members, each of which costs a copy of all that follows, are refused early."""
    with at_most(lasting, 80, 5):
        answer = post(lasting.http, gzip.compress(b"") * (LIMIT // 20), content_encoding="gzip")
        assert (answer.status, answer.code) == (400, 3)


# Two bytes each on the wire, in the places where something is made of them. The bounds are what they cost at most.
AMPLIFIED: dict[str, tuple[bytes, int]] = {
    "records": (field(1, field(2, b"\x12\0" * (LIMIT // 2 - 10))), 413),
    "resources": (b"\x0a\0" * (LIMIT // 2), 413),
    "scopes": (field(1, b"\x12\0" * (LIMIT // 2 - 10)), 413),
    "attributes": (field(1, field(2, field(2, b"\x32\0" * (LIMIT // 2 - 10)))), 200),
    "array elements": (field(1, field(2, field(2, field(5, field(5, b"\x0a\0" * (LIMIT // 2 - 20)))))), 200),
    "map entries": (field(1, field(2, field(2, field(5, field(6, b"\x0a\0" * (LIMIT // 2 - 20)))))), 200),
}


@pytest.mark.parametrize("what", AMPLIFIED)
def test_amplification(lasting: Serving, honest: Honest, what: str) -> None:
    """Sixteen megabytes of the smallest things there are cost bounded time and memory, and are given back."""
    body, status = AMPLIFIED[what]
    before = lasting.memory()
    with at_most(lasting, 1_500, 19):
        assert post(lasting.http, body).status == status
    honest.goes_on()
    assert lasting.memory() - before < 400 * MIB


def test_many_small_records(lasting: Serving, honest: Honest) -> None:
    """As many records as are allowed, two bytes each, are shown; others go on meanwhile."""
    with at_most(lasting, 400, 19):
        assert post(lasting.http, field(1, field(2, b"\x12\0" * 200_000))).status == 200


JSON_BODIES: dict[str, tuple[bytes, int]] = {
    "deep arrays": (b'{"resourceLogs":' + b"[" * 100_000, 400),
    "deep objects": (b'{"a":' * 100_000, 400),
    "deep values": (
        b'{"resourceLogs":[{"scopeLogs":[{"logRecords":[{"body":'
        + b'{"arrayValue":{"values":[' * 100_000
        + b"]}}" * 100_000
        + b"}]}]}]}",
        400,
    ),
    "many scopes": (b'{"resourceLogs":[{"scopeLogs":[' + b"{}," * (LIMIT // 3 - 20) + b"{}]}]}", 413),
    "many records": (b'{"resourceLogs":[{"scopeLogs":[{"logRecords":[' + b"{}," * (LIMIT // 3 - 30) + b"{}]}]}]}", 413),
    "a wrong record of 16 MiB": (
        b'{"resourceLogs":[{"scopeLogs":[{"logRecords":[[' + b"[]," * (LIMIT // 3 - 30) + b"[]]]}]}]}",
        200,
    ),
    "invalid UTF-8": (b'{"resourceLogs":[{"scopeLogs":[{"logRecords":[{"severityText":"\xff"}]}]}]}', 400),
    "a lone surrogate": (b'{"resourceLogs":[{"scopeLogs":[{"logRecords":[{"severityText":"\\ud800"}]}]}]}', 200),
    "NUL": (b'{"resourceLogs":[{"scopeLogs":[{"logRecords":[{"body":{"stringValue":"a\\u0000b"}}]}]}]}', 200),
    "a raw NUL": (b'{"resourceLogs":[]}\0', 400),
    "escapes without an end": (b'"' + b"\\n" * (LIMIT // 2 - 10), 400),
    "lone surrogates": (b'{"later":"' + b"\\ud800" * (LIMIT // 6 - 10) + b'"}', 200),
    "huge numbers": (b'{"resourceLogs":[{"scopeLogs":[{"logRecords":[{"timeUnixNano":' + b"9" * MIB + b"}]}]}]}", 400),
}


@pytest.mark.parametrize("what", JSON_BODIES)
def test_json(lasting: Serving, honest: Honest, what: str) -> None:
    """JSON that is deep, wide or broken is answered, in bounded time and memory."""
    body, status = JSON_BODIES[what]
    with at_most(lasting, 1_500, 19):
        assert post(lasting.http, body, JSON).status == status


@pytest.mark.parametrize(("text", "status"), [(b"a\xffc", 200), (b"a\0c", 200), (b"\xed\xa0\x80", 200)])
def test_odd_texts_in_protobuf(lasting: Serving, honest: Honest, text: bytes, status: int) -> None:
    """Invalid UTF-8 and surrogates are shown with escapes, NUL is a character."""
    assert post(lasting.http, said("abc").SerializeToString().replace(b"abc", text)).status == status


# -- slow, cut, broken -------------------------------------------------------------------------------------------------

HEAD = f"POST /v1/logs HTTP/1.1\r\nHost: localhost\r\nContent-Type: {PROTOBUF}\r\n".encode()


def raw(port: int, data: bytes) -> bytes:
    """Send bytes; all that is answered."""
    with socket.create_connection(("127.0.0.1", port), PATIENCE_SECONDS) as connection:
        answer = b""
        with contextlib.suppress(ConnectionError):
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
            while more := connection.recv(65_536):
                answer += more
        return answer


def descriptors(running: Serving) -> int:
    return len(os.listdir(f"/proc/{running.pid}/fd"))


def test_a_thousand_idle_connections(lasting: Serving, honest: Honest) -> None:
    """A thousand connections that say nothing, or half a head, on all ports, are closed after ten seconds or so."""
    before = descriptors(lasting)
    with contextlib.ExitStack() as stack, at_most(lasting, 60, 19):
        ports = (lasting.http, lasting.view)
        idle = [
            stack.enter_context(socket.create_connection(("127.0.0.1", ports[number % 2]), PATIENCE_SECONDS))
            for number in range(1_000)
        ]
        for number, connection in enumerate(idle):
            connection.sendall(HEAD[: number % 40])
        eventually(lambda: descriptors(lasting) > before + 900)
        honest.goes_on(50)
        for connection in idle:
            answer = connection.recv(999)
            assert answer.startswith(b"HTTP/1.1 408 ")
            assert connection.recv(1) == b""
    eventually(lambda: descriptors(lasting) < before + 10)


def test_connections_cut_in_the_middle(lasting: Serving, honest: Honest) -> None:
    """Senders that leave in the middle of a body, by a close or a reset, leave nothing behind."""
    before, accepted = descriptors(lasting), counted(lasting, "malformed")
    part = HEAD + b"Content-Length: 1000000\r\n\r\n" + bytes(300_000)
    with at_most(lasting, 150, 19):
        for number in range(100):
            with socket.create_connection(("127.0.0.1", lasting.http), PATIENCE_SECONDS) as connection:
                connection.sendall(part)
                if number % 2:
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    eventually(lambda: lasting.statistics()["pending_bytes"] == 0)
    eventually(lambda: descriptors(lasting) < before + 10)
    assert counted(lasting, "malformed") == accepted


BROKEN = [
    b"\0\1\2\3\r\n\r\n",
    b"GET\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\xaa" * 200,
    HEAD + b"Content-Length: -5\r\n\r\n",
    HEAD + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
    HEAD + b"Content-Length: " + b"9" * 99 + b"\r\n\r\n",
    HEAD + b"Transfer-Encoding: chunked\r\n\r\nnonsense\r\n",
    HEAD + b"Transfer-Encoding: gzip\r\n\r\n",
    HEAD + b"X: " + b"y" * 300_000,
    HEAD + b" \0: x\r\n\r\n",
]


@pytest.mark.parametrize("data", BROKEN, ids=lambda data: repr(data[-30:]))
def test_broken_http(lasting: Serving, honest: Honest, data: bytes) -> None:
    """What is no HTTP/1.1 is a 4xx, or a closed connection, on both ports."""
    for port in (lasting.http, lasting.view):
        assert raw(port, data)[:10] in (b"", b"HTTP/1.1 4")


def test_garbage_on_the_grpc_port(lasting: Serving, honest: Honest) -> None:
    """What is no HTTP/2 ends its connection and nothing else."""
    dice = random.Random(5)
    preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    for number in range(40):
        data = dice.randbytes(dice.randrange(1, 500))
        raw(lasting.grpc, (preface if number % 2 else b"") + data)
    raw(lasting.grpc, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")


def test_pipelined_requests(lasting: Serving, honest: Honest) -> None:
    """Requests sent without waiting are answered one by one, the broken ones too."""
    body = said("piped").SerializeToString()
    one = HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body
    bad = HEAD + b"Content-Length: 1\r\n\r\n\xff"
    answer = b""
    with socket.create_connection(("127.0.0.1", lasting.http), PATIENCE_SECONDS) as connection:
        connection.sendall((one + bad) * 50)
        while answer.count(b"HTTP/1.1 ") < 100:
            more = connection.recv(65_536)
            assert more
            answer += more
    assert (answer.count(b"HTTP/1.1 200"), answer.count(b"HTTP/1.1 400")) == (50, 50)


# -- overload ----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def half_sent(running: Serving, size: int) -> Iterator[Callable[[], Answered]]:
    """A request that holds ``size`` bytes until the function is called, which sends its end."""
    import http.client

    body = said("x" * (size - 100)).SerializeToString()
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", running.http, timeout=PATIENCE_SECONDS)) as sender:
        sender.putrequest("POST", "/v1/logs")
        sender.putheader("content-type", PROTOBUF)
        sender.putheader("content-length", str(len(body)))
        sender.endheaders(body[:-1])
        eventually(lambda: running.statistics()["pending_bytes"] >= len(body) - 1)

        def finish() -> Answered:
            sender.send(body[-1:])
            return Answered(sender.getresponse())

        yield finish


def test_overload() -> None:
    """Without room senders are told to come again, and the stock exporters do, with success; all of it is counted."""
    memory: Any = InMemoryLogRecordExporter()  # type: ignore[no-untyped-call]
    provider = LoggerProvider(shutdown_on_exit=False)
    provider.add_log_record_processor(SimpleLogRecordProcessor(memory))
    from opentelemetry._logs import LogRecord

    provider.get_logger("shop").emit(LogRecord(body="again"))
    batch = memory.get_finished_logs()
    with (
        serving(BRIDGE_RECEIVE_PENDING_BYTES="50000", BRIDGE_RECEIVE_BYTES="50000") as running,
        running.channel() as channel,
    ):
        with half_sent(running, 49_900) as finish:
            before = running.forget_peak()
            for _ in range(20):
                for content_type in (PROTOBUF, JSON):
                    answer = post(running.http, b"x" * 40_000, content_type)
                    assert (answer.status, answer.code, answer.headers["retry-after"]) == (503, 14, "1")
                code, _, trailing = call(channel, b"x" * 40_000)
                assert code is grpc.StatusCode.UNAVAILABLE
                assert status_of(trailing["grpc-status-details-bin"])[2] == [1]
            results: list[Any] = []
            exporters: list[Any] = [
                HttpExporter(endpoint=f"http://127.0.0.1:{running.http}/v1/logs"),
                GrpcExporter(endpoint=f"http://127.0.0.1:{running.grpc}", insecure=True),
            ]
            sending = [
                threading.Thread(target=lambda each=each: results.append(each.export(batch))) for each in exporters
            ]
            for each in sending:
                each.start()
            # Both have been turned away; then there is room again.
            eventually(lambda: counted(running, "overload") >= 62)
            assert running.memory("VmHWM") - before < 60 * MIB
            assert finish().status == 200
        for each in sending:
            each.join(PATIENCE_SECONDS)
        for exporter in exporters:
            exporter.shutdown()
        assert results == [LogRecordExportResult.SUCCESS] * 2
        counts = running.statistics()
        assert counts["refused"]["overload"] >= 62
        assert (counts["requests"], counts["accepted"], counts["pending_bytes"]) == (3, 3, 0)
        assert any("bytes are on their way already" in line for line in running.end())
    provider.shutdown()


def test_a_storm() -> None:
    """Many senders of large requests at once: each is taken or told to come again, and memory stays bounded."""
    body = said(*("x" * 900 for _ in range(2_000))).SerializeToString()
    with serving(BRIDGE_RECEIVE_PENDING_BYTES="8000000") as running:
        honest = Honest(running)
        codes: list[Any] = []

        def storm(number: int) -> None:
            with running.channel() as channel:
                for _ in range(6):
                    if number % 2:
                        codes.append(post(running.http, body).status)
                    else:
                        codes.append(call(channel, body)[0])

        with at_most(running, 250, 40):
            senders = [threading.Thread(target=storm, args=(number,)) for number in range(16)]
            for sender in senders:
                sender.start()
            for sender in senders:
                sender.join(60)
        honest.end()
        assert honest.error is None or "on their way" in str(honest.error)
        taken = sum(code in (200, grpc.StatusCode.OK) for code in codes)
        assert len(codes) == 96
        assert set(codes) <= {200, 503, grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE}
        assert taken > 0
        counts = running.statistics()
        assert (counts["received"], counts["pending_bytes"]) == (counts["accepted"], 0)
        assert counts["accepted"] - taken * 2_000 <= honest.sent
        assert counts["refused"].get("overload", 0) >= 96 - taken
        assert set(counts["refused"]) <= {"overload"}
        running.end()
