from __future__ import annotations

import sys
from typing import Any

import pytest

from bridge.record import patterns
from bridge.record.patterns import MAX_PATTERN_CHARS, REGEX_CACHE_SIZE
from tests.record.queries import LONG, SEARCHED, assert_quick, event, fits, query, refusal


@pytest.mark.parametrize(
    ("pattern", "matches"),
    [
        (r"^Order \d+ PAID$", True),
        ("paid", False),
        ("(?i)paid", True),
        ("^ValueError$", True),
        ("^no ch", True),
        (r"till\.py$", True),
        ("^u8472$", True),
        ("^here$", True),
        ("12.5", False),
        ("customer", False),
        ("^shop", False),
        ("(a+)+$", False),
        (r"(\d+)+", True),
        ("", True),
    ],
)
def test_re(pattern: str, matches: bool) -> None:
    """A regular expression is searched, with case, in message, exception and strings of attributes, each by itself."""
    assert query(re=pattern).matches(SEARCHED) is matches


@pytest.mark.parametrize(
    ("pattern", "position", "text"),
    [
        ("(?=lookahead)", 0, "invalid perl operator '(?='; RE2 has no look-around: match the text itself, *q"),
        ("foo(?!x)", 3, "invalid perl operator '(?!'; RE2 has no look-around*"),
        (r"\(?<=x(?<=y)", 6, "invalid perl operator '(?<='; RE2 has no look-around*"),
        (r"(a)\1", 3, r"invalid escape sequence '\\1'; RE2 has no back-references: write the text out"),
        ("(?P=n)", 0, "*; name a group with (?P<name>…); RE2 can't refer back to it"),
        ("a++", 1, "bad repetition operator '++'; RE2 never goes back, *: use (?:…)"),
        ("(?>a)", 0, "invalid perl operator '(?>'; RE2 never goes back, *: use (?:…)"),
        ("(?#note)", 0, "*; RE2 knows (?:…), *"),
        (r"end\Z", 3, r"*; for the end of the text write $ or \z"),
        ("x{2000}", 1, "invalid repetition size '{2000}'; repeat at most 1000 times, *"),
        ("a[bc", 1, "missing ]; correct it, or put a backslash before a character that is meant literally"),
        ("a(bc", None, "missing ); correct it, or put a backslash before a character that is meant literally"),
        ("é)", None, "unexpected ); correct it*"),
        ("abc\\", 3, "*; correct it*"),
        ("*a", 0, "no argument for repetition operator '*'; correct it*"),
    ],
)
def test_regex_refused(pattern: str, position: int | None, text: str) -> None:
    """A pattern that RE2 does not know is refused with the place and what to write instead."""
    for _ in range(2):  # the second one comes from the cache
        error = refusal([("re", pattern)])
        where = "" if error.position is None else f" at position {error.position}"
        start = f"re={pattern!r}{where}: not a regular expression for RE2: "
        assert str(error).startswith(start)
        rest = str(error)[len(start) :]
        assert fits(text, rest), rest
        if position is not None:
            assert error.position == position


@pytest.mark.parametrize("pattern", [r"a\pL{3,20}", r"\pL{1000}", "[^a]{900}"])
def test_regex_too_large(pattern: str) -> None:
    """A pattern that compiles to too much is refused."""
    error = refusal([("re", pattern)])
    assert error.rule.endswith("allowed")
    assert error.remedy.startswith("use fewer or smaller repetitions {n}")


def test_pattern_length() -> None:
    """A pattern has a smaller limit than other values."""
    assert str(refusal([("re", "x" * (MAX_PATTERN_CHARS + 1))])).endswith(
        "at position 512: 513 characters, where 512 are allowed; shorten it, or look for words with q"
    )


def test_regex_errors_are_not_printed(capfd: pytest.CaptureFixture[str]) -> None:
    """RE2 does not write to the process's standard error."""
    refusal([("re", "(?=never printed)")])
    refusal([("re", r"\pN\pL{1000}")])
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("module", [None, object()])
def test_regex_without_re2(module: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without google-re2, or with another package of its module's name, the error says what to install."""
    patterns._compile.cache_clear()
    monkeypatch.setitem(sys.modules, "re2", module)
    error = refusal([("re", "a")])
    assert str(error) == (
        "re='a': regular expressions need the package google-re2, which the server lacks; "
        "run: pip install 'otel-audit-bridge[server]'"
    )
    monkeypatch.undo()
    assert query(re="a").matches(event(message="a"))


def test_same_patterns_are_compiled_once() -> None:
    """Clients that subscribe again and again with the same pattern, good or bad, share its compilation."""
    patterns._compile.cache_clear()
    for _ in range(50):
        query(re="once[0-9]")
        refusal([("re", "(?=once)")])
    assert patterns._compile.cache_info()[:2] == (98, 2)
    for i in range(2 * REGEX_CACHE_SIZE):
        query(re=f"a{i}")
    assert patterns._compile.cache_info().currsize == REGEX_CACHE_SIZE


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("re", "(a+)+$", "a" * LONG + "b"),
        ("re", "(a|aa)*c", "a" * LONG + "b"),
        ("re", "(.*)*(.*)*x", "a" * LONG),
        ("re", "(a?){200}a{200}b", "a" * LONG),
        ("re", "a[ab]{200}c", "abaab" * (LONG // 5)),
    ],
)
def test_no_text_explodes(name: str, value: str, text: str) -> None:
    """A long text takes time in proportion, whatever is looked for."""
    assert_quick(name, value, text)


def test_large_patterns_see_less_text() -> None:
    """A regular expression has a budget for one record: the larger it is, the less of the texts it sees."""
    far = event(message="-" * LONG + "x", attributes={"k": "x"})
    assert query(re="x").matches(far)
    assert not query(re="a{700}|x").matches(far)
    assert query(re="a{700}|x").matches(event(message="-" * 10_000 + "x"))
    assert query(re="a{700}|x").matches(event(message="-" * 10_000, attributes={"k": "x"}))
    many = {str(i): "-" * 10_000 for i in range(20)}
    assert not query(re="a{700}|x").matches(event(attributes=many | {"k": "x"}))
    assert query(re="a{700}|x").matches(event(attributes={"k": "x"} | many))
