"""``streams``, ``min_severity``, ``trace_id``, ``service`` and ``logger``: conditions on one field of a record."""

from __future__ import annotations

from typing import Final

from bridge.record.attributes import SERVICE_NAME
from bridge.record.conditions import Condition, FilterError
from bridge.record.event import LogEvent
from bridge.record.globs import TextTest, canonical_glob, glob_test
from bridge.record.severity import severity_number
from bridge.record.texts import scalar_text

__all__ = [
    "MIN_TRACE_ID_CHARS",
    "STREAMS",
    "given_severity",
    "parse_logger",
    "parse_min_severity",
    "parse_service",
    "parse_streams",
    "parse_trace_id",
]

STREAMS: Final = frozenset({"audit", "system"})

MIN_TRACE_ID_CHARS: Final = 4
"""Hexadecimal digits of a trace id's beginning: fewer would match by chance."""
_TRACE_ID_CHARS: Final = 32
_HEX: Final = frozenset("0123456789abcdef")

_SEVERITIES: Final = {
    f"{name}{suffix}": first + step
    for name, first in {"TRACE": 1, "DEBUG": 5, "INFO": 9, "WARN": 13, "ERROR": 17, "FATAL": 21}.items()
    for suffix, step in (("", 0), ("1", 0), ("2", 1), ("3", 2), ("4", 3))
} | {"CRITICAL": 21, "NOTSET": 0, "UNSPECIFIED": 0, "WARNING": 13}
_HIGHEST_SEVERITY: Final = 24


def parse_streams(given: list[str]) -> Condition | None:
    """Any of the streams, which may stand in one value with commas between them."""
    found = set()
    for value in given:
        position = 0
        for item in value.split(","):
            name = item.strip().lower()
            if name not in STREAMS:
                rule = "streams are system and audit"
                raise FilterError("streams", value, rule, "write streams=audit for one of them", position)
            found.add(name)
            position += len(item) + 1
    if found == STREAMS:
        return None
    if "audit" in found:
        return Condition(["audit"], lambda event: event.is_audit)
    return Condition(["system"], lambda event: not event.is_audit)


def parse_min_severity(given: list[str]) -> Condition | None:
    """A severity of this name or number, or a higher one."""
    value = given[0]
    text = value.strip().upper()
    lowest = _SEVERITIES.get(text)
    if lowest is None:
        if not (text.isascii() and text.isdigit()):
            raise _not_a_severity(value)
        lowest = int(text)
        if lowest > _HIGHEST_SEVERITY:
            raise _not_a_severity(value, lowest)
    if lowest == 0:
        return None

    def test(event: LogEvent) -> bool:
        severity = event.severity_number
        # A sender may have given a name and no number: then the name counts.
        return severity >= lowest or (severity == 0 and _SEVERITIES.get(event.level.upper(), 0) >= lowest)

    return Condition([str(lowest)], test)


def given_severity(number: int) -> str:
    """``min_severity`` given as a number, as a query has it."""
    if not 0 <= number <= _HIGHEST_SEVERITY:
        raise _not_a_severity(number, number)
    return str(number)


def _not_a_severity(value: object, number: int | None = None) -> FilterError:
    remedy = "use one like WARN, ERROR or 13"
    if number in (30, 40, 50):
        remedy = f"Python's level {number} is {severity_number(number)} here"
    return FilterError(
        "min_severity",
        value,
        f"severities are TRACE, DEBUG, INFO, WARN, ERROR, FATAL (TRACE2 … FATAL4) or 0 to {_HIGHEST_SEVERITY}",
        remedy,
    )


def parse_trace_id(given: list[str]) -> Condition:
    """A trace id, or how it begins."""
    value = given[0]
    prefix = value.strip().lower()
    start = len(value) - len(value.lstrip())
    rule = f"a trace id is {_TRACE_ID_CHARS} hexadecimal digits, or the first {MIN_TRACE_ID_CHARS} or more of them"
    for position, character in enumerate(prefix, start):
        if character not in _HEX:
            raise FilterError("trace_id", value, rule, f"take out {character!r}", position)
    if len(prefix) > _TRACE_ID_CHARS:
        raise FilterError("trace_id", value, rule, f"shorten it: it has {len(prefix)}", start + _TRACE_ID_CHARS)
    if len(prefix) < MIN_TRACE_ID_CHARS:
        raise FilterError("trace_id", value, rule, "give more of them")
    if len(prefix) == _TRACE_ID_CHARS:
        return Condition([prefix], lambda event: event.trace_id == prefix)
    return Condition([prefix], lambda event: event.trace_id.startswith(prefix))


def parse_service(given: list[str]) -> Condition:
    """Any of these names, exactly."""
    names = frozenset(given)

    def test(event: LogEvent) -> bool:
        service = event.resource.get(SERVICE_NAME)
        return service is not None and scalar_text(service) in names

    return Condition(sorted(names), test)


def parse_logger(given: list[str]) -> Condition | None:
    """Any of these globs; a name without wildcards covers the loggers below it too."""
    globs = sorted({canonical_glob("logger", value, value) for value in given})
    if "*" in globs:
        return None
    exact = set()
    beginnings = []
    others: list[TextTest] = []
    for glob in globs:
        stem = glob.removesuffix("*")
        if "*" in stem or "?" in stem:
            others.append(glob_test(glob))
        elif stem != glob:
            beginnings.append(stem)
        else:
            exact.add(glob)
            beginnings.append(glob + ".")
    starts = tuple(beginnings)

    def test(event: LogEvent) -> bool:
        name = event.logger
        if name in exact or name.startswith(starts):
            return True
        for other in others:  # a loop is quicker than any()
            if other(name):
                return True
        return False

    return Condition(globs, test)
