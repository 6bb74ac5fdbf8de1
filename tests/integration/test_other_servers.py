"""The same endpoint on servers that know nothing of joined frames: one send a message."""

import contextlib
import json
import os
import signal
import socket
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from tests.monitors import FrameClient, kind, numbers, record
from tests.serving import PATIENCE_SECONDS, Child, Message, child, environment, eventually, free_port

SERVICE = """
import logging
import bridge
from fastapi import FastAPI

b = bridge.setup(service_name="shop", max_clients=3, flush_on_sigterm=False)
shop = logging.getLogger("shop")
shop.setLevel(logging.INFO)
app = FastAPI()
app.router.routes.extend(b.routes())
count = 0

@app.get("/log/{number}")
def log(number: int, size: int = 0):
    global count
    for _ in range(number):
        count += 1
        if count % 5:
            shop.info("n=%d %s", count, "x" * size)
        else:
            bridge.audit_log(shop, f"n={count} " + "x" * size)
    return b.force_flush()

@app.get("/shutdown")
def shutdown():
    return b.shutdown(timeout=5)
"""

SERVERS = {
    "uvicorn-websockets": ["uvicorn", "service:app", "--ws", "websockets", "--log-level", "warning", "--port"],
    "uvicorn-sansio": ["uvicorn", "service:app", "--ws", "websockets-sansio", "--log-level", "warning", "--port"],
    "uvicorn-wsproto": ["uvicorn", "service:app", "--ws", "wsproto", "--log-level", "warning", "--port"],
    "hypercorn": ["hypercorn", "service:app", "--graceful-timeout", "1", "--bind"],
    "granian": ["granian", "--interface", "asgi", "service:app", "--workers-kill-timeout", "2s", "--port"],
}


IN_A_GROUP = "import os, sys; os.setsid(); os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"


def end_group(process: Child) -> None:
    """End a server, and with it whatever it has started."""
    if process.process.poll() is None:
        process.process.terminate()
        with contextlib.suppress(AssertionError):
            process.wait(timeout=8)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.process.pid, signal.SIGKILL)


class Service:
    """A service in a process of its own."""

    def __init__(self, name: str, process: Child, port: int) -> None:
        self.name = name
        self.process = process
        self.port = port

    def ask(self, path: str) -> object:
        """The service's answer, parsed."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=PATIENCE_SECONDS) as answer:
            return json.loads(answer.read())

    @contextlib.contextmanager
    def client(self, query: str = "", **options: Any) -> Iterator[ClientConnection]:
        """A client that is connected."""
        url = f"ws://127.0.0.1:{self.port}/ws/monitor{query}"
        # Some close the connection itself only long after they have said so.
        with connect(url, proxy=None, max_size=None, close_timeout=0.5, **options) as client:
            yield client


@contextlib.contextmanager
def started(name: str, folder: Path) -> Iterator[Service]:
    (folder / "service.py").write_text(SERVICE)
    port = free_port()
    address = f"127.0.0.1:{port}" if name == "hypercorn" else str(port)
    command = [sys.executable, "-c", IN_A_GROUP, "-m", *SERVERS[name], address]
    with child(*command, cwd=folder, env=environment()) as process, contextlib.ExitStack() as stack:
        # Some have worker processes, which live on when only the first is killed.
        stack.callback(end_group, process)

        def answers() -> bool:
            assert process.process.poll() is None, process.lines
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                return True
            return False

        eventually(answers)
        service = Service(name, process, port)
        # What servers log of their own start is shown before the first client comes, and to none.
        service.ask("/log/0")
        yield service


@pytest.fixture(scope="module", params=sorted(SERVERS))
def service(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with started(request.param, tmp_path_factory.mktemp("service")) as running:
        yield running


def until(client: ClientConnection, last: Callable[[Message], bool]) -> list[Message]:
    """The next messages up to the first for which ``last(message)`` is true."""
    messages: list[Message] = []
    while not (messages and last(messages[-1])):
        messages.append(json.loads(client.recv(timeout=PATIENCE_SECONDS)))
    return messages


def closed(client: ClientConnection) -> tuple[list[Message], int]:
    """All that still comes, and the code of the close; 1006 without one."""
    messages: list[Message] = []
    while True:
        try:
            messages.append(json.loads(client.recv(timeout=PATIENCE_SECONDS)))
        except ConnectionClosed as end:
            return messages, end.rcvd.code if end.rcvd is not None else 1006


def total(service: Service) -> int:
    """How many records the service has logged; one more than before."""
    with service.client("?v=2") as client:
        until(client, kind("ready"))
        service.ask("/log/1")
        return numbers(until(client, lambda message: bool(numbers([message]))))[-1]


def test_version_1(service: Service) -> None:
    """Records and nothing else, each once, in order, audit records as such."""
    first = total(service) + 1
    with service.client() as client:
        service.ask("/log/2000?size=100")
        messages = until(client, record(first + 1_999))
    assert list(range(first, first + 2_000)) == numbers(messages)
    assert {"system_log", "audit_log"} == {message["type"] for message in messages}
    assert {("type", "data")} == {tuple(message) for message in messages}


@pytest.mark.parametrize("batch", ["", "&batch=1"])
def test_version_2(batch: str, service: Service) -> None:
    """Hello, history, ready, live records, subscribe, history on request, pause, and resumption by cursor."""
    service.ask("/log/50")
    last = total(service)
    with service.client(f"?v=2&history=10{batch}") as client:
        past = until(client, kind("ready"))
        assert "hello" == past[0]["type"]
        assert list(range(last - 9, last + 1)) == numbers(past)
        service.ask("/log/300?size=50")
        live = until(client, record(last + 300))
        assert list(range(last + 1, last + 301)) == numbers(live)
        client.send(json.dumps({"type": "history", "id": 2, "before": past[0]["newest"], "limit": 5}))
        answer = until(client, kind("history"))[-1]
        assert list(range(last - 5, last)) == numbers(answer["data"])
        client.send(json.dumps({"type": "subscribe", "id": 1, "filter": {"streams": "audit"}}))
        assert 1 == until(client, kind("subscribed"))[-1]["id"]
        service.ask("/log/10")
        shown = until(client, lambda message: message["type"] == "stats")
        while len(numbers(shown)) < 2:
            shown += until(client, lambda message: bool(numbers([message])))
        assert [number for number in range(last + 301, last + 311) if number % 5 == 0] == numbers(shown)
        client.send(json.dumps({"type": "pause"}))
        client.send(json.dumps({"type": "ping", "id": "p"}))
        cursor = until(client, kind("pong")) and past[0]["newest"]
    service.ask("/log/3")
    with service.client(f"?v=2&after={cursor}{batch}") as client:
        messages = until(client, kind("ready"))
        assert list(range(last + 1, last + 314)) == numbers(messages)
        assert "gap" not in {message["type"] for message in messages}


def test_close_codes(service: Service) -> None:
    """4400, 1009 and 1013 with their reasons; a foreign page is refused before the handshake."""
    for query in ("?v=3", "?v=2&re=("):
        with service.client(query) as client:
            assert ([], 4400) == closed(client)
    for query in ("", "?v=2"):
        with service.client(query) as client:
            client.send("x" * 70_000)
            messages, code = closed(client)
            assert (1009, []) == (code, numbers(messages))
    with contextlib.ExitStack() as stack:
        for _ in range(3):
            until(stack.enter_context(service.client("?v=2")), kind("ready"))
        with service.client() as client:
            assert ([], 1013) == closed(client)
    with pytest.raises(InvalidStatus) as caught, service.client(origin="http://evil.example"):
        pass
    assert 403 == caught.value.response.status_code


def test_a_flood_is_closed(service: Service) -> None:
    """A client that does not stop talking is closed with 4400, and others go on."""
    last = total(service)
    with FrameClient(service.port, "?v=2") as client, service.client() as other:
        with contextlib.suppress(ConnectionError):
            for number in range(300):
                client.say(type="ping", id=number)
        client.rest()
        # Granian ends the connection with the client's words unread: the reset overtakes its own close frame.
        assert client.closed in ((4400, None) if service.name == "granian" else (4400,))
        service.ask("/log/5")
        assert list(range(last + 1, last + 6)) == numbers(until(other, record(last + 5)))


def test_a_client_that_does_not_read(service: Service) -> None:
    """One that takes nothing keeps nobody else waiting, and gets every record once it reads."""
    last = total(service)
    with service.client("?v=2", max_queue=1) as slow, service.client() as healthy:
        for step in range(1, 11):
            service.ask("/log/300?size=2000")
            assert last + step * 300 in numbers(until(healthy, record(last + step * 300)))
        assert list(range(last + 1, last + 3_001)) == numbers(until(slow, record(last + 3_000)))


# How uvicorn's two other implementations end is in test_monitor.
endings = pytest.mark.parametrize("name", ["granian", "hypercorn", "uvicorn-wsproto"])


@endings
def test_the_bridge_ends(name: str, tmp_path: Path) -> None:
    """When the bridge is shut down clients get what was logged before, the goodbye, and 1001, paused or not."""
    with started(name, tmp_path) as service, service.client("?v=2") as client, service.client("?v=2") as paused:
        for each in (client, paused):
            until(each, kind("ready"))
        paused.send(json.dumps({"type": "pause"}))
        paused.send(json.dumps({"type": "ping", "id": 1}))
        until(paused, kind("pong"))
        service.ask("/log/100")
        assert service.ask("/shutdown") is True
        messages, code = closed(client)
        assert (list(range(1, 101)), "goodbye", 1001) == (numbers(messages), messages[-1]["type"], code)
        messages, code = closed(paused)
        assert ([], "goodbye", 1001) == (numbers(messages), messages[-1]["type"], code)


@endings
def test_the_server_ends(name: str, tmp_path: Path) -> None:
    """SIGTERM with a client connected: the server ends in its time, the connection with it, and nothing complains."""
    with started(name, tmp_path) as service, service.client("?v=2") as client:
        until(client, kind("ready"))
        service.ask("/log/10")
        until(client, record(10))
        service.process.process.send_signal(signal.SIGTERM)
        _, code = closed(client)
        status = service.process.wait()
    output = "\n".join(service.process.lines)
    # Granian just drops the connection; Hypercorn cancels the application, closes in its place, and shows the
    # cancellation of its own task.
    assert code == {"granian": 1006, "hypercorn": 1011}.get(name, 1012), output
    assert status in (0, -signal.SIGTERM), output
    assert "bridge/" not in output
    assert "Traceback" not in output or name == "hypercorn", output
