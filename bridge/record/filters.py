"""What a client asked for: filters on records, from a URL query or from the JSON of a ``subscribe`` message.

Pure: no I/O, no clock, no logging, no threads, no OpenTelemetry.  The one piece of module state is a bounded memo of
compiled regular expressions (`bridge.record.patterns`).  Whatever a client sends, the work on a record is bounded:
words and globs take time proportional to the text, and regular expressions run in RE2, with a budget.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from typing import Final, NoReturn
from urllib.parse import urlencode

from bridge.record.attribute_paths import MAX_ATTRIBUTE_DOTS, parse_attr
from bridge.record.conditions import SHOWN_CHARS, Condition, EventTest, FilterError, all_of
from bridge.record.event import LogEvent
from bridge.record.fields import (
    MIN_TRACE_ID_CHARS,
    STREAMS,
    given_severity,
    parse_logger,
    parse_min_severity,
    parse_service,
    parse_streams,
    parse_trace_id,
)
from bridge.record.globs import MAX_WILDCARDS
from bridge.record.patterns import (
    MAX_PATTERN_CHARS,
    MAX_PROGRAM_SIZE,
    REGEX_CACHE_SIZE,
    REGEX_MEMORY,
    REGEX_WORK,
    parse_re,
)
from bridge.record.values import safe_repr
from bridge.record.words import MAX_WORDS, parse_q

__all__ = [
    "FILTER_PARAMETERS",
    "MATCH_ALL",
    "MAX_ATTRIBUTE_DOTS",
    "MAX_PARAMETER_CHARS",
    "MAX_PATTERN_CHARS",
    "MAX_PROGRAM_SIZE",
    "MAX_TOTAL_CHARS",
    "MAX_VALUES",
    "MAX_WILDCARDS",
    "MAX_WORDS",
    "MIN_TRACE_ID_CHARS",
    "REGEX_CACHE_SIZE",
    "REGEX_MEMORY",
    "REGEX_WORK",
    "Filter",
    "FilterError",
    "parse_object",
    "parse_query",
]

MAX_PARAMETER_CHARS: Final = 1_024
"""Characters of one value: more than any name, path or sentence that somebody looks for."""
MAX_TOTAL_CHARS: Final = 8_192
"""Characters of all values together: about what servers take as a URL; each is looked at for every record."""
MAX_VALUES: Final = 32
"""Values of one repeated parameter: each may cost a test for every record."""

# From the values of a parameter to its condition; in this order a record is tested, cheap and selective ones first.
_PARSERS: Final[Mapping[str, Callable[[list[str]], Condition | None]]] = {
    "streams": parse_streams,
    "min_severity": parse_min_severity,
    "trace_id": parse_trace_id,
    "service": parse_service,
    "logger": parse_logger,
    "attr": parse_attr,
    "q": parse_q,
    "re": parse_re,
}
_REPEATABLE: Final = frozenset({"attr", "logger", "service", "streams"})

FILTER_PARAMETERS: Final = frozenset(_PARSERS)
"""The names that :func:`parse_query` and :func:`parse_object` know."""

# What people write when they have not read the list; spelling mistakes are found without.
_OTHER_NAMES: Final = {
    "attribute": "attr",
    "attributes": "attr",
    "level": "min_severity",
    "name": "logger",
    "pattern": "re",
    "query": "q",
    "regex": "re",
    "search": "q",
    "severity": "min_severity",
    "text": "q",
    "type": "streams",
}


class Filter:
    """Which records a client wants to see; immutable, may be shared. Made by `parse_query` and `parse_object`.

    ``key`` is the filter as a query in canonical form, ``""`` if it lets everything through. Filters are equal if
    their keys are: those that select the same records by the same means.
    """

    __slots__ = ("_test", "is_everything", "key", "streams")

    key: str
    streams: frozenset[str]
    """Which of ``"system"`` and ``"audit"`` it lets through; at least one."""
    is_everything: bool
    _test: EventTest

    def __init__(self, key: str, streams: frozenset[str], tests: Sequence[EventTest]) -> None:
        put = object.__setattr__
        put(self, "key", key)
        put(self, "streams", streams)
        put(self, "is_everything", not tests)
        put(self, "_test", all_of(tests))

    def matches(self, event: LogEvent) -> bool:
        """Whether the filter lets the record through. Never raises: what can't be judged is shown, not hidden."""
        try:
            return self._test(event)
        except Exception:
            return True

    def __eq__(self, other: object) -> bool:
        return self.key == other.key if isinstance(other, Filter) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.key)

    def __repr__(self) -> str:
        return f"<Filter {self.key or 'everything'}>"

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"a Filter cannot be changed ({name})")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"a Filter cannot be changed ({name})")


MATCH_ALL: Final = Filter("", STREAMS, ())
"""The filter that lets everything through."""


def parse_query(parameters: Sequence[tuple[str, str]]) -> Filter:
    """The filter of a URL query: decoded names and values, `FILTER_PARAMETERS` only.

    Different parameters must all hold. A name that is not known, a value that means nothing and anything over a
    limit is a FilterError. An empty ``q`` or ``re`` asks for nothing; any other empty value is an error.
    """
    given: dict[str, list[str]] = {}
    total = 0
    for name, value in parameters:
        if name not in FILTER_PARAMETERS:
            raise _unknown(name, value)
        values = given.setdefault(name, [])
        values.append(value)
        if len(values) > 1 and name not in _REPEATABLE:
            raise FilterError(name, value, f"{name} can be given once only", "leave one out")
        if len(values) > MAX_VALUES:
            raise FilterError(
                name, value, f"{name} may be given {MAX_VALUES} times", "use a wildcard, or leave some out"
            )
        total += len(value)
        _check_text(name, value, total)
    return _build(given) if given else MATCH_ALL


def parse_object(value: object) -> Filter:
    """The filter of a ``subscribe`` message: an object with the same names as a query.

    Values are strings; lists of strings for ``streams``, ``logger``, ``service`` and ``attr``; ``min_severity`` may be
    a number. null is the same as leaving it out.
    """
    if not isinstance(value, Mapping):
        raise FilterError(
            "filter", value, f"a filter is an object, not {_kind(value)}", 'write it as {"logger": "app.*"}, {} for all'
        )
    parameters: list[tuple[str, str]] = []
    for name, item in value.items():
        if not isinstance(name, str) or name not in FILTER_PARAMETERS:
            raise _unknown(name if isinstance(name, str) else safe_repr(name, SHOWN_CHARS), item)
        if item is None:
            continue
        if isinstance(item, (list, tuple)):
            if name not in _REPEATABLE:
                raise FilterError(name, item, f"{name} takes one value, not a list", "give a string")
            if not item:
                raise FilterError(name, item, "an empty list asks for nothing", f"leave {name} out to get everything")
            if len(item) > MAX_VALUES:
                raise FilterError(
                    name, item, f"{name} may have {MAX_VALUES} values", "use a wildcard, or leave some out"
                )
            parameters += [(name, _given_text(name, single)) for single in item]
        else:
            parameters.append((name, _given_text(name, item)))
    return parse_query(parameters)


def _build(given: Mapping[str, list[str]]) -> Filter:
    conditions: dict[str, Condition] = {}
    for name, parse in _PARSERS.items():
        condition = parse(given[name]) if name in given else None
        if condition is not None:
            conditions[name] = condition
    if not conditions:
        return MATCH_ALL
    streams = frozenset(conditions["streams"].values) if "streams" in conditions else STREAMS
    key = urlencode([(name, value) for name, condition in conditions.items() for value in condition.values])
    return Filter(key, streams, [condition.test for condition in conditions.values()])


def _given_text(name: str, value: object) -> str:
    if isinstance(value, str):
        return value
    if name == "min_severity" and isinstance(value, int) and not isinstance(value, bool):
        return given_severity(value)
    kind = _kind(value)
    if name == "min_severity":
        raise FilterError(name, value, f"{name} takes a name or a whole number, not {kind}", 'write "WARN" or 13')
    remedy = "put it in quotes" if kind in ("a number", "a truth value") else "give a string"
    raise FilterError(name, value, f"{name} takes text, not {kind}", remedy)


def _kind(value: object) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "a truth value"
    if isinstance(value, (int, float)):
        return "a number"
    if isinstance(value, str):
        return "a string"
    if isinstance(value, (list, tuple)):
        return "a list"
    return "an object" if isinstance(value, Mapping) else type(value).__name__


def _unknown(name: str, value: object) -> FilterError:
    wanted = name[:SHOWN_CHARS].strip().lower()
    known = sorted(FILTER_PARAMETERS)
    near = _OTHER_NAMES.get(wanted) or next(iter(difflib.get_close_matches(wanted, known, 1)), None)
    remedy = f"did you mean {near}?" if near else f"filters are {', '.join(known)}"
    return FilterError(name, value, "no filter has this name", remedy)


def _check_text(name: str, value: str, total: int) -> None:
    if len(value) > MAX_PARAMETER_CHARS:
        raise FilterError(
            name,
            value,
            f"{len(value)} characters, where {MAX_PARAMETER_CHARS} are allowed",
            "shorten it",
            MAX_PARAMETER_CHARS,
        )
    if total > MAX_TOTAL_CHARS:
        raise FilterError(
            name,
            value,
            f"the filter's values have more than {MAX_TOTAL_CHARS} characters together",
            "use wildcards, or leave some out",
        )
    if not value and name not in ("q", "re"):
        raise FilterError(name, value, "an empty value asks for nothing", f"leave {name} out to get everything")
    nul = value.find("\0")
    if nul >= 0:
        raise FilterError(
            name, value, "a NUL character can't be looked for as text", r"leave it out, or use re=\x00", nul
        )
    try:
        value.encode()
    except UnicodeEncodeError as error:
        shown = f"\\u{ord(value[error.start]):04x}"
        raise FilterError(
            name,
            value,
            "half of a surrogate pair is no character",
            f"records have the text {shown} in its place, look for that",
            error.start,
        ) from None
