"""What a client asked for: filters on records, from a URL query or from the JSON of a ``subscribe`` message.

Pure: no I/O, no clock, no logging, no threads, no OpenTelemetry.  The one piece of module state is a bounded memo of
compiled regular expressions.  Whatever a client sends, the work on a record is bounded: words and globs take time
proportional to the text, and regular expressions run in RE2, with a budget.
"""

from __future__ import annotations

import difflib
import importlib
from binascii import b2a_base64
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any, Final, NamedTuple, NoReturn, TypeAlias
from urllib.parse import urlencode

from bridge.errors import BridgeError
from bridge.record.attributes import AUDIT_ACTOR_ID, AUDIT_RECORD_ID, AUDIT_SOURCE_ID, AUDIT_TARGET_ID, SERVICE_NAME
from bridge.record.event import UNSET, LogEvent
from bridge.record.severity import severity_number
from bridge.record.values import AnyValue, safe_repr

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
MAX_WORDS: Final = 16
"""Words and phrases in ``q``: each is one more pass over the record's text."""
MAX_WILDCARDS: Final = 16
"""``*`` and runs of ``?`` in one glob: each ``*`` may be one more search."""
MAX_ATTRIBUTE_DOTS: Final = 16
"""Dots in an attribute's key: each may be a step into a nested map; records nest no deeper than eight."""
MIN_TRACE_ID_CHARS: Final = 4
"""Hexadecimal digits of a trace id's beginning: fewer would match by chance."""
MAX_PATTERN_CHARS: Final = 512
"""Characters of a regular expression: bounds parsing, which comes before RE2's own limits."""
MAX_PROGRAM_SIZE: Final = 1_500
"""RE2 instructions of a compiled expression: some 40 for an ordinary one, 1,200 for a Unicode class (``\\pL``)."""
REGEX_MEMORY: Final = 1 << 20
"""Bytes that RE2 may use for one expression; a compilation that fails at this bound has taken 7 ms.

The package keeps the last 128 expressions whatever we do, so that this is 128 MiB at the very worst.
"""
REGEX_CACHE_SIZE: Final = 64
"""Expressions (refused ones too) kept compiled: clients that reconnect bring the same ones."""
REGEX_WORK: Final = 25_000_000
"""Instructions times bytes spent on one record: at RE2's slowest, 10 ns each, a quarter of a second.

An ordinary expression sees the first 600 KB of a record's texts with it, the largest allowed the first 16 KB.
"""

_STREAMS: Final = frozenset({"audit", "system"})
_REPEATABLE: Final = frozenset({"attr", "logger", "service", "streams"})

FILTER_PARAMETERS: Final = _REPEATABLE | {"min_severity", "q", "re", "trace_id"}
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

_SEVERITIES: Final = {
    f"{name}{suffix}": first + step
    for name, first in {"TRACE": 1, "DEBUG": 5, "INFO": 9, "WARN": 13, "ERROR": 17, "FATAL": 21}.items()
    for suffix, step in (("", 0), ("1", 0), ("2", 1), ("3", 2), ("4", 3))
} | {"CRITICAL": 21, "NOTSET": 0, "UNSPECIFIED": 0, "WARNING": 13}
_HIGHEST_SEVERITY: Final = 24

# Names of the record on the wire whose attribute is not simply "audit." and the name.
_IDS: Final = {
    "actor": AUDIT_ACTOR_ID,
    "id": AUDIT_RECORD_ID,
    "source": AUDIT_SOURCE_ID,
    "target": AUDIT_TARGET_ID,
}

_HEX: Final = frozenset("0123456789abcdef")
_SHOWN_CHARS: Final = 60
_EXTRA: Final = "pip install 'otel-audit-bridge[server]'"

_Test: TypeAlias = Callable[[LogEvent], bool]
_TextTest: TypeAlias = Callable[[str], bool]
_ValueTest: TypeAlias = Callable[[AnyValue], bool]


class FilterError(BridgeError, ValueError):
    """A filter can't be used as it was given.

    Attributes: ``parameter``, ``value`` (as given), ``position`` (of the character at fault in a text, counted from 0;
    None if there is no such place), ``rule`` (what is wrong, or allowed), ``remedy``.
    """

    def __init__(self, parameter: str, value: object, rule: str, remedy: str, position: int | None = None) -> None:
        super().__init__(parameter, value, rule, remedy, position)
        self.parameter = parameter
        self.value = value
        self.rule = rule
        self.remedy = remedy
        self.position = position

    def __str__(self) -> str:
        name = self.parameter if self.parameter.isprintable() else ascii(self.parameter)[1:-1]
        name = name if len(name) <= 40 else name[:40] + "…"
        where = "" if self.position is None else f" at position {self.position}"
        return f"{name}={_excerpt(self.value, self.position or 0)}{where}: {self.rule}; {self.remedy}"


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
    _test: _Test

    def __init__(self, key: str, streams: frozenset[str], tests: Sequence[_Test]) -> None:
        put = object.__setattr__
        put(self, "key", key)
        put(self, "streams", streams)
        put(self, "is_everything", not tests)
        put(self, "_test", _all_of(tests))

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
            raise _unknown(name if isinstance(name, str) else safe_repr(name, _SHOWN_CHARS), item)
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


# -- what was given --


def _given_text(name: str, value: object) -> str:
    if isinstance(value, str):
        return value
    if name == "min_severity" and isinstance(value, int) and not isinstance(value, bool):
        if not 0 <= value <= _HIGHEST_SEVERITY:
            raise _not_a_severity(value, value)
        return str(value)
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
    wanted = name[:_SHOWN_CHARS].strip().lower()
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


def _excerpt(value: object, position: int) -> str:
    """The value as Python shows it, on one line; of a long one what is around the position."""
    if not isinstance(value, str):
        return safe_repr(value, _SHOWN_CHARS)
    start = max(0, position - _SHOWN_CHARS // 2) if position >= _SHOWN_CHARS else 0
    end = start + _SHOWN_CHARS
    return f"{'…' if start else ''}{value[start:end]!r}{'…' if end < len(value) else ''}"


# -- parameters to tests: each function gives the canonical values, and the test if they restrict anything --


def _build(given: Mapping[str, list[str]]) -> Filter:
    parts: list[tuple[str, list[str]]] = []
    tests: list[_Test] = []
    streams = _STREAMS
    # The cheap and selective ones first.
    for name, parse in _PARSERS.items():
        if name in given:
            values, test = parse(given[name])
            if test is not None:
                parts.append((name, values))
                tests.append(test)
                if name == "streams":
                    streams = frozenset(values)
    if not tests:
        return MATCH_ALL
    return Filter(urlencode([(name, value) for name, values in parts for value in values]), streams, tests)


def _all_of(tests: Sequence[_Test]) -> _Test:
    if not tests:
        return _everything
    first, *others = tests
    if not others:
        return first
    rest = _all_of(others)
    return lambda event: first(event) and rest(event)


def _everything(event: LogEvent) -> bool:
    return True


_Parsed: TypeAlias = tuple[list[str], "_Test | None"]


def _parse_streams(given: list[str]) -> _Parsed:
    found = set()
    for value in given:
        position = 0
        for item in value.split(","):
            name = item.strip().lower()
            if name not in _STREAMS:
                raise FilterError(
                    "streams", value, "streams are system and audit", "write streams=audit for one of them", position
                )
            found.add(name)
            position += len(item) + 1
    if found == _STREAMS:
        return [], None
    return sorted(found), (lambda event: event.is_audit) if "audit" in found else (lambda event: not event.is_audit)


def _parse_min_severity(given: list[str]) -> _Parsed:
    value = given[0]
    text = value.strip().upper()
    number = _SEVERITIES.get(text)
    if number is None:
        if not (text.isascii() and text.isdigit()):
            raise _not_a_severity(value)
        number = int(text) if len(text) <= 9 else 10**9
        if number > _HIGHEST_SEVERITY:
            raise _not_a_severity(value, number)
    if number == 0:
        return [], None
    lowest = number

    def test(event: LogEvent) -> bool:
        severity = event.severity_number
        # A sender may have given a name and no number: then the name counts.
        return severity >= lowest or (severity == 0 and _SEVERITIES.get(event.level.upper(), 0) >= lowest)

    return [str(lowest)], test


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


def _parse_trace_id(given: list[str]) -> _Parsed:
    value = given[0]
    prefix = value.strip().lower()
    start = len(value) - len(value.lstrip())
    rule = f"a trace id is 32 hexadecimal digits, or the first {MIN_TRACE_ID_CHARS} or more of them"
    for offset, character in enumerate(prefix):
        if character not in _HEX:
            raise FilterError("trace_id", value, rule, f"take out {character!r}", start + offset)
    if len(prefix) > 32:
        raise FilterError("trace_id", value, rule, f"shorten it: it has {len(prefix)}", start + 32)
    if len(prefix) < MIN_TRACE_ID_CHARS:
        raise FilterError("trace_id", value, rule, "give more of them")
    if len(prefix) == 32:
        return [prefix], lambda event: event.trace_id == prefix
    return [prefix], lambda event: event.trace_id.startswith(prefix)


def _parse_service(given: list[str]) -> _Parsed:
    names = frozenset(given)

    def test(event: LogEvent) -> bool:
        service = event.resource.get(SERVICE_NAME)
        return service is not None and _text(service) in names

    return sorted(names), test


def _parse_logger(given: list[str]) -> _Parsed:
    globs = sorted({_checked_glob("logger", value, value) for value in given})
    if "*" in globs:
        return [], None
    exact = set()
    beginnings = []
    others: list[_TextTest] = []
    for glob in globs:
        stem = glob.removesuffix("*")
        if "*" in stem or "?" in stem:
            others.append(_glob_test(glob))
        elif stem != glob:
            beginnings.append(stem)
        else:  # without a wildcard, the loggers below it too
            exact.add(glob)
            beginnings.append(glob + ".")
    starts = tuple(beginnings)

    def test(event: LogEvent) -> bool:
        name = event.logger
        if name in exact or name.startswith(starts):
            return True
        for other in others:
            if other(name):
                return True
        return False

    return globs, test


def _parse_attr(given: list[str]) -> _Parsed:
    values = []
    tests = []
    for value in sorted(set(given)):
        key, colon, pattern = value.partition(":")
        if not key:
            raise FilterError("attr", value, "the attribute's key is missing", "write attr=key:value", 0)
        if not colon and "=" in key:
            raise FilterError("attr", value, "a colon separates key and value", "write attr=key:value", key.index("="))
        if key.count(".") > MAX_ATTRIBUTE_DOTS:
            raise FilterError("attr", value, f"a key may have {MAX_ATTRIBUTE_DOTS} dots", "shorten it")
        glob = _checked_glob("attr", value, pattern)
        if colon and glob != "*":
            values.append(f"{key}:{glob}")
            tests.append(_attribute_test(key, _value_test(_glob_test(glob))))
        else:
            values.append(key)
            tests.append(_attribute_test(key, _anything))
    unique = dict(sorted(zip(values, tests, strict=True), key=lambda pair: pair[0]))
    return list(unique), _all_of(list(unique.values()))


def _parse_q(given: list[str]) -> _Parsed:
    words = sorted({word.casefold() for word in _words(given[0])})
    if not words:
        return [], None

    def test(event: LogEvent) -> bool:
        text = _searchable(event)
        for word in words:
            if word not in text:
                return False
        return True

    return [" ".join(map(_quoted, words))], test


def _parse_re(given: list[str]) -> _Parsed:
    pattern = given[0]
    if not pattern:
        return [], None
    if len(pattern) > MAX_PATTERN_CHARS:
        raise FilterError(
            "re",
            pattern,
            f"{len(pattern)} characters, where {MAX_PATTERN_CHARS} are allowed",
            "shorten it, or look for words with q",
            MAX_PATTERN_CHARS,
        )
    compiled = _compile(pattern)
    if isinstance(compiled, _Refused):
        raise FilterError("re", pattern, compiled.rule, compiled.remedy, compiled.position)
    return [pattern], _regex_test(compiled)


_PARSERS: Final[dict[str, Callable[[list[str]], _Parsed]]] = {
    "streams": _parse_streams,
    "min_severity": _parse_min_severity,
    "trace_id": _parse_trace_id,
    "service": _parse_service,
    "logger": _parse_logger,
    "attr": _parse_attr,
    "q": _parse_q,
    "re": _parse_re,
}


# -- values --


def _text(value: AnyValue) -> str:
    """A scalar as text, as the JSON of the wire has it."""
    if type(value) is str:
        return value
    if value is None:
        return "null"
    if value is True:
        return "true"
    if value is False:
        return "false"
    if type(value) is bytes:
        return b2a_base64(value, newline=False).decode()
    return str(value)


def _anything(value: AnyValue) -> bool:
    return True


def _value_test(test: _TextTest) -> _ValueTest:
    """Tests a value by its text; of a list any element. Python's spelling of flags and 5 for 5.0 do as well."""

    def matches(value: AnyValue) -> bool:
        if type(value) is str:
            return test(value)
        if type(value) is tuple:
            return any(map(matches, value))
        if isinstance(value, dict):
            return False
        if test(_text(value)):
            return True
        if value is None or type(value) is bool:
            return test(str(value))
        return type(value) is float and value.is_integer() and test(str(int(value)))

    return matches


def _attribute_test(key: str, matches: _ValueTest) -> _Test:
    """Tests what has this name: an attribute, by its short name too, a detail of an audit record, or the resource's."""
    names = list(dict.fromkeys((key, f"audit.{key}", _IDS.get(key, key))))
    steps = [step for name in names for step in _steps(name)]
    key_only, key_steps = [key], _steps(key)
    within = key.removeprefix("metadata.") if key.startswith("metadata.") else None
    is_action, is_id, is_metadata = key == "action", key == "id", key == "metadata"

    def test(event: LogEvent) -> bool:
        if _reach(event.attributes, names, steps, matches):
            return True
        if is_action and event.action is not None and event.action is not UNSET and matches(event.action):
            return True
        if is_id and event.record_id and matches(event.record_id):
            return True
        metadata = event.metadata
        if isinstance(metadata, dict):
            if _reach(metadata, key_only, key_steps, matches):
                return True
            if within is not None and _reach(metadata, [within], _steps(within), matches):
                return True
        if is_metadata and metadata is not None and metadata is not UNSET and matches(metadata):
            return True
        return _reach(event.resource, key_only, key_steps, matches)

    return test


_Step: TypeAlias = tuple[str, str]


def _steps(path: str) -> list[_Step]:
    """The ways into a nested map: a dot in a path may also belong to a key."""
    return [(path[:i], path[i + 1 :]) for i, character in enumerate(path) if character == "."]


def _reach(mapping: Mapping[str, AnyValue], names: list[str], steps: list[_Step], matches: _ValueTest) -> bool:
    """Whether a value of one of these names, or at the end of one of these steps, matches."""
    for name in names:
        if name in mapping and matches(mapping[name]):
            return True
    for name, rest in steps:
        inner = mapping.get(name)
        if isinstance(inner, dict) and _reach(inner, [rest], _steps(rest), matches):
            return True
    return False


# -- q: words in any field --


def _words(text: str) -> list[str]:
    """Words, and phrases in quotes. A quote opens at the start of a word and closes at the end of one."""
    words = []
    position = 0
    while position < len(text):
        if text[position].isspace():
            position += 1
            continue
        start = position
        if text[position] == '"':
            position = _closing_quote(text, position + 1)
            word = text[start + 1 : position]
            position += 1
        else:
            while position < len(text) and not text[position].isspace():
                position += 1
            word = text[start:position]
        if word:
            words.append(word)
        if len(words) > MAX_WORDS:
            raise FilterError(
                "q", text, f"more than {MAX_WORDS} words", "leave some out, or quote those that belong together", start
            )
    return words


def _closing_quote(text: str, start: int) -> int:
    position = text.find('"', start)
    while position >= 0:
        if position + 1 == len(text) or text[position + 1].isspace():
            return position
        position = text.find('"', position + 1)
    raise FilterError("q", text, "the quote is not closed", 'close it with " or leave it out', start - 1)


def _quoted(word: str) -> str:
    return f'"{word}"' if word[0] == '"' or any(map(str.isspace, word)) else word


def _searchable(event: LogEvent) -> str:
    """All text of a record, in lower case. NUL, which no word has, keeps the fields apart."""
    texts = [
        event.message,
        event.logger,
        event.level,
        event.event_name,
        event.module,
        event.function,
        event.trace_id,
        event.span_id,
        event.record_id,
    ]
    add = texts.append
    exception = event.exception
    if exception is not None:
        texts += (exception.type, exception.message, exception.stacktrace)
    for key, value in event.attributes.items():
        add(key)
        if type(value) is str:
            # The attributes hold the exception's texts as well: the same objects, and long.
            if exception is None or (value is not exception.stacktrace and value is not exception.message):
                add(value)
        else:
            _gather(value, texts)
    if event.action is not UNSET and event.action is not None:
        _gather(event.action, texts)
    if event.metadata is not UNSET and event.metadata is not None:
        _gather(event.metadata, texts)
    service = event.resource.get(SERVICE_NAME)
    if service is not None:
        _gather(service, texts)
    return "\0".join(texts).casefold()


def _gather(value: AnyValue, texts: list[str]) -> None:
    if isinstance(value, dict):
        for key, item in value.items():
            texts.append(key)
            _gather(item, texts)
    elif type(value) is tuple:
        for item in value:
            _gather(item, texts)
    else:
        texts.append(_text(value))


# -- globs: time proportional to the text, whatever the pattern --


def _checked_glob(name: str, value: str, glob: str) -> str:
    """The glob in canonical form: of a run of wildcards the ``?`` first, and one ``*``."""
    out: list[str] = []
    wildcards = 0
    position = 0
    while position < len(glob):
        start = position
        while position < len(glob) and glob[position] in "*?":
            position += 1
        if position == start:
            out.append(glob[position])
            position += 1
        else:
            run = glob[start:position]
            wildcards += ("*" in run) + ("?" in run)
            out.append("?" * run.count("?") + "*" * ("*" in run))
    if wildcards > MAX_WILDCARDS:
        raise FilterError(name, value, f"more than {MAX_WILDCARDS} wildcards", "leave some out")
    return "".join(out)


def _glob_test(glob: str) -> _TextTest:
    """A test whether a whole text fits a glob in canonical form."""
    if "*" not in glob and "?" not in glob:
        return glob.__eq__
    if "?" not in glob:
        middle = glob.strip("*")
        if "*" not in middle:
            if glob[0] == "*" and glob[-1] == "*":
                return lambda text: middle in text
            if glob[-1] == "*":
                return lambda text: text.startswith(middle)
            return lambda text: text.endswith(middle)
    first, *others = [_Segment(part) for part in glob.split("*")]
    if not others:
        return lambda text: len(text) == first.length and first.fits(text, 0)
    *inner, last = others
    searched = [segment for segment in inner if segment.length]
    shortest = first.length + last.length + sum(segment.length for segment in searched)

    def test(text: str) -> bool:
        end = len(text) - last.length
        if len(text) < shortest or not first.fits(text, 0) or not last.fits(text, end):
            return False
        position = first.length
        for segment in searched:
            # The leftmost place leaves the most to those that follow: there is nothing to go back for.
            position = segment.find(text, position) + segment.length
            if position < segment.length or position > end:
                return False
        return True

    return test


class _Segment:
    """What stands between two ``*`` of a glob: characters and ``?``, of a fixed length."""

    __slots__ = ("_anchor", "_anchor_at", "_bits", "_open", "_pieces", "_plain", "length")

    def __init__(self, text: str) -> None:
        self.length = len(text)
        self._plain = "?" not in text
        self._pieces: list[tuple[int, str]] = []
        position = 0
        for piece in text.split("?"):
            if piece:
                self._pieces.append((position, piece))
            position += len(piece) + 1
        self._anchor_at, self._anchor = max(self._pieces, key=lambda piece: len(piece[1]), default=(0, ""))
        # Bit i of a character's mask: it may stand at place i.
        self._open = sum(1 << i for i, character in enumerate(text) if character == "?")
        self._bits: dict[str, int] = {}
        for i, character in enumerate(text):
            if character != "?":
                self._bits[character] = self._bits.get(character, self._open) | 1 << i

    def fits(self, text: str, position: int) -> bool:
        for offset, piece in self._pieces:
            if not text.startswith(piece, position + offset):
                return False
        return True

    def find(self, text: str, start: int) -> int:
        """The leftmost place at or after ``start`` where it fits (the caller sees to the text's end); -1 if none."""
        found = text.find(self._anchor, start + self._anchor_at)
        if self._plain or found < 0:
            return found
        begin = found - self._anchor_at
        if self.fits(text, begin):
            return begin
        # All beginnings at once, one bit each (Shift-And): one step a character, however they overlap.
        mask, closed, last = self._bits.get, self._open, 1 << (self.length - 1)
        state = 0
        for position in range(begin, len(text)):
            state = (state << 1 | 1) & mask(text[position], closed)
            if state & last:
                return position - self.length + 1
        return -1


# -- re: RE2 only, which never goes back --


class _Refused(NamedTuple):
    rule: str
    remedy: str
    position: int | None


# What a pattern for another engine has and RE2 has not: beginnings of the part that RE2 names, and what to do instead.
_REMEDIES: Final = (
    (("(?=", "(?!", "(?<"), "RE2 has no look-around: match the text itself, or ask for several words with q"),
    (("(?>", "++", "*+", "?+", "}+"), "RE2 never goes back, so that it needs no atomic or possessive forms: use (?:…)"),
    (("(?P",), "name a group with (?P<name>…); RE2 can't refer back to it"),
    (("(?",), "RE2 knows (?:…), (?P<name>…) and the flags (?i), (?s), (?m), (?U)"),
    (("\\Z",), r"for the end of the text write $ or \z"),
    (tuple(f"\\{digit}" for digit in range(10)), "RE2 has no back-references: write the text out"),
    (("{",), "repeat at most 1000 times, nested repetitions multiplied"),
)
_SYNTAX: Final = "correct it, or put a backslash before a character that is meant literally"


@lru_cache(maxsize=REGEX_CACHE_SIZE)
def _compile(pattern: str) -> Any:
    """An RE2 expression, or a _Refused, which is kept too: a client may send it again and again."""
    try:
        re2 = importlib.import_module("re2")
        options = re2.Options()
    except (ImportError, AttributeError):  # other packages, too, have a module of this name
        raise FilterError(
            "re", pattern, "regular expressions need the package google-re2, which the server lacks", f"run: {_EXTRA}"
        ) from None
    options.log_errors = False
    options.max_mem = REGEX_MEMORY
    options.never_capture = True
    try:
        compiled = re2.compile(pattern, options)
    except re2.error as error:
        return _refused(pattern, error.args[0] if error.args else "")
    if compiled.programsize > MAX_PROGRAM_SIZE:
        return _too_large(f"it compiles to {compiled.programsize} instructions, where {MAX_PROGRAM_SIZE} are allowed")
    return compiled


def _refused(pattern: str, reason: bytes | str) -> _Refused:
    message = reason.decode(errors="replace") if isinstance(reason, bytes) else str(reason)
    problem, _, part = message.partition(": ")
    if "too large" in problem:
        return _too_large("it needs more memory than is allowed")
    # RE2 quotes the part at fault; where groups don't close or open, the whole pattern.
    position = pattern.find(part) if part and part != pattern else -1
    while position > 0 and pattern[position - 1] == "\\":
        position = pattern.find(part, position + 1)
    if problem.startswith("trailing"):
        position = len(pattern) - 1
    elif part == pattern and not problem.endswith(")"):
        position = 0
    remedy, shown = _SYNTAX, ""
    if not problem.endswith((")", "]")):
        remedy = next((remedy for starts, remedy in _REMEDIES if part.startswith(starts)), _SYNTAX)
        shown = f" {part!r}" if 0 < len(part) <= 20 else ""
    return _Refused(f"not a regular expression for RE2: {problem}{shown}", remedy, position if position >= 0 else None)


def _too_large(rule: str) -> _Refused:
    return _Refused(rule, r"use fewer or smaller repetitions {n}, and \w or [a-z] for Unicode classes", None)


def _regex_test(compiled: Any) -> _Test:
    """Searches message, exception and the strings of attributes, each by itself, as far as the budget goes."""
    search = compiled.search
    budget = REGEX_WORK // compiled.programsize

    def test(event: LogEvent) -> bool:
        message = event.message.encode(errors="backslashreplace")
        if search(message[:budget]) is not None:
            return True
        left = budget - len(message)
        texts: list[str] = []
        exception = event.exception
        if exception is not None:
            texts += (exception.type, exception.message, exception.stacktrace)
        for value in event.attributes.values():
            if type(value) is str:
                if exception is None or (value is not exception.stacktrace and value is not exception.message):
                    texts.append(value)
            elif type(value) is tuple or isinstance(value, dict):
                _gather_strings(value, texts)
        for text in texts:
            if left <= 0:
                return False
            data = text.encode(errors="backslashreplace")
            if search(data[:left]) is not None:
                return True
            left -= len(data)
        return False

    return test


def _gather_strings(value: AnyValue, texts: list[str]) -> None:
    if type(value) is str:
        texts.append(value)
    elif isinstance(value, dict):
        for item in value.values():
            _gather_strings(item, texts)
    elif type(value) is tuple:
        for item in value:
            _gather_strings(item, texts)


MATCH_ALL: Final = Filter("", _STREAMS, ())
"""The filter that lets everything through."""
