"""The WebSocket endpoint as an ASGI application, without a server."""

import asyncio
import json
from collections.abc import Callable, MutableMapping
from typing import Any

import pytest

from bridge.live.hub import Hub
from bridge.record.event import LogEvent
from bridge.server import monitor
from bridge.server.auth import Policy
from bridge.server.monitor import MonitorEndpoint
from tests.serving import PATIENCE_SECONDS

pytestmark = pytest.mark.anyio

Message = MutableMapping[str, Any]


def event(message: str, *, audit: bool = False) -> LogEvent:
    return LogEvent(
        timestamp=1,
        observed_timestamp=1,
        severity_number=9,
        level="INFO",
        logger="a",
        message=message,
        is_audit=audit,
    )


class Client:
    """The server's side of one connection: what the application sends, and when it may."""

    def __init__(self, query: str = "", *, extensions: bool = True, **headers: str) -> None:
        self.scope: Message = {
            "type": "websocket",
            "client": ("127.0.0.1", 50_000),
            "query_string": query.encode(),
            "headers": [(k.encode(), v.encode()) for k, v in ({"host": "localhost"} | headers).items()],
            "extensions": {"websocket.http.response": {}} if extensions else {},
        }
        self.incoming: asyncio.Queue[Message] = asyncio.Queue()
        self.incoming.put_nowait({"type": "websocket.connect"})
        self.sent: list[Message] = []
        self.changed = asyncio.Event()
        self.open = asyncio.Event()
        self.open.set()
        self.on_send: Callable[[Message], None] = lambda message: None
        self.task: asyncio.Task[None] | None = None

    async def send(self, message: Message) -> None:
        await self.open.wait()
        self.on_send(message)
        self.sent.append(message)
        self.changed.set()

    def start(self, endpoint: MonitorEndpoint) -> None:
        self.task = asyncio.create_task(endpoint(self.scope, self.incoming.get, self.send))

    async def until(self, condition: Callable[[], Any]) -> None:
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not condition():
                self.changed.clear()
                await self.changed.wait()

    async def accepted(self) -> None:
        await self.until(lambda: self.sent)
        assert self.sent[0] == {"type": "websocket.accept"}

    async def end(self) -> None:
        assert self.task is not None
        async with asyncio.timeout(PATIENCE_SECONDS):
            await self.task

    async def leave(self) -> None:
        self.incoming.put_nowait({"type": "websocket.disconnect", "code": 1000})
        await self.end()

    def texts(self) -> list[str]:
        frames = [message for message in self.sent if message["type"] == "websocket.send"]
        return [json.loads(frame["text"])["data"]["message"] for frame in frames]


async def answered(client: Client, endpoint: MonitorEndpoint) -> list[Message]:
    """All that is sent to a client that is not let in."""
    client.incoming.put_nowait({"type": "websocket.disconnect", "code": 1006})
    client.start(endpoint)
    await client.end()
    return client.sent


@pytest.fixture
def hub() -> Hub:
    return Hub()


@pytest.fixture
def endpoint(hub: Hub) -> MonitorEndpoint:
    return MonitorEndpoint(hub, Policy(), max_clients=2)


async def test_records_from_the_handshake_on(hub: Hub, endpoint: MonitorEndpoint) -> None:
    """A client gets what is published from the handshake on, in order, and nothing from before."""
    hub.publish([event("before")])
    client = Client()
    client.on_send = lambda message: hub.publish([event("in the handshake")]) if len(client.sent) == 0 else None
    client.start(endpoint)
    await client.accepted()
    hub.publish([event("1"), event("2", audit=True)])
    hub.publish([event("3")])
    await client.until(lambda: len(client.texts()) == 4)
    assert client.texts() == ["in the handshake", "1", "2", "3"]
    await client.leave()
    assert hub.clients == 0


async def test_nothing_but_records(hub: Hub, endpoint: MonitorEndpoint) -> None:
    """What a client says is ignored."""
    client = Client("v=1")
    client.start(endpoint)
    await client.accepted()
    for message in ({"text": "hello"}, {"bytes": b"\xff"}, {"text": None, "bytes": None}, {}):
        client.incoming.put_nowait({"type": "websocket.receive", **message})
    hub.publish([event("1")])
    await client.until(client.texts)
    await client.leave()
    assert [message["type"] for message in client.sent] == ["websocket.accept", "websocket.send"]


@pytest.mark.parametrize("extensions", [True, False])
async def test_forbidden(extensions: bool, endpoint: MonitorEndpoint, capsys: pytest.CaptureFixture[str]) -> None:
    """A foreign page is refused before accept, by HTTP 403 with one line where the server can, and it is said once."""
    sent = await answered(Client(extensions=extensions, origin="http://evil.example"), endpoint)
    reason = "Origin 'http://evil.example' is not this server's own"
    if extensions:
        start, body = sent
        assert (start["type"], start["status"]) == ("websocket.http.response.start", 403)
        assert dict(start["headers"])[b"content-length"] == str(len(body["body"])).encode()
        assert body["body"].decode() == (f"{reason}; add it to allowed_origins (BRIDGE_ALLOWED_ORIGINS)\n")
    else:
        (close,) = sent
        assert (close["type"], close["code"], close["reason"][: len(reason)]) == ("websocket.close", 1008, reason)
    await answered(Client(origin="http://evil.example"), endpoint)
    assert capsys.readouterr().err.count("refused a client of /ws/monitor") == 1


def closed_after_accept(sent: list[Message]) -> tuple[int, str]:
    accept, close = sent
    assert (accept["type"], close["type"]) == ("websocket.accept", "websocket.close")
    assert len(close["reason"].encode()) <= 123
    return close["code"], close["reason"]


async def test_tokens(hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    """Without the token a client is accepted, so that it can see why, and closed with 4401; no token is ever logged."""
    endpoint = MonitorEndpoint(hub, Policy("s3cret"), max_clients=2)
    for client in (Client(), Client(authorization="Bearer wr0ng")):
        code, reason = closed_after_accept(await answered(client, endpoint))
        assert (code, reason) == (4401, "no or a wrong token; send the header Authorization: Bearer <token>")
    client = Client(authorization="Bearer s3cret")
    client.start(endpoint)
    await client.accepted()
    await client.leave()
    said = capsys.readouterr().err
    assert "no or a wrong token" in said
    assert not any(word in said for word in ("s3cret", "wr0ng"))


@pytest.mark.parametrize(
    ("query", "start"),
    [("v=3", "v='3'"), ("v=", "v=''"), ("nonsense=1", "nonsense='1'"), ("v=2&nonsense", "nonsense=''")],
)
async def test_queries(query: str, start: str, hub: Hub, endpoint: MonitorEndpoint) -> None:
    """What this server can't do as it was asked is refused with 4400."""
    code, reason = closed_after_accept(await answered(Client(query), endpoint))
    assert (code, reason[: len(start)], hub.clients) == (4400, start, 0)


async def test_long_reasons_are_cut(endpoint: MonitorEndpoint) -> None:
    """A close reason has at most 123 bytes, whatever a client asked for."""
    closed_after_accept(await answered(Client("%E2%82%AC" * 200), endpoint))


async def test_full(hub: Hub, endpoint: MonitorEndpoint) -> None:
    """One client more than allowed is closed with 1013; when one leaves there is room again."""
    clients = [Client() for _ in range(2)]
    for client in clients:
        client.start(endpoint)
        await client.accepted()
    code, reason = closed_after_accept(await answered(Client(), endpoint))
    assert (code, reason) == (1013, "full: 2 clients are connected (max_clients)")
    await clients[0].leave()
    late = Client()
    late.start(endpoint)
    await late.accepted()
    await clients[1].leave()
    await late.leave()
    assert hub.clients == 0


async def test_closing(hub: Hub, endpoint: MonitorEndpoint) -> None:
    """When the hub closes, a client gets what was published before and then 1001; one that comes later, 1001."""
    client = Client()
    client.start(endpoint)
    await client.accepted()
    hub.publish([event("last")])
    hub.close()
    await client.end()
    assert [message["type"] for message in client.sent[1:]] == ["websocket.send", "websocket.close"]
    assert client.sent[-1]["code"] == 1001
    assert closed_after_accept(await answered(Client(), endpoint))[0] == 1001


@pytest.mark.parametrize("kind", ["text", "bytes"])
async def test_a_frame_too_big(kind: str, hub: Hub, endpoint: MonitorEndpoint) -> None:
    """A client that sends more than 64 KiB is closed with 1009."""
    client = Client()
    client.start(endpoint)
    await client.accepted()
    big: dict[str, Any] = {"text": "x" * 65_537} if kind == "text" else {"bytes": b"x" * 65_537}
    client.incoming.put_nowait({"type": "websocket.receive", **big})
    await client.end()
    assert (client.sent[-1]["code"], hub.clients) == (1009, 0)


async def test_a_slow_client_skips_system_records() -> None:
    """A client that does not read skips system records, which are counted, and goes on with what is there."""
    hub = Hub(system_records=300)
    endpoint = MonitorEndpoint(hub, Policy(), max_clients=1)
    client = Client()
    client.start(endpoint)
    await client.accepted()
    hub.publish([event("0")])
    await client.until(lambda: len(client.texts()) == 1)
    client.open.clear()
    hub.publish([event("1")])
    await asyncio.sleep(0)
    for number in range(2, 1_001):
        hub.publish([event(str(number))])
    client.open.set()
    await client.until(lambda: client.texts()[-1:] == ["1000"])
    texts = client.texts()
    assert texts == sorted(set(texts), key=int)
    assert len(texts) + hub.statistics().skipped_system == 1_001
    assert hub.statistics().skipped_system > 0
    await client.leave()


async def test_a_slow_client_does_not_skip_audit_records() -> None:
    """A client too slow for audit records is closed with 4408 as soon as it can be, before it gets a later record."""
    hub = Hub(audit_records=10)
    endpoint = MonitorEndpoint(hub, Policy(), max_clients=1)
    client = Client()
    client.start(endpoint)
    await client.accepted()
    client.open.clear()
    hub.publish([event("1", audit=True)])
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    for number in range(2, 51):
        hub.publish([event(str(number), audit=True)])
    client.open.set()
    await client.end()
    numbers = [int(text) for text in client.texts()]
    assert numbers == list(range(1, len(numbers) + 1))
    close = client.sent[-1]
    assert (close["type"], close["code"]) == ("websocket.close", 4408)
    assert close["reason"] == f"too slow: {40 - len(numbers)} audit records were gone before they could be sent"
    assert hub.statistics().skipped_audit == 40 - len(numbers)


async def test_a_stuck_client(hub: Hub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A client that takes nothing at all for a while is given up, though even the close can't be sent."""
    monkeypatch.setattr(monitor, "_CLOSE_SECONDS", 0.02)
    client = Client()
    client.start(MonitorEndpoint(hub, Policy(), max_clients=1, stuck_seconds=0.04))
    await client.accepted()
    client.open.clear()
    hub.publish([event("never taken")])
    await client.end()
    assert (client.texts(), hub.clients) == ([], 0)
    assert "too slow: nothing was read for 0.04 s" in capsys.readouterr().err


async def test_an_idle_client_is_not_stuck(hub: Hub) -> None:
    """Silence of the program is no fault of the client: it stays, however long nothing is logged."""
    client = Client()
    client.start(MonitorEndpoint(hub, Policy(), max_clients=1, stuck_seconds=0.01))
    await client.accepted()
    hub.publish([event("1")])
    await client.until(client.texts)
    loop = asyncio.get_running_loop()
    passed = asyncio.Event()
    loop.call_later(0.1, passed.set)
    await passed.wait()
    assert client.task is not None
    assert not client.task.done()
    hub.publish([event("2")])
    await client.until(lambda: client.texts() == ["1", "2"])
    await client.leave()


class ClientDisconnected(OSError):
    """As uvicorn's."""


class WebSocketDisconnect(Exception):
    """As Starlette's."""


@pytest.mark.parametrize("error", [ClientDisconnected(), WebSocketDisconnect(), ConnectionResetError(), RuntimeError()])
@pytest.mark.parametrize("at", ["websocket.accept", "websocket.send"])
async def test_a_client_that_vanishes(error: Exception, at: str, hub: Hub, endpoint: MonitorEndpoint) -> None:
    """A client that is gone in the middle of a send is no error, and leaves nothing behind."""

    def vanish(message: Message) -> None:
        if message["type"] == at:
            client.incoming.put_nowait({"type": "websocket.disconnect", "code": 1006})
            raise error

    before = asyncio.all_tasks()
    client = Client()
    client.on_send = vanish
    client.start(endpoint)
    if at == "websocket.send":
        await client.accepted()
        hub.publish([event("1")])
    await client.end()
    assert (hub.clients, asyncio.all_tasks() - before) == (0, set())


async def test_it_ends_after_the_server_knows(hub: Hub, endpoint: MonitorEndpoint) -> None:
    """If a send fails the connection is given back when the server knows that the peer is gone, not before."""

    def vanish(message: Message) -> None:
        if message["type"] == "websocket.send":
            failed.set()
            raise ConnectionResetError

    failed = asyncio.Event()
    client = Client()
    client.on_send = vanish
    client.start(endpoint)
    await client.accepted()
    hub.publish([event("1")])
    await failed.wait()
    for _ in range(10):
        await asyncio.sleep(0)
    assert client.task is not None
    assert not client.task.done()
    await client.leave()


async def test_the_loop_runs_between_sends(hub: Hub, endpoint: MonitorEndpoint) -> None:
    """A send that never waits lets the loop run often enough to learn that a connection is lost."""
    client = Client()
    turns: list[int] = []
    turn = 0

    async def count() -> None:
        nonlocal turn
        while True:
            turn += 1
            await asyncio.sleep(0)

    counting = asyncio.create_task(count())
    client.on_send = lambda message: turns.append(turn)
    client.start(endpoint)
    await client.accepted()
    hub.publish([event(str(number)) for number in range(100)])
    await client.until(lambda: len(client.texts()) == 100)
    counting.cancel()
    assert max(turns.count(each) for each in turns) <= 5
    await client.leave()


@pytest.mark.parametrize("at", ["websocket.accept", "websocket.send"])
async def test_a_defect_is_not_hidden(at: str, hub: Hub, endpoint: MonitorEndpoint) -> None:
    """Any other exception reaches the server, and the client is counted out."""

    def fail(message: Message) -> None:
        if message["type"] == at:
            raise KeyError("defect")

    client = Client()
    client.on_send = fail
    client.start(endpoint)
    if at == "websocket.send":
        await client.accepted()
        hub.publish([event("1")])
    with pytest.raises(KeyError):
        await client.end()
    assert hub.clients == 0


@pytest.mark.parametrize("blocked", [False, True])
async def test_cancelled_by_the_server(blocked: bool, hub: Hub, endpoint: MonitorEndpoint) -> None:
    """A server that cancels a connection gets it back at once, with no task left, in the middle of a send too."""
    before = asyncio.all_tasks()
    client = Client()
    client.start(endpoint)
    await client.accepted()
    if blocked:
        client.open.clear()
        hub.publish([event("1")])
        await asyncio.sleep(0)
    assert client.task is not None
    client.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await client.end()
    assert (hub.clients, asyncio.all_tasks() - before) == (0, set())


async def test_a_cancellation_keeps_its_message(hub: Hub, endpoint: MonitorEndpoint) -> None:
    """Whenever it comes, a cancellation leaves as the one that it was: anyio knows its own by their message."""
    messages = []
    for turns in range(12):
        hub.reopen()
        client = Client()
        client.start(endpoint)
        await client.accepted()
        hub.close()
        for _ in range(turns):
            await asyncio.sleep(0)
        assert client.task is not None
        client.task.cancel("cancelled by scope 7")
        try:
            await client.end()
        except asyncio.CancelledError as error:
            messages.append(error.args)
    assert set(messages) == {("cancelled by scope 7",)}
    assert hub.clients == 0


async def test_gone_before_the_handshake(hub: Hub, endpoint: MonitorEndpoint) -> None:
    """A connection that ends before it begins is answered with nothing."""
    client = Client()
    client.incoming.get_nowait()
    client.incoming.put_nowait({"type": "websocket.disconnect", "code": 1006})
    assert await answered(client, endpoint) == []


async def test_plain_http(endpoint: MonitorEndpoint) -> None:
    """A plain HTTP request is told to upgrade."""
    client = Client()
    client.scope["type"] = "http"
    start, body = await answered(client, endpoint)
    assert (start["status"], dict(start["headers"])[b"upgrade"]) == (426, b"websocket")
    assert b"WebSocket" in body["body"]
