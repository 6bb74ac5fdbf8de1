"""``re``: regular expressions. RE2 only, which never goes back, with a budget for one record."""

from __future__ import annotations

import importlib
from functools import lru_cache
from typing import Final, NamedTuple, Protocol

from bridge.record.conditions import Condition, FilterError
from bridge.record.event import LogEvent
from bridge.record.texts import strings

__all__ = [
    "MAX_PATTERN_CHARS",
    "MAX_PROGRAM_SIZE",
    "REGEX_CACHE_SIZE",
    "REGEX_MEMORY",
    "REGEX_WORK",
    "parse_re",
]

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


class _Pattern(Protocol):
    """An expression that RE2 has compiled."""

    programsize: int

    def search(self, text: bytes) -> object: ...


class _Refused(NamedTuple):
    rule: str
    remedy: str
    position: int | None


def parse_re(given: list[str]) -> Condition | None:
    """The expression must be found in one of the record's `strings`, as far as the budget goes."""
    pattern = given[0]
    if not pattern:
        return None
    if len(pattern) > MAX_PATTERN_CHARS:
        rule = f"{len(pattern)} characters, where {MAX_PATTERN_CHARS} are allowed"
        raise FilterError("re", pattern, rule, "shorten it, or look for words with q", MAX_PATTERN_CHARS)
    compiled = _compile(pattern)
    if isinstance(compiled, _Refused):
        raise FilterError("re", pattern, compiled.rule, compiled.remedy, compiled.position)
    search = compiled.search
    budget = REGEX_WORK // compiled.programsize

    def test(event: LogEvent) -> bool:
        left = budget
        for text in strings(event):
            data = text.encode(errors="backslashreplace")
            if search(data[:left]) is not None:
                return True
            left -= len(data)
            if left <= 0:
                break
        return False

    return Condition([pattern], test)


@lru_cache(maxsize=REGEX_CACHE_SIZE)
def _compile(pattern: str) -> _Pattern | _Refused:
    """A refusal is kept too: a client may send the same pattern again and again."""
    try:
        re2 = importlib.import_module("re2")
        options = re2.Options()
    except (ImportError, AttributeError):  # other packages, too, have a module of this name
        rule = "regular expressions need the package google-re2, which the server lacks"
        raise FilterError("re", pattern, rule, "run: pip install 'otel-audit-bridge[server]'") from None
    options.log_errors = False
    options.max_mem = REGEX_MEMORY
    options.never_capture = True
    try:
        compiled: _Pattern = re2.compile(pattern, options)
    except re2.error as error:
        return _refused(pattern, error.args[0] if error.args else "")
    if compiled.programsize > MAX_PROGRAM_SIZE:
        return _too_large(f"it compiles to {compiled.programsize} instructions, where {MAX_PROGRAM_SIZE} are allowed")
    return compiled


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
