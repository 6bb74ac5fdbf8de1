"""``q``: words and phrases in any text of a record, without case. Each is one pass over the text."""

from __future__ import annotations

import re
from typing import Final

from bridge.record.conditions import Condition, FilterError
from bridge.record.event import LogEvent
from bridge.record.texts import all_text

__all__ = ["MAX_WORDS", "parse_q"]

MAX_WORDS: Final = 16
"""Words and phrases in ``q``: each is one more pass over the record's text."""

# A quote opens at the start of a word and closes at the end of one.
_WORD: Final = re.compile(r'"(?P<phrase>.*?)"(?!\S)|(?P<word>\S+)', re.DOTALL)


def parse_q(given: list[str]) -> Condition | None:
    """Every word must be somewhere in the record."""
    words = sorted({word.casefold() for word in _words(given[0])})
    if not words:
        return None

    def test(event: LogEvent) -> bool:
        return all(map(all_text(event).__contains__, words))

    return Condition([" ".join(map(_quoted, words))], test)


def _words(text: str) -> list[str]:
    words: list[str] = []
    for found in _WORD.finditer(text):
        phrase, word = found.groups()
        if word is not None and word[0] == '"':
            raise FilterError("q", text, "the quote is not closed", 'close it with " or leave it out', found.start())
        if phrase != "":
            words.append(word if phrase is None else phrase)
        if len(words) > MAX_WORDS:
            remedy = "leave some out, or quote those that belong together"
            raise FilterError("q", text, f"more than {MAX_WORDS} words", remedy, found.start())
    return words


def _quoted(word: str) -> str:
    return f'"{word}"' if word[0] == '"' or any(map(str.isspace, word)) else word
