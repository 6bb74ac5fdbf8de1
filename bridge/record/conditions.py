"""What a parameter of a filter becomes: a condition on records, or an error that says why it can't be one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple, TypeAlias

from bridge.errors import BridgeError
from bridge.record.event import LogEvent
from bridge.record.values import safe_repr

__all__ = ["SHOWN_CHARS", "Condition", "EventTest", "FilterError", "all_of"]

SHOWN_CHARS: Final = 60
"""Characters of a value, or of a name, that an error shows."""

EventTest: TypeAlias = Callable[[LogEvent], bool]


class Condition(NamedTuple):
    """What one parameter asks for. A parameter that restricts nothing makes none."""

    values: list[str]
    """The parameter's values in canonical form."""
    test: EventTest


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


def all_of(tests: Sequence[EventTest]) -> EventTest:
    """One test that holds where all do; the later ones are asked only where the earlier ones hold."""
    if not tests:
        return lambda event: True
    first, *others = tests
    if not others:
        return first
    rest = all_of(others)
    return lambda event: first(event) and rest(event)


def _excerpt(value: object, position: int) -> str:
    """The value as Python shows it, on one line; of a long one what is around the position."""
    if not isinstance(value, str):
        return safe_repr(value, SHOWN_CHARS)
    start = max(0, position - SHOWN_CHARS // 2) if position >= SHOWN_CHARS else 0
    end = start + SHOWN_CHARS
    return f"{'…' if start else ''}{value[start:end]!r}{'…' if end < len(value) else ''}"
