"""What one read of the rings becomes: frames, batches, chunks."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.frames import Frame
from websockets.streams import StreamReader

from bridge.live import chunk as chunks
from bridge.live.chunk import BATCH_BYTES, CHUNK_BYTES, Chunk, RichEncoder, join_frames, make_batches, text_frame
from bridge.live.hub import Hub
from bridge.live.ring import Read
from bridge.record.filters import MATCH_ALL, parse_query
from tests.monitors import event


def parse(data: bytes) -> list[bytes]:
    """The payloads of whole text frames, by a parser that is not ours."""
    reader = StreamReader()
    reader.feed_data(data)
    reader.feed_eof()
    payloads = []
    while reader.buffer:
        steps = Frame.parse(reader.read_exact, mask=False)
        with pytest.raises(StopIteration) as done:
            next(steps)
        frame = done.value.value
        assert (True, 1, False) == (frame.fin, int(frame.opcode), frame.rsv1)
        payloads.append(bytes(frame.data))
    return payloads


@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 65_535, 65_536, 70_000])
def test_frames_of_every_length_are_read_back(size: int) -> None:
    """At each bound of RFC 6455's three lengths another parser reads the payload that was framed."""
    assert [b"x" * size] == parse(text_frame(b"x" * size))


@given(st.lists(st.binary(max_size=200)))
def test_joined_frames_are_the_frames_one_after_the_other(payloads: list[bytes]) -> None:
    """Many frames in one piece are read back one by one, in order."""
    assert payloads == parse(join_frames(payloads))


@given(st.lists(st.sampled_from([10, 1_000, 100_000, 300_000]), max_size=12))
def test_batches_keep_order_and_bound(sizes: list[int]) -> None:
    """All records come in order, none split, and only a batch of one record is larger than the bound."""
    records = [json.dumps(f"{number:05}{'x' * size}").encode() for number, size in enumerate(sizes)]
    batches = make_batches(records)
    opened = [json.loads(batch) for batch in batches]
    assert {"batch"} >= {each["type"] for each in opened}
    assert [json.loads(each) for each in records] == [each for batch in opened for each in batch["data"]]
    for batch, data in zip(batches, opened, strict=True):
        assert len(batch) <= BATCH_BYTES + 100 + len(data["data"]) or len(data["data"]) == 1
    assert [] not in [each["data"] for each in opened]


def test_a_record_is_encoded_once_and_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same record gives the very same bytes, until enough newer ones were made."""
    monkeypatch.setattr(chunks, "_RICH_KEPT", 3)
    hub = Hub()
    hub.publish([event(str(number)) for number in range(10)])
    encode = RichEncoder(hub.epoch)
    entries = hub.read(0, 10).entries
    first = encode(entries[0])
    assert first is encode(entries[0])
    for entry in entries:
        encode(entry)
    assert first is not encode(entries[0])
    assert 3 == len(encode._made)
    assert sum(map(len, encode._made.values())) == encode._bytes


def test_large_records_push_others_out_but_the_newest_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bytes are bounded too; a record larger than the bound is kept alone."""
    monkeypatch.setattr(chunks, "_RICH_BYTES", 1_000)
    hub = Hub()
    hub.publish([event("x" * 2_000), event("y" * 2_000)])
    encode = RichEncoder(hub.epoch)
    for entry in hub.read(0, 2).entries:
        encode(entry)
    assert [2] == list(encode._made)


def test_a_chunk_goes_past_what_the_filter_holds_back() -> None:
    """The place after a chunk is that of the read, not that of the last record that matched."""
    hub = Hub()
    hub.publish([event("a", logger="a"), event("b", logger="b"), event("c", logger="b")])
    chunk = Chunk(RichEncoder(hub.epoch), hub.read(0, 10), parse_query([("logger", "a")]))
    assert ([1], 3) == ([entry.seq for entry in chunk.entries], chunk.seq)
    nothing = Chunk(RichEncoder(hub.epoch), hub.read(0, 10), parse_query([("logger", "z")]))
    assert ([], 3, b"") == (nothing.entries, nothing.seq, nothing.joined(2, False))
    assert [] == nothing.payloads(2, True)


def test_a_large_chunk_ends_early_and_the_next_goes_on_there() -> None:
    """Chunk after chunk gives every record once, none much larger than the bound."""
    hub = Hub()
    hub.publish([event(f"{number} {'x' * 1_000}") for number in range(1_000)])
    seq, found, count = 0, [], 0
    while (read := hub.read(seq, 4_096)).entries:
        chunk = Chunk(RichEncoder(hub.epoch), read, MATCH_ALL)
        assert sum(map(len, chunk.payloads(1, False))) < CHUNK_BYTES + 2_000
        found += [entry.seq for entry in chunk.entries]
        seq, count = chunk.seq, count + 1
    assert list(range(1, 1_001)) == found
    assert 1_000 // (CHUNK_BYTES // 3_200) == count - 1


def test_a_gap_behind_the_early_end_waits_for_its_chunk() -> None:
    """A gap that lies after the place where a chunk ends is told by the chunk that reaches it."""
    hub = Hub(system_records=3)
    hub.publish([event("a" * CHUNK_BYTES, audit=True)])
    hub.publish([event("b", audit=True)])
    hub.publish([event(str(number)) for number in range(5)])
    first = Chunk(RichEncoder(hub.epoch), hub.read(0, 10), MATCH_ALL)
    second = Chunk(RichEncoder(hub.epoch), hub.read(first.seq, 10), MATCH_ALL)
    assert ([1], 1, []) == ([entry.seq for entry in first.entries], first.seq, first.gaps)
    assert ([2, 5, 6, 7], 2, 0) == ([e.seq for e in second.entries], second.missed_system, second.missed_audit)


@pytest.mark.parametrize(("streams", "missed"), [("system", (2, 0)), ("audit", (0, 1)), ("system,audit", (2, 1))])
def test_gaps_are_those_of_the_streams_watched(streams: str, missed: tuple[int, int]) -> None:
    """Who watches one stream hears nothing of what is missing in the other."""
    hub = Hub(system_records=1, audit_records=1)
    hub.publish([event("1", audit=True), event("2"), event("3"), event("4"), event("5", audit=True)])
    chunk = Chunk(RichEncoder(hub.epoch), hub.read(0, 10), parse_query([("streams", streams)]))
    assert missed == (chunk.missed_system, chunk.missed_audit)


def test_bytes_are_made_once_for_everybody() -> None:
    """Asked again, a chunk gives the very same bytes; versions and batches have their own."""
    hub = Hub()
    hub.publish([event("1"), event("2", audit=True)])
    chunk = Chunk(RichEncoder(hub.epoch), hub.read(0, 10), MATCH_ALL)
    made = {(version, batch): chunk.joined(version, batch) for version, batch in ((1, False), (2, False), (2, True))}
    assert all(each is chunk.joined(*key) for key, each in made.items())
    assert 3 == len(set(made.values()))
    one, two = parse(made[2, False]), parse(made[2, True])
    assert [json.loads(each) for each in one] == json.loads(two[0])["data"]
    assert [entry.wire for entry in chunk.entries] == parse(made[1, False])


def test_nothing_read_is_an_empty_chunk() -> None:
    """A read without records makes a chunk that stays where it is."""
    chunk = Chunk(RichEncoder("e"), Read([], 7, []), MATCH_ALL)
    assert (7, [], b"") == (chunk.seq, chunk.payloads(2, True), chunk.joined(1, False))
