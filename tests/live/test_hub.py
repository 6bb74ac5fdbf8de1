"""The hub: publishing threads, waiting event loops, closed loops, forks."""

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest

from bridge.live.hub import Hub, process_hub
from bridge.live.ring import Entry, Ring
from bridge.record.event import LogEvent
from tests.serving import PATIENCE_SECONDS, eventually, run_python


def event(message: str, *, audit: bool = False, **fields: Any) -> LogEvent:
    return LogEvent(
        timestamp=1,
        observed_timestamp=1,
        severity_number=9,
        level="INFO",
        logger="a",
        message=message,
        is_audit=audit,
        **fields,
    )


async def collect(hub: Hub, position: int, until: Callable[[list[str]], bool]) -> list[str]:
    found: list[str] = []
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not until(found):
            read = hub.read(position, 100)
            position = read.seq
            found += [each.event.message for each in read.entries]
            assert read.missed_system == read.missed_audit == 0
            if not read.entries:
                await hub.wait(position)
    return found


def test_many_threads_and_many_loops() -> None:
    """Readers in several event loops get all records of many threads, in the same order, each thread's in its own."""
    hub = Hub()
    threads, loops, each = 6, 4, 400
    results: dict[int, list[list[str]]] = {}
    ready = threading.Barrier(loops + threads)

    def read(number: int) -> None:
        async def readers() -> list[list[str]]:
            position = hub.end()
            ready.wait(PATIENCE_SECONDS)
            return await asyncio.gather(
                *(collect(hub, position, lambda found: len(found) == threads * each) for _ in range(3))
            )

        results[number] = asyncio.run(readers())

    def write(number: int) -> None:
        ready.wait(PATIENCE_SECONDS)
        for index in range(each):
            hub.publish([event(f"{number}:{index}", audit=index % 7 == 0)])

    workers = [threading.Thread(target=read, args=(n,)) for n in range(loops)]
    workers += [threading.Thread(target=write, args=(n,)) for n in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(PATIENCE_SECONDS)
    found = [messages for of_loop in results.values() for messages in of_loop]
    assert len(found) == loops * 3
    assert all(messages == found[0] for messages in found)
    for number in range(threads):
        mine = [message for message in found[0] if message.startswith(f"{number}:")]
        assert mine == [f"{number}:{index}" for index in range(each)]


class CountingLoop(asyncio.SelectorEventLoop):
    """Counts calls from other threads."""

    rung = 0

    def call_soon_threadsafe(self, *arguments: Any, **options: Any) -> asyncio.Handle:  # type: ignore[override]
        self.rung += 1
        return super().call_soon_threadsafe(*arguments, **options)


def test_one_wake_up_a_burst() -> None:
    """However many records come while a loop is busy, it is woken once, for all its readers."""
    hub = Hub()

    async def scenario() -> list[int]:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, CountingLoop)
        waiters = [asyncio.create_task(hub.wait(hub.end())) for _ in range(10)]
        await asyncio.sleep(0)
        counts = []
        for _ in range(2):
            for number in range(500):
                hub.publish([event(str(number))])
            counts.append(loop.rung)
            await asyncio.gather(*waiters)
            waiters = [asyncio.create_task(hub.wait(hub.end())) for _ in range(10)]
            await asyncio.sleep(0)
        hub.publish([event("last")])
        await asyncio.gather(*waiters)
        # Nobody waits any more, so nobody is woken.
        hub.publish([event("unheard")])
        return [*counts, loop.rung]

    with asyncio.Runner(loop_factory=CountingLoop) as runner:
        assert runner.run(scenario()) == [1, 2, 3]


def test_wait_returns_at_once_if_there_is_something() -> None:
    """A record published between the read and the wait is not slept over."""
    hub = Hub()

    async def scenario() -> None:
        position = hub.end()
        hub.publish([event("a")])
        async with asyncio.timeout(PATIENCE_SECONDS):
            await hub.wait(position)

    asyncio.run(scenario())


def test_cancelled_waiters_are_forgotten() -> None:
    """A reader that is cancelled leaves nothing behind."""
    hub = Hub()

    async def scenario() -> int:
        tasks = [asyncio.create_task(hub.wait(hub.end())) for _ in range(100)]
        await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return sum(len(each.waiters) for each in hub._loops.values())

    assert asyncio.run(scenario()) == 0


def test_closed_loops_are_forgotten() -> None:
    """A loop that was closed while a reader waited costs the publisher nothing, and no memory in the end."""
    hub = Hub()
    for _ in range(50):
        loop = asyncio.new_event_loop()

        async def wait_forever() -> None:
            await hub.wait(hub.end())

        task = loop.create_task(wait_forever())
        loop.run_until_complete(asyncio.sleep(0))
        (bell,) = (each for each in hub._loops.values() if each.loop is loop)
        assert len(bell.waiters) == 1
        loop.close()
        hub.publish([event("a")])
        assert bell not in hub._loops.values()
        # Nobody will run it any more; without this Python would complain when it is collected.
        task._log_destroy_pending = False  # type: ignore[attr-defined]
        task.get_coro().close()
    assert len(hub._loops) <= 1


def test_publish_into_its_own_append(monkeypatch: pytest.MonkeyPatch) -> None:
    """A record published by this very thread in the middle of a publication comes after it, once."""
    hub = Hub()
    inner = iter([[event("inner 1"), event("inner 2", audit=True)], [event("inner 3")]])
    append = Ring.append

    def interrupted(ring: Ring, entry: Entry) -> None:
        hub.publish(next(inner, []))
        append(ring, entry)

    position = hub.end()
    monkeypatch.setattr(Ring, "append", interrupted)
    hub.publish([event("outer 1"), event("outer 2")])
    assert [each.event.message for each in hub.read(position, 99).entries] == [
        "outer 1",
        "outer 2",
        "inner 1",
        "inner 2",
        "inner 3",
    ]


def test_an_append_that_fails_does_not_block_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    """After an error in the middle of a publication the hub takes records as before."""
    hub = Hub()
    with monkeypatch.context() as patched:
        patched.setattr(Ring, "append", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            hub.publish([event("lost")])
    position = hub.end()
    hub.publish([event("kept")])
    assert [each.event.message for each in hub.read(position, 9).entries] == ["kept"]


def test_values_that_cannot_be_encoded(capsys: pytest.CaptureFixture[str]) -> None:
    """An audit record whose metadata can't be encoded is shown all the same, and says so."""
    hub = Hub()
    hub.publish([event("odd", audit=True, action="a", metadata={"x": object()})])
    (entry,) = hub.read(0, 9).entries
    assert b'"message":"odd"' in entry.wire
    assert b'"metadata":{"bridge.encoding":"failed"}' in entry.wire
    assert "values could not be encoded" in capsys.readouterr().err


def test_close_wakes_and_reopen_takes_again() -> None:
    """A closed hub wakes every waiter; reopened, it makes them wait again."""
    hub = Hub()

    async def scenario() -> None:
        waiter = asyncio.create_task(hub.wait(hub.end()))
        await asyncio.sleep(0)
        await asyncio.to_thread(hub.close)
        async with asyncio.timeout(PATIENCE_SECONDS):
            await waiter
            await hub.wait(hub.end())
        assert hub.closed
        hub.reopen()
        waiter = asyncio.create_task(hub.wait(hub.end()))
        await asyncio.sleep(0)
        assert not waiter.done()
        waiter.cancel()

    asyncio.run(scenario())


def test_join_and_leave() -> None:
    """No more than ``max_clients`` are in at once; one that leaves makes room."""
    hub = Hub()
    assert [hub.join(2), hub.join(2), hub.join(2)] == [True, True, False]
    hub.leave()
    assert (hub.join(2), hub.clients) == (True, 2)


def test_drain_waits_for_the_last_client() -> None:
    """drain() closes and returns once the last client has left, or says that some have not."""
    hub = Hub()
    hub.join(9)
    assert hub.drain(0.05) is False

    def leave() -> None:
        eventually(lambda: hub.closed)
        hub.leave()

    leaver = threading.Thread(target=leave)
    leaver.start()
    assert hub.drain(PATIENCE_SECONDS) is True
    leaver.join()


def test_statistics() -> None:
    """A snapshot counts what was published, held and skipped."""
    hub = Hub(system_records=2)
    hub.publish([event("1"), event("2"), event("3"), event("4", audit=True)])
    hub.skipped(5, 6)
    statistics = hub.statistics()
    assert statistics[:4] == (3, 1, 2, 1)
    assert (statistics.clients, statistics.skipped_system, statistics.skipped_audit) == (0, 5, 6)
    assert statistics.held_bytes > 0


def test_the_process_has_one() -> None:
    """process_hub() is the same at each call, from any thread."""
    found: list[Hub] = []
    threads = [threading.Thread(target=lambda: found.append(process_hub())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({id(hub) for hub in found}) == 1


FORK = """
import os, signal, sys, threading
from bridge.live.exporter import WebSocketLogRecordExporter
from bridge.live.hub import process_hub
from bridge.live.ring import Ring
from bridge.record.event import LogEvent

def event(text):
    return LogEvent(timestamp=1, observed_timestamp=1, severity_number=9, level="INFO", logger="a", message=text)

WebSocketLogRecordExporter()  # no setup(): nobody else looks after the hub
hub = process_hub()
hub.publish([event("of the parent")])
hub.join(9)
entered, go_on, append = threading.Event(), threading.Event(), Ring.append

def slow(ring, entry):
    entered.set()
    go_on.wait(20)
    append(ring, entry)

Ring.append = slow
thread = threading.Thread(target=hub.publish, args=([event("in the middle")],))
thread.start()
entered.wait(20)
epoch = hub.epoch
pid = os.fork()
Ring.append = append
if pid == 0:
    signal.alarm(15)  # a deadlock ends by a signal
    code = 1
    try:
        assert process_hub() is hub and hub.epoch != epoch
        assert hub.statistics()[:6] == (0, 0, 0, 0, 0, 0), hub.statistics()
        hub.publish([event("of the child")])
        assert [each.event.message for each in hub.read(0, 9).entries] == ["of the child"]
        code = 0
    finally:
        os._exit(code)
go_on.set()
thread.join()
assert hub.epoch == epoch
assert [each.event.message for each in hub.read(0, 9).entries] == ["of the parent", "in the middle"]
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""


def test_fork_while_a_thread_publishes() -> None:
    """A child forked in the middle of a publication starts anew, with nothing of the parent's, and does not hang."""
    result = run_python("import warnings; warnings.simplefilter('ignore', DeprecationWarning)\n" + FORK)
    assert (result.returncode, result.stderr) == (0, "")
