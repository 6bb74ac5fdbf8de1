"""Globs, in time proportional to the text whatever the pattern: ``*`` stands for any text, ``?`` for one character."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final, TypeAlias

from bridge.record.conditions import FilterError

__all__ = ["MAX_WILDCARDS", "TextTest", "canonical_glob", "glob_test"]

MAX_WILDCARDS: Final = 16
"""``*`` and runs of ``?`` in one glob: each ``*`` may be one more search."""

TextTest: TypeAlias = Callable[[str], bool]

_WILDCARDS: Final = re.compile(r"[*?]+")


def canonical_glob(parameter: str, value: str, glob: str) -> str:
    """The glob with the ``?`` of each run of wildcards first, and one ``*``. It came in this value of a parameter."""
    runs = _WILDCARDS.findall(glob)
    if sum(("*" in run) + ("?" in run) for run in runs) > MAX_WILDCARDS:
        raise FilterError(parameter, value, f"more than {MAX_WILDCARDS} wildcards", "leave some out")
    return _WILDCARDS.sub(lambda run: "?" * run[0].count("?") + "*" * ("*" in run[0]), glob)


def glob_test(glob: str) -> TextTest:
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
