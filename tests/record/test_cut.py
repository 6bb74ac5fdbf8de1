"""Cutting what is too long."""

import pytest

from bridge.record.cut import cut_text, cut_value
from bridge.record.values import AnyValue


@pytest.mark.parametrize(("text", "cut"), [("", ""), ("abcd", "abcd"), ("abcde", "abcd… [cut: 5 characters]")])
def test_texts(text: str, cut: str) -> None:
    """A text is kept up to the bound; a longer one says how long it was."""
    assert (cut_text(text, 4), cut_value(text, 4)) == (cut, cut)


@pytest.mark.parametrize("value", [None, True, 7, 1.5, (), {}, (1, "a"), {"a": (b"x",)}])
def test_small_values(value: AnyValue) -> None:
    """What is small stays the same object."""
    assert cut_value(value, 500) is value


@pytest.mark.parametrize("value", [b"x" * 999, ("x" * 999,), {"x" * 999: 1}, {"a": ("b", {"c": "x" * 999})}])
def test_large_values(value: AnyValue) -> None:
    """Bytes and containers give way to their size, wherever in them it is."""
    cut = cut_value(value, 500)
    assert isinstance(cut, str)
    assert cut.startswith("… [cut: about 1")
    assert cut.endswith(" bytes]")
