"""Audit and live-log bridge for OpenTelemetry: ``bridge.setup()`` and Python logging is visible, live and audited."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bridge.capture.audit import AuditReceipt, audit_log, audit_log_async
from bridge.capture.context import actor
from bridge.errors import (
    AddressUnavailable,
    AuditUnavailable,
    BridgeError,
    MissingDependency,
    SettingsError,
    SetupError,
)
from bridge.settings import Settings

if TYPE_CHECKING:
    from bridge.assembly import Bridge, Statistics, setup
    from bridge.capture.asgi import AuditContextMiddleware
    from bridge.capture.loggers import SERVER_LOGGERS, loguru_sink, structlog_processor
    from bridge.classic import LogStreamHandler, get_log_stream_handler, setup_log_streaming
    from bridge.live.exporter import WebSocketLogRecordExporter

__all__ = [
    "SERVER_LOGGERS",
    "AddressUnavailable",
    "AuditContextMiddleware",
    "AuditReceipt",
    "AuditUnavailable",
    "Bridge",
    "BridgeError",
    "LogStreamHandler",
    "MissingDependency",
    "Settings",
    "SettingsError",
    "SetupError",
    "Statistics",
    "WebSocketLogRecordExporter",
    "actor",
    "audit_log",
    "audit_log_async",
    "get_log_stream_handler",
    "loguru_sink",
    "setup",
    "setup_log_streaming",
    "structlog_processor",
]

# These bring the OpenTelemetry SDK with them, 0.3 s of imports that a module which only calls
# audit_log() should not pay.
_LAZY = {
    "AuditContextMiddleware": "bridge.capture.asgi",
    "Bridge": "bridge.assembly",
    "LogStreamHandler": "bridge.classic",
    "SERVER_LOGGERS": "bridge.capture.loggers",
    "Statistics": "bridge.assembly",
    "WebSocketLogRecordExporter": "bridge.live.exporter",
    "get_log_stream_handler": "bridge.classic",
    "loguru_sink": "bridge.capture.loggers",
    "setup": "bridge.assembly",
    "structlog_processor": "bridge.capture.loggers",
    "setup_log_streaming": "bridge.classic",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'bridge' has no attribute {name!r}")
    import importlib

    value = getattr(importlib.import_module(_LAZY[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
