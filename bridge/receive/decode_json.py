"""OTLP in JSON → events.

Not protobuf's own JSON: OTLP has ids in hex and not in base64, and senders differ in what they write for 64-bit
integers (texts by the specification, numbers and even ``1.7e18`` in practice). What is no OTLP in one record costs
that record alone. Source: "OTLP/HTTP, JSON Protobuf Encoding" of the OpenTelemetry protocol specification.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Iterator
from typing import Any, Final

import msgspec

from bridge.receive.records import (
    MAX_ATTRIBUTES,
    MAX_DEPTH,
    Budget,
    Decoded,
    Malformed,
    Origins,
    by_time,
    check_numbers,
    clamp_time,
)
from bridge.record import attributes as names
from bridge.record.event import LogEvent
from bridge.record.received import EventBuilder
from bridge.record.values import DEPTH_LIMIT, INT64_MAX, INT64_MIN, MORE_KEY, AnyValue

__all__ = ["decode_json", "encode_json_success", "parse_json"]

# Enums are numbers in OTLP/JSON; their names, as protobuf's own JSON has them, are read as well.
_SEVERITIES: Final = {
    f"SEVERITY_NUMBER_{name}{suffix or ''}": first + max(suffix - 1, 0)
    for name, first in (("TRACE", 1), ("DEBUG", 5), ("INFO", 9), ("WARN", 13), ("ERROR", 17), ("FATAL", 21))
    for suffix in (0, 2, 3, 4)
}


def decode_json(body: bytes, builder: EventBuilder, origins: Origins, *, arrived: int, peer: str) -> Decoded:
    """The records of an ``ExportLogsServiceRequest``. ``arrived`` is now, in ns, for records that bring no time.

    Raises :class:`Malformed` if it is none, and :class:`~bridge.receive.records.TooMany`.
    """
    request = parse_json(body)
    large = len(body) > builder.text_chars
    resources = _list(_object(request, "the request"), "resourceLogs")
    check_numbers(_numbers(resources))
    tree = [
        (
            resource,
            [(scope, _list(scope, "logRecords")) for scope in map(_scope_logs, _list(resource, "scopeLogs"))],
        )
        for resource in map(_resource_logs, resources)
    ]
    budget = Budget()
    events: list[LogEvent] = []
    rejected = 0
    problem = ""
    for resource_logs, scopes in tree:
        told = _object(resource_logs.get("resource"), "resource")
        origin = origins.find(
            b"json" + msgspec.json.encode(told),
            lambda told=told: _attributes(told, "resource", budget),  # type: ignore[misc]
        )
        start = len(events)
        for scope_logs, records in scopes:
            scope = _object(scope_logs.get("scope"), "scope")
            logger = _text(scope, "name")
            about_scope = _scope_attributes(scope, budget)
            for index, record in enumerate(records):
                try:
                    record = _object(record, "logRecords")
                    attributes = _attributes(record, "attributes", budget)
                    if about_scope:
                        attributes = about_scope | attributes
                    dropped = _integer(record, "droppedAttributesCount")
                    if dropped:
                        attributes[names.DROPPED_ATTRIBUTES] = dropped
                    observed = _integer(record, "observedTimeUnixNano") or arrived
                    events.append(
                        builder.build(
                            timestamp=clamp_time(_integer(record, "timeUnixNano") or observed),
                            observed=clamp_time(observed),
                            number=_severity(record.get("severityNumber")),
                            severity_text=_text(record, "severityText"),
                            logger=logger,
                            body=_value(record.get("body"), "body", 1, budget),
                            attributes=attributes,
                            event_name=_text(record, "eventName"),
                            trace_id=_hex(record, "traceId", 32),
                            span_id=_hex(record, "spanId", 16),
                            trace_flags=_integer(record, "flags") & 0xFF,
                            resource=origin.resource,
                            peer=peer,
                            may_audit=origin.may_audit,
                            large=large,
                        )
                    )
                except Exception as error:
                    rejected += 1
                    problem = problem or f"logRecords[{index}]: {error}"
        if len(scopes) > 1:
            by_time(events, start)
    return Decoded(events, rejected, problem)


def parse_json(body: bytes) -> Any:
    """JSON, or :class:`Malformed`.

    JavaScript cuts texts where it likes, and writes half a character as ``\\ud83d`` alone. It becomes those six
    characters, rather than cost the whole request.
    """
    try:
        try:
            return msgspec.json.decode(body)
        except msgspec.DecodeError:
            if not _LONE.search(body):
                raise
            return msgspec.json.decode(_keep_lone_surrogates(body))
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Malformed(f"not JSON: {error}") from None
    except RecursionError:
        raise Malformed("JSON nested too deeply") from None


# Half a character, or the first half of a whole one.
_LONE: Final = re.compile(rb"\\u[dD][89a-fA-F][0-9a-fA-F]{2}")
# All else, escapes as a whole: what follows an escaped backslash is none.
_SOUND: Final = re.compile(
    rb"(?:[^\\]++|\\[^u]|\\u(?![dD][89a-fA-F])|\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2})*+",
    re.DOTALL,
)


def _keep_lone_surrogates(body: bytes) -> bytes:
    """With a second backslash before each escape of half a character. In one pass, whatever the body is."""
    parts: list[bytes] = []
    position = 0
    while position < len(body):
        sound = _SOUND.match(body, position)
        end = sound.end() if sound is not None else position
        parts.append(body[position:end])
        lone = _LONE.match(body, end)
        # Without one it is a backslash that escapes nothing: no JSON, and not ours to mend.
        after = lone.end() if lone is not None else end + 1
        parts.append(b"\\" + body[end:after] if lone is not None else body[end:after])
        position = after
    return b"".join(parts)


def _resource_logs(value: Any) -> dict[str, Any]:
    return _object(value, "resourceLogs")


def _scope_logs(value: Any) -> dict[str, Any]:
    return _object(value, "scopeLogs")


def _numbers(resources: list[Any]) -> Iterator[int]:
    yield len(resources)
    scopes = [_list(_resource_logs(resource), "scopeLogs") for resource in resources]
    yield sum(map(len, scopes))
    yield sum(len(_list(_scope_logs(scope), "logRecords")) for some in scopes for scope in some)


def _object(value: Any, where: str) -> dict[str, Any]:
    if value is None:
        return {}
    if type(value) is not dict:
        raise Malformed(f"{where} must hold objects, not {_shown(value)}")
    return value


def _list(holder: dict[str, Any], key: str) -> list[Any]:
    value = holder.get(key)
    if value is None:
        return []
    if type(value) is not list:
        raise Malformed(f"{key} must be an array, not {_shown(value)}")
    return value


def _text(holder: dict[str, Any], key: str) -> str:
    value = holder.get(key)
    if value is None:
        return ""
    if type(value) is not str:
        raise Malformed(f"{key} must be a text, not {_shown(value)}")
    return value


def _integer(holder: dict[str, Any], key: str) -> int:
    value = holder.get(key)
    return 0 if value is None else _as_integer(value, key)


def _as_integer(value: Any, key: str) -> int:
    if type(value) is int:
        return value
    try:
        if type(value) is str and len(value) < 64:
            return int(value) if value.lstrip("-").isdecimal() else int(float(value))
        if type(value) is float:
            return int(value)
    except (ValueError, OverflowError):  # infinite, or not a number at all
        pass
    raise Malformed(f"{key} must be an integer, as a text or a number, not {_shown(value)}")


def _severity(value: Any) -> int:
    if value is None:
        return 0
    number = _SEVERITIES.get(value) if type(value) is str else None
    if number is None:
        number = 0 if value == "SEVERITY_NUMBER_UNSPECIFIED" else _as_integer(value, "severityNumber")
    # An enum is an int32 on the wire; what is no severity shows as it came.
    return max(-(2**31), min(number, 2**31 - 1))


def _hex(holder: dict[str, Any], key: str, length: int) -> str:
    """An id in lower-case hex; ``""`` for none, or for one that is all zero or of another length, as in protobuf."""
    text = _text(holder, key)
    if not text:
        return ""
    try:
        binascii.unhexlify(text)
    except ValueError:
        raise Malformed(f"{key} must be hexadecimal, not {_shown(text)}") from None
    return text.lower() if len(text) == length and text.strip("0") else ""


def _scope_attributes(scope: dict[str, Any], budget: Budget) -> dict[str, AnyValue]:
    found: dict[str, AnyValue] = {}
    version = _text(scope, "version")
    if version:
        found[names.SCOPE_VERSION] = version
    for key, value in _attributes(scope, "scope", budget).items():
        found[names.SCOPE_PREFIX + key] = value
    return found


def _attributes(holder: dict[str, Any], where: str, budget: Budget) -> dict[str, AnyValue]:
    pairs = _list(holder, "attributes")
    found: dict[str, AnyValue] = {}
    if len(pairs) > MAX_ATTRIBUTES:
        found[MORE_KEY] = f"(+{len(pairs) - MAX_ATTRIBUTES} more)"
        pairs = pairs[:MAX_ATTRIBUTES]
    return _pairs(pairs, where, 1, budget, found)


def _pairs(pairs: list[Any], where: str, depth: int, budget: Budget, found: dict[str, AnyValue]) -> dict[str, AnyValue]:
    for pair in pairs:
        pair = _object(pair, where)
        key = _text(pair, "key")
        value = pair.get("value")
        # Most are texts.
        text = value.get("stringValue") if type(value) is dict else None
        found[key] = text if type(text) is str else _value(value, key, depth, budget)
    return found


def _value(value: Any, where: str, depth: int, budget: Budget) -> AnyValue:
    """An AnyValue. Unknown keys are left out of account, as the specification asks."""
    if value is None:
        return None
    if type(value) is not dict:
        raise Malformed(f'{where} must be an AnyValue, such as {{"stringValue": …}}, not {_shown(value)}')
    for kind, given in value.items():
        if given is None:
            continue
        if kind == "stringValue":
            return _text(value, kind)
        if kind == "intValue":
            number = _as_integer(given, kind)
            return number if INT64_MIN <= number <= INT64_MAX else str(number)
        if kind == "doubleValue":
            return _double(given)
        if kind == "boolValue":
            if type(given) is not bool:
                raise Malformed(f"boolValue must be true or false, not {_shown(given)}")
            return given
        if kind == "bytesValue":
            return _bytes(_text(value, kind))
        if kind == "arrayValue":
            if depth >= MAX_DEPTH:
                return DEPTH_LIMIT
            items = _list(_object(given, kind), "values")
            room = budget.take(len(items))
            more = () if room == len(items) else (f"{MORE_KEY}(+{len(items) - room} more)",)
            return (*[_value(each, where, depth + 1, budget) for each in items[:room]], *more)
        if kind == "kvlistValue":
            if depth >= MAX_DEPTH:
                return DEPTH_LIMIT
            pairs = _list(_object(given, kind), "values")
            room = budget.take(len(pairs))
            found = _pairs(pairs[:room], where, depth + 1, budget, {})
            if room < len(pairs):
                found[MORE_KEY] = f"(+{len(pairs) - room} more)"
            return found
    return None


def _double(given: Any) -> float:
    if type(given) in (int, float):
        try:
            return float(given)
        except OverflowError:
            return float("inf") if given > 0 else float("-inf")
    if type(given) is str:
        try:
            return float(given.strip())  # "NaN", "Infinity" and "-Infinity", as protobuf's JSON writes them
        except ValueError:
            pass
    raise Malformed(f"doubleValue must be a number, not {_shown(given)}")


def _bytes(text: str) -> bytes:
    # Both alphabets, with and without padding, as protobuf's JSON reads them.
    try:
        return base64.b64decode(text.replace("-", "+").replace("_", "/") + "=" * (-len(text) % 4), validate=True)
    except ValueError:
        raise Malformed(f"bytesValue must be base64, not {_shown(text)}") from None


def _shown(value: Any) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= 60 else text[:60] + "…"


def encode_json_success(rejected: int, problem: str) -> bytes:
    """An ``ExportLogsServiceResponse`` in JSON; 64-bit integers are texts there."""
    if not rejected and not problem:
        return b"{}"
    return msgspec.json.encode({"partialSuccess": {"rejectedLogRecords": str(rejected), "errorMessage": problem}})
