"""From a request's body to what is shown: copies, counts, faults, and the loop that must not wait."""

import asyncio
import contextlib
import json
import threading
from collections.abc import Sequence
from typing import Any

import pytest

from bridge.receive import receiver as module
from bridge.receive.answers import Answer, Code
from bridge.receive.decode import decode_protobuf
from bridge.receive.other_signals import count_protobuf
from bridge.receive.receiver import Receiver
from bridge.record.event import LogEvent
from tests.receiving import TIME, Shown, as_json, builder, request, said

pytestmark = pytest.mark.anyio


def record(body: str = "paid", *, uid: Any = "1", time: int = TIME, **more: Any) -> dict[str, Any]:
    attributes = {} if uid is None else {"log.record.uid": uid}
    return {"body": body, "attributes": attributes, "time_unix_nano": time} | more


async def send(shown: Shown, *records: dict[str, Any], **options: Any) -> Answer:
    return await shown.receiver.take(request(*records, **options).SerializeToString(), "protobuf", "192.0.2.1:5")


async def test_protobuf_and_json() -> None:
    """What was sent is shown, in its order, by the time it is answered, whichever encoding it had."""
    shown = Shown()
    made = said("one", "two", "three")
    assert await shown.receiver.take(made.SerializeToString(), "protobuf", "p") == Answer(Code.OK)
    assert await shown.receiver.take(json.dumps(as_json(made)).encode(), "json", "p") == Answer(Code.OK)
    assert shown.messages == ["one", "two", "three"] * 2
    assert shown.counts() == {"requests": 2, "received": 6, "accepted": 6}


async def test_copies() -> None:
    """A record that comes again with the same id is left out and counted; one without an id never is."""
    shown = Shown()
    for _ in range(3):
        await send(shown, record(), record("free", uid=None), record("empty", uid=""))
    assert shown.messages == ["paid", "free", "empty", "free", "empty", "free", "empty"]
    assert shown.counts() == {"requests": 3, "received": 9, "accepted": 7, "duplicates": 2}


async def test_copies_within_a_request() -> None:
    """Two copies in one request are one record."""
    shown = Shown()
    await send(shown, record(), record("next", uid="2"), record())
    assert shown.messages == ["paid", "next"]


async def test_audit_record_ids() -> None:
    """The id of an audit record will do as well."""
    shown = Shown()
    for _ in range(2):
        await send(shown, {"body": "login", "time_unix_nano": TIME, "attributes": {"audit.record.id": "a"}})
    assert [event.is_audit for event in shown.events] == [True]


@pytest.mark.parametrize(
    "other",
    [{"body": "refunded"}, {"time": TIME + 1}, {"severity_number": 17}, {"scope": "bank"}],
    ids=lambda other: next(iter(other)),
)
async def test_another_content_under_the_same_id(other: dict[str, Any]) -> None:
    """A guessed id hides nothing: another message, time, severity or logger is shown, with a mark, each time."""
    shown = Shown()
    options = {"scope": other.pop("scope")} if "scope" in other else {}
    await send(shown, record())
    await send(shown, record(**other), **options)
    await send(shown, record(**other), **options)
    await send(shown, record())
    assert [event.attributes.get("bridge.id_conflict") for event in shown.events] == [None, True, True]
    assert shown.counts()["id_conflicts"] == 2
    assert shown.counts()["duplicates"] == 1


@pytest.mark.parametrize("uid", [7, True, 1.5, b"x", ["a", {"b": 1}]])
async def test_ids_of_any_type(uid: Any) -> None:
    """An id that is no text is an id."""
    shown = Shown()
    for _ in range(2):
        await send(shown, record(uid=uid))
    assert shown.counts()["duplicates"] == 1


async def test_old_ids_are_forgotten() -> None:
    """The last ids are known for sure, those of long ago are not; with room for none nothing is left out."""
    shown = Shown(dedupe_records=2)
    for uid in "123451":
        await send(shown, record(uid=uid))
    assert len(shown.events) == 6
    await send(shown, record(uid="5"))
    assert len(shown.events) == 6
    shown = Shown(dedupe_records=0)
    for _ in range(2):
        await send(shown, record())
    assert len(shown.events) == 2


async def test_what_could_not_be_shown_comes_again() -> None:
    """A request that could not be published is answered with UNAVAILABLE, leaves no trace, and its retry is shown."""
    shown = Shown()
    failing = [OSError("no room")]

    def publish(events: Sequence[LogEvent]) -> None:
        if failing:
            raise failing.pop()
        shown.publish(events)

    receiver = shown.receiver = Receiver(publish, builder())
    answer = await send(shown, record(), record("next", uid="2"), record())
    assert answer.code is Code.UNAVAILABLE
    assert "no room" not in answer.message
    assert shown.counts() == {"refused": {"internal": 1}}
    assert await send(shown, record(), record("next", uid="2"), record()) == Answer(Code.OK)
    assert shown.messages == ["paid", "next"]
    assert receiver.statistics().duplicates == 1


async def test_audit_sources() -> None:
    """A service that may not show audit records has its records shown as system records, marked and counted."""
    shown = Shown(audit_sources=("bank*",))
    for service in ("shop", "bank.east"):
        await send(shown, {"body": "[AUDIT] paid"}, {"body": "plain"}, resource={"service.name": service})
    assert [(event.is_audit, "bridge.audit_refused" in event.attributes) for event in shown.events] == [
        (False, True),
        (False, False),
        (True, False),
        (False, False),
    ]
    assert shown.counts()["audit_refused"] == 1
    assert shown.hub.statistics()[:2] == (3, 1)


async def test_partial_success() -> None:
    """Records that can't be read are left out, told, counted, and said once on standard error."""
    shown = Shown()
    body = json.dumps({"resourceLogs": [{"scopeLogs": [{"logRecords": [{}, 7, {"body": 8}]}]}]}).encode()
    answer = await shown.receiver.take(body, "json", "192.0.2.1:5")
    assert (answer.code, answer.rejected) == (Code.OK, 2)
    assert answer.message.startswith("logRecords[1]: ")
    assert shown.counts() == {"requests": 1, "received": 3, "accepted": 1, "rejected": 2}


@pytest.mark.parametrize(
    ("error", "code", "reason"),
    [
        (MemoryError(), Code.UNAVAILABLE, "overload"),
        (RuntimeError("a secret"), Code.UNAVAILABLE, "internal"),
        (RecursionError(), Code.UNAVAILABLE, "internal"),
    ],
    ids=repr,
)
@pytest.mark.parametrize("size", [0, 100_000])
async def test_faults(error: Exception, code: Code, reason: str, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault of the monitor never reaches the sender as one of its own: it is told to come again."""

    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(module, "decode_protobuf", fail)
    shown = Shown()
    answer = await shown.receiver.take(bytes(size), "protobuf", "p")
    assert (answer.code, shown.counts()) == (code, {"refused": {reason: 1}})
    assert "secret" not in answer.message
    shown.receiver.close()


async def test_malformed_and_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is no OTLP is INVALID_ARGUMENT, what holds too much RESOURCE_EXHAUSTED."""
    shown = Shown()
    assert (await shown.receiver.take(b"{", "json", "p")).code is Code.INVALID_ARGUMENT
    monkeypatch.setattr("bridge.receive.records.MAX_RECORDS", 1)
    assert (await send(shown, record(), record())).code is Code.RESOURCE_EXHAUSTED
    assert shown.counts() == {"refused": {"malformed": 1, "too_large": 1}}


async def test_admission() -> None:
    """Bytes are held up to the bound, and given back at the end, whatever ends it."""
    receiver = Shown(max_pending_bytes=100).receiver
    with receiver.admit() as first, receiver.admit() as second:
        assert first.grow(60)
        assert not second.grow(41)
        assert second.grow(40)
        assert not first.grow(1)
        assert receiver.statistics().pending_bytes == 100
    assert receiver.pending_bytes == 0
    with contextlib.suppress(KeyError), receiver.admit() as third:
        assert third.grow(1)
        raise KeyError
    assert receiver.pending_bytes == 0


async def test_large_requests_do_not_block_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """A large request, of any signal, is decoded in a thread, while the loop goes on; a small one is not."""
    shown = Shown()
    receiver = shown.receiver
    begun, go_on = threading.Event(), threading.Event()
    threads: list[str] = []

    def slow(function: Any) -> Any:
        def run(*arguments: Any, **options: Any) -> Any:
            threads.append(threading.current_thread().name)
            begun.set()
            if len(threads) != 2:
                assert go_on.wait(20)
            return function(*arguments, **options)

        return run

    monkeypatch.setattr(module, "decode_protobuf", slow(decode_protobuf))
    monkeypatch.setattr(module, "count_protobuf", slow(count_protobuf))
    large = asyncio.create_task(receiver.take(said("x" * 40_000).SerializeToString(), "protobuf", "p"))
    await asyncio.to_thread(begun.wait, 20)
    assert await receiver.take(said("small").SerializeToString(), "protobuf", "p") == Answer(Code.OK)
    assert shown.messages == ["small"]
    spans = asyncio.create_task(receiver.leave_out(b"\x0a\x00" * 20_000, "protobuf", "spans", "p"))
    go_on.set()
    assert (await large, (await spans).code) == (Answer(Code.OK), Code.OK)
    assert [name.startswith("bridge-receive") for name in threads] == [True, False, True]
    receiver.close()


async def test_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was taken before is shown before the end is there; what comes after it has to come again, elsewhere."""
    shown = Shown()
    begun, go_on = threading.Event(), threading.Event()

    def slow(*arguments: Any, **options: Any) -> Any:
        begun.set()
        assert go_on.wait(20)
        return decode_protobuf(*arguments, **options)

    monkeypatch.setattr(module, "decode_protobuf", slow)
    taken = asyncio.create_task(send(shown, record("x" * 40_000)))
    await asyncio.to_thread(begun.wait, 20)
    ending = asyncio.create_task(shown.receiver.stop())
    await asyncio.sleep(0)
    late = await send(shown, record("late"))
    assert (late.code, shown.messages) == (Code.UNAVAILABLE, [])
    go_on.set()
    await ending
    assert [len(message) for message in shown.messages] == [40_000]
    assert await taken == Answer(Code.OK)
    assert shown.receiver.statistics().refused == {"shutdown": 1}


async def test_counts_always_add_up() -> None:
    """While a large request is being shown, what was received is what was shown, left out or rejected."""
    shown = Shown()
    sums = []

    def publish(events: Sequence[LogEvent]) -> None:
        shown.publish(events)

    receiver = shown.receiver = Receiver(publish, builder())
    sending = asyncio.create_task(send(shown, *(record(str(number), uid=number % 700) for number in range(2_000))))
    while not sending.done():
        counts = receiver.statistics()
        sums.append((counts.received, counts.accepted + counts.duplicates + counts.rejected))
        await asyncio.sleep(0)
    counts = receiver.statistics()
    assert all(received == accounted for received, accounted in sums)
    assert (counts.received, counts.accepted + counts.duplicates) == (2_000, 2_000)
    receiver.close()


async def test_two_copies_at_the_same_time() -> None:
    """Copies that come by two connections at once show once: one is decoded in the thread, one on the loop."""
    shown = Shown()
    padding = record("x" * 40_000, uid=None)
    for number in range(20):
        await asyncio.gather(send(shown, record(uid=str(number)), padding), send(shown, record(uid=str(number))))
    assert shown.messages.count("paid") == 20
    shown.receiver.close()


async def test_other_signals() -> None:
    """Traces and metrics are answered with a partial success and counted apart."""
    shown = Shown()
    spans = json.dumps({"resourceSpans": [{"scopeSpans": [{"spans": [{}, {}]}]}]}).encode()
    answer = await shown.receiver.leave_out(spans, "json", "spans", "p")
    assert answer == Answer(Code.OK, "this monitor takes logs only", 2)
    assert (await shown.receiver.leave_out(b"", "protobuf", "data_points", "p")).rejected == 0
    assert (await shown.receiver.leave_out(b"{", "json", "spans", "p")).code is Code.INVALID_ARGUMENT
    assert shown.counts() == {"left_out": {"spans": 2, "data_points": 0}, "refused": {"malformed": 1}}
