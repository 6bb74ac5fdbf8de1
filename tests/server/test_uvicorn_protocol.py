"""Joined frames on a real server: the bytes on the wire, clients that stall, and how connections end."""

import asyncio
import contextlib
import gc
import itertools
import json
import os
import socket
import sys
import threading
import time
from typing import Any

import pytest
import websockets.asyncio.client
import websockets.sync.client
from websockets.exceptions import ConnectionClosed

from bridge.live.hub import Hub
from bridge.server import uvicorn_protocol
from bridge.server.auth import Policy
from bridge.server.monitor import MonitorEndpoint
from bridge.server.uvicorn_protocol import EXTENSION, websocket_protocol
from tests.monitors import (
    CLOSE,
    PING,
    PONG,
    TEXT,
    FrameClient,
    Monitor,
    event,
    kind,
    masked,
    monitor,
    numbers,
    record,
)
from tests.serving import PATIENCE_SECONDS, Message, RawClient, eventually, serve

versions = pytest.mark.parametrize("query", ["", "?v=2", "?v=2&batch=1"])


def drained(client: Any) -> None:
    """Read until reading fails."""
    while True:
        client.rest()


def flood(running: Monitor, count: int, threads: int = 1) -> list[threading.Thread]:
    """Publish from threads: each its share, one record at a time."""

    def publish() -> None:
        for _ in range(count // threads):
            running.hub.publish([event(f"n={next(counter)} {'x' * 200}", audit=False)])

    counter = itertools.count(1)
    writing = [threading.Thread(target=publish) for _ in range(threads)]
    for thread in writing:
        thread.start()
    return writing


# -- what is on the wire ----------------------------------------------------------------------------------------------


@versions
def test_every_record_once_in_order_for_every_client(query: str) -> None:
    """Two of websockets' clients and a parser by hand get the same records, each once, in the order of publication."""
    count = 4_000
    with monitor() as running:
        got: dict[str, list[Message]] = {}

        def by_hand(client: FrameClient) -> None:
            got["by hand"] = client.until(record(count))

        def by_websockets(client: websockets.sync.client.ClientConnection) -> None:
            messages = got["sync"] = []
            while not (messages and record(count)(messages[-1])):
                messages.append(json.loads(client.recv(timeout=PATIENCE_SECONDS)))

        async def by_asyncio(connected: threading.Event) -> None:
            messages = got["asyncio"] = []
            async with websockets.asyncio.client.connect(running.url + query, proxy=None, max_size=None) as client:
                connected.set()
                while not (messages and record(count)(messages[-1])):
                    messages.append(json.loads(await asyncio.wait_for(client.recv(), PATIENCE_SECONDS)))

        connected = threading.Event()
        with (
            FrameClient(running.port, query) as hand,
            websockets.sync.client.connect(running.url + query, proxy=None, max_size=None) as sync,
        ):
            reading = [
                threading.Thread(target=by_hand, args=(hand,)),
                threading.Thread(target=by_websockets, args=(sync,)),
                threading.Thread(target=lambda: asyncio.run(by_asyncio(connected))),
            ]
            for thread in reading:
                thread.start()
            assert connected.wait(PATIENCE_SECONDS)
            writing = threading.Thread(target=lambda: [running.publishing() for _ in range(count)])
            writing.start()
            for thread in [writing, *reading]:
                thread.join(PATIENCE_SECONDS)
    assert {"by hand", "sync", "asyncio"} == set(got)
    for messages in got.values():
        assert list(range(1, count + 1)) == numbers(messages)


@versions
def test_control_frames_between_joined_frames(query: str) -> None:
    """Pings of the client are answered, in order, in the middle of a flood, and the stream stays whole."""
    with monitor() as running, FrameClient(running.port, query) as client:
        pings = [str(number).encode() for number in range(200)]
        writing = flood(running, 6_000, threads=2)

        def ping() -> None:
            for payload in pings:
                client.send(PING, payload)

        pinging = threading.Thread(target=ping)
        pinging.start()
        found: list[int] = []
        while len(found) < 6_000:
            message = client.message()
            assert message is not None
            found += numbers([message])
        for thread in [*writing, pinging]:
            thread.join(PATIENCE_SECONDS)
        client.send(CLOSE, (1000).to_bytes(2))
        client.rest()
        assert pings == [payload for opcode, payload in client.control if opcode == PONG]
        assert list(range(1, 6_001)) == sorted(found)
        assert 1000 == client.closed


def test_keep_alive_pings_of_the_server_between_joined_frames() -> None:
    """uvicorn's own pings arrive whole while records flow, and the connection lives as long as they are answered."""
    hub = Hub()
    endpoint = MonitorEndpoint(hub, Policy(), max_clients=9)
    with (
        serve(endpoint, ws="joined", lifespan="off", ws_ping_interval=0.02, ws_ping_timeout=PATIENCE_SECONDS) as served,
        FrameClient(served.port, "?v=2") as client,
    ):
        client.until(kind("ready"))
        answered = 0
        number = 0
        while answered < 5:
            number += 1
            hub.publish([event(f"n={number}")])
            assert [number] == numbers(client.until(record(number)))
            for opcode, payload in client.control[answered:]:
                assert PING == opcode
                client.send(PONG, payload)
                answered += 1


def test_messages_in_fragments() -> None:
    """A client's message may come in pieces, with a ping between them, while records flow."""
    with monitor() as running, FrameClient(running.port, "?v=2") as client:
        client.until(kind("ready"))
        running.publish(10)
        text = json.dumps({"type": "subscribe", "id": "whole", "filter": {"logger": "shop"}}).encode()
        for place, byte in enumerate(text):
            client.send(TEXT if place == 0 else 0, bytes([byte]), last=place == len(text) - 1)
            if place == 5:
                client.send(PING, b"between")
                running.publish(10)
        messages = client.until(kind("subscribed"))
        assert "whole" == messages[-1]["id"]
        assert (PONG, b"between") in client.control
        running.publish(1)
        assert list(range(1, 22)) == numbers(messages + client.until(record(21)))


def test_compression_is_not_taken() -> None:
    """The stand-alone server declines an offer of permessage-deflate, and the frames are plain."""
    offer = "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n"
    with monitor() as running, FrameClient(running.port, "?v=2", headers=offer) as client:
        assert "permessage-deflate" not in client.head.lower()
        running.publish(3)
        assert [1, 2, 3] == numbers(client.until(record(3)))
        with websockets.sync.client.connect(running.url, proxy=None, compression="deflate") as other:
            running.publish(1)
            assert [4] == numbers([json.loads(other.recv(timeout=PATIENCE_SECONDS))])


def test_plain_frames_on_a_connection_that_compresses() -> None:
    """A uvicorn that takes permessage-deflate still writes joined frames plain: both ways stay understood."""
    hub = Hub()
    endpoint = MonitorEndpoint(hub, Policy(), max_clients=9)
    with serve(endpoint, ws="joined", lifespan="off") as served:
        with websockets.sync.client.connect(served.ws() + "?v=2", proxy=None) as client:
            assert client.response is not None
            assert "permessage-deflate" in client.response.headers["Sec-WebSocket-Extensions"]
            got: list[Message] = []
            for number in range(1, 200):
                if number % 20 == 0:
                    client.send(json.dumps({"type": "ping", "id": "x" * 100}))
                hub.publish([event(f"n={number} {'x' * 500}")])
            while sum(each["type"] in ("system_log", "pong") for each in got) < 199 + 9:
                got.append(json.loads(client.recv(timeout=PATIENCE_SECONDS)))
            assert list(range(1, 200)) == numbers(got)


# -- clients that stall -----------------------------------------------------------------------------------------------


def test_a_stalled_client_costs_a_buffer_and_gets_a_gap() -> None:
    """It costs no more than its buffer, whatever is published; others get all; then it is told what it missed."""
    count = 30_000
    with (
        monitor(system_records=2_000) as running,
        FrameClient(running.port, "?v=2", receive_buffer=2_048) as stalled,
    ):
        running.fill(100_000)
        (connection,) = running.connections
        with FrameClient(running.port, "?v=2") as healthy:
            healthy.until(kind("ready"))
            first = running.count + 1
            got: list[Message] = []
            while running.count < first + count:
                running.publish(1_000, size=200)
                got += healthy.until(record(running.count))
                assert connection.transport.get_write_buffer_size() < 1 << 20
            assert list(range(first, running.count + 1)) == numbers(got)
        stalled.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        messages = stalled.until(record(running.count))
        gaps = [message for message in messages if message["type"] == "gap"]
        found = numbers(messages)
        assert {"slow_client"} == {gap["reason"] for gap in gaps}
        assert running.count == len(found) + sum(gap["system"] for gap in gaps)
        assert sorted(set(found)) == found


def test_a_stalled_client_that_misses_audit_records_is_closed() -> None:
    """What had been sent arrives whole and in order; then comes 4408."""
    with (
        monitor(audit_records=50) as running,
        FrameClient(running.port, "", receive_buffer=2_048) as stalled,
    ):
        running.fill(100_000)
        while running.hub.statistics().audit < 2_000:
            running.publish(50, audit=True, size=5_000)
        messages = stalled.rest()
        assert 4408 == stalled.closed
        found = numbers(messages)
        assert list(range(1, len(found) + 1)) == found
        eventually(lambda: running.hub.clients == 0)


def test_a_client_that_never_reads_is_closed_as_stuck() -> None:
    """After its time the connection is gone with all it held, and clients that read have noticed nothing."""
    with (
        monitor(stuck_seconds=1.0) as running,
        FrameClient(running.port, "?v=2", receive_buffer=2_048) as stalled,
        FrameClient(running.port) as healthy,
    ):
        expected = 0
        while running.hub.clients == 2:
            running.publish(200, size=500)
            expected = running.count
            assert expected in numbers(healthy.until(record(expected)))
        eventually(lambda: len(running.connections) == 1, "the stuck connection is dropped")
        running.publish()
        assert [running.count] == numbers(healthy.until(record(running.count)))
        with pytest.raises(AssertionError, match="cut in the middle"):
            drained(stalled)


# -- the end ----------------------------------------------------------------------------------------------------------


@versions
def test_a_client_that_lags_gets_all_that_is_left_and_the_goodbye(query: str) -> None:
    """When the hub closes, what waits in the buffer still goes out, and then 1001."""
    with monitor() as running, FrameClient(running.port, query, receive_buffer=2_048) as client:
        running.fill(30_000)
        running.hub.close()
        eventually(lambda: running.hub.clients == 0)
        assert list(range(1, running.count + 1)) == numbers(client.rest())
        assert 1001 == client.closed


def test_a_server_that_stops_lets_a_lagging_client_read_its_goodbye() -> None:
    """The same when the server itself ends: what is left, the goodbye, 1001."""
    with monitor() as running, FrameClient(running.port, "?v=2", receive_buffer=2_048) as client:
        running.fill(30_000)
        got: list[Message] = []
        reading = threading.Thread(target=lambda: got.extend(client.rest()))
        stopping = threading.Thread(target=running.stop)
        stopping.start()
        reading.start()
        stopping.join(PATIENCE_SECONDS)
        reading.join(PATIENCE_SECONDS)
        found = numbers(got)
        assert list(range(1, len(found) + 1)) == found
        assert ("goodbye", "shutdown") == (got[-1]["type"], got[-1]["reason"])
        assert f"{running.hub.epoch}:{len(found)}" == got[-1]["cursor"]
        assert 1001 == client.closed


@pytest.mark.parametrize("says_close", [False, True])
def test_a_server_stops_in_time_with_a_client_that_takes_nothing(says_close: bool) -> None:
    """A client that does not read, whether it has closed or not, neither delays the end nor takes others with it."""
    with (
        monitor() as running,
        FrameClient(running.port, receive_buffer=2_048) as stalled,
    ):
        running.fill(200_000)
        with FrameClient(running.port, "?v=2") as healthy:
            healthy.until(kind("ready"))
            if says_close:
                stalled.send(CLOSE, (1000).to_bytes(2))
                eventually(lambda: running.hub.clients == 1)
            began = time.monotonic()
            running.stop()
            assert time.monotonic() - began < 4.0
            assert "goodbye" == healthy.rest()[-1]["type"]
            assert 1001 == healthy.closed
        thread = running.server._thread
        assert thread is not None
        assert not thread.is_alive()
        assert set() == running.connections


def test_a_closed_connection_that_nobody_reads_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that closes and does not take what is left keeps its connection for a while, not for ever."""
    monkeypatch.setattr(uvicorn_protocol, "_LINGER_SECONDS", 0.3)
    with monitor() as running, FrameClient(running.port, receive_buffer=2_048) as client:
        running.fill(200_000)
        client.send(CLOSE, (1000).to_bytes(2))
        eventually(lambda: running.hub.clients == 0)
        eventually(lambda: not running.connections, "the connection is dropped")


def test_nothing_follows_a_close() -> None:
    """While records flow, the answer to a close, or to a frame that is too large, is the last frame."""
    with monitor() as running:
        writing = flood(running, 4_000)
        for _ in range(10):
            for frame, code in (
                (masked(CLOSE, (1000).to_bytes(2)), 1000),
                (masked(TEXT, b"x" * 70_000), 1009),
                (masked(TEXT, b"\xff\xff"), 1007),
                (bytes([0xF1, 0x80, 0, 0, 0, 0]), 1002),
            ):
                with FrameClient(running.port, "?v=2") as client:
                    client.socket.sendall(frame)
                    client.rest()  # asserts that no frame comes after the close
                    assert code == client.closed
        for thread in writing:
            thread.join(PATIENCE_SECONDS)
        eventually(lambda: not running.connections)


def test_clients_that_leave_in_the_middle_of_a_write() -> None:
    """Reset with megabytes on the way, connections leave nothing, and who stays misses nothing."""
    with monitor() as running, FrameClient(running.port) as healthy:
        got: list[Message] = []
        for number in range(40):
            leaver = RawClient(running.port, receive_buffer=2_048 if number % 2 else None).handshake()
            running.publish(500, size=500)
            leaver.reset()
            got += healthy.until(record(running.count))
        assert list(range(1, running.count + 1)) == numbers(got)
        eventually(lambda: running.hub.clients == 1 and len(running.connections) == 1)


def test_a_thousand_connections_leave_nothing() -> None:
    """After as many clients of version 2, whichever way they left, no descriptor, task or object is left."""

    def come_and_go(running: Monitor, count: int) -> None:
        for number in range(count):
            with FrameClient(running.port, "?v=2") as client:
                client.say(type="ping", id=number)
                client.until(kind("pong"))
                if number % 3 == 0:
                    client.send(CLOSE, (1000).to_bytes(2))
                    client.rest()
                elif number % 3 == 1:
                    running.publish(1)
        eventually(lambda: not running.connections and running.hub.clients == 0)
        eventually(lambda: not running.server._server.server_state.tasks)
        gc.collect()

    with monitor(system_records=10) as running:
        come_and_go(running, 100)
        descriptors, threads, objects = len(os.listdir("/dev/fd")), threading.active_count(), len(gc.get_objects())
        come_and_go(running, 1_000)
        assert len(os.listdir("/dev/fd")) <= descriptors
        assert threading.active_count() <= threads
        assert len(gc.get_objects()) - objects < 2_000


# -- where it is ------------------------------------------------------------------------------------------------------


def test_without_uvicorns_protocol_plain_sends_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """A uvicorn that has no such protocol is told to choose by itself."""
    monkeypatch.setitem(sys.modules, "uvicorn.protocols.websockets.websockets_sansio_impl", None)
    assert "auto" == websocket_protocol()


def test_the_writer_of_a_connection_that_is_gone() -> None:
    """Writing to, or dropping, a connection that has ended does nothing."""
    writers: list[Any] = []
    done = threading.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        writer = scope["extensions"][EXTENSION]["writer"]
        writers.append(writer)
        await receive()
        writer.write(b"too early")
        await send({"type": "websocket.accept"})
        writer.write(b"\x81\x02hi")
        with contextlib.suppress(ConnectionClosed):
            while (await receive())["type"] != "websocket.disconnect":
                pass
        writer.write(b"too late")
        writer.abort()
        writer.abort()
        writer.write(b"too late")
        done.set()

    with serve(app, ws="joined", lifespan="off") as served:
        with FrameClient(served.port) as client:
            assert (TEXT, b"hi") == client.frame()
            client.send(CLOSE, (1000).to_bytes(2))
            assert (CLOSE, (1000).to_bytes(2)) == client.frame()
            assert client.frame() is None
        assert done.wait(PATIENCE_SECONDS)
    assert 1 == len(writers)
