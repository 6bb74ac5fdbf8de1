from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.record.globs import MAX_WILDCARDS
from tests.record.naive_filters import naive_glob
from tests.record.queries import LONG, assert_quick, assert_refused, event, query


def test_short_globs_are_exact() -> None:
    """Every short glob fits exactly the short texts that the same pattern with backtracking fits."""
    texts = ["".join(letters) for n in range(6) for letters in itertools.product("ab", repeat=n)]
    for glob in ("".join(parts) for n in range(1, 6) for parts in itertools.product("ab*?", repeat=n)):
        wanted = query(attr=f"k:{glob}")
        found = [text for text in texts if wanted.matches(event(attributes={"k": text}))]
        assert found == [text for text in texts if naive_glob(glob, text)], glob


@given(st.text("ab*?", min_size=1, max_size=14), st.text("ab", max_size=14))
def test_globs_are_exact(glob: str, text: str) -> None:
    """A longer glob does so as well."""
    wanted = query(attr=f"k:{glob}")
    assert wanted.matches(event(attributes={"k": text})) is naive_glob(glob, text)


@pytest.mark.parametrize(
    ("name", "value", "position", "text"),
    [
        ("logger", "*a" * (MAX_WILDCARDS + 1), None, "*: more than 16 wildcards; leave some out"),
        ("attr", "k:" + "?*a" * 9, None, "*: more than 16 wildcards; leave some out"),
    ],
)
def test_refused(name: str, value: str, position: int | None, text: str) -> None:
    """More wildcards than the limit are refused."""
    assert_refused(name, value, position, text)


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("attr", "k:" + "*a" * (MAX_WILDCARDS - 1) + "*b", "a" * LONG),
        ("attr", "k:*" + "a?" * 14 + "b*", "a" * LONG),
        ("attr", "k:*" + "a?a*" * 6 + "b?*", "a" * LONG),
        ("attr", "k:*" + "a" * 1000 + "b*", "a" * LONG),
    ],
)
def test_no_text_explodes(name: str, value: str, text: str) -> None:
    """A long text takes time in proportion, whatever is looked for."""
    assert_quick(name, value, text)
