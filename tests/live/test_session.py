"""Version 1 of the conversation."""

from bridge.live.chunk import Chunk, RichEncoder
from bridge.live.hub import Hub
from bridge.live.session import CLOSE_GOING_AWAY, CLOSE_TOO_BIG, CLOSE_TOO_SLOW, MAX_CLIENT_TEXT, SessionV1
from bridge.record.event import LogEvent
from bridge.record.filters import MATCH_ALL, Filter, parse_query
from bridge.record.message import encode_v1


def events(count: int, *, audit: bool = False) -> list[LogEvent]:
    return [
        LogEvent(
            timestamp=number,
            observed_timestamp=number,
            severity_number=9,
            level="INFO",
            logger="a",
            message=str(number),
            is_audit=audit,
        )
        for number in range(count)
    ]


def chunk(hub: Hub, session: SessionV1, limit: int = 100) -> Chunk:
    return Chunk(RichEncoder(hub.epoch), hub.read(session.seq, limit), session.filter)


def connected(hub: Hub, filter: Filter = MATCH_ALL) -> SessionV1:
    return SessionV1(filter, hub.end())


def test_records_go_out_as_they_were_encoded() -> None:
    """Version 1 sends the shared messages of a chunk, and nothing beside them."""
    hub = Hub()
    session = connected(hub)
    hub.publish(made := events(2))
    given = chunk(hub, session)
    assert session.deliver(given, 0.0) == ([], None, [])
    assert given.payloads(1, False) == [encode_v1(event) for event in made]
    assert session.take_control() == []


def test_skipped_system_records_are_only_counted() -> None:
    """Version 1 can't tell a gap: the records that are left go out, the others are counted."""
    hub = Hub(system_records=2)
    session = connected(hub)
    hub.publish(events(5))
    session.deliver(given := chunk(hub, session), 0.0)
    assert [entry.seq for entry in given.entries] == [4, 5]
    assert (session.skipped_system, session.close) == (3, None)


def test_a_missed_audit_record_ends_the_conversation() -> None:
    """A client that would miss an audit record is closed with 4408, and is sent nothing more."""
    hub = Hub(audit_records=2)
    session = connected(hub)
    hub.publish(events(3, audit=True))
    assert session.deliver(chunk(hub, session), 0.0) == ([], [], [])
    assert session.close is not None
    assert session.close.code == CLOSE_TOO_SLOW
    assert not session.wants_records


def test_who_watches_system_records_only_is_not_closed_for_audit_records() -> None:
    """A filter that leaves audit records out has none to miss."""
    hub = Hub(audit_records=1)
    session = connected(hub, parse_query([("streams", "system")]))
    hub.publish(events(3, audit=True))
    session.deliver(chunk(hub, session), 0.0)
    assert session.close is None


def test_what_the_client_says_is_ignored() -> None:
    """Version 1 has no control messages."""
    session = connected(Hub())
    session.receive("anything", 0.0)
    session.receive(b"x" * MAX_CLIENT_TEXT, 0.0)
    session.tick(1.0)
    assert session.close is None


def test_a_message_too_big_ends_the_conversation() -> None:
    """A message over 64 KiB is answered with 1009."""
    session = connected(Hub())
    session.receive("x" * (MAX_CLIENT_TEXT + 1), 0.0)
    assert session.close is not None
    assert session.close.code == CLOSE_TOO_BIG


def test_the_end_of_the_server_is_1001() -> None:
    """A shutdown closes with going away; an earlier reason stays."""
    session = connected(Hub())
    session.shut_down()
    assert session.close is not None
    assert session.close.code == CLOSE_GOING_AWAY
    session = connected(Hub())
    session.stuck("slow")
    session.shut_down()
    assert session.close is not None
    assert session.close.code == CLOSE_TOO_SLOW
