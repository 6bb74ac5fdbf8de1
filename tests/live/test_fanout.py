"""Fan-out on a loop whose clock and turns the test moves, to writers that it can block."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest

from bridge.live import fanout
from bridge.live.fanout import TICK_SECONDS, FanOut, JoinedClient, PlainClient, Session
from bridge.live.hub import Hub
from bridge.live.messages import parse_cursor
from bridge.live.session import SessionV1
from bridge.live.session_v2 import Options, SessionV2
from bridge.record.filters import MATCH_ALL, Filter, parse_query
from tests.monitors import event, numbers
from tests.serving import PATIENCE_SECONDS, Message, eventually


class Timer:
    """A call that waits for its time."""

    def __init__(self, when: float, call: Callable[[], None]) -> None:
        self.when = when
        self.call = call
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class Loop:
    """As much of an event loop as fan-out needs, in the hands of the test."""

    def __init__(self) -> None:
        self.now = 0.0
        self.ready: list[Callable[[], None]] = []
        self.timers: list[Timer] = []

    def time(self) -> float:
        return self.now

    def call_soon(self, call: Callable[[], None]) -> None:
        self.ready.append(call)

    call_soon_threadsafe = call_soon

    def call_later(self, seconds: float, call: Callable[[], None]) -> Timer:
        self.timers.append(Timer(self.now + seconds, call))
        return self.timers[-1]

    def create_future(self) -> "asyncio.Future[None]":
        return asyncio.Future(loop=self)  # type: ignore[arg-type]

    def get_debug(self) -> bool:
        return False

    def is_closed(self) -> bool:
        return False

    def turn(self) -> None:
        """What is ready now; what that makes ready waits for the next turn."""
        ready, self.ready = self.ready, []
        for call in ready:
            call()

    def run(self) -> int:
        """Turns until nothing is ready; how many that were."""
        turns = 0
        while self.ready:
            self.turn()
            turns += 1
            assert turns < 10_000
        return turns

    def sleep(self, seconds: float) -> None:
        """Move the clock, running what falls due on the way."""
        until = self.now + seconds
        while True:
            due = [timer for timer in self.timers if not timer.cancelled and timer.when <= until]
            if not due:
                break
            timer = min(due, key=lambda each: each.when)
            self.timers.remove(timer)
            self.now = timer.when
            timer.call()
            self.run()
        self.now = until


class Writer:
    """A connection that takes bytes while it is writable."""

    def __init__(self) -> None:
        self.writable = True
        self.written: list[bytes] = []
        self.on_writable: Callable[[], None] | None = None
        self.on_shutdown: Callable[[], None] | None = None
        self.on_write: Callable[[], None] = lambda: None

    def write(self, frames: bytes) -> None:
        self.written.append(frames)
        self.on_write()

    def abort(self) -> None:
        raise AssertionError("the connection is the endpoint's")

    def listen(self, on_writable: Callable[[], None] | None, on_shutdown: Callable[[], None] | None) -> None:
        self.on_writable, self.on_shutdown = on_writable, on_shutdown

    def drain(self) -> None:
        """Everything was taken."""
        self.writable = True
        assert self.on_writable is not None
        self.on_writable()

    def messages(self) -> list[Message]:
        """What was written, parsed."""
        data, at, found = b"".join(self.written), 0, []
        while at < len(data):
            assert data[at] == 0x81
            length, start = data[at + 1], at + 2
            if length == 126:
                length, start = int.from_bytes(data[at + 2 : at + 4]), at + 4
            elif length == 127:
                length, start = int.from_bytes(data[at + 2 : at + 10]), at + 10
            found.append(json.loads(data[start : start + length]))
            at = start + length
        return found


class Bench:
    """A hub, a fan-out and clients, on a loop that stands still."""

    def __init__(self, stuck_seconds: float = 5.0, **bounds: int) -> None:
        self.loop = Loop()
        self.hub = Hub(**bounds)
        self.fan_out = FanOut(self.hub, self.loop)  # type: ignore[arg-type]
        self.stuck_seconds = stuck_seconds

    def publish(self, count: int = 1, *, size: int = 0, audit: bool = False, logger: str = "shop") -> None:
        for _ in range(count):
            text = f"n={self.hub.end() + 1}" + (" " + "x" * size if size else "")
            self.hub.publish([event(text, audit=audit, logger=logger)])

    def client(self, filter: Filter = MATCH_ALL, *, version: int = 1, **options: Any) -> tuple[JoinedClient, Writer]:
        writer = Writer()
        session = make_session(self.hub, filter, version, **options)
        client = JoinedClient(self.fan_out, session, writer, self.stuck_seconds)
        client.start()
        return client, writer


def make_session(hub: Hub, filter: Filter = MATCH_ALL, version: int = 1, **options: Any) -> Session:
    if version == 1:
        return SessionV1(filter, hub.end())
    session = SessionV2(hub, filter, Options(**options), pid=7, statistics=dict, now=0.0)
    session.begin()
    return session


def close_code(client: JoinedClient | PlainClient) -> int:
    assert client.session.close is not None
    return client.session.close.code


# -- rounds -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("version", "batch"), [(1, False), (2, False), (2, True)])
def test_clients_at_the_same_place_get_the_very_same_bytes(version: int, batch: bool) -> None:
    """One chunk is encoded and framed once for everybody with the same filter, version and way of batching."""
    bench = Bench()
    options: dict[str, Any] = {"batch": batch} if version == 2 else {}
    writers = [bench.client(version=version, **options)[1] for _ in range(5)]
    bench.publish(3)
    bench.loop.run()
    assert {id(writers[0].written[-1])} == {id(writer.written[-1]) for writer in writers}
    assert [[1, 2, 3]] * 5 == [numbers(writer.messages()) for writer in writers]


def test_each_filter_and_version_gets_its_own() -> None:
    """Clients with different filters or versions get what each asked for."""
    bench = Bench()
    _, plain = bench.client()
    _, rich = bench.client(version=2)
    _, filtered = bench.client(parse_query([("logger", "other")]))
    bench.publish(2)
    bench.publish(1, logger="other")
    bench.loop.run()
    assert ([1, 2, 3], [1, 2, 3], [3]) == tuple(numbers(each.messages()) for each in (plain, rich, filtered))
    assert ["cursor" in message for message in (plain.messages()[-1], rich.messages()[-1])] == [False, True]


def test_a_burst_is_one_round_and_one_write() -> None:
    """However many records come before the loop looks, each client gets them in one write."""
    bench = Bench()
    _, writer = bench.client()
    bench.publish(100)
    assert 1 == len(bench.loop.ready)
    bench.loop.run()
    assert (1, list(range(1, 101))) == (len(writer.written), numbers(writer.messages()))


def test_what_comes_in_a_round_is_joined_into_the_next() -> None:
    """Records published while a round is served wait for the next one, for every client, and leave together."""
    bench = Bench()
    clients = [bench.client() for _ in range(3)]
    for _, writer in clients:
        writer.on_write = lambda: bench.publish() if bench.hub.end() < 7 else None
    bench.publish()
    bench.loop.turn()
    first = [numbers(writer.messages()) for _, writer in clients]
    bench.loop.turn()
    second = [numbers(writer.messages()) for _, writer in clients]
    assert [[1]] * 3 == first
    assert [[1, 2, 3, 4]] * 3 == second
    bench.loop.run()
    assert [[1, 2, 3, 4, 5, 6, 7]] * 3 == [numbers(writer.messages()) for _, writer in clients]
    assert {3} == {len(writer.written) for _, writer in clients}


def test_a_long_way_takes_rounds_that_let_others_run() -> None:
    """A client far behind gets one chunk a round; who is at the end is not made to wait for it."""
    bench = Bench()
    bench.publish(600, size=1_000)
    _, behind = bench.client(version=2, history=600)
    _, ahead = bench.client()
    bench.publish()
    bench.loop.turn()
    assert [601] == numbers(ahead.messages())
    assert 601 not in numbers(behind.messages())
    turns = bench.loop.run()
    assert turns >= 3
    assert list(range(1, 602)) == numbers(behind.messages())


def test_a_round_gives_all_there_is() -> None:
    """What one client was given between two rounds is not all that the next round has for the others."""
    bench = Bench()
    asking, first = bench.client(version=2)
    _, second = bench.client()
    bench.publish()
    asking.heard('{"type":"ping","id":1}')
    bench.publish(2)
    bench.loop.turn()
    assert (1, [1, 2, 3]) == (len(second.written), numbers(second.messages()))
    assert [1, 2, 3] == numbers(first.messages())


def test_between_rounds_no_chunk_is_kept() -> None:
    """A round leaves no bytes behind."""
    bench = Bench()
    client, _ = bench.client()
    bench.publish(5)
    bench.loop.run()
    assert {} == bench.fan_out._chunks
    client.stop()
    assert {} == bench.fan_out._encode._made


# -- clients that do not take ------------------------------------------------------------------------------------------


def test_a_client_that_takes_nothing_is_left_where_it_is() -> None:
    """Not writable, nothing is written or asked of the rings for it; once it is, it goes on where it was."""
    bench = Bench()
    client, writer = bench.client()
    _, other = bench.client()
    bench.publish(2)
    bench.loop.run()
    writer.writable = False
    bench.publish(3)
    bench.loop.run()
    assert (2, [1, 2]) == (client.session.seq, numbers(writer.messages()))
    assert [1, 2, 3, 4, 5] == numbers(other.messages())
    writer.drain()
    bench.loop.run()
    assert [1, 2, 3, 4, 5] == numbers(writer.messages())


def test_what_was_evicted_meanwhile_is_a_gap_and_counted() -> None:
    """A slow client of version 2 is told how much it missed, and the hub counts it."""
    bench = Bench(system_records=3)
    client, writer = bench.client(version=2)
    writer.writable = False
    bench.publish(10)
    bench.loop.run()
    writer.drain()
    bench.loop.run()
    (gap,) = [message for message in writer.messages() if message["type"] == "gap"]
    assert ("slow_client", 7, 0) == (gap["reason"], gap["system"], gap["audit"])
    assert [8, 9, 10] == numbers(writer.messages())
    assert (7, 0) == bench.hub.statistics()[-2:]
    assert client.session.close is None


def test_a_version_1_client_that_missed_audit_records_is_closed() -> None:
    """It gets nothing from behind the gap, and 4408."""
    bench = Bench(audit_records=3)
    client, writer = bench.client()
    writer.writable = False
    bench.publish(10, audit=True)
    writer.drain()
    bench.loop.run()
    assert (4408, True, []) == (close_code(client), client.done.done(), writer.written)
    assert (0, 7) == bench.hub.statistics()[-2:]


@pytest.mark.parametrize("audit", [False, True])
def test_a_burst_larger_than_the_ring(audit: bool) -> None:
    """Records evicted before the loop could look are missed by every client: told, counted, or closed for."""
    bench = Bench(system_records=3, audit_records=3)
    plain, plain_writer = bench.client()
    rich, rich_writer = bench.client(version=2)
    bench.publish(10, audit=audit)
    bench.loop.run()
    assert ((0, 14) if audit else (14, 0)) == bench.hub.statistics()[-2:]
    if audit:
        assert ((4408, 4408), []) == ((close_code(plain), close_code(rich)), numbers(plain_writer.messages()))
        assert ("goodbye", "too_slow") == tuple(rich_writer.messages()[-1][key] for key in ("type", "reason"))
        return
    assert [8, 9, 10] == numbers(plain_writer.messages()) == numbers(rich_writer.messages())
    assert ["gap", *["system_log"] * 3] == [message["type"] for message in rich_writer.messages()[-4:]]
    assert (None, None) == (plain.session.close, rich.session.close)


def test_a_client_that_takes_nothing_for_long_is_stuck(capsys: pytest.CaptureFixture[str]) -> None:
    """After that many seconds without taking anything it is closed with 4408, not before, and it is said."""
    bench = Bench(stuck_seconds=5.0)
    client, writer = bench.client()
    writer.writable = False
    bench.loop.sleep(5.0)
    assert not client.done.done()
    bench.loop.sleep(2 * TICK_SECONDS)
    assert (True, 4408) == (client.done.done(), close_code(client))
    bench.publish()
    bench.loop.run()
    assert [] == writer.written
    assert "too slow: nothing was read for 5 s" in capsys.readouterr().err


def test_a_client_that_takes_something_now_and_then_is_not_stuck() -> None:
    """The time counts from the last time when something was taken."""
    bench = Bench(stuck_seconds=5.0)
    client, writer = bench.client()
    for _ in range(4):
        writer.writable = False
        bench.loop.sleep(4.0)
        writer.drain()
    assert not client.done.done()


def test_answers_wait_until_they_are_taken() -> None:
    """What is answered to a client that takes nothing comes first when it does, then records."""
    bench = Bench()
    client, writer = bench.client(version=2)
    writer.written.clear()
    writer.writable = False
    client.heard('{"type":"ping","id":1}')
    bench.publish()
    bench.loop.run()
    assert [] == writer.written
    writer.drain()
    assert ["pong", "system_log"] == [message["type"] for message in writer.messages()]


def test_a_client_that_asks_and_does_not_read_is_sent_away_at_once() -> None:
    """Answers that nobody takes end the connection long before it is stuck; what is said after that is not heard."""
    bench = Bench(stuck_seconds=60.0)
    bench.publish(100, size=20_000)
    client, writer = bench.client(version=2)
    writer.writable = False
    for number in range(50):
        client.heard(json.dumps({"type": "history", "id": number, "limit": 1_000}))
    assert (True, 4408) == (client.done.done(), close_code(client))
    assert isinstance(client.session, SessionV2)
    assert client.session._control_bytes < 4 << 20


# -- the end -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [1, 2])
def test_a_closed_hub_is_read_to_the_end_first(version: int) -> None:
    """Clients behind get all that was published, then the goodbye."""
    bench = Bench()
    client, writer = bench.client(version=version)
    writer.writable = False
    bench.publish(600, size=1_000)
    bench.hub.close()
    bench.loop.run()
    assert not client.done.done()
    writer.drain()
    bench.loop.run()
    assert (list(range(1, 601)), True, 1001) == (numbers(writer.messages()), client.done.done(), close_code(client))
    if version == 2:
        last = writer.messages()[-1]
        assert ("goodbye", f"{bench.hub.epoch}:600") == (last["type"], last["cursor"])


def test_a_paused_client_is_told_of_the_end_and_where_to_go_on() -> None:
    """Paused, it gets no records at the end either, but the goodbye with its own place."""
    bench = Bench()
    client, writer = bench.client(version=2)
    client.heard('{"type":"pause"}')
    bench.publish(3)
    bench.loop.run()
    bench.hub.close()
    bench.loop.run()
    goodbye = writer.messages()[-1]
    assert ("goodbye", f"{bench.hub.epoch}:0", []) == (goodbye["type"], goodbye["cursor"], numbers(writer.messages()))
    assert (True, 1001) == (client.done.done(), close_code(client))
    again = bench.client(version=2, after=parse_cursor(goodbye["cursor"]))[1]
    bench.loop.run()
    assert [1, 2, 3] == numbers(again.messages())


def test_a_server_that_ends_gets_its_goodbye_in_even_for_a_full_buffer() -> None:
    """When the server is about to close the connection, the goodbye is written whether or not there is room."""
    bench = Bench()
    client, writer = bench.client(version=2)
    writer.writable = False
    assert writer.on_shutdown is not None
    writer.on_shutdown()
    assert "goodbye" == writer.messages()[-1]["type"]
    assert (True, 1001) == (client.done.done(), close_code(client))
    bench.publish()
    bench.loop.run()
    assert [] == numbers(writer.messages())


def test_nothing_is_written_after_the_close() -> None:
    """Between its close and its removal a client gets nothing more."""
    bench = Bench()
    client, writer = bench.client(version=2)
    client.heard("x" * 70_000)
    assert (True, 1009) == (client.done.done(), close_code(client))
    written = len(writer.written)
    bench.publish()
    bench.loop.sleep(20.0)
    writer.drain()
    assert written == len(writer.written)


def test_the_last_client_leaves_nothing_behind() -> None:
    """Without clients nothing is woken: no listener, no timer, no reference."""
    bench = Bench()
    clients = [bench.client() for _ in range(3)]
    for client, writer in clients:
        client.stop()
        client.stop()
        assert (None, None) == (writer.on_writable, writer.on_shutdown)
    bench.publish(2)
    assert [] == bench.loop.ready
    assert [] == [timer for timer in bench.loop.timers if not timer.cancelled]
    _, writer = bench.client()
    bench.publish()
    bench.loop.run()
    assert [3] == numbers(writer.messages())


def test_a_client_may_leave_in_the_middle_of_a_round() -> None:
    """One that is stopped while a round is served does not disturb it."""
    bench = Bench()
    clients = [bench.client() for _ in range(5)]
    for client, writer in clients:
        writer.on_write = client.stop
    bench.publish()
    bench.loop.run()
    assert [[1]] * 5 == [numbers(writer.messages()) for _, writer in clients]
    assert set() == bench.fan_out._clients


def test_time_brings_statistics_and_heartbeats() -> None:
    """Ticks reach every session: statistics once a second, a heartbeat every fifteen."""
    bench = Bench()
    _, writer = bench.client(version=2)
    bench.loop.sleep(16.0)
    kinds = [message["type"] for message in writer.messages()]
    assert (16, 1) == (kinds.count("stats"), kinds.count("heartbeat"))


# -- plain sends -------------------------------------------------------------------------------------------------------


class Sends:
    """What an application's ``send`` got; it waits while it is blocked."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.open.set()
        self.texts: list[str] = []
        self.changed = asyncio.Event()
        self.error: Exception | None = None

    async def __call__(self, text: str) -> None:
        await self.open.wait()
        if self.error is not None:
            raise self.error
        self.texts.append(text)
        self.changed.set()

    def messages(self) -> list[Message]:
        return [json.loads(text) for text in self.texts]

    async def until(self, condition: Callable[[], Any]) -> None:
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not condition():
                self.changed.clear()
                await self.changed.wait()


def plain_client(hub: Hub, sends: Sends, stuck_seconds: float = 60.0, **options: Any) -> PlainClient:
    fan_out = FanOut(hub, asyncio.get_running_loop())
    client = PlainClient(fan_out, make_session(hub, **options), sends, stuck_seconds)
    client.start()
    return client


def publish(hub: Hub, count: int = 1, size: int = 0) -> None:
    hub.publish([event(f"n={hub.end() + number + 1} {'x' * size}") for number in range(count)])


@pytest.mark.anyio
@pytest.mark.parametrize("version", [1, 2])
async def test_plain_sends_one_message_each_in_order(version: int) -> None:
    """On any server every record is a send of its own, once, in order, and the goodbye comes last."""
    hub, sends = Hub(), Sends()
    client = plain_client(hub, sends, version=version)
    publish(hub, 500, size=1_000)
    await sends.until(lambda: len(numbers(sends.messages())) >= 500)
    hub.close()
    await asyncio.wait_for(client.done, PATIENCE_SECONDS)
    client.stop()
    assert list(range(1, 501)) == numbers(sends.messages())
    assert 1001 == close_code(client)
    if version == 2:
        assert "goodbye" == sends.messages()[-1]["type"]


@pytest.mark.anyio
async def test_plain_a_paused_client_is_told_of_the_end() -> None:
    """Paused, it gets the goodbye of a hub that closes, and no records."""
    hub, sends = Hub(), Sends()
    client = plain_client(hub, sends, version=2)
    client.heard('{"type":"pause"}')
    publish(hub, 3)
    hub.close()
    await asyncio.wait_for(client.done, PATIENCE_SECONDS)
    client.stop()
    assert ("goodbye", []) == (sends.messages()[-1]["type"], numbers(sends.messages()))


@pytest.mark.anyio
async def test_plain_a_send_that_never_ends_is_stuck() -> None:
    """A send that waits too long closes with 4408; one that goes on in time does not."""
    hub, sends = Hub(), Sends()
    client = plain_client(hub, sends, stuck_seconds=5.0)
    sends.open.clear()
    publish(hub, 2)
    loop = asyncio.get_running_loop()
    await _turns(lambda: client._sending_since is not None)
    client.on_tick(loop.time() + 4.9)
    assert not client.done.done()
    sends.open.set()
    await sends.until(lambda: len(sends.texts) == 2)
    await _turns(lambda: client._sending_since is None)
    client.on_tick(loop.time() + 100)
    assert not client.done.done()
    sends.open.clear()
    publish(hub)
    await _turns(lambda: client._sending_since is not None)
    client.on_tick(loop.time() + 5.1)
    assert (True, 4408) == (client.done.done(), close_code(client))
    client.stop()


async def _turns(condition: Callable[[], Any]) -> None:
    """Let the loop run until the condition holds."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not condition():  # noqa: ASYNC110  (turns of the loop are what is waited for)
            await asyncio.sleep(0)


@pytest.mark.anyio
async def test_plain_what_a_send_raises_ends_the_client() -> None:
    """The exception of a send is the client's end, for the endpoint to judge."""
    hub, sends = Hub(), Sends()
    client = plain_client(hub, sends)
    sends.error = OSError("gone")
    publish(hub)
    with pytest.raises(OSError, match="gone"):
        await asyncio.wait_for(asyncio.shield(client.done), PATIENCE_SECONDS)
    client.stop()


@pytest.mark.anyio
async def test_plain_a_long_chunk_lets_others_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sends that never wait still give way after a few."""
    hub, sends = Hub(), Sends()
    client = plain_client(hub, sends)
    publish(hub, 400)
    longest, last = 0, 0
    while len(sends.texts) < 400:
        await asyncio.sleep(0)
        longest, last = max(longest, len(sends.texts) - last), len(sends.texts)
    client.stop()
    assert longest <= 2 * fanout._SENDS_A_TURN


@pytest.mark.anyio
async def test_plain_a_busy_client_hears_of_the_time_too() -> None:
    """A tick that comes in the middle of a chunk is not lost: statistics follow the chunk."""
    hub, sends = Hub(), Sends()
    client = plain_client(hub, sends, version=2)
    await sends.until(lambda: len(sends.texts) == 2)
    sends.open.clear()
    publish(hub, 10)
    await _turns(lambda: client._sending_since is not None)
    assert isinstance(client.session, SessionV2)
    client.session._next_stats = 0.0
    client.on_tick(asyncio.get_running_loop().time())
    sends.open.set()
    await sends.until(lambda: len(sends.texts) >= 13)
    client.stop()
    assert "stats" == sends.messages()[12]["type"]
    assert f"{hub.epoch}:10" == sends.messages()[12]["cursor"]


@pytest.mark.anyio
async def test_two_loops_have_their_own_clients() -> None:
    """Each event loop serves its clients from the same hub."""
    hub, sends, other = Hub(), Sends(), Sends()
    client = plain_client(hub, sends)
    stop = asyncio.Event()

    async def elsewhere() -> None:
        second = plain_client(hub, other)
        await asyncio.to_thread(publish, hub, 5)
        await other.until(lambda: len(other.texts) == 5)
        second.stop()

    await asyncio.to_thread(asyncio.run, elsewhere())
    await sends.until(lambda: len(sends.texts) == 5)
    client.stop()
    stop.set()
    assert sends.texts == other.texts


def test_a_loop_that_closed_with_clients_is_forgotten() -> None:
    """Publishing goes on when a loop has ended without its clients leaving."""
    hub, sends = Hub(), Sends()

    async def once() -> None:
        plain_client(hub, sends)
        publish(hub)
        await sends.until(lambda: len(sends.texts) == 1)

    asyncio.run(once())
    publish(hub)
    eventually(lambda: hub.end() == 2)
    assert 1 == len(sends.texts)
