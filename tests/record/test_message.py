from __future__ import annotations

import json
import math
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.record.event import UNSET, ExceptionInfo, LogEvent
from bridge.record.message import encode_v1, encode_v2, format_timestamp
from bridge.record.values import freeze, safe_text

SYSTEM_KEYS = ["timestamp", "level", "logger", "message", "module", "function", "line"]
AUDIT_KEYS = ["timestamp", "level", "logger", "message", "action", "metadata"]
TIME = 1_759_948_245_123_456_789


def event(**fields: Any) -> LogEvent:
    common: dict[str, Any] = {
        "timestamp": TIME,
        "observed_timestamp": TIME,
        "severity_number": 9,
        "level": "INFO",
        "logger": "shop.server",
        "message": "m",
    }
    return LogEvent(**(common | fields))


def test_a_system_record_is_exactly_this() -> None:
    """The example of the protocol, byte for byte."""
    wire = encode_v1(event(module="server", function="spawn", line=142))
    assert wire == (
        b'{"type":"system_log","data":{"timestamp":"2025-10-08T18:30:45.123Z","level":"INFO","logger":"shop.server",'
        b'"message":"m","module":"server","function":"spawn","line":142}}'
    )


def test_an_audit_record_is_exactly_this() -> None:
    """The example of the protocol, byte for byte."""
    wire = encode_v1(
        event(is_audit=True, logger="audit.instance", action="instance_spawn", metadata={"instance_id": "abc123"})
    )
    assert wire == (
        b'{"type":"audit_log","data":{"timestamp":"2025-10-08T18:30:45.123Z","level":"INFO","logger":"audit.instance",'
        b'"message":"m","action":"instance_spawn","metadata":{"instance_id":"abc123"}}}'
    )


@pytest.mark.parametrize(
    ("fields", "keys"),
    [
        ({}, AUDIT_KEYS[:4]),
        ({"action": None}, AUDIT_KEYS[:5]),
        ({"metadata": {}}, [*AUDIT_KEYS[:4], "metadata"]),
        ({"action": None, "metadata": {}}, AUDIT_KEYS),
    ],
)
def test_action_and_metadata_appear_if_the_record_has_them(fields: dict[str, Any], keys: list[str]) -> None:
    """None is a value; absent is absent."""
    assert list(json.loads(encode_v1(event(is_audit=True, **fields)))["data"]) == keys


def test_a_system_record_never_has_more() -> None:
    """Action and metadata of a record that is none of the audit's are not on the wire."""
    data = json.loads(encode_v1(event(action="a", metadata={"k": 1}, attributes={"x": 1}, trace_id="t")))["data"]
    assert list(data) == SYSTEM_KEYS


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(10**30, 10**40)
    | st.floats()
    | st.text()
    | st.binary()
    | st.datetimes(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(
    is_audit=st.booleans(),
    texts=st.tuples(st.text(), st.text(), st.text(), st.text(), st.text()),
    line=st.integers(0, 2**63 - 1),
    timestamp=st.integers(-(10**19), 10**19),
    action=st.just(UNSET) | values,
    metadata=st.just(UNSET) | st.dictionaries(st.text(), values, max_size=5) | values,
)
def test_any_record_is_valid_json_with_exactly_the_keys(
    is_audit: bool, texts: tuple[str, ...], line: int, timestamp: int, action: Any, metadata: Any
) -> None:
    """Whatever its texts and values: UTF-8, the right keys in the right order, the texts unchanged."""
    level, logger, message, module, function = map(safe_text, texts)
    wire = encode_v1(
        event(
            is_audit=is_audit,
            timestamp=timestamp,
            level=level,
            logger=logger,
            message=message,
            module=module,
            function=function,
            line=line,
            action=action if action is UNSET else freeze(action),
            metadata=metadata if metadata is UNSET else freeze(metadata),
        )
    )
    envelope = json.loads(wire.decode("utf-8"), parse_constant=pytest.fail)
    assert list(envelope) == ["type", "data"]
    assert envelope["type"] == ("audit_log" if is_audit else "system_log")
    data = envelope["data"]
    if is_audit:
        present = [key for key, value in (("action", action), ("metadata", metadata)) if value is not UNSET]
        assert list(data) == AUDIT_KEYS[:4] + present
    else:
        assert list(data) == SYSTEM_KEYS
        assert (data["module"], data["function"], data["line"]) == (module, function, line)
    assert (data["level"], data["logger"], data["message"]) == (level, logger, message)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (math.nan, None),
        (math.inf, None),
        (2**63 - 1, 2**63 - 1),
        (2**63, str(2**63)),
        (b"\x00\xff", "AP8="),
        ({"a": [1, {"b": (2,)}]}, {"a": [1, {"b": [2]}]}),
        ("\ud800", "\\ud800"),
    ],
)
def test_values_that_json_has_no_word_for(value: Any, expected: Any) -> None:
    """No NaN, no number that a browser would round beyond 64 bits, bytes as base64."""
    data = json.loads(encode_v1(event(is_audit=True, metadata={"k": freeze(value)})))["data"]
    assert data["metadata"] == {"k": expected}


@given(st.integers(-62_135_596_800 * 10**9, 253_402_300_800 * 10**9 - 1))
def test_a_timestamp_is_utc_cut_to_milliseconds(nanoseconds: int) -> None:
    """As datetime would write it, for every time that it can write."""
    seconds, rest = divmod(nanoseconds, 10**9)
    moment = datetime(1970, 1, 1, tzinfo=UTC) if not seconds else datetime.fromtimestamp(seconds, UTC)
    expected = f"{moment.isoformat().removesuffix('+00:00')}.{rest // 10**6:03d}Z"
    assert format_timestamp(nanoseconds) == expected


@pytest.mark.parametrize(
    ("nanoseconds", "expected"),
    [
        (0, "1970-01-01T00:00:00.000Z"),
        (TIME, "2025-10-08T18:30:45.123Z"),
        (-1, "1969-12-31T23:59:59.999Z"),
        (-(10**30), "0001-01-01T00:00:00.000Z"),
        (10**30, "9999-12-31T23:59:59.999Z"),
    ],
)
def test_times_beyond_the_calendar_are_clamped(nanoseconds: int, expected: str) -> None:
    """Years 1 to 9999."""
    assert format_timestamp(nanoseconds) == expected


def test_version_2_has_all_that_is_known() -> None:
    """Version 1's data, a cursor beside the type, and the richer fields; what is unknown is left out."""
    plain = json.loads(encode_v2(event(), "e:1"))
    assert plain == {
        "type": "system_log",
        "cursor": "e:1",
        "data": {
            "timestamp": "2025-10-08T18:30:45.123Z",
            "level": "INFO",
            "logger": "shop.server",
            "message": "m",
            "severity_number": 9,
        },
    }
    rich = json.loads(
        encode_v2(
            event(
                is_audit=True,
                action="a",
                metadata={"k": 1},
                trace_id="t",
                span_id="s",
                record_id="i",
                event_name="user.login",
                attributes={"audit.actor.id": "u", "audit.target.id": 7, "audit.outcome": "success"},
                resource={"service.name": "shop"},
                exception=ExceptionInfo("ValueError", "x", "trace"),
            ),
            "e:2",
        )
    )
    data = rich["data"]
    assert (rich["type"], rich["cursor"]) == ("audit_log", "e:2")
    assert (data["service"], data["id"], data["actor"], data["target"], data["outcome"]) == (
        "shop",
        "i",
        "u",
        "7",
        "success",
    )
    assert (data["trace_id"], data["span_id"], data["event_name"]) == ("t", "s", "user.login")
    assert data["exception"] == {"type": "ValueError", "message": "x", "stacktrace": "trace"}
