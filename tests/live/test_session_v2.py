"""Protocol version 2, driven without a socket."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bridge.live.chunk import Chunk, RichEncoder
from bridge.live.hub import Hub
from bridge.live.messages import BadMessage, format_cursor, parse_cursor
from bridge.live.session_v2 import HEARTBEAT_SECONDS, Options, SessionV2, parse_options
from bridge.record.event import LogEvent
from bridge.record.filters import MATCH_ALL, Filter, FilterError, parse_query


def event(number: int, *, audit: bool = False, logger: str = "shop") -> LogEvent:
    """A record that can be told from others."""
    return LogEvent(
        timestamp=number,
        observed_timestamp=number,
        severity_number=9,
        level="INFO",
        logger=logger,
        message=f"n={number}",
        is_audit=audit,
    )


def publish(hub: Hub, count: int = 1, *, audit: bool = False, logger: str = "shop") -> None:
    """Publish ``count`` records."""
    for _ in range(count):
        hub.publish([event(hub.end() + 1, audit=audit, logger=logger)])


def connect(hub: Hub, filter: Filter = MATCH_ALL, now: float = 0.0, **options: Any) -> SessionV2:
    """A session that has said hello."""
    session = SessionV2(hub, filter, Options(**options), pid=7, statistics=lambda: {"clients": 1}, now=now)
    session.begin()
    return session


def pump(session: SessionV2, hub: Hub, now: float = 0.0, chunks: int = 1_000, limit: int = 5) -> list[dict[str, Any]]:
    """What a shell with a working socket would send now."""
    sent = session.take_control()
    while session.wants_records and chunks > 0 and (read := hub.read(session.seq, limit)).entries:
        chunk = Chunk(RichEncoder(hub.epoch), read, session.filter)
        chunks -= 1
        before, own, after = session.deliver(chunk, now)
        sent += [*before, *(chunk.payloads(2, session.batch) if own is None else own), *after]
    sent += session.take_control()
    return [json.loads(message) for message in sent]


def say(session: SessionV2, now: float = 0.0, **message: Any) -> None:
    """The client says something."""
    session.receive(json.dumps(message), now)


def kinds(messages: Iterable[dict[str, Any]]) -> list[str]:
    """The types of messages."""
    return [message["type"] for message in messages]


def seqs(messages: Iterable[dict[str, Any]]) -> list[int]:
    """The numbers of the records among messages, batches opened."""
    found = []
    for message in messages:
        for each in message["data"] if message["type"] == "batch" else [message]:
            if each["type"] in ("system_log", "audit_log"):
                found.append(int(each["cursor"].rpartition(":")[2]))
    return found


def test_hello_comes_first_and_ready_when_nothing_is_asked_from_the_past() -> None:
    """A client that asks for nothing from the past is ready at once, and sees what comes from then on."""
    hub = Hub()
    publish(hub, 3)
    session = connect(hub)
    first = pump(session, hub)
    publish(hub, 2)
    assert ["hello", "ready"] == kinds(first)
    assert {"epoch": hub.epoch, "oldest": f"{hub.epoch}:0", "newest": f"{hub.epoch}:3", "pid": 7}.items() <= first[
        0
    ].items()
    assert [4, 5] == seqs(pump(session, hub))


def test_history_replays_the_last_matching_records_then_ready() -> None:
    """``history=2`` of a filter gives its last two records, then ``ready``, then what comes."""
    hub = Hub()
    for number in range(10):
        publish(hub, logger="a" if number % 3 == 0 else "b")
    messages = pump(connect(hub, parse_query([("logger", "a")]), history=2), hub)
    assert [7, 10] == seqs(messages)
    assert "ready" == kinds(messages)[-1]


def test_resume_by_cursor_gives_the_rest_without_a_gap() -> None:
    """After a cursor that is still held come exactly the records behind it."""
    hub = Hub()
    publish(hub, 5)
    messages = pump(connect(hub, after=parse_cursor(f"{hub.epoch}:2")), hub)
    assert [3, 4, 5] == seqs(messages)
    assert "gap" not in kinds(messages)


def test_a_cursor_from_before_the_ring_is_a_gap_that_counts_both_kinds() -> None:
    """What was evicted behind a cursor is counted by kind, just where it is missing."""
    hub = Hub(system_records=2, audit_records=1)
    publish(hub, 3)
    publish(hub, 2, audit=True)
    publish(hub, 3)
    messages = pump(connect(hub, after=parse_cursor(f"{hub.epoch}:1")), hub)
    epoch = hub.epoch
    assert [
        {"type": "gap", "reason": "evicted", "system": 2, "audit": 1, "from": f"{epoch}:1", "to": f"{epoch}:4"},
        {"type": "gap", "reason": "evicted", "system": 1, "audit": 0, "from": f"{epoch}:5", "to": f"{epoch}:6"},
    ] == [message for message in messages if message["type"] == "gap"]
    assert ["gap", "audit_log", "gap", "system_log", "system_log", "ready"] == kinds(messages)[1:]
    assert [5, 7, 8] == seqs(messages)


def test_a_cursor_of_another_epoch_is_a_gap_and_everything_held_follows() -> None:
    """After a restart the client is told so, and gets all that the new run still holds."""
    hub = Hub(system_records=2)
    publish(hub, 3)
    messages = pump(connect(hub, after=parse_cursor("another:99")), hub)
    assert {
        "type": "gap",
        "reason": "epoch_changed",
        "system": 0,
        "audit": 0,
        "from": "another:99",
        "to": f"{hub.epoch}:0",
    } == messages[1]
    assert {"reason": "evicted", "system": 1}.items() <= messages[2].items()
    assert [2, 3] == seqs(messages)


def test_a_cursor_from_the_future_is_refused() -> None:
    """A number that this epoch has not reached can't be a cursor of ours."""
    hub = Hub()
    with pytest.raises(BadMessage, match="newest record"):
        connect(hub, after=parse_cursor(f"{hub.epoch}:9"))


def test_pause_discards_nothing_and_what_is_evicted_meanwhile_is_a_gap() -> None:
    """Paused, then resumed: the records that were held come, the others are counted."""
    hub = Hub(system_records=2)
    session = connect(hub)
    pump(session, hub)
    say(session, type="pause")
    publish(hub, 5)
    paused = pump(session, hub)
    say(session, type="resume")
    messages = pump(session, hub)
    assert [] == paused
    assert {"reason": "evicted", "system": 3, "audit": 0}.items() <= messages[0].items()
    assert [4, 5] == seqs(messages)


def test_a_slow_client_skips_system_records_and_is_told() -> None:
    """Evicted system records of a connected client are a gap with the reason slow_client; it stays connected."""
    hub = Hub(system_records=2)
    session = connect(hub)
    pump(session, hub)
    publish(hub, 5)
    messages = pump(session, hub)
    assert {"reason": "slow_client", "system": 3, "from": f"{hub.epoch}:0", "to": f"{hub.epoch}:3"}.items() <= messages[
        0
    ].items()
    assert session.close is None


def test_a_client_too_slow_for_audit_records_is_sent_away_and_resumes_with_a_gap() -> None:
    """Missing audit records ends the connection with a goodbye, whose cursor finds the gap again."""
    hub = Hub(audit_records=2)
    session = connect(hub)
    pump(session, hub)
    publish(hub, 5, audit=True)
    messages = pump(session, hub)
    assert ["goodbye"] == kinds(messages)
    assert session.close is not None
    assert 4408 == session.close.code
    again = pump(connect(hub, after=parse_cursor(messages[0]["cursor"])), hub)
    assert {"reason": "evicted", "audit": 3, "system": 0}.items() <= again[1].items()
    assert [4, 5] == seqs(again)


def test_max_rate_limits_system_records_only_and_counts_them() -> None:
    """Above the rate system records are skipped and counted; audit records always come."""
    hub = Hub()
    session = connect(hub, max_rate=2)
    pump(session, hub)
    publish(hub, 6)
    publish(hub, 3, audit=True)
    messages = pump(session, hub)
    session.tick(0.0)
    messages += pump(session, hub)
    assert [1, 2, 7, 8, 9] == seqs(messages)
    assert [4] == [message["system"] for message in messages if message["type"] == "gap"]


def test_subscribe_replaces_the_filter_and_a_bad_one_changes_nothing() -> None:
    """A filter that can't be used is answered by its id and leaves the old one in force."""
    hub = Hub()
    session = connect(hub)
    pump(session, hub)
    say(session, type="subscribe", id="s1", filter={"logger": "a"})
    say(session, type="subscribe", id="s2", filter={"re": "("})
    answers = pump(session, hub)
    publish(hub, logger="a")
    publish(hub, logger="b")
    assert [("subscribed", "s1"), ("error", "s2")] == [(message["type"], message["id"]) for message in answers]
    assert "bad_filter" == answers[1]["code"]
    assert [1] == seqs(pump(session, hub))


def test_history_request_gives_records_before_a_cursor_in_order() -> None:
    """``history`` gives the newest records before the cursor, oldest first, and says whether there is more."""
    hub = Hub()
    publish(hub, 6)
    session = connect(hub)
    pump(session, hub)
    say(session, type="history", id=3, before=f"{hub.epoch}:5", limit=2)
    (answer,) = pump(session, hub)
    assert [3, 4] == seqs(answer["data"])
    assert {"type": "history", "id": 3, "more": True, "before": f"{hub.epoch}:3"}.items() <= answer.items()


def test_batch_puts_a_chunk_into_one_message() -> None:
    """With ``batch=1`` records come as the data of batch messages."""
    hub = Hub()
    session = connect(hub, batch=True)
    pump(session, hub)
    publish(hub, 3)
    messages = pump(session, hub)
    assert ["batch"] == kinds(messages)
    assert [1, 2, 3] == seqs(messages)


def test_time_brings_statistics_every_second_and_a_heartbeat_every_fifteen() -> None:
    """Both carry the cursor, past filtered records too."""
    hub = Hub()
    session = connect(hub, parse_query([("logger", "none")]))
    publish(hub, 2)
    pump(session, hub)
    said = []
    for second in range(1, int(HEARTBEAT_SECONDS) + 1):
        session.tick(float(second))
        said += pump(session, hub)
    assert ["stats"] * 15 + ["heartbeat"] == kinds(said)
    assert {f"{hub.epoch}:2"} == {message["cursor"] for message in said}


def test_ping_is_answered_with_its_id() -> None:
    """A pong carries the ping's id."""
    session = connect(hub := Hub())
    pump(session, hub)
    say(session, type="ping", id="x")
    assert [{"type": "pong", "id": "x"}] == pump(session, hub)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("garbage", "bad_message"),
        ("[]", "bad_message"),
        ('{"type":"shout"}', "unknown_type"),
        ('{"type":"ping","id":{}}', "bad_message"),
        ('{"type":"history","limit":0}', "bad_message"),
        ('{"type":"resume","after":"x"}', "bad_cursor"),
        ("[" * 60_000, "bad_message"),
    ],
)
def test_nonsense_is_answered_and_the_stream_goes_on(text: str, code: str) -> None:
    """A message that can't be acted on is an error with a code; records keep coming."""
    session = connect(hub := Hub())
    pump(session, hub)
    session.receive(text, 0.0)
    answers = pump(session, hub)
    publish(hub)
    assert [code] == [answer["code"] for answer in answers]
    assert [1] == seqs(pump(session, hub))


def test_a_flood_of_messages_is_closed() -> None:
    """A client that keeps talking far above the limit is told, then closed with 4400."""
    session = connect(hub := Hub())
    for _ in range(400):
        say(session, type="ping", id=1)
        pump(session, hub)
    assert session.close is not None
    assert 4400 == session.close.code


def test_answers_that_nobody_reads_are_bounded() -> None:
    """A client that asks for history and reads nothing is closed before the answers fill the memory."""
    hub = Hub()
    hub.publish([event(number) for number in range(1, 1_001)])
    session = connect(hub)
    for second in range(100):
        say(session, now=float(second), type="history", id=1, limit=1_000)
        if session.close is not None:
            break
    assert session.close is not None
    assert 4408 == session.close.code


def test_a_message_over_64_kib_is_too_big() -> None:
    """1009, as WebSocket names it."""
    session = connect(Hub())
    session.receive("x" * 65_537, 0.0)
    assert session.close is not None
    assert 1009 == session.close.code


def test_shutdown_says_goodbye_with_the_cursor() -> None:
    """The goodbye tells why, when to come back, and where to go on."""
    hub = Hub()
    session = connect(hub)
    publish(hub, 2)
    pump(session, hub)
    session.shut_down()
    (goodbye,) = pump(session, hub)
    assert {"type": "goodbye", "reason": "shutdown", "retry_ms": 1000, "cursor": f"{hub.epoch}:2"} == goodbye
    assert session.close is not None
    assert 1001 == session.close.code


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("history", "-1"),
        ("history", "x"),
        ("max_rate", "0"),
        ("batch", "yes"),
        ("after", "5"),
        ("after_audit", "x"),
        ("z", "1"),
    ],
)
def test_bad_options_name_the_parameter(name: str, value: str) -> None:
    """An option that can't be used is refused by name."""
    with pytest.raises(FilterError, match=name):
        parse_options([(name, value)])


@given(st.text(max_size=40))
def test_cursors_are_read_back_or_refused(text: str) -> None:
    """Reading any text gives a cursor that prints as an equal one, or None."""
    cursor = parse_cursor(text)
    assert cursor is None or cursor == parse_cursor(format_cursor(*cursor))


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("publish"), st.integers(1, 12), st.booleans(), st.sampled_from("ab")),
        st.tuples(st.just("read"), st.integers(1, 4)),
        st.tuples(st.just("pause")),
        st.tuples(st.just("resume")),
        st.tuples(st.just("reconnect")),
        st.tuples(st.just("tick")),
    ),
    max_size=60,
)


def run_schedule(
    steps: list[tuple[Any, ...]], filter: Filter, rate: int
) -> tuple[dict[int, LogEvent], list[dict[str, Any]]]:
    """Drive one client through a schedule and to the end; what was published since it came, and what it got."""
    hub = Hub(system_records=7, audit_records=4)
    published: dict[int, LogEvent] = {}
    session = connect(hub, filter, max_rate=rate)
    got = pump(session, hub)
    cursor = got[-1]["cursor"]
    now = 0.0

    def note(messages: list[dict[str, Any]]) -> None:
        nonlocal cursor
        for message in messages:
            cursor = message.get("cursor", cursor)
        got.extend(messages)

    def reconnect() -> None:
        nonlocal session
        session = connect(hub, filter, now, after=parse_cursor(cursor), max_rate=rate)
        note(pump(session, hub, now, chunks=0))

    for step in [*steps, ("resume",)]:
        now += 0.3
        match step:
            case ("publish", count, audit, logger):
                for _ in range(count):
                    publish(hub, audit=audit, logger=logger)
                    published[hub.end()] = event(hub.end(), audit=audit, logger=logger)
            case ("read", chunks):
                note(pump(session, hub, now, chunks))
            case ("pause",):
                say(session, now, type="pause")
            case ("resume",):
                say(session, now, type="resume")
            case ("tick",):
                session.tick(now)
                note(pump(session, hub, now, chunks=0))
            case ("reconnect",):
                session.shut_down()
                note(pump(session, hub, now, chunks=0))
                reconnect()
        if session.close is not None:
            note(pump(session, hub, now, chunks=0))
            reconnect()
    while session.seq != hub.end() or session.close is not None:
        note(pump(session, hub, now))
        if session.close is not None:
            reconnect()
    session.tick(now)
    note(pump(session, hub, now))
    return published, got


def gap_count(messages: list[dict[str, Any]], kind: str) -> int:
    """Records of a kind that gaps told of."""
    return sum(message[kind] for message in messages if message["type"] == "gap")


@settings(max_examples=300, deadline=None)
@given(STEPS, st.sampled_from([0, 3]))
def test_every_record_comes_once_in_order_or_is_counted_in_a_gap(steps: list[tuple[Any, ...]], rate: int) -> None:
    """Whatever is published, evicted, paused, stalled or cut: received plus gap counts is published, by kind."""
    published, got = run_schedule(steps, MATCH_ALL, rate)
    received = seqs(got)
    assert sorted(set(received)) == received
    for kind, audit in (("system", False), ("audit", True)):
        mine = [number for number in received if published[number].is_audit == audit]
        assert sum(each.is_audit == audit for each in published.values()) == len(mine) + gap_count(got, kind)


@settings(max_examples=200, deadline=None)
@given(STEPS)
def test_a_filtered_client_misses_no_match_without_a_gap(steps: list[tuple[Any, ...]]) -> None:
    """With a filter no wrong record comes, and matches that did not come are no more than the gaps count."""
    published, got = run_schedule(steps, parse_query([("logger", "a")]), 0)
    received = set(seqs(got))
    matches = {number for number, each in published.items() if each.logger == "a"}
    assert received <= matches
    assert len(matches - received) <= gap_count(got, "system") + gap_count(got, "audit")
