"""System or audit: three fixed rules, and those a user adds.

A record is an audit record if any of these holds: it is flagged (``is_audit``, or it carries an
``audit.record.id``), its logger's name starts with ``audit.``, or its message starts with ``[AUDIT]``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, TypeAlias

__all__ = [
    "AUDIT_LOGGER_PREFIX",
    "AUDIT_MESSAGE_PREFIX",
    "TRANSPORT_LOGGERS",
    "WIRE_LOGGERS",
    "Rule",
    "audit_message_possible",
    "is_audit",
    "is_flagged",
    "is_transport_logger",
    "is_wire_logger",
]

AUDIT_LOGGER_PREFIX: Final = "audit."
AUDIT_MESSAGE_PREFIX: Final = "[AUDIT]"

WIRE_LOGGERS: Final = ("uvicorn.error", "uvicorn.asgi", "websockets", "hypercorn", "bridge.diagnostics")
"""The chatter of our own transport, up to DEBUG: one log line of ours would become frames, which become log lines,
and so on. Above DEBUG these loggers say one line a connection, which is worth seeing."""

TRANSPORT_LOGGERS: Final = (
    "urllib3",
    "requests",
    "http",
    "grpc",
    "httpx",
    "httpcore",
    "charset_normalizer",
    "opentelemetry.exporter",
)
"""Loggers that speak while a request of an exporter is on its way: what they say must not make the next request."""

Rule: TypeAlias = Callable[[str, str, Mapping[str, object]], bool]
"""``rule(logger_name, message, attributes) -> bool``. Called on the logging thread: keep it quick."""

_FALSE_WORDS: Final = frozenset({"", "0", "false", "no", "off", "none", "null"})


def is_flagged(value: object) -> bool:
    """Whether a value of ``is_audit`` means yes. Words count as they read: ``"false"`` is no. Never raises."""
    if value is True:
        return True
    if value is None or value is False:
        return False
    if isinstance(value, str):
        return value.strip().lower() not in _FALSE_WORDS
    try:
        return bool(value)
    except Exception:
        # Somebody meant something by the flag; losing an audit record is worse than an extra one.
        return True


def is_wire_logger(logger: str) -> bool:
    """Whether a logger is, or is below, one of :data:`WIRE_LOGGERS`."""
    return any(logger == name or logger.startswith(name + ".") for name in WIRE_LOGGERS)


def is_transport_logger(logger: str) -> bool:
    """Whether a logger is, or is below, one of :data:`TRANSPORT_LOGGERS`."""
    return any(logger == name or logger.startswith(name + ".") for name in TRANSPORT_LOGGERS)


def audit_message_possible(template: str) -> bool:
    """Whether ``template % args`` could start with ``[AUDIT]`` although ``template`` itself does not.

    True only if what stands before the first ``%`` is a beginning of the prefix.
    """
    percent = template.find("%")
    return 0 <= percent < len(AUDIT_MESSAGE_PREFIX) and AUDIT_MESSAGE_PREFIX.startswith(template[:percent])


def is_audit(logger: str, message: str, attributes: Mapping[str, object], rules: tuple[Rule, ...] = ()) -> bool:
    """Whether a finished record is an audit record. A rule that raises does not match."""
    if logger.startswith(AUDIT_LOGGER_PREFIX) or message.startswith(AUDIT_MESSAGE_PREFIX):
        return True
    if is_flagged(attributes.get("is_audit")) or attributes.get("audit.record.id"):
        return True
    for rule in rules:
        try:
            if rule(logger, message, attributes):
                return True
        except Exception:  # noqa: S112  (a user's rule: no match is the only safe reading)
            continue
    return False
