"""What is special to OTLP in JSON: forms that senders use, and what a wrong record costs."""

import json
import math
from typing import Any

import pytest

from bridge.receive.decode_json import decode_json, encode_json_success
from bridge.receive.records import Decoded, Malformed, Origins
from bridge.record.event import LogEvent
from tests.receiving import builder

TRACE = "0123456789ABCDEF0123456789abcdef"


def decode(body: bytes) -> Decoded:
    made_by = builder()
    return decode_json(body, made_by, Origins(made_by), arrived=99, peer="")


def tree(*records: Any, **scope: Any) -> bytes:
    return json.dumps({"resourceLogs": [{"scopeLogs": [{"scope": scope, "logRecords": records}]}]}).encode()


def event(**record: Any) -> LogEvent:
    decoded = decode(tree(record))
    assert (decoded.rejected, decoded.problem) == (0, "")
    return decoded.events[0]


def problem(*records: Any) -> str:
    """What is said of the one record among these that can't be read."""
    decoded = decode(tree(*records))
    assert (decoded.rejected, len(decoded.events)) == (1, len(records) - 1)
    return decoded.problem


def value(**given: Any) -> Any:
    return event(attributes=[{"key": "k", "value": given}]).attributes["k"]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("1759948245123456789", 1_759_948_245_123_456_789),
        (1_759_948_245_123_456_789, 1_759_948_245_123_456_789),
        (1.7e18, 1_700_000_000_000_000_000),
        ("1.7e18", 1_700_000_000_000_000_000),
        ("17", 17),
        (None, 99),
        ("0", 99),
        (0, 99),
        ("-5", 0),
        (-5, 0),
        (2**70, 2**63 - 1),
        ("1e300", 2**63 - 1),
    ],
)
def test_times(given: Any, expected: int) -> None:
    """A time may come as text, integer or double; what is unset is the time of arrival, and all are clamped."""
    assert event(timeUnixNano=given).timestamp == expected


@pytest.mark.parametrize("given", ["", "now", "--5", "1" * 64, "NaN", "Infinity", [], {}, True, "0x10"])
def test_not_a_time(given: Any) -> None:
    """Anything else costs the record, and says what came."""
    assert "timeUnixNano must be an integer" in problem({"timeUnixNano": given})


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (None, 0),
        (9, 9),
        ("9", 9),
        (9.0, 9),
        ("SEVERITY_NUMBER_INFO", 9),
        ("SEVERITY_NUMBER_INFO2", 10),
        ("SEVERITY_NUMBER_INFO4", 12),
        ("SEVERITY_NUMBER_FATAL4", 24),
        ("SEVERITY_NUMBER_TRACE", 1),
        ("SEVERITY_NUMBER_UNSPECIFIED", 0),
        (-3, -3),
        (2**40, 2**31 - 1),
        (-(2**40), -(2**31)),
    ],
)
def test_severities(given: Any, expected: int) -> None:
    """A severity is a number or protobuf's name of it."""
    assert event(severityNumber=given).severity_number == expected


@pytest.mark.parametrize("given", ["INFO", "SEVERITY_NUMBER_INFO1", "severity_number_info", []])
def test_not_a_severity(given: Any) -> None:
    """Other words are no severity."""
    assert "severityNumber must be an integer" in problem({"severityNumber": given})


def test_ids() -> None:
    """Ids are hexadecimal in any case; of a wrong length, or all zero, they count as none."""
    assert event(traceId=TRACE, spanId=TRACE[:16]).trace_id == TRACE.lower()
    assert event(spanId=TRACE[:16]).span_id == TRACE[:16].lower()
    for given in (None, "", "00", "0" * 32, TRACE[:30], TRACE + "00"):
        assert event(traceId=given).trace_id == ""


@pytest.mark.parametrize("given", ["xyz", "ABC", "AAECAwQFBgcICQoLDA0ODw==", TRACE[:-1] + "\u0661", 7])
def test_ids_that_are_not_hexadecimal(given: Any) -> None:
    """Base64, which protobuf's own JSON has, is no id."""
    assert "traceId must be" in problem({"traceId": given})


@pytest.mark.parametrize(
    ("kind", "given", "expected"),
    [
        ("stringValue", "a", "a"),
        ("stringValue", "", ""),
        ("intValue", "7", 7),
        ("intValue", 7, 7),
        ("intValue", 7.0, 7),
        ("intValue", "9223372036854775807", 2**63 - 1),
        ("intValue", "9223372036854775808", "9223372036854775808"),
        ("intValue", 2**70, str(2**70)),
        ("doubleValue", 1, 1.0),
        ("doubleValue", 1.5, 1.5),
        ("doubleValue", "1.5", 1.5),
        ("doubleValue", "Infinity", math.inf),
        ("doubleValue", "-Infinity", -math.inf),
        ("doubleValue", 10**400, math.inf),
        ("doubleValue", -(10**400), -math.inf),
        ("boolValue", False, False),
        ("boolValue", True, True),
        ("bytesValue", "", b""),
        ("bytesValue", "AP8=", b"\x00\xff"),
        ("bytesValue", "AP8", b"\x00\xff"),
        ("bytesValue", "_-8=", b"\xff\xef"),
        ("arrayValue", {}, ()),
        ("arrayValue", {"values": None}, ()),
        ("arrayValue", {"values": [None, {}, {"intValue": 1}]}, (None, None, 1)),
        ("kvlistValue", {}, {}),
        ("kvlistValue", {"values": [{}, {"key": "a", "value": {"boolValue": True}}]}, {"": None, "a": True}),
        ("laterValue", 5, None),
    ],
)
def test_values(kind: str, given: Any, expected: Any) -> None:
    """Every kind of value, in all the forms that it comes in."""
    found = value(**{kind: given})
    assert (found, type(found)) == (expected, type(expected))


def test_which_kind_counts() -> None:
    """A kind that is null is none; no value, or none of a known kind, is null."""
    assert value(stringValue=None, intValue="3") == 3
    assert event(attributes=[{"key": "k", "value": None}, {"key": "l"}]).attributes == {"k": None, "l": None}
    assert event(attributes=None).attributes == {}
    found = value(doubleValue="NaN")
    assert math.isnan(found)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"stringValue": 5}, "stringValue must be a text, not 5"),
        ({"intValue": "x"}, "intValue must be an integer"),
        ({"intValue": True}, "intValue must be an integer"),
        ({"doubleValue": "x"}, "doubleValue must be a number"),
        ({"doubleValue": True}, "doubleValue must be a number"),
        ({"doubleValue": []}, "doubleValue must be a number"),
        ({"boolValue": 1}, "boolValue must be true or false"),
        ({"bytesValue": "a"}, "bytesValue must be base64"),
        ({"bytesValue": "!!!!"}, "bytesValue must be base64"),
        ({"bytesValue": "\u00e4bcd"}, "bytesValue must be base64"),
        ({"arrayValue": []}, "arrayValue must hold objects"),
        ({"arrayValue": {"values": {}}}, "values must be an array"),
        ({"arrayValue": {"values": [5]}}, "body must be an AnyValue"),
        ({"kvlistValue": {"values": [5]}}, "body must hold objects"),
        ({"kvlistValue": {"values": [{"key": 5}]}}, "key must be a text"),
        ("text", 'body must be an AnyValue, such as {"stringValue": …}, not "text"'),
        (["x" * 100], "…"),
    ],
)
def test_not_a_value(given: Any, words: str) -> None:
    """A wrong value costs its record, and is named with its place and shown in short."""
    said = problem({"body": {"stringValue": "a"}}, {"body": given}, {"body": {"stringValue": "c"}})
    assert said.startswith("logRecords[1]: ")
    assert words in said
    assert len(said) < 160


@pytest.mark.parametrize(
    ("record", "words"),
    [
        (7, "logRecords must hold objects, not 7"),
        ({"severityText": 1}, "severityText must be a text"),
        ({"eventName": []}, "eventName must be a text"),
        ({"flags": "x"}, "flags must be an integer"),
        ({"droppedAttributesCount": {}}, "droppedAttributesCount must be an integer"),
        ({"attributes": {}}, "attributes must be an array"),
        ({"attributes": [1]}, "attributes must hold objects"),
    ],
)
def test_wrong_records(record: Any, words: str) -> None:
    """One wrong record costs that record alone; of several the first is told."""
    decoded = decode(tree({}, record, {"body": 5}, {}))
    assert (len(decoded.events), decoded.rejected) == (2, 2)
    assert decoded.problem.startswith(f"logRecords[1]: {words}")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"{} {}",
        b"\xff",
        b'{"a":"\xff"}',
        b"\xef\xbb\xbf{}",
        b"[" * 100_000,
        b'{"resourceLogs":' + b"[" * 100_000,
        b'{"a":' * 50_000,
        b"[]",
        b"7",
        b'{"resourceLogs":[{"scopeLogs":[{"logRecords":[{"timeUnixNano":1e999}]}]}]}',
        b'{"resourceLogs":[{"scopeLogs":[{"logRecords":[{"timeUnixNano":' + b"9" * 5_000 + b"}]}]}]}",
        b'{"resourceLogs":{}}',
        b'{"resourceLogs":[7]}',
        b'{"resourceLogs":[{"resource":7}]}',
        b'{"resourceLogs":[{"resource":{"attributes":7}}]}',
        b'{"resourceLogs":[{"scopeLogs":7}]}',
        b'{"resourceLogs":[{"scopeLogs":[7]}]}',
        b'{"resourceLogs":[{"scopeLogs":[{"scope":7}]}]}',
        b'{"resourceLogs":[{"scopeLogs":[{"scope":{"name":7}}]}]}',
        b'{"resourceLogs":[{"scopeLogs":[{"scope":{"version":7}}]}]}',
        b'{"resourceLogs":[{"scopeLogs":[{"logRecords":{}}]}]}',
    ],
    ids=lambda body: body[:60].decode("latin-1"),
)
def test_not_a_request(body: bytes) -> None:
    """What is no JSON, or wrong above its records, is malformed as a whole."""
    with pytest.raises(Malformed) as caught:
        decode(body)
    assert len(str(caught.value)) < 250


@pytest.mark.parametrize("body", [b"{}", b"null", b'{"resourceLogs":null}', b'{"resourceLogs":[null,{}]}'])
def test_nothing_in_it(body: bytes) -> None:
    """null is as good as nothing, in every place."""
    assert decode(body).events == []


def test_scopes() -> None:
    """A scope without a version has none among the attributes."""
    found = decode(tree({}, name="a", attributes=[{"key": "k", "value": {"intValue": 1}}])).events[0]
    assert (found.logger, found.attributes) == ("a", {"otel.scope.k": 1})


def test_answers() -> None:
    """All taken is an empty object; else it says how many not, as a text, and why."""
    assert encode_json_success(0, "") == b"{}"
    assert json.loads(encode_json_success(2, "bad")) == {
        "partialSuccess": {"rejectedLogRecords": "2", "errorMessage": "bad"}
    }


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (rb"\ud800", r"\ud800"),
        (rb"a\udFFFz", r"a\udFFFz"),
        (rb"\ud83d\ude00\ud83d", "\N{GRINNING FACE}" + r"\ud83d"),
        (rb"\\ud800\ud800", r"\ud800\ud800"),
    ],
)
def test_half_a_character(text: bytes, shown: str) -> None:
    """A lone surrogate, as JavaScript writes half a character, is shown as its escape, and costs nobody the request."""
    body = b'{"resourceLogs":[{"scopeLogs":[{"logRecords":[{"body":{"stringValue":"' + text + b'"}}]}]}]}'
    (event,) = decode(body).events
    assert event.message == shown
