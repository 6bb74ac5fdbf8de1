from __future__ import annotations

import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.record.severity import level_text, severity_number, severity_text


@pytest.mark.parametrize(
    ("level", "number"),
    [
        (logging.NOTSET, 0),
        (1, 1),
        (9, 4),
        (logging.DEBUG, 5),
        (13, 8),
        (19, 8),
        (logging.INFO, 9),
        (25, 12),
        (logging.WARNING, 13),
        (logging.ERROR, 17),
        (logging.CRITICAL, 21),
        (53, 24),
        (60, 24),
        (61, 24),
        (1_000, 24),
        (-5, 0),
    ],
)
def test_pythons_levels_have_opentelemetrys_numbers(level: int, number: int) -> None:
    """The mapping of the OpenTelemetry SDK, and TRACE below DEBUG."""
    assert severity_number(level) == number


@given(st.integers())
def test_any_level_has_a_number(level: int) -> None:
    """0 to 24, and a higher level never has a lower number."""
    assert 0 <= severity_number(level) <= 24
    assert severity_number(level) <= severity_number(level + 1)


@pytest.mark.parametrize(
    ("name", "text"), [("WARNING", "WARN"), ("CRITICAL", "FATAL"), ("INFO", "INFO"), ("NOTICE", "NOTICE"), ("", "")]
)
def test_severity_texts_are_the_data_models(name: str, text: str) -> None:
    """Two names differ."""
    assert severity_text(name) == text


@pytest.mark.parametrize(
    ("low", "high", "name"),
    [
        (0, 0, "NOTSET"),
        (1, 4, "TRACE"),
        (5, 8, "DEBUG"),
        (9, 12, "INFO"),
        (13, 16, "WARNING"),
        (17, 20, "ERROR"),
        (21, 40, "CRITICAL"),
        (-3, -1, "NOTSET"),
    ],
)
def test_a_received_record_is_named_by_its_number(low: int, high: int, name: str) -> None:
    """Without a text, and with one of OpenTelemetry's short names in any case."""
    for number in range(low, high + 1):
        assert level_text(None, number) == name
        assert level_text("", number) == name
        if number:
            assert level_text("Warn2", number) == name
            assert level_text("unspecified", number) == name


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("trace", "TRACE"),
        ("TRACE4", "TRACE"),
        ("debug2", "DEBUG"),
        ("Info", "INFO"),
        ("WARN", "WARNING"),
        ("error3", "ERROR"),
        ("FATAL", "CRITICAL"),
        ("UNSPECIFIED", "NOTSET"),
        ("", "NOTSET"),
    ],
)
@pytest.mark.parametrize("number", [0, None])
def test_a_short_name_alone_will_do(text: str, name: str, number: int | None) -> None:
    """Without a number the name is all that is known."""
    assert level_text(text, number) == name


@given(st.integers(0, 24))
def test_other_texts_stay(number: int) -> None:
    """Python's names and an application's own."""
    for text in ("WARNING", "CRITICAL", "NOTICE", "warning", "Info5"):
        assert level_text(text, number) == text
