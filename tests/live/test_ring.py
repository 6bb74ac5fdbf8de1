"""The rings: bounds, positions, order, and the count of what was missed."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bridge.live.hub import Hub
from bridge.live.ring import Entry, Ring, entry_size, merge
from bridge.record.event import LogEvent


def event(message: str = "m", *, audit: bool = False, **fields: object) -> LogEvent:
    return LogEvent(
        timestamp=1,
        observed_timestamp=1,
        severity_number=9,
        level="INFO",
        logger="a",
        message=message,
        is_audit=audit,
        **fields,  # type: ignore[arg-type]
    )


def entry(seq: int, *, audit: bool = False, size: int = 10) -> Entry:
    return Entry(seq, event(str(seq), audit=audit), size)


def test_holds_the_newest_by_count() -> None:
    """Past the count, the oldest record goes."""
    ring = Ring(3, 1_000)
    for seq in range(1, 6):
        ring.append(entry(seq))
    assert [each.seq for each in ring.after(0, 10)] == [3, 4, 5]


def test_holds_the_newest_by_bytes() -> None:
    """Past the bytes, as many of the oldest go as the newest needs room."""
    ring = Ring(100, 100)
    for seq in range(1, 11):
        ring.append(entry(seq, size=10))
    ring.append(entry(11, size=35))
    assert ([each.seq for each in ring.after(0, 100)], ring.bytes) == ([5, 6, 7, 8, 9, 10, 11], 95)


def test_a_record_larger_than_the_ring_is_held_alone() -> None:
    """The newest record is always held, however large."""
    ring = Ring(10, 100)
    ring.append(entry(1))
    ring.append(entry(2, size=1_000))
    assert [each.seq for each in ring.after(0, 10)] == [2]
    ring.append(entry(3))
    assert ([each.seq for each in ring.after(0, 10)], ring.bytes) == ([3], 10)


def test_a_ring_needs_room_for_one() -> None:
    """Bounds below one record are refused."""
    with pytest.raises(ValueError, match="room for one record"):
        Ring(0, 1)


def test_clear_forgets_everything() -> None:
    """After clear() a ring is as new."""
    ring = Ring(2, 1_000)
    for seq in range(1, 6):
        ring.append(entry(seq))
    ring.clear()
    assert (len(ring), ring.first, ring.last, ring.bytes, ring.after(0, 9)) == (0, 1, 0, 0, [])


def test_slots_are_made_as_they_are_needed() -> None:
    """A bound of a million records costs nothing before they come."""
    ring = Ring(1_000_000, 1 << 30)
    ring.append(entry(1))
    assert len(ring._slots) == 1


def test_size_counts_attributes() -> None:
    """What a record carries in its attributes counts, though version 1 never sends it."""
    plain = event()
    base = entry_size(plain)
    assert entry_size(event(attributes={"a": "x" * 1_000_000})) >= base + 1_000_000
    assert entry_size(event(attributes={"a": ("x" * 1_000_000,)})) >= base + 1_000_000
    assert entry_size(event(attributes={"a": {"b": b"x" * 1_000_000}})) >= base + 1_000_000
    assert entry_size(event(attributes={"a": 1, "b": None, "c": 1.5})) == base


def test_merge_takes_both_in_order() -> None:
    """Records of both rings come in the order in which they were published, up to the limit."""
    system, audit = Ring(10, 1_000), Ring(10, 1_000)
    for seq in (1, 3, 4, 6):
        system.append(entry(seq))
    for seq in (2, 5):
        audit.append(entry(seq, audit=True))
    read = merge(system, audit, 0, 3)
    assert [each.seq for each in read.entries] == [1, 2, 3]
    assert read.seq == 3
    read = merge(system, audit, read.seq, 10)
    assert [each.seq for each in read.entries] == [4, 5, 6]
    assert (read.seq, read.gaps) == (6, [])


SIZES = st.integers(0, 400)
OPERATIONS = st.lists(
    st.one_of(
        st.tuples(st.just("publish"), st.lists(st.tuples(st.booleans(), SIZES), min_size=1, max_size=6)),
        st.tuples(st.just("read"), st.tuples(st.integers(0, 2), st.integers(1, 7))),
        st.tuples(
            st.just("resize"),
            st.tuples(st.integers(1, 8), st.integers(1, 12_000), st.integers(1, 8), st.integers(1, 12_000)),
        ),
        st.tuples(st.just("rejoin"), st.tuples(st.integers(0, 2), st.booleans())),
    ),
    max_size=40,
)


class Model:
    """One kind of record: everything that was published, and how many of the oldest are gone."""

    def __init__(self, records: int, size: int) -> None:
        self.records, self.size = records, size
        self.all: list[tuple[int, int]] = []
        self.evicted = 0

    def held(self) -> list[tuple[int, int]]:
        return self.all[self.evicted :]

    def append(self, seq: int, size: int) -> None:
        self.all.append((seq, size))
        self.shrink()

    def shrink(self) -> None:
        while len(self.held()) > 1 and (len(self.held()) > self.records or sum(s for _, s in self.held()) > self.size):
            self.evicted += 1

    def resize(self, records: int, size: int) -> None:
        self.records, self.size = records, size
        self.shrink()

    def gone(self, after: int, to: int) -> int:
        return sum(after < seq <= to for seq, _ in self.all[: self.evicted])


@settings(max_examples=300, deadline=None)
@given(OPERATIONS)
def test_against_a_model(operations: list[tuple[str, Any]]) -> None:
    """Whatever is published, evicted, resized and read: no record twice, none out of order, each missed one counted."""
    bounds = (4, 6_000, 3, 5_000)
    hub = Hub(system_records=bounds[0], system_bytes=bounds[1], audit_records=bounds[2], audit_bytes=bounds[3])
    models = {False: Model(*bounds[:2]), True: Model(*bounds[2:])}
    places = [hub.end()] * 3
    number = 0
    for name, values in operations:
        if name == "publish":
            events = []
            for audit, extra in values:
                number += 1
                events.append(event(f"{number:06d}" + "x" * extra, audit=bool(audit)))
                models[bool(audit)].append(number, entry_size(events[-1]))
            hub.publish(events)
        elif name == "resize":
            hub.resize(system_records=values[0], system_bytes=values[1], audit_records=values[2], audit_bytes=values[3])
            models[False].resize(*values[:2])
            models[True].resize(*values[2:])
        elif name == "rejoin":
            places[values[0]] = hub.start() if values[1] else hub.end()
        else:
            reader, limit = values
            place = places[reader]
            read = hub.read(place, limit)
            unread = sorted(seq for model in models.values() for seq, _ in model.held() if seq > place)[:limit]
            assert [each.seq for each in read.entries] == unread
            assert read.seq == (unread[-1] if unread else place)
            assert read.missed_system == models[False].gone(place, read.seq)
            assert read.missed_audit == models[True].gone(place, read.seq)
            between = [(gap.after, gap.to) for gap in read.gaps]
            assert between == [
                (low, high - 1) for low, high in zip([place, *unread], unread, strict=False) if high - low > 1
            ]
            places[reader] = read.seq
        statistics = hub.statistics()
        assert statistics.system_held == len(models[False].held())
        assert statistics.audit_held == len(models[True].held())
        assert statistics.held_bytes == sum(s for model in models.values() for _, s in model.held())
        assert (statistics.system, statistics.audit) == (len(models[False].all), len(models[True].all))
