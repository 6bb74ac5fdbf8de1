"""The time limit for a request's head, at a real server."""

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import uvicorn
import websockets.sync.client

from bridge.server.http_protocol import http_protocol
from tests.serving import PATIENCE_SECONDS, Served, serve

LATE = b"HTTP/1.1 408 Request Timeout\r\n"
REQUEST = b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\n\r\n"


class App:
    """Answers when it may, with the length of the body."""

    def __init__(self) -> None:
        self.may = threading.Event()
        self.may.set()
        self.asked = threading.Event()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.accept"})
            while (message := await receive())["type"] == "websocket.receive":
                await send({"type": "websocket.send", "text": message["text"]})
            return
        self.asked.set()
        await asyncio.to_thread(self.may.wait)
        size, more = 0, True
        while more:
            message = await receive()
            size, more = size + len(message.get("body", b"")), message.get("more_body", False)
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"1")]})
        await send({"type": "http.response.body", "body": str(size).encode()})


@pytest.fixture
def app() -> App:
    return App()


@pytest.fixture(params=[0.15])
def served(app: App, request: pytest.FixtureRequest) -> Iterator[Served]:
    protocol: Any = http_protocol()
    assert protocol.head_seconds == 10.0

    impatient = type("Impatient", (protocol,), {"head_seconds": request.param})
    # uvicorn's own limit for idle connections is no part of this.
    with serve(app, http=impatient, ws="websockets-sansio", timeout_keep_alive=60) as running:
        yield running


@contextlib.contextmanager
def connected(served: Served) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", served.port), PATIENCE_SECONDS) as connection:
        yield connection


def rest(connection: socket.socket) -> bytes:
    answer = b""
    while more := connection.recv(9_999):
        answer += more
    return answer


def answered(connection: socket.socket) -> bytes:
    """One answer of the application's."""
    answer = b""
    while not answer.endswith(b"\r\n\r\n4"):
        more = connection.recv(9_999)
        assert more, answer
        answer += more
    assert answer.startswith(b"HTTP/1.1 200 ")
    return answer


@pytest.mark.parametrize("part", [b"", b"P", REQUEST[:-1]])
def test_a_head_that_does_not_come(served: Served, part: bytes) -> None:
    """A connection whose head is not there in time is told 408 and closed."""
    with connected(served) as connection:
        connection.sendall(part)
        answer = rest(connection)
        head, _, body = answer.partition(b"\r\n\r\n")
        assert answer.startswith(LATE)
        assert f"content-length: {len(body)}".encode() in head


def test_byte_by_byte(served: Served) -> None:
    """Each byte does not begin the time anew."""
    with connected(served) as connection, contextlib.suppress(ConnectionError):
        began = time.monotonic()
        connection.settimeout(0.02)
        answer = b""
        while not answer and time.monotonic() - began < PATIENCE_SECONDS:
            connection.sendall(b"X")
            with contextlib.suppress(TimeoutError):
                answer = connection.recv(9_999)
        assert answer.startswith(LATE)


def test_a_further_head(served: Served) -> None:
    """After an answer there is no limit until the next head begins; then there is."""
    with connected(served) as connection:
        for _ in range(2):
            connection.sendall(REQUEST + b"body")
            answered(connection)
        connection.settimeout(0.4)
        with pytest.raises(TimeoutError):
            connection.recv(1)
        connection.settimeout(PATIENCE_SECONDS)
        connection.sendall(REQUEST + b"body")
        answered(connection)
        connection.sendall(REQUEST[:9])
        assert rest(connection).startswith(LATE)


def test_a_slow_body(served: Served, app: App) -> None:
    """The limit is the head's: a slow body, or a slow answer, is the application's business."""
    app.may.clear()
    with connected(served) as connection:
        connection.sendall(REQUEST)
        assert app.asked.wait(PATIENCE_SECONDS)
        connection.settimeout(0.4)
        with pytest.raises(TimeoutError):
            connection.recv(1)
        app.may.set()
        connection.settimeout(PATIENCE_SECONDS)
        connection.sendall(b"body")
        answered(connection)


def test_a_head_behind_a_request_under_way(served: Served, app: App) -> None:
    """Half a head that came while a request was answered is not waited for for ever."""
    app.may.clear()
    with connected(served) as connection:
        connection.sendall(REQUEST + b"body")
        assert app.asked.wait(PATIENCE_SECONDS)
        connection.sendall(REQUEST[:9])
        app.may.set()
        answered(connection)
        connection.sendall(REQUEST[9:12])
        assert rest(connection).startswith(LATE)


def test_websockets(served: Served) -> None:
    """A connection that has become a WebSocket has no limit."""
    with websockets.sync.client.connect(f"ws://127.0.0.1:{served.port}/", proxy=None) as client:
        with pytest.raises(TimeoutError):
            client.recv(timeout=0.4)
        client.send("still there")
        assert client.recv(timeout=PATIENCE_SECONDS) == "still there"


def test_a_sender_that_leaves(served: Served) -> None:
    """A connection that is closed before its time is over leaves no timer behind."""
    for data in (b"", REQUEST[:9], REQUEST + b"body"):
        with connected(served) as connection:
            connection.sendall(data)
    with connected(served) as connection:
        assert rest(connection).startswith(LATE)


def test_it_is_uvicorns_own() -> None:
    """It is uvicorn's protocol, whichever is installed, and the configuration takes it."""
    config = uvicorn.Config(App(), http=http_protocol(), log_config=None)
    config.load()
    assert config.http_protocol_class.__name__ == "HeadDeadlineProtocol"
