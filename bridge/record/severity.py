"""Python's level numbers, OpenTelemetry's severity numbers, and the level names of the wire."""

from __future__ import annotations

from typing import Final

__all__ = ["DEBUG_MAX", "level_text", "severity_number", "severity_text"]

# The short names of the OpenTelemetry log data model, "Displaying Severity", with their first number.
_SHORT_NAMES: Final = frozenset(
    f"{name}{suffix}"
    for name in ("TRACE", "DEBUG", "INFO", "WARN", "ERROR", "FATAL")
    for suffix in ("", "1", "2", "3", "4")
) | {"UNSPECIFIED"}

DEBUG_MAX: Final = 8
"""The last severity number that is called DEBUG."""

_PYTHON_TO_OTEL_TEXT: Final = {"WARNING": "WARN", "CRITICAL": "FATAL"}


def _number(levelno: int) -> int:
    if levelno <= 0:
        return 0
    if levelno < 10:  # below DEBUG Python has no name; OpenTelemetry has TRACE to TRACE4
        return 1 + (levelno - 1) * 4 // 9
    if levelno >= 50:
        return 21 + min(levelno - 50, 3)
    tens, ones = divmod(levelno, 10)
    return 1 + tens * 4 + min(ones, 3)


_NUMBERS: Final = {levelno: _number(levelno) for levelno in range(61)}


def severity_number(levelno: int) -> int:
    """OpenTelemetry's severity number (0 to 24) of any Python level number.

    From 10 up it is the mapping of the OpenTelemetry SDK (10 → DEBUG 5, 20 → INFO 9, 30 → WARN 13,
    40 → ERROR 17, 50 → FATAL 21; up to three finer steps each). 1 to 9 spread over TRACE to TRACE4.
    """
    number = _NUMBERS.get(levelno)
    return _number(levelno) if number is None else number


def severity_text(levelname: str) -> str:
    """The severity text of an OpenTelemetry record: Python's name, but WARN and FATAL as the data model has them."""
    return _PYTHON_TO_OTEL_TEXT.get(levelname, levelname)


def level_text(text: str | None, number: int | None) -> str:
    """The level name shown for a received record.

    OpenTelemetry's short names in any case, or no text, go by number; any other text stays as it is.
    """
    if text and text.upper() not in _SHORT_NAMES:
        return text
    if not number and text:  # a short name without a number: the name is all we know
        number = {"TRACE": 1, "DEBU": 5, "INFO": 9, "WARN": 13, "ERRO": 17, "FATA": 21}.get(
            text.upper()[:5] if text.upper().startswith("TRACE") else text.upper()[:4], 0
        )
    number = number or 0
    if number <= 0:
        return "NOTSET"
    if number <= 4:
        return "TRACE"
    if number <= 8:
        return "DEBUG"
    if number <= 12:
        return "INFO"
    if number <= 16:
        return "WARNING"
    if number <= 20:
        return "ERROR"
    return "CRITICAL"
