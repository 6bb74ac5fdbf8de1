"""A client that comes back: where it is in the stream, and what it makes of servers of all kinds."""

import contextlib
import itertools
import json
import socket
import struct
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.sync.server import ServerConnection
from websockets.sync.server import serve as serve_websocket

from bridge.errors import MissingDependency
from bridge.watch import Follower, Message, WatchRefused, follow, monitor_url
from tests.monitors import monitor, numbers
from tests.serving import eventually, free_port, listening_socket


def query(address: str) -> list[tuple[str, str]]:
    """The parameters of an address."""
    return parse_qsl(urlsplit(address).query, keep_blank_values=True)


# -- addresses ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("8765", "ws://127.0.0.1:8765/ws/monitor"),
        (" localhost:8765 ", "ws://localhost:8765/ws/monitor"),
        ("example.com", "ws://example.com/ws/monitor"),
        ("http://h:1", "ws://h:1/ws/monitor"),
        ("https://h/", "wss://h/ws/monitor"),
        ("https://h/orders/", "wss://h/orders/ws/monitor"),
        ("ws://h/ws/monitor", "ws://h/ws/monitor"),
        ("wss://h/a/ws/monitor?logger=x#y", "wss://h/a/ws/monitor?logger=x"),
        ("http://[::1]:8765", "ws://[::1]:8765/ws/monitor"),
        ("my_service:80", "ws://my_service:80/ws/monitor"),
        ("http://bücher.example", "ws://bücher.example/ws/monitor"),
    ],
)
def test_addresses(given: str, expected: str) -> None:
    """What a person would type becomes the address of the WebSocket."""
    assert expected == monitor_url(given)


@pytest.mark.parametrize(
    "given",
    [
        "",
        " ",
        "ftp://h",
        "http://",
        "ws:///ws/monitor",
        "h:0",
        "h:x",
        "h:99999",
        "0",
        "99999",
        "²",
        "http://[::1",
        "http://a..b",
        "http://a b",
        "http://a\x00b",
        "http://" + "a" * 64,
        "a:1:2",
    ],
)
def test_addresses_that_are_none(given: str) -> None:
    """What can't be an address is refused at once, in one line that says what would be one."""
    with pytest.raises(WatchRefused, match=r"not an address of a monitor; for example http://127\.0\.0\.1:8765"):
        monitor_url(given)


@given(st.text(max_size=30))
def test_any_text_is_an_address_or_refused(given: str) -> None:
    """No text makes anything else of it than an address or a refusal."""
    with contextlib.suppress(WatchRefused):
        assert urlsplit(monitor_url(given)).scheme in ("ws", "wss")


# -- where it is -------------------------------------------------------------------------------------------------------


def hear(follower: Follower, **message: Any) -> Message:
    return follower.heard(json.dumps(message))


def test_it_asks_for_history_until_it_has_a_cursor() -> None:
    """The first address asks for history; once something has come, for what is after it."""
    follower = Follower("ws://h/ws/monitor", [("logger", "a"), ("logger", "b c&d")], history=5)
    first = [("v", "2"), ("logger", "a"), ("logger", "b c&d")]
    assert [*first, ("history", "5")] == query(follower.address())
    hear(follower, type="hello", newest="e:7")
    assert [*first, ("history", "5")] == query(follower.address())
    hear(follower, type="system_log", cursor="e:3", data={})
    assert [*first, ("after", "e:3")] == query(follower.address())
    hear(follower, type="stats", cursor="e:9")
    assert [*first, ("after", "e:9")] == query(follower.address())


def test_without_history_the_hello_is_its_place() -> None:
    """Cut off before the first record, a client that wants nothing of the past goes on from where it came."""
    follower = Follower("ws://h/ws/monitor", [])
    hear(follower, type="hello", newest="e:7")
    assert [("v", "2"), ("after", "e:7")] == query(follower.address())


def test_a_cursor_of_its_own_comes_first() -> None:
    """With ``after`` it begins there, and the hello does not move it."""
    follower = Follower("ws://h/ws/monitor", [], history=20, after="old:3")
    hear(follower, type="hello", newest="new:7")
    assert [("v", "2"), ("after", "old:3")] == query(follower.address())


def test_a_gap_that_was_told_is_behind_it() -> None:
    """Cut off right after a gap, it goes on behind the gap."""
    follower = Follower("ws://h/ws/monitor", [], after="e:3")
    hear(follower, type="gap", reason="evicted", system=4, audit=0, **{"from": "e:3", "to": "e:7"})
    assert "e:7" == follower.cursor


@pytest.mark.parametrize("cursor", [None, 5, ["e:1"], {}])
def test_a_cursor_that_is_none_is_left_alone(cursor: object) -> None:
    """Only a text can be a cursor."""
    follower = Follower("ws://h/ws/monitor", [], after="e:3")
    hear(follower, type="stats", cursor=cursor)
    assert "e:3" == follower.cursor


def test_what_the_address_says_itself_is_kept() -> None:
    """Filters in the address count; what decides how the server speaks is the client's own."""
    follower = Follower("ws://h/ws/monitor?logger=a&v=1&batch=1&after=e:1&q=", [("logger", "b")])
    given = [("logger", "a"), ("after", "e:1"), ("q", "")]
    assert [*given, ("v", "2"), ("logger", "b")] == query(follower.address())
    hear(follower, type="stats", cursor="e:9")
    assert [("logger", "a"), ("q", ""), ("v", "2"), ("logger", "b"), ("after", "e:9")] == query(follower.address())


@pytest.mark.parametrize("text", ["", "x", "[]", "5", "{}", '{"type":5}', '{"type":"a"', "\ud800"])
def test_what_is_no_message(text: str) -> None:
    """Anything else than an object with a type is an error."""
    with pytest.raises(ValueError):  # noqa: PT011 - two libraries' words
        Follower("ws://h/ws/monitor", []).heard(text)


# -- servers of all kinds ----------------------------------------------------------------------------------------------


class Ended(Exception):
    """The test has seen enough."""


class Watch:
    """Follows a server in this thread, and writes down what it hears."""

    def __init__(self, url: str, attempts: int = 2, **options: Any) -> None:
        self.follower = Follower(monitor_url(url), [], **options)
        self.said: list[str] = []
        self.waits: list[float] = []
        self.messages: list[dict[str, Any]] = []
        self._attempts = attempts

    def _wait(self, seconds: float) -> None:
        self.waits.append(seconds)
        if len(self.waits) >= self._attempts:
            raise Ended

    def run(self, until: Callable[[dict[str, Any]], bool] = lambda message: False, **options: Any) -> "Watch":
        for message in follow(self.follower, say=self.said.append, wait=self._wait, **options):
            self.messages.append(message.data)
            if until(message.data):
                break
        return self


@contextlib.contextmanager
def answering(answer: Callable[[socket.socket], None]) -> Iterator[int]:
    """A server that treats each connection its own way."""
    with listening_socket() as listener:
        listener.settimeout(0.05)
        stop = threading.Event()

        def serve() -> None:
            while not stop.is_set():
                with contextlib.suppress(TimeoutError):
                    connection, _ = listener.accept()
                    with connection, contextlib.suppress(OSError):
                        answer(connection)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield int(listener.getsockname()[1])
        finally:
            stop.set()
            thread.join()


@contextlib.contextmanager
def speaking(handler: Callable[[ServerConnection], None]) -> Iterator[int]:
    """A WebSocket server."""
    with serve_websocket(handler, "127.0.0.1", 0) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield int(server.socket.getsockname()[1])
        finally:
            server.shutdown()
            thread.join()


def test_nobody_there() -> None:
    """A refused connection is said and tried again, with longer and longer pauses, up to ten seconds."""
    watch = Watch(str(free_port()), attempts=10)
    with pytest.raises(Ended):
        watch.run()
    assert {f"{watch.follower.url}: Connection refused; trying again"} == set(watch.said)
    limits = [min(0.25 * 2**number, 10.0) for number in range(10)]
    assert all(limit / 2 <= wait <= limit for limit, wait in zip(limits, watch.waits, strict=True))


def end(connection: socket.socket) -> None:
    connection.recv(4_096)


def reset(connection: socket.socket) -> None:
    connection.recv(4_096)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def half(connection: socket.socket) -> None:
    connection.recv(4_096)
    connection.sendall(b"HTTP/1.1 101 Switching Prot")


@pytest.mark.parametrize("answer", [end, reset, half])
def test_cut_before_there_is_an_answer(answer: Callable[[socket.socket], None]) -> None:
    """A server that goes away in the middle of the handshake, as one that restarts does, is tried again."""
    with answering(answer) as port:
        watch = Watch(str(port))
        with pytest.raises(Ended):
            watch.run()
    assert 2 == len(watch.said)
    assert all("cut" in words or "reset" in words for words in watch.said), watch.said


def http(status: str, body: str = "") -> Callable[[socket.socket], None]:
    def answer(connection: socket.socket) -> None:
        connection.recv(4_096)
        connection.sendall(f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode())

    return answer


def ssh(connection: socket.socket) -> None:
    connection.recv(4_096)
    connection.sendall(b"SSH-2.0-OpenSSH_9.6\r\n")


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (http("403 Forbidden", "peer is not here\n"), ": HTTP 403 peer is not here"),
        (http("404 Not Found", "<html>\n<head>" + "x" * 5_000), ": HTTP 404 <html>"),
        (http("404 Not Found", "y" * 5_000), ": HTTP 404 " + "y" * 200),
        (http("401 Unauthorized"), ": HTTP 401"),
        (http("200 OK", "hello"), ": HTTP 200 hello"),
        (ssh, ": this is no monitor (did not receive"),
        (http("101 Switching Protocols"), ": this is no monitor ("),
    ],
)
def test_no_monitor(answer: Callable[[socket.socket], None], words: str) -> None:
    """A server that will never be a monitor is refused in one short line."""
    with answering(answer) as port:
        watch = Watch(str(port))
        with pytest.raises(WatchRefused) as caught:
            watch.run()
    line = str(caught.value)
    assert words in line
    assert (0, True, []) == (line.count("\n"), len(line) < 400, watch.said)


def test_a_server_with_troubles_is_tried_again() -> None:
    """HTTP 500 and above may pass."""
    with answering(http("503 Service Unavailable")) as port:
        watch = Watch(str(port))
        with pytest.raises(Ended):
            watch.run()
    assert [f"{watch.follower.url}: HTTP 503; trying again"] * 2 == watch.said


@pytest.mark.parametrize("text", ["hello", b"\xff", "[]", '{"data":1}'])
def test_another_websocket_service(text: str | bytes) -> None:
    """A WebSocket that speaks something else is refused, not a crash."""
    with speaking(lambda connection: connection.send(text)) as port:
        watch = Watch(str(port))
        with pytest.raises(WatchRefused, match=r"this is no monitor \("):
            watch.run()


@pytest.mark.parametrize("code", [1009, 4400, 4401, 4410])
def test_close_codes_that_are_final(code: int) -> None:
    """With some codes the server says that asking again would not help."""
    with speaking(lambda connection: connection.close(code, "because of this")) as port:
        watch = Watch(str(port))
        with pytest.raises(WatchRefused, match="because of this"):
            watch.run()


@pytest.mark.parametrize("code", [1000, 1001, 1011, 1012, 1013, 4408])
def test_close_codes_to_come_back_after(code: int) -> None:
    """After all others it comes back."""
    with speaking(lambda connection: connection.close(code, "")) as port:
        watch = Watch(str(port))
        with pytest.raises(Ended):
            watch.run()
    assert [f"{watch.follower.url}: closed with {code}; trying again"] * 2 == watch.said


def test_without_following_it_does_not_wait() -> None:
    """Asked for the past only, the first failure is the end."""
    watch = Watch(str(free_port()))
    with pytest.raises(WatchRefused, match="Connection refused"):
        watch.run(follow_on=False)
    assert ([], []) == (watch.said, watch.waits)


def test_it_goes_on_where_it_was_and_waits_briefly_after_a_message() -> None:
    """Each new connection asks for what is after the last message; pauses begin anew once something was heard."""
    asked: list[list[tuple[str, str]]] = []
    seqs = itertools.count(1)

    def handler(connection: ServerConnection) -> None:
        assert connection.request is not None
        asked.append(query(connection.request.path))
        connection.send(json.dumps({"type": "hello", "newest": "e:0"}))
        connection.send(json.dumps({"type": "system_log", "cursor": f"e:{next(seqs)}", "data": {}}))

    with speaking(handler) as port:
        watch = Watch(str(port), attempts=6)
        with pytest.raises(Ended):
            watch.run()
    assert [[("v", "2")], *([("v", "2"), ("after", f"e:{number}")] for number in range(1, 6))] == asked
    assert all(wait <= 0.25 for wait in watch.waits)


def test_a_token_goes_into_a_header() -> None:
    """The token is sent as a bearer token, and not in the address."""
    with monitor(token="s3cret") as running:
        running.publish(3)
        watch = Watch(str(running.port), history=10)
        watch.run(token="s3cret", follow_on=False)
        assert [1, 2, 3] == numbers(watch.messages)
        for token in (None, "wrong", "é", "a b"):
            with pytest.raises(WatchRefused, match="token"):
                Watch(str(running.port)).run(token=token)


def test_the_past_only() -> None:
    """Without following it ends once the past has come, also if there is none."""
    with monitor() as running:
        assert [] == numbers(Watch(str(running.port)).run(follow_on=False).messages)
        running.publish(5)
        watch = Watch(str(running.port), history=2).run(follow_on=False)
        assert ([4, 5], "ready") == (numbers(watch.messages), watch.messages[-1]["type"])
        again = Watch(str(running.port), after=watch.follower.cursor)
        running.publish(2)
        assert [6, 7] == numbers(again.run(follow_on=False).messages)


def test_without_websockets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the package one error names it and the extra that brings it."""
    monkeypatch.setitem(sys.modules, "websockets.sync.client", None)
    with pytest.raises(MissingDependency, match=r"otel-audit-bridge\[server\]"):
        Watch("8765").run()


def test_leaving_off_ends_the_connection() -> None:
    """Who stops listening leaves no connection behind."""
    with monitor() as running:
        running.publish(1)
        Watch(str(running.port), history=1).run(lambda message: message["type"] == "system_log")
        eventually(lambda: running.hub.clients == 0)
