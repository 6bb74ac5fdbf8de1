"""The exporter for ``OTEL_LOGS_EXPORTER=bridge``: built without arguments, it brings its own server.

There is no durable trail in this mode: the SDK's own batch processor stands in front of it.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from bridge.diagnostics import say
from bridge.errors import BridgeError
from bridge.live.exporter import WebSocketLogRecordExporter
from bridge.live.hub import Hub, process_hub
from bridge.otlp import monitor_exporter
from bridge.record.classify import is_transport_logger
from bridge.record.severity import DEBUG_MAX
from bridge.settings import Settings, unknown_names

if TYPE_CHECKING:
    from bridge.server.standalone import StandaloneServer

__all__ = ["AutostartExporter", "running_server"]

# How long the end of the process waits for clients to read the last records.
_GOODBYE_SECONDS: Final = 1.0

_server: StandaloneServer | None = None
_server_pid = 0
_tried_pid = 0
_watching_forks = False
_lock = threading.Lock()


class AutostartExporter(WebSocketLogRecordExporter):
    """Uses the process-wide hub; its first export starts a server thread on ``BRIDGE_HOST``/``BRIDGE_PORT``.

    A later ``bridge.setup()`` shows its records in the same hub, and so on the same port. A port that is taken is one
    warning; records then go nowhere live and everything else goes on. With ``BRIDGE_MONITOR_ENDPOINT`` there is no
    server: an ``audit-bridge serve`` elsewhere gets the records. ``shutdown()``, at the end of the process, lets
    clients read the last records and says goodbye to them.
    """

    def __init__(self) -> None:
        from bridge.record.redact import redactor_for

        environ = dict(os.environ)
        self._settings = Settings(disabled=True)
        try:
            self._settings = Settings.from_env(environ)
            redactor = redactor_for(self._settings)
        except BridgeError as error:
            # Built by opentelemetry-instrument inside somebody's service, which must start all the same.
            say(logging.ERROR, "the live view is off: %s", error)
            redactor = None
        for sentence in unknown_names(environ):
            say(logging.WARNING, "%s", sentence)
        super().__init__(redactor=redactor, text_chars=self._settings.live_text_chars)
        self._remote: Any = None
        if self._settings.monitor_endpoint is not None and not self._settings.disabled:
            try:
                self._remote = monitor_exporter(self._settings, environ)
            except BridgeError as error:
                say(logging.ERROR, "the live view is off: %s", error)
                self._settings = Settings(disabled=True)

    def export(self, batch: Sequence[Any]) -> Any:
        """Show a batch, or send it to ``BRIDGE_MONITOR_ENDPOINT``; the first one shown here starts the server."""
        if self._settings.disabled:
            return super().export(())
        if self._remote is not None:
            sent = [each for each in batch if not _is_chatter(each)]
            return self._remote.export(sent) if sent else super().export(())
        _start_once(self._settings)
        if self._hub.closed and not self._shut_down and running_server() is not None:
            self._hub.reopen()  # a Bridge that had adopted our hub was shut down; we go on
        return super().export(batch)

    def shutdown(self) -> None:
        """Take no more records; stop the server once its clients have what there is, or after a second."""
        super().shutdown()
        if self._remote is not None:
            self._remote.shutdown()
        elif not self._settings.disabled:
            _stop(self._hub)


def _is_chatter(readable: Any) -> bool:
    """Whether it may speak of a request to the monitor: sent there, it would beget the next one."""
    scope = readable.instrumentation_scope
    severity = readable.log_record.severity_number
    number: int = getattr(severity, "value", severity) or 0
    return scope is not None and number <= DEBUG_MAX and is_transport_logger(scope.name)


def running_server() -> StandaloneServer | None:
    """The server of this process, if one was started here."""
    return _server if _server_pid == os.getpid() else None


def _start_once(settings: Settings) -> None:
    global _server, _server_pid, _tried_pid, _watching_forks
    if _tried_pid == os.getpid():
        return
    with _lock:
        if _tried_pid == os.getpid():
            return
        _tried_pid = os.getpid()
        from bridge.assembly import version
        from bridge.server.app import build_app, build_routes
        from bridge.server.auth import Policy
        from bridge.server.standalone import StandaloneServer, bind

        hub = process_hub()
        hub.resize(
            system_records=settings.ring_system_records,
            system_bytes=settings.ring_system_bytes,
            audit_records=settings.ring_audit_records,
            audit_bytes=settings.ring_audit_bytes,
        )
        try:
            listener = bind(settings.host, settings.port, token=settings.token)
            app = build_app(
                build_routes(
                    hub,
                    Policy(settings.token, settings.allowed_origins, settings.allowed_hosts),
                    prefix="",
                    max_clients=settings.max_clients,
                    statistics=lambda: hub.statistics()._asdict(),
                    version=version(),
                )
            )
            _server = StandaloneServer(app, listener)
        except BridgeError as error:
            say(logging.WARNING, "the live view is off: %s", error)
            return
        _server_pid = os.getpid()
        if not _watching_forks and hasattr(os, "register_at_fork"):
            _watching_forks = True
            os.register_at_fork(after_in_child=_after_fork_in_child)
        hub.reopen()
        _server.start()
        # A warning, because it has one: and at Python's defaults nothing below is heard.
        say(
            logging.WARNING,
            "live view of this process: %s/ (audit records have no durable trail in this mode)",
            _server.url,
        )


def _stop(hub: Hub) -> None:
    global _server, _tried_pid
    with _lock:
        server = running_server()
        if server is None:
            return
        hub.drain(_GOODBYE_SECONDS)
        server.stop()
        _server = None
        _tried_pid = 0


def _after_fork_in_child() -> None:
    global _lock
    _lock = threading.Lock()
    if _server is not None:
        _server.close_after_fork()
