from __future__ import annotations

import pickle
import re

import pytest

import bridge
from bridge import errors
from bridge.errors import (
    AddressUnavailable,
    AuditUnavailable,
    BridgeError,
    MissingDependency,
    SettingsError,
    SetupError,
)

EXAMPLES = [
    (SettingsError("port", "x", "must be a number", "write 1"), "port='x': must be a number; write 1"),
    (SettingsError("port", 1, "no"), "port=1: no"),
    (SetupError("called twice"), "called twice"),
    (
        MissingDependency("grpcio", "sending", "otlp"),
        "sending needs the package grpcio, which is not installed; run: pip install 'otel-audit-bridge[otlp]'",
    ),
    (
        AddressUnavailable("127.0.0.1", 80, "taken"),
        "can't listen on 127.0.0.1:80 (taken); choose another port (--port N, BRIDGE_PORT=N; 0 takes any free one) "
        "or end the program that uses it",
    ),
    (AuditUnavailable("disk full", "lost"), "audit event lost: disk full"),
]


@pytest.mark.parametrize(("error", "text"), EXAMPLES, ids=lambda value: type(value).__name__)
def test_an_error_is_one_line_and_survives_pickling(error: BridgeError, text: str) -> None:
    """Value, rule and remedy in words; the data in attributes, in another process as well."""
    assert str(error) == text
    copy = pickle.loads(pickle.dumps(error))  # noqa: S301
    assert type(copy) is type(error)
    assert (str(copy), vars(copy)) == (text, vars(error))


def test_a_long_value_is_cut() -> None:
    """A megabyte in a setting does not fill the terminal."""
    assert len(str(SettingsError("x", "y" * 10_000, "no"))) < 250


@pytest.mark.parametrize(
    ("kind", "base"),
    [
        (SettingsError, ValueError),
        (SetupError, RuntimeError),
        (MissingDependency, ImportError),
        (AddressUnavailable, OSError),
        (AuditUnavailable, RuntimeError),
    ],
)
def test_every_error_is_also_one_of_pythons(kind: type[BridgeError], base: type[Exception]) -> None:
    """Whoever catches the usual kind, or all of ours, catches it."""
    assert issubclass(kind, BridgeError)
    assert issubclass(kind, base)


def test_the_tree_in_the_docstring_is_whole() -> None:
    """Every error is drawn there, exported here and at the top."""
    drawn = set(re.findall(r"(?:[├└]── |^    )(\w+)", errors.__doc__ or "", re.MULTILINE))
    assert drawn == set(errors.__all__)
    assert drawn - set(bridge.__all__) == set()
