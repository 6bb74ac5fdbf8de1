"""The exporter for ``OTEL_LOGS_EXPORTER=bridge``: built without arguments, it brings its own server.

There is no durable trail in this mode: the SDK's own batch processor stands in front of it.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from bridge.diagnostics import say
from bridge.errors import BridgeError
from bridge.live.exporter import WebSocketLogRecordExporter
from bridge.live.hub import process_hub
from bridge.settings import Settings, unknown_names

if TYPE_CHECKING:
    from bridge.server.standalone import StandaloneServer

__all__ = ["AutostartExporter", "running_server"]

_server: StandaloneServer | None = None
_server_pid = 0
_tried_pid = 0
_lock = threading.Lock()


class AutostartExporter(WebSocketLogRecordExporter):
    """Uses the process-wide hub; its first export starts a server thread on ``BRIDGE_HOST``/``BRIDGE_PORT``.

    A later ``bridge.setup()`` shows its records in the same hub, and so on the same port. A port that is taken is one
    warning; records then go nowhere live and everything else goes on.
    """

    def __init__(self) -> None:
        from bridge.assembly import _redactor

        environ = dict(os.environ)
        self._settings = Settings(disabled=True)
        try:
            self._settings = Settings.from_env(environ)
            redactor = _redactor(self._settings)
        except BridgeError as error:
            # Built by opentelemetry-instrument inside somebody's service, which must start all the same.
            say(logging.ERROR, "the live view is off: %s", error)
            redactor = None
        for sentence in unknown_names(environ):
            say(logging.WARNING, "%s", sentence)
        super().__init__(redactor=redactor, text_chars=self._settings.live_text_chars)

    def export(self, batch: Sequence[Any]) -> Any:
        """Show a batch; the first one starts the server."""
        if not self._settings.disabled:
            _start_once(self._settings)
        return super().export(batch)


def running_server() -> StandaloneServer | None:
    """The server of this process, if one was started here."""
    return _server if _server_pid == os.getpid() else None


def _start_once(settings: Settings) -> None:
    global _server, _server_pid, _tried_pid
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
        _server.start()
        say(
            logging.INFO,
            "live view of this process: %s (audit records have no durable trail in this mode)",
            _server.url,
        )
