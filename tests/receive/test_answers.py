"""The bytes of a refusal, read by Google's own messages."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.receive.answers import RETRY_SECONDS, Code, encode_status, encode_status_json
from tests.receiving import status_of


@given(st.sampled_from(Code), st.text(st.characters(exclude_categories=["Cs"]), max_size=300))
def test_status(code: Code, words: str) -> None:
    """A Status has code and words, and if it is UNAVAILABLE when to come again."""
    expected = [RETRY_SECONDS] if code is Code.UNAVAILABLE else []
    assert status_of(encode_status(code, words)) == (int(code), words, expected)


@pytest.mark.parametrize("size", [0, 1, 127, 128, 16_383, 16_384])
def test_lengths(size: int) -> None:
    """Lengths of one byte and more."""
    assert status_of(encode_status(Code.INTERNAL, "x" * size))[1] == "x" * size


def test_status_in_json() -> None:
    """In JSON it is an object of two."""
    assert json.loads(encode_status_json(Code.UNAVAILABLE, 'a "b"')) == {"code": 14, "message": 'a "b"'}
