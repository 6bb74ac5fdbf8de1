"""Settings: one frozen value, validated once; the environment is read here and nowhere else."""

from __future__ import annotations

import dataclasses
import difflib
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import urlsplit

from bridge.errors import SettingsError

__all__ = ["PREFIX", "Settings", "unknown_names"]

PREFIX: Final = "BRIDGE_"

_MIB: Final = 1 << 20
_TRUE: Final = frozenset({"1", "true", "yes", "on"})
_FALSE: Final = frozenset({"0", "false", "no", "off", ""})

Check = Callable[[str, Any], Any]


def _boolean(name: str, value: Any) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, str):
        word = value.strip().lower()
        if word in _TRUE:
            return True
        if word in _FALSE:
            return False
    raise SettingsError(name, value, "must be true or false", "write true/false, 1/0, yes/no or on/off")


def _integer(low: int, high: int) -> Check:
    def check(name: str, value: Any) -> int:
        rule = f"must be a whole number from {low} to {high}"
        if isinstance(value, bool) or not isinstance(value, int | str):
            raise SettingsError(name, value, rule)
        try:
            number = int(value)
        except ValueError:
            raise SettingsError(name, value, rule, f"for example {name}={low or high}") from None
        if not low <= number <= high:
            raise SettingsError(name, value, rule)
        return number

    return check


def _seconds(name: str, value: Any) -> float:
    rule = "must be a number of seconds, 0 or more"
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise SettingsError(name, value, rule)
    try:
        number = float(value)
    except ValueError:
        raise SettingsError(name, value, rule, f"for example {name}=5") from None
    if not (number >= 0 and math.isfinite(number)):
        raise SettingsError(name, value, rule)
    return number


def _text(name: str, value: Any) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str):
        raise SettingsError(name, value, "must be text")
    return value.strip() or None


def _token(name: str, value: Any) -> str | None:
    text = _text(name, value)
    if text is not None and not (text.isascii() and text.isprintable() and " " not in text):
        # Not shown: it is a secret.
        raise SettingsError(name, "…", "must be printable ASCII without spaces", "for example of: openssl rand -hex 16")
    return text


def _needed_text(name: str, value: Any) -> str:
    text = _text(name, value)
    if text is None:
        raise SettingsError(name, value, "must not be empty")
    return text


def _words(name: str, value: Any) -> tuple[str, ...]:
    if isinstance(value, str):
        value = [word.strip() for word in value.split(",") if word.strip()]
    try:
        words = tuple(value)
    except TypeError:
        raise SettingsError(name, value, "must be a list of texts") from None
    for word in words:
        if not isinstance(word, str) or not word:
            raise SettingsError(name, word, "every item must be text that is not empty")
    return words


def _patterns(name: str, value: Any) -> tuple[str, ...]:
    # A regular expression may hold a comma, so the environment's form has one pattern a line.
    if isinstance(value, str):
        value = [line.strip() for line in value.splitlines() if line.strip()]
    return _words(name, value)


def _origins(name: str, value: Any) -> tuple[str, ...]:
    origins = _words(name, value)
    for origin in origins:
        parts = urlsplit(origin)
        if parts.scheme not in ("http", "https") or not parts.netloc or parts.path or parts.query:
            raise SettingsError(
                name,
                origin,
                "must be an origin: scheme, host and port only",
                "for example https://ops.example.com",
            )
    return tuple(origin.lower() for origin in origins)


def _file(name: str, value: Any) -> str | None:
    text = _text(name, os.fspath(value) if isinstance(value, os.PathLike) else value)
    if text is not None and not os.path.isfile(text):
        raise SettingsError(name, value, "must be a file that exists", "give its whole path")
    return text


def _endpoint(name: str, value: Any) -> str | None:
    text = _text(name, value)
    if text is not None:
        try:
            parts = urlsplit(text)
            good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        except ValueError:
            good = False
        if not good:
            raise SettingsError(name, value, "must be a URL", "for example http://localhost:4318")
    return text


def _choice(*choices: str) -> Check:
    def check(name: str, value: Any) -> str | None:
        text = _text(name, value)
        if text is None:
            return None
        if text not in choices:
            raise SettingsError(name, value, "must be one of " + ", ".join(choices))
        return text

    return check


def _level(name: str, value: Any) -> int:
    names = {
        "NOTSET": 0,
        "DEBUG": 10,
        "INFO": 20,
        "WARN": 30,
        "WARNING": 30,
        "ERROR": 40,
        "CRITICAL": 50,
        "FATAL": 50,
    }
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    if isinstance(value, str):
        word = value.strip().upper()
        if word in names:
            return names[word]
        if word.isdigit():
            return int(word)
    raise SettingsError(name, value, "must be a logging level", "for example INFO or 20")


def _rules(name: str, value: Any) -> tuple[Any, ...]:
    try:
        rules = tuple(value)
    except TypeError:
        raise SettingsError(name, value, "must be a list of functions (logger, message, attributes) -> bool") from None
    for rule in rules:
        if not callable(rule):
            raise SettingsError(name, rule, "every rule must be a function (logger, message, attributes) -> bool")
    return rules


def _anything(name: str, value: Any) -> Any:
    return value


def _setting(default: Any, check: Check, doc: str, *, env: bool = True, secret: bool = False) -> Any:
    return field(default=default, repr=not secret, metadata={"check": check, "doc": doc, "env": env})


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Everything that can be set, with its default.

    ``Settings(...)`` validates and raises :class:`~bridge.errors.SettingsError`;
    :meth:`from_env` reads ``BRIDGE_*`` first, and arguments win over the environment.
    """

    service_name: str | None = _setting(
        None,
        _text,
        "Name of the service. Default: OTEL_SERVICE_NAME, else what OTEL_RESOURCE_ATTRIBUTES says.",
    )
    logger_provider: Any = _setting(
        None, _anything, "An SDK LoggerProvider to join instead of the global one.", env=False
    )
    disabled: bool = _setting(False, _boolean, "Kill switch: plain logging goes on as if the bridge were not there.")
    capture_logging: bool = _setting(
        True,
        _boolean,
        "Attach the handler to the root logger. Off: only the exporter, the hub and the routes.",
    )
    level: int = _setting(0, _level, "Level of the bridge's own handler; records below it are not captured.")
    audit_rules: tuple[Any, ...] = _setting(
        (),
        _rules,
        "Further rules for audit records: functions (logger, message, attributes) -> bool.",
        env=False,
    )
    ignored_loggers: tuple[str, ...] = _setting(
        (), _words, "Loggers never captured (a name covers its children); audit records still are."
    )
    replace_handlers: bool = _setting(
        True, _boolean, "Take OpenTelemetry's own logging handlers off the root logger while the bridge runs."
    )
    flush_on_sigterm: bool = _setting(True, _boolean, "If nobody handles SIGTERM, flush before the process ends by it.")

    redact: bool = _setting(True, _boolean, "Replace secrets in messages, attributes and exception text.")
    redact_keys: tuple[str, ...] = _setting((), _words, "Further attribute names whose values are secret.")
    redact_patterns: tuple[str, ...] = _setting(
        (), _patterns, "Further regular expressions of secret text (in the environment: one a line)."
    )

    otlp_endpoint: str | None = _setting(
        None,
        _endpoint,
        "Collector to send both kinds of records to. Default: OTEL_EXPORTER_OTLP_[LOGS_]ENDPOINT.",
    )
    otlp_protocol: str | None = _setting(
        None,
        _choice("grpc", "http/protobuf"),
        "grpc or http/protobuf. Default: OTEL_EXPORTER_OTLP_[LOGS_]PROTOCOL, else grpc for port 4317 and "
        "http/protobuf for any other.",
    )
    monitor_endpoint: str | None = _setting(
        None,
        _endpoint,
        "An audit-bridge serve that shows this process's records, by OTLP; the process then shows none itself. "
        "Port 4317 means gRPC, any other HTTP.",
    )

    queue_records: int = _setting(
        65_536,
        _integer(16, 10_000_000),
        "Records waiting for the publisher; past it the newest system record is refused.",
    )
    queue_bytes: int = _setting(
        64 * _MIB, _integer(65_536, 1 << 40), "Bytes of large records waiting for the publisher."
    )
    export_queue_records: int = _setting(
        16_384,
        _integer(16, 10_000_000),
        "Records waiting for the provider's processors; past it the newest is refused.",
    )
    ring_system_records: int = _setting(20_000, _integer(1, 10_000_000), "System records kept for live clients.")
    ring_system_bytes: int = _setting(32 * _MIB, _integer(4_096, 1 << 40), "Bytes of system records kept.")
    ring_audit_records: int = _setting(20_000, _integer(1, 10_000_000), "Audit records kept for live clients.")
    ring_audit_bytes: int = _setting(32 * _MIB, _integer(4_096, 1 << 40), "Bytes of audit records kept.")
    live_text_chars: int = _setting(
        _MIB, _integer(256, 1 << 30), "Characters of one text shown live; longer ones are cut and say so."
    )

    host: str = _setting("127.0.0.1", _needed_text, "Address the stand-alone server listens on.")
    port: int = _setting(8765, _integer(0, 65_535), "Port the stand-alone server listens on; 0 takes any free one.")
    token: str | None = _setting(
        None, _token, "If set, every client must send it: Authorization: Bearer <token>.", secret=True
    )
    allowed_origins: tuple[str, ...] = _setting(
        (), _origins, "Origins of pages, besides the server's own, that may connect."
    )
    allowed_hosts: tuple[str, ...] = _setting(
        (),
        _words,
        "Host names, besides loopback ones, that requests may carry. With a token and no list: any.",
    )
    max_clients: int = _setting(1_000, _integer(1, 1_000_000), "Live clients at once; one more is closed with 1013.")
    otlp_grpc_port: int = _setting(
        4317, _integer(0, 65_535), "Port on which serve takes OTLP over gRPC; 0 takes any free one."
    )
    otlp_http_port: int = _setting(
        4318, _integer(0, 65_535), "Port on which serve takes OTLP over HTTP; 0 takes any free one."
    )
    receive_bytes: int = _setting(
        16 * _MIB,
        _integer(1_024, 1 << 30),
        "Bytes of a received request, packed or unpacked; a larger one is refused.",
    )
    receive_pending_bytes: int = _setting(
        64 * _MIB,
        _integer(1_024, 1 << 34),
        "Bytes of requests on their way at once; past it senders are told to come again (503, UNAVAILABLE).",
    )
    dedupe_records: int = _setting(
        262_144,
        _integer(0, 100_000_000),
        "Ids of received records that are remembered, at least, to leave out copies; 0 leaves none out.",
    )
    audit_sources: tuple[str, ...] = _setting(
        ("*",), _words, "Services whose received records may show as audit records: names or globs of service.name."
    )
    tls_certificate: str | None = _setting(
        None, _file, "PEM file with serve's certificate and its chain: all ports speak TLS."
    )
    tls_key: str | None = _setting(None, _file, "PEM file with the certificate's key; needed with it.")
    tls_client_ca: str | None = _setting(
        None,
        _file,
        "PEM file of authorities: on the OTLP ports a sender must show a certificate that one of them signed.",
    )
    shutdown_timeout: float = _setting(5.0, _seconds, "Seconds that the end of the process waits for what is queued.")

    def __post_init__(self) -> None:
        for item in dataclasses.fields(self):
            value = getattr(self, item.name)
            if value is not item.default:
                object.__setattr__(self, item.name, item.metadata["check"](item.name, value))
        for name, needed in (
            ("tls_certificate", "tls_key"),
            ("tls_key", "tls_certificate"),
            ("tls_client_ca", "tls_certificate"),
        ):
            if getattr(self, name) is not None and getattr(self, needed) is None:
                raise SettingsError(name, getattr(self, name), f"needs {needed} too", "set both, or neither")

    @classmethod
    def names(cls) -> dict[str, dataclasses.Field[Any]]:
        """Every setting by name."""
        return {item.name: item for item in dataclasses.fields(cls)}

    @classmethod
    def environment_names(cls) -> dict[str, str]:
        """``BRIDGE_*`` name → setting name."""
        return {PREFIX + name.upper(): name for name, item in cls.names().items() if item.metadata["env"]}

    @classmethod
    def from_env(cls, environ: Mapping[str, str], **arguments: Any) -> Settings:
        """Settings from arguments first, then ``BRIDGE_*``, then the defaults.

        Raises :class:`~bridge.errors.SettingsError` for an unknown argument or a bad value; the name in it is the
        one the user wrote (``BRIDGE_PORT`` if it came from the environment). Unknown ``BRIDGE_*`` names are not an
        error: see :func:`unknown_names`.
        """
        known = cls.names()
        for name, value in arguments.items():
            if name not in known:
                raise SettingsError(name, value, "is not a setting", _nearest(name, known))
        values = dict(arguments)
        for variable, name in cls.environment_names().items():
            if name not in values and variable in environ:
                values[name] = known[name].metadata["check"](variable, environ[variable])
        return cls(**values)


def _nearest(name: str, known: Mapping[str, object], prefix: str = "") -> str:
    # Without the prefix, which would make all of them look alike.
    bare = [each.removeprefix(prefix) for each in known]
    close = difflib.get_close_matches(name.removeprefix(prefix), bare, n=1)
    return f"did you mean {prefix}{close[0]}?" if close else "see docs/reference/settings.md for the list"


def unknown_names(environ: Mapping[str, str]) -> list[str]:
    """One sentence for each ``BRIDGE_*`` variable that is not a setting, with the nearest known name.

    Values are left out: an unknown name may hold a secret.
    """
    known = Settings.environment_names()
    return [
        f"{name} is not a setting and has no effect; {_nearest(name, known, PREFIX)}"
        for name in sorted(environ)
        if name.startswith(PREFIX) and name not in known
    ]
