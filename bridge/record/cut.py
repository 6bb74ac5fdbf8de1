"""Cutting what is too long to be shown live. What was cut says so, and how long it was."""

from __future__ import annotations

from bridge.record.values import AnyValue, size_of

__all__ = ["cut_text", "cut_value"]


def cut_text(text: str, chars: int) -> str:
    """``text``, or its first ``chars`` characters and a note."""
    return text if len(text) <= chars else f"{text[:chars]}… [cut: {len(text)} characters]"


def cut_value(value: AnyValue, chars: int) -> AnyValue:
    """A long text is cut; a large container, or bytes, give way to their size."""
    if isinstance(value, str):
        return cut_text(value, chars)
    size = size_of(value)
    return value if size <= chars else f"… [cut: about {size} bytes]"
