from __future__ import annotations

import pytest

from bridge.record.words import MAX_WORDS
from tests.record.queries import LONG, SEARCHED, assert_quick, assert_refused, event, query

WORDS_OF_SEARCHED = (
    "paid till warning till_module pay_up order.paid 4bf92f 00f067 0198c5b2 order_pay basket apples colour green null "
    "customer.id u8472 latency 12.5 true deep down here 99 /wA= orders ValueError change Traceback till.py"
)


@pytest.mark.parametrize(
    "words",
    [*WORDS_OF_SEARCHED.split(), WORDS_OF_SEARCHED[:90], '"no change"', '"order 17" "in till"', '17 "" paid', "  ", ""],
)
def test_q_looks_everywhere(words: str) -> None:
    """Words and phrases are found in any field, in any case, each in a field of its own."""
    assert query(q=words).matches(SEARCHED)


@pytest.mark.parametrize(
    "words", ["box", "host.name", "paid zebra", '"17 order"', '"PAID shop.till"', "Truee", "till,"]
)
def test_q_needs_every_word(words: str) -> None:
    """One word that is nowhere, or a phrase that is nowhere in one piece, hides the record."""
    assert not query(q=words).matches(SEARCHED)


@pytest.mark.parametrize(
    ("text", "message", "matches"),
    [
        ("STRASSE", "Hauptstraße 5", True),
        ("straße", "HAUPTSTRASSE 5", True),
        ("éa", "É-A", False),
        ('size=5"', 'disk size=5" ok', True),
        ('""x"', 'say "X', True),
        ('"{"user":"x"}"', '{"user":"x"}', True),
        ('"a b" c', "c a b", True),
        ("a\tb\u3000c", "c-b-a", True),
        ("a.b", "axb", False),
        ("😀", "hi 😀", True),
    ],
)
def test_q_text(text: str, message: str, matches: bool) -> None:
    """Words are text and no pattern, compared without case; quotes inside a word are characters."""
    assert query(q=text).matches(event(message=message)) is matches


@pytest.mark.parametrize(
    ("name", "value", "position", "text"),
    [
        ("q", 'a "b c', 2, """q='a "b c' at position 2: the quote is not closed; close it with " or leave it out"""),
        ("q", "a " * (MAX_WORDS + 1), 32, "*: more than 16 words; leave some out, or quote those that belong together"),
    ],
)
def test_refused(name: str, value: str, position: int | None, text: str) -> None:
    """A quote that does not close and more words than the limit are refused."""
    assert_refused(name, value, position, text)


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("q", "a" * 1000 + "b", "a" * LONG),
        ("q", '"' + "ab" * 300 + 'b"', "ab" * (LONG // 2)),
        ("q", " ".join("a" * n + "ab" for n in range(1, 17)), "ß" * LONG),
    ],
)
def test_no_text_explodes(name: str, value: str, text: str) -> None:
    """A long text takes time in proportion, whatever is looked for."""
    assert_quick(name, value, text)
