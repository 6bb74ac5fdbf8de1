from __future__ import annotations

import dataclasses
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.errors import SettingsError
from bridge.settings import Settings, unknown_names


def rule(*_: Any) -> bool:
    return False


GOOD: list[tuple[str, Any, Any]] = [
    ("service_name", " shop ", "shop"),
    ("service_name", "", None),
    ("logger_provider", 17, 17),
    ("disabled", "on", True),
    ("disabled", " FALSE ", False),
    ("disabled", "", False),
    ("redact", False, False),
    ("level", "warning", 30),
    ("level", "WARN", 30),
    ("level", "25", 25),
    ("level", 17, 17),
    ("audit_rules", [rule], (rule,)),
    ("ignored_loggers", "a, b,,", ("a", "b")),
    ("ignored_loggers", ["a"], ("a",)),
    ("redact_patterns", "a,b\n\n c ", ("a,b", "c")),
    ("redact_patterns", ("x",), ("x",)),
    ("otlp_endpoint", "http://localhost:4318/x", "http://localhost:4318/x"),
    ("otlp_endpoint", " ", None),
    ("otlp_protocol", "grpc", "grpc"),
    ("otlp_protocol", None, None),
    ("otlp_protocol", "", None),
    ("queue_records", "16", 16),
    ("port", 0, 0),
    ("host", " ::1 ", "::1"),
    ("token", "", None),
    ("allowed_origins", "https://Ops.example.com, http://a:1", ("https://ops.example.com", "http://a:1")),
    ("shutdown_timeout", "2.5", 2.5),
    ("shutdown_timeout", 0, 0.0),
]

BAD: list[tuple[str, Any, str]] = [
    ("service_name", 17, "must be text"),
    ("disabled", "maybe", "must be true or false"),
    ("disabled", 1, "must be true or false"),
    ("level", "LOUD", "must be a logging level"),
    ("level", -1, "must be a logging level"),
    ("level", True, "must be a logging level"),
    ("level", None, "must be a logging level"),
    ("audit_rules", 17, "must be a list of functions"),
    ("audit_rules", ["x"], "every rule must be a function"),
    ("ignored_loggers", 17, "must be a list of texts"),
    ("ignored_loggers", ["a", ""], "every item must be text that is not empty"),
    ("ignored_loggers", [1], "every item must be text that is not empty"),
    ("otlp_endpoint", "localhost:4318", "must be a URL"),
    ("otlp_endpoint", "ftp://x", "must be a URL"),
    ("otlp_endpoint", "http://", "must be a URL"),
    ("otlp_endpoint", "http://x:99999", "must be a URL"),
    ("otlp_endpoint", 17, "must be text"),
    ("otlp_protocol", "http/json", "must be one of grpc, http/protobuf"),
    ("queue_records", 15, "must be a whole number from 16 to 10000000"),
    ("queue_records", "many", "must be a whole number from 16 to 10000000; for example queue_records=16"),
    ("queue_records", 1e6, "must be a whole number"),
    ("queue_records", True, "must be a whole number"),
    ("port", 65_536, "must be a whole number from 0 to 65535"),
    ("port", "x", "for example port=65535"),
    ("host", " ", "must not be empty"),
    ("allowed_origins", "https://a/path", "must be an origin"),
    ("allowed_origins", "a.example.com", "must be an origin"),
    ("shutdown_timeout", -1, "must be a number of seconds, 0 or more"),
    ("shutdown_timeout", "nan", "must be a number of seconds, 0 or more"),
    ("shutdown_timeout", "inf", "must be a number of seconds, 0 or more"),
    ("shutdown_timeout", "soon", "for example shutdown_timeout=5"),
    ("shutdown_timeout", True, "must be a number of seconds"),
    ("shutdown_timeout", None, "must be a number of seconds"),
]


@pytest.mark.parametrize(("name", "value", "expected"), GOOD)
def test_a_good_value_is_taken(name: str, value: Any, expected: Any) -> None:
    """As an argument, in its final form."""
    assert getattr(Settings(**{name: value}), name) == expected


@pytest.mark.parametrize(("name", "value", "words"), BAD)
def test_a_bad_value_is_named_with_its_rule(name: str, value: Any, words: str) -> None:
    """The error has the name, the value and what is allowed."""
    with pytest.raises(SettingsError) as caught:
        Settings(**{name: value})
    assert words in str(caught.value)
    assert str(caught.value).startswith(f"{name}=")


@pytest.mark.parametrize(("name", "value", "expected"), [each for each in GOOD if isinstance(each[1], str)])
def test_the_environment_says_the_same(name: str, value: str, expected: Any) -> None:
    """BRIDGE_<NAME> takes every text that the argument takes."""
    assert getattr(Settings.from_env({f"BRIDGE_{name.upper()}": value}), name) == expected


@pytest.mark.parametrize(("name", "value", "words"), [each for each in BAD if isinstance(each[1], str)])
def test_a_bad_variable_is_named_as_the_user_wrote_it(name: str, value: str, words: str) -> None:
    """The error speaks of BRIDGE_<NAME>."""
    with pytest.raises(SettingsError) as caught:
        Settings.from_env({f"BRIDGE_{name.upper()}": value})
    assert str(caught.value).startswith(f"BRIDGE_{name.upper()}=")


def test_arguments_win_over_the_environment_and_that_over_defaults() -> None:
    """A bad variable that an argument overrules is not even read."""
    environ = {"BRIDGE_PORT": "1", "BRIDGE_QUEUE_RECORDS": "17", "BRIDGE_LEVEL": "nonsense"}
    settings = Settings.from_env(environ, port=2, level="INFO")
    assert (settings.port, settings.queue_records, settings.level) == (2, 17, 20)
    assert settings.host == "127.0.0.1"


def test_an_argument_that_is_no_setting() -> None:
    """The nearest name is suggested."""
    with pytest.raises(SettingsError, match=r"service=.*is not a setting; did you mean service_name\?"):
        Settings.from_env({}, service="x")
    with pytest.raises(SettingsError, match=r"see docs/reference/settings\.md"):
        Settings.from_env({}, qqqq="x")


def test_a_variable_that_is_no_setting() -> None:
    """One sentence each, with the nearest name and without the value."""
    environ = {"BRIDGE_SERVICE_NAM": "s3cret", "BRIDGE_QQ": "s3cret", "BRIDGE_PORT": "1", "OTHER": "x", "bridge_x": "y"}
    assert unknown_names(environ) == [
        "BRIDGE_QQ is not a setting and has no effect; see docs/reference/settings.md for the list",
        "BRIDGE_SERVICE_NAM is not a setting and has no effect; did you mean BRIDGE_SERVICE_NAME?",
    ]


def test_what_only_code_can_give_has_no_variable() -> None:
    """Functions and providers are no text."""
    names = Settings.environment_names()
    assert "BRIDGE_LOGGER_PROVIDER" not in names
    assert "BRIDGE_AUDIT_RULES" not in names
    assert unknown_names({"BRIDGE_AUDIT_RULES": "x"}) != []


def test_settings_are_frozen_and_their_defaults_are_good() -> None:
    """Defaults pass their own checks, and every setting has words for the docs."""
    settings = Settings()
    with pytest.raises(dataclasses.FrozenInstanceError):
        settings.port = 1  # type: ignore[misc]
    for name, field in Settings.names().items():
        assert field.metadata["check"](name, getattr(settings, name)) == getattr(settings, name)
        assert field.metadata["doc"].endswith("."), name


@given(st.sampled_from(sorted(Settings.environment_names())), st.text())
def test_any_text_in_the_environment_is_taken_or_named(variable: str, text: str) -> None:
    """Nothing but a SettingsError comes of it, and its words are one bounded line."""
    with suppress(SettingsError):
        Settings.from_env({variable: text})
        return
    with pytest.raises(SettingsError) as caught:
        Settings.from_env({variable: text})
    assert str(caught.value).startswith(variable)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


def test_the_token_is_in_no_repr() -> None:
    """Settings end up in logs and tracebacks; the token does not."""
    assert "geheim" not in repr(Settings(token="geheim"))


@pytest.mark.parametrize("token", ["ü", "a b", "a\tb", "\x7f"])
def test_a_token_that_no_header_can_carry(token: str) -> None:
    """It is refused at the start, and not shown; else it would never match."""
    with pytest.raises(SettingsError, match="printable ASCII") as refused:
        Settings(token=token)
    assert repr(token)[1:-1] not in str(refused.value)
