"""Clients that mean harm, at a real server; beside each a healthy one that must notice nothing."""

import concurrent.futures
import contextlib
import os
import random
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from uvicorn.protocols.http.auto import AutoHTTPProtocol

from tests.monitors import BINARY, CLOSE, PONG, TEXT, FrameClient, Monitor, kind, masked, monitor, numbers, record
from tests.serving import PATIENCE_SECONDS, Message, eventually


class Healthy:
    """A client that reads all the time, and publishes a record whenever it has read the last."""

    def __init__(self, running: Monitor) -> None:
        self._running = running
        self.client = FrameClient(running.port)
        self.found: list[int] = []
        self.error: BaseException | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                self._running.publish(20, size=50)
                last = self._running.count
                self.found += numbers(self.client.until(record(last)))
        except BaseException as error:
            self.error = error

    def goes_on(self, records: int = 100) -> None:
        """Wait until it has got some more."""
        wanted = len(self.found) + records
        eventually(lambda: len(self.found) >= wanted or self.error is not None)
        assert self.error is None

    def end(self) -> None:
        self._stop.set()
        self._thread.join(PATIENCE_SECONDS)
        self.client.socket.close()


@contextlib.contextmanager
def watched_over(running: Monitor) -> Iterator[Healthy]:
    """A healthy client beside, that at the end has got every record, once and in order; and then nobody is left."""
    first = running.count + 1
    healthy = Healthy(running)
    try:
        healthy.goes_on()
        yield healthy
        healthy.goes_on()
    finally:
        healthy.end()
    assert healthy.error is None
    assert list(range(first, running.count + 1)) == healthy.found
    eventually(lambda: running.hub.clients == 0 and not running.connections)


@pytest.fixture(scope="module")
def lasting() -> Iterator[Monitor]:
    """One monitor that lives through all of it."""
    with monitor() as running:
        yield running


@pytest.fixture
def healthy(lasting: Monitor) -> Iterator[Healthy]:
    with watched_over(lasting) as client:
        yield client


@pytest.fixture
def running(lasting: Monitor, healthy: Healthy) -> Monitor:
    """The monitor, with a healthy client beside."""
    return lasting


def send_raw(port: int, data: bytes) -> bytes:
    """Send bytes, and all that is answered up to the end of the connection."""
    with socket.create_connection(("127.0.0.1", port), PATIENCE_SECONDS) as client:
        client.sendall(data)
        client.shutdown(socket.SHUT_WR)
        answer = b""
        with contextlib.suppress(ConnectionResetError):
            while more := client.recv(65_536):
                answer += more
        return answer


# The faster of uvicorn's two HTTP parsers, which it takes if it is installed. They differ in what they let pass.
HTTPTOOLS = AutoHTTPProtocol.__name__ == "HttpToolsProtocol"

UPGRADE = b"Host: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
KEY = b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"\x00\x01\x02\x03\r\n\r\n", b"400"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\xaa" * 200, b"400"),
        # To h11 it is a request for a page, as the one below is.
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"400" if HTTPTOOLS else b"426"),
        (b"GET /ws/monitor HTTP/1.1\r\nHost: localhost\r\n\r\n", b"426"),
        (b"GET /ws/monitor HTTP/1.1\r\n" + UPGRADE + b"\r\n", b"400"),
        (b"GET /ws/monitor HTTP/1.1\r\n" + UPGRADE + KEY + b"Sec-WebSocket-Version: 99\r\n\r\n", b"400"),
        (
            b"GET /ws/monitor HTTP/1.1\r\n" + UPGRADE + b"Sec-WebSocket-Key: x\r\nSec-WebSocket-Version: 13\r\n\r\n",
            b"400",
        ),
        (
            b"GET /ws/monitor?"
            + b"x" * 9_000
            + b" HTTP/1.1\r\n"
            + UPGRADE
            + KEY
            + b"Sec-WebSocket-Version: 13\r\n\r\n",
            b"400",
        ),
        # httptools has no bound for a header, and finds no upgrade.
        (b"GET /ws/monitor HTTP/1.1\r\nX: " + b"y" * 200_000 + b"\r\n\r\n", b"426" if HTTPTOOLS else b"400"),
        (b"", b""),
    ],
)
def test_garbage_instead_of_a_handshake(running: Monitor, data: bytes, status: bytes) -> None:
    """What is no handshake is answered with an HTTP error, or with nothing if nothing was asked, and ends."""
    answer = send_raw(running.port, data)
    assert (b"HTTP/1.1 " + status if status else b"") == answer[: 9 + len(status) if status else 9]


def test_random_bytes(running: Monitor) -> None:
    """Random bytes, in the handshake or as frames, end the connection and nothing else."""
    dice = random.Random(3)
    for number in range(60):
        data = dice.randbytes(dice.randrange(1, 400))
        if number % 2:
            send_raw(running.port, data)
            continue
        with FrameClient(running.port, "?v=2") as client:
            client.socket.sendall(data)
            with contextlib.suppress(OSError):
                client.socket.shutdown(socket.SHUT_WR)
            client.rest()
            assert client.closed in (None, 1002, 1007, 1009, 1000)


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize("opcode", [TEXT, BINARY])
@pytest.mark.parametrize(
    "data",
    [b"garbage", b"\x00" * 100, b"[" * 60_000, b'{"type":"drop table"}', '{"type":"ping","id":"\U0001f4a3'.encode()],
)
def test_garbage_messages(running: Monitor, opcode: int, data: bytes) -> None:
    """A message that can't be read, text or binary, is an error by its name, and the client may go on."""
    with FrameClient(running.port, "?v=2") as client:
        client.send(opcode, data)
        error = client.until(kind("error"))[-1]
        assert error["code"] in ("bad_message", "unknown_type")
        client.say(type="ping", id=1)
        assert {"type": "pong", "id": 1} == client.until(kind("pong"))[-1]


@pytest.mark.parametrize("version", ["", "?v=2"])
@pytest.mark.parametrize(
    ("data", "code"),
    [
        (masked(TEXT, b"x" * 10_000_000), 1009),
        (masked(TEXT, b"x" * 65_537), 1009),
        (b"\x81\xff" + (2**63 - 1).to_bytes(8), 1009),
        (masked(TEXT, b"\xff\xfe"), 1007),
        (b"\x81\x05hello", 1002),
        (masked(3, b"reserved"), 1002),
        (masked(CLOSE, b"\x00"), 1002),
        (masked(9, b"x" * 126), 1002),
        (masked(0, b"continued"), 1002),
    ],
)
def test_frames_that_break_the_rules(running: Monitor, version: str, data: bytes, code: int) -> None:
    """A frame that is too large or wrong closes with the code that WebSocket has for it."""
    with FrameClient(running.port, version) as client:
        with contextlib.suppress(ConnectionError):  # closed before it has taken all of it
            client.socket.sendall(data)
        client.rest()
        assert client.closed == code


def test_a_message_in_endless_fragments(running: Monitor) -> None:
    """A message that only grows is too big, however small its pieces."""
    with FrameClient(running.port, "?v=2") as client:
        piece = masked(0, b"x" * 1_000, last=False)
        client.send(TEXT, b"x", last=False)
        with contextlib.suppress(ConnectionError):
            for _ in range(200):
                client.socket.sendall(piece)
        client.rest()
        assert 1009 == client.closed


# -- filters -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "pattern", ["(a+)+$", "(a|aa)+$", "(x+x+)+y", "([a-zA-Z]+)*$", "(.*)*(.*)*(.*)*=", "^(([a-z])+.)+[A-Z]([a-z])+$"]
)
def test_patterns_that_explode_elsewhere(running: Monitor, healthy: Healthy, pattern: str) -> None:
    """A pattern that goes back for ever in other engines is only a pattern here."""
    with FrameClient(running.port, "?v=2") as client:
        client.say(type="subscribe", id=1, filter={"re": pattern})
        assert 1 == client.until(kind("subscribed"))[-1]["id"]
        running.publish(1, size=20_000)
        healthy.goes_on(500)
        client.say(type="history", id=2, limit=10)
        assert 2 == client.until(kind("history"))[-1]["id"]


@pytest.mark.parametrize(
    ("filter", "accepted"),
    [
        ({"re": "|".join(f"word{number}" for number in range(50))}, True),
        ({"re": "(" * 512}, False),
        ({"re": "x{1000}{1000}"}, False),
        ({"re": "((((x{30}){30}){30}){30})"}, False),
        ({"re": "x" * 513}, False),
        ({"q": "x" * 60_000}, None),
        ({"logger": ["a*" * 30] * 50}, None),
        ({"attr": [f"k{number}:v" for number in range(1_000)]}, None),
        ({"nonsense": 1}, False),
        ({"re": ["a"] * 1_000}, False),
        ([], False),
        ("x", False),
    ],
)
def test_filters_at_and_over_their_bounds(running: Monitor, filter: object, accepted: bool | None) -> None:
    """A filter is taken, or refused by name; either way the old client and the healthy one go on."""
    with FrameClient(running.port, "?v=2") as client:
        client.say(type="subscribe", id=1, filter=filter)
        answer = client.until(lambda message: message["type"] in ("subscribed", "error"))[-1]
        assert answer["type"] in {True: ["subscribed"], False: ["error"], None: ["subscribed", "error"]}[accepted]
        if answer["type"] == "error":
            assert ("bad_filter", 1) == (answer["code"], answer["id"])
        client.say(type="ping", id=2)
        client.until(kind("pong"))


def test_refused_in_the_address(running: Monitor) -> None:
    """A query that can't be served is closed with 4400 and a reason, whatever is in it."""
    for query in ("?v=2&re=(", "?v=3", "?v=2&history=9999999999", "?v=2&after=%ff", "?%00=1", "?re=("):
        with FrameClient(running.port, query) as client:
            assert [] == client.rest()
            assert 4400 == client.closed


# -- floods ------------------------------------------------------------------------------------------------------------


def test_a_flood_of_subscriptions(running: Monitor) -> None:
    """Far more messages than allowed are not heard, said so, and closed with 4400 if they go on."""
    with FrameClient(running.port, "?v=2") as client:
        messages: list[Message] = []
        reading = threading.Thread(target=lambda: messages.extend(client.rest()))
        reading.start()
        with contextlib.suppress(ConnectionError):
            for number in range(100_000):
                client.say(type="subscribe", id=number, filter={"re": f"x{number}+$", "logger": f"a.{number}*"})
                if client.closed is not None:
                    break
        reading.join(PATIENCE_SECONDS)
        assert 4400 == client.closed
        subscribed = [message["id"] for message in messages if message["type"] == "subscribed"]
        assert sorted(set(subscribed)) == subscribed
        assert 60 <= len(subscribed)
        assert "rate_limited" in {message.get("code") for message in messages}


def test_a_person_who_clicks_fast_is_not_closed(running: Monitor) -> None:
    """A burst within the bounds is answered in full and in order."""
    with FrameClient(running.port, "?v=2") as client:
        for number in range(50):
            client.say(type="subscribe", id=number, filter={"q": str(number)})
        answers = client.until(lambda message: message.get("id") == 49)
        assert list(range(50)) == [message["id"] for message in answers if message["type"] == "subscribed"]


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="platform: memory is read from /proc")
def test_history_asked_for_and_never_read(running: Monitor) -> None:
    """Answers that nobody takes are bounded: the client is closed, and costs a few megabytes at most."""

    def waiting(connection: Any) -> int:
        return int(connection.transport.get_write_buffer_size())

    with contextlib.ExitStack() as stack:
        (own,) = running.connections
        clients = [stack.enter_context(FrameClient(running.port, "?v=2", receive_buffer=2_048)) for _ in range(4)]
        for client in clients:
            client.until(kind("ready"))
        running.publish(200, size=20_000)
        eventually(lambda: all(waiting(connection) > 200_000 for connection in running.connections - {own}))
        before = resident_bytes()
        for client in clients:
            with contextlib.suppress(ConnectionError):
                for number in range(60):
                    client.say(type="history", id=number, limit=1_000)
        # Long before they are stuck, for which they would have a minute.
        eventually(lambda: running.hub.clients == 1 and len(running.connections) == 1)
        assert resident_bytes() - before < 100 << 20


def test_pings_without_end(running: Monitor) -> None:
    """WebSocket pings as fast as they go are each answered, and delay nobody."""
    with FrameClient(running.port, "?v=2") as client:
        pings = b"".join(masked(9, str(number).encode()) for number in range(5_000))
        sending = threading.Thread(target=client.socket.sendall, args=(pings,))
        sending.start()
        while [payload for opcode, payload in client.control if opcode == PONG][-1:] != [b"4999"]:
            assert client.message() is not None
        sending.join()
        assert [str(number).encode() for number in range(5_000)] == [payload for _, payload in client.control]


def test_thousands_of_quick_connections(running: Monitor) -> None:
    """Two thousand connections from many threads come and go; who stays is served."""

    def connect(number: int) -> None:
        if number % 3 == 0:
            with socket.create_connection(("127.0.0.1", running.port), PATIENCE_SECONDS) as client:
                client.sendall(b"GET /ws/mon")
        else:
            with FrameClient(running.port, "?v=2&history=100" if number % 3 == 1 else "") as client:
                client.send(CLOSE, b"\x03\xe8")

    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        list(pool.map(connect, range(2_000)))


def test_no_more_clients_than_allowed() -> None:
    """Over ``max_clients`` each is told 1013, and a place that falls free is taken."""
    with monitor(max_clients=10) as running, watched_over(running), contextlib.ExitStack() as stack:
        clients = [stack.enter_context(FrameClient(running.port, "?v=2")) for _ in range(9)]
        for client in clients:
            client.until(kind("ready"))
        for _ in range(30):
            with FrameClient(running.port, "?v=2") as client:
                assert ([], 1013) == (client.rest(), client.closed)
        clients[0].send(CLOSE, b"\x03\xe8")
        eventually(lambda: running.hub.clients == 9)
        with FrameClient(running.port, "?v=2") as client:
            client.until(kind("ready"))


def test_handshakes_that_never_end(running: Monitor, healthy: Healthy) -> None:
    """Two hundred connections that send their handshake byte by byte, or not at all, hold up nobody else."""
    handshake = b"GET /ws/monitor?v=2 HTTP/1.1\r\n" + UPGRADE + KEY + b"Sec-WebSocket-Version: 13\r\n\r\n"
    with contextlib.ExitStack() as stack:
        slow = [
            stack.enter_context(socket.create_connection(("127.0.0.1", running.port), PATIENCE_SECONDS))
            for _ in range(200)
        ]
        for place in range(0, len(handshake) - 1, 8):
            for number, connection in enumerate(slow[:20]):
                connection.sendall(handshake[place : min(place + 8, len(handshake) - 1)] if number else b"")
            if place % 64 == 0:
                healthy.goes_on(20)
        with FrameClient(running.port, "?v=2") as client:
            client.until(kind("ready"))
        slow[1].sendall(handshake[-1:])
        answer = b""
        while b"hello" not in answer:
            answer += slow[1].recv(4_096)
        assert answer.startswith(b"HTTP/1.1 101")


def test_many_kinds_at_once(running: Monitor, healthy: Healthy) -> None:
    """All of it at the same time: the healthy client gets every record, once, in order."""
    stop = threading.Event()

    def until_stopped(attack: Callable[[], None]) -> None:
        while not stop.is_set():
            with contextlib.suppress(OSError, AssertionError):
                attack()

    def stalled() -> None:
        with FrameClient(running.port, "?v=2&history=1000", receive_buffer=2_048):
            stop.wait(0.3)

    def chatty() -> None:
        with FrameClient(running.port, "?v=2") as client:
            for number in range(300):
                client.say(type="history", id=number, limit=1_000)

    def large() -> None:
        with FrameClient(running.port) as client:
            client.send(TEXT, b"x" * 1_000_000)

    def random_bytes() -> None:
        send_raw(running.port, os.urandom(300))

    def regex() -> None:
        with FrameClient(running.port, "?v=2&history=1000&re=(a%2B)%2B$") as client:
            client.say(type="subscribe", id=1, filter={"re": "(x+x+)+y", "q": "n="})
            client.until(kind("subscribed"))

    attacks = [
        threading.Thread(target=until_stopped, args=(attack,))
        for attack in (stalled, chatty, large, random_bytes, regex)
    ]
    for attack in attacks:
        attack.start()
    try:
        for _ in range(20):
            healthy.goes_on(100)
    finally:
        stop.set()
        for attack in attacks:
            attack.join(PATIENCE_SECONDS)
