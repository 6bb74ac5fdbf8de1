"""A hub behind a stand-alone server, and clients that look at every frame."""

import asyncio
import base64
import contextlib
import json
import os
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

from bridge.live.hub import Hub
from bridge.record.event import LogEvent
from bridge.server.auth import Policy
from bridge.server.monitor import MonitorEndpoint
from bridge.server.standalone import StandaloneServer, bind
from tests.serving import PATIENCE_SECONDS, Message, eventually

TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10


def event(message: str, *, audit: bool = False, logger: str = "shop") -> LogEvent:
    """A record."""
    return LogEvent(
        timestamp=1_759_948_245_123_000_000,
        observed_timestamp=1,
        severity_number=9,
        level="INFO",
        logger=logger,
        message=message,
        is_audit=audit,
    )


class Monitor:
    """A hub on a port of its own."""

    def __init__(self, port: int, stuck_seconds: float, max_clients: int, token: str | None, **bounds: int) -> None:
        self.hub = Hub(**bounds)
        endpoint = MonitorEndpoint(self.hub, Policy(token=token), max_clients=max_clients, stuck_seconds=stuck_seconds)
        self.server = StandaloneServer(endpoint, bind("127.0.0.1", port, token=token))
        self.port = self.server.port
        self.server.start()
        eventually(lambda: self.server.started)
        self.count = 0
        self._lock = threading.Lock()

    @property
    def url(self) -> str:
        """What a client connects to."""
        return f"ws://127.0.0.1:{self.port}/ws/monitor"

    @property
    def connections(self) -> set[Any]:
        """uvicorn's connections."""
        return self.server._server.server_state.connections

    def publishing(self) -> bool:
        """Publish one more record; True, for use in a condition."""
        self.publish()
        return True

    def publish(self, count: int = 1, *, audit: bool = False, size: int = 0) -> None:
        """Publish ``count`` records: ``n=1``, ``n=2``, …, padded by ``size`` characters."""
        with self._lock:
            first = self.count + 1
            self.count += count
            padding = " " + "x" * size if size else ""
            self.hub.publish([event(f"n={number}{padding}", audit=audit) for number in range(first, self.count + 1)])

    def fill(self, buffered: int) -> None:
        """Publish until that many bytes wait in this process for the one connected client."""
        (connection,) = self.connections
        while connection.transport.get_write_buffer_size() < buffered:
            self.publish(20, size=200)
            self.settle()
            assert self.count < 100_000

    def settle(self) -> None:
        """Wait until the server's loop has gone round a few times."""
        (loop, *_) = [connection.loop for connection in self.connections]

        async def turns() -> None:
            for _ in range(5):
                await asyncio.sleep(0)

        asyncio.run_coroutine_threadsafe(turns(), loop).result(PATIENCE_SECONDS)

    def stop(self) -> None:
        """End the server."""
        self.server.stop()


@contextlib.contextmanager
def monitor(
    port: int = 0, *, stuck_seconds: float = 60.0, max_clients: int = 500, token: str | None = None, **bounds: int
) -> Iterator[Monitor]:
    """A running monitor."""
    running = Monitor(port, stuck_seconds, max_clients, token, **bounds)
    try:
        yield running
    finally:
        running.stop()


class FrameClient:
    """A WebSocket client that parses the stream by hand and refuses whatever a server must not send."""

    def __init__(
        self, port: int, query: str = "", *, receive_buffer: int | None = None, headers: str = "", path: str = ""
    ) -> None:
        self.socket = socket.socket()
        if receive_buffer is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.settimeout(PATIENCE_SECONDS)
        self.socket.connect(("127.0.0.1", port))
        self.control: list[tuple[int, bytes]] = []
        self.closed: int | None = None
        self._buffer = bytearray()
        key = base64.b64encode(os.urandom(16)).decode()
        self.socket.sendall(
            f"GET {path or '/ws/monitor'}{query} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n"
            f"Connection: Upgrade\r\nSec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n{headers}\r\n".encode()
        )
        try:
            while b"\r\n\r\n" not in self._buffer:
                data = self.socket.recv(4_096)
                assert data, "the handshake was not answered"
                self._buffer += data
            head, _, rest = bytes(self._buffer).partition(b"\r\n\r\n")
            self.head = head.decode()
            self._buffer = bytearray(rest)
            assert self.head.startswith("HTTP/1.1 101"), self.head
        except BaseException:
            self.socket.close()
            raise

    def __enter__(self) -> "FrameClient":
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, opcode: int, payload: bytes, *, last: bool = True) -> None:
        """Send a frame, masked."""
        self.socket.sendall(masked(opcode, payload, last=last))

    def say(self, **message: Any) -> None:
        """Send a JSON message."""
        self.send(TEXT, json.dumps(message).encode())

    def frame(self) -> tuple[int, bytes] | None:
        """The next frame; None at the end of the connection."""
        while (found := self._parse()) is None:
            try:
                data = self.socket.recv(1 << 16)
            except ConnectionResetError:
                data = b""
            if not data:
                assert not self._buffer, "cut in the middle of a frame"
                return None
            self._buffer += data
        return found

    def _parse(self) -> tuple[int, bytes] | None:
        buffer = self._buffer
        if len(buffer) < 2:
            return None
        opcode, length, start = buffer[0] & 0x0F, buffer[1], 2
        assert buffer[0] & 0xF0 == 0x80, f"fragmented, compressed or garbage: {bytes(buffer[:40])!r}"
        assert opcode in (TEXT, CLOSE, PING, PONG), bytes(buffer[:40])
        assert length < 128, "a server does not mask"
        if length == 126:
            length, start = int.from_bytes(buffer[2:4]), 4
        elif length == 127:
            length, start = int.from_bytes(buffer[2:10]), 10
        if len(buffer) < start + length:
            return None
        payload = bytes(buffer[start : start + length])
        del buffer[: start + length]
        assert self.closed is None, "a frame after the close"
        if opcode == CLOSE:
            self.closed = int.from_bytes(payload[:2])
        return opcode, payload

    def message(self) -> Message | None:
        """The next JSON message; control frames on the way are kept; None at the end."""
        while (found := self.frame()) is not None:
            opcode, payload = found
            if opcode == TEXT:
                message: Message = json.loads(payload)
                return message
            self.control.append(found)
            if opcode == CLOSE:
                return None
        return None

    def until(self, last: Callable[[Message], bool]) -> list[Message]:
        """The next messages, up to the first for which ``last(message)`` is true."""
        messages = []
        while (message := self.message()) is not None:
            messages.append(message)
            if last(message):
                return messages
        raise AssertionError(f"closed with {self.closed} after {messages[-3:]}")

    def rest(self) -> list[Message]:
        """All that still comes, to the end of the connection."""
        messages = []
        while (message := self.message()) is not None:
            messages.append(message)
        return messages


def masked(opcode: int, payload: bytes, *, last: bool = True) -> bytes:
    """A client's frame. The mask is zero: a mask like any other."""
    head = bytes([opcode | (0x80 if last else 0)])
    size = len(payload)
    if size < 126:
        head += bytes([0x80 | size])
    elif size < 65_536:
        head += b"\xfe" + size.to_bytes(2)
    else:
        head += b"\xff" + size.to_bytes(8)
    return head + b"\0\0\0\0" + payload


def kind(name: str) -> Callable[[Message], bool]:
    """Whether a message has this type."""
    return lambda message: bool(message["type"] == name)


def numbers(messages: list[Message]) -> list[int]:
    """The numbers of the records among messages, batches opened."""
    found = []
    for message in messages:
        for each in message["data"] if message["type"] == "batch" else [message]:
            if each["type"] in ("system_log", "audit_log"):
                found.append(int(each["data"]["message"].split()[0].removeprefix("n=")))
    return found


def record(number: int) -> Callable[[Message], bool]:
    """Whether a message is, or has, the record ``n=<number>``."""
    return lambda message: number in numbers([message])
