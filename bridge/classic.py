"""The classic handler API: a service written for it changes one import.

A :class:`LogStreamHandler` works on any logger by itself, without ``setup()``. Behind it stand the same parts: the
call is captured without a lock, a worker encodes once, and every client reads from the rings at its own pace.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections.abc import Callable
from typing import Any, Protocol

import msgspec

from bridge.capture.convert import Converter
from bridge.capture.handler import CaptureHandler
from bridge.capture.intake import CallQueue, Drops
from bridge.capture.process import watch_process
from bridge.capture.publisher import Publisher
from bridge.diagnostics import say_rarely
from bridge.live.hub import Hub
from bridge.record.redact import redactor_for
from bridge.settings import Settings

__all__ = ["LogStreamHandler", "StreamClient", "get_log_stream_handler", "setup_log_streaming"]

_READ_LIMIT = 256


class StreamClient(Protocol):
    """Anything with ``async send_json(dict)``; Starlette's and FastAPI's WebSocket have it."""

    async def send_json(self, data: Any) -> None:
        """Send one message; raise if the client is gone."""
        ...


class _Member:
    """A client's stay, from ``add_client`` to its removal; coming back later begins another."""

    def __init__(self, client: StreamClient, position: int) -> None:
        self.client = client
        self.position = position
        self.task: asyncio.Task[None] | None = None


class LogStreamHandler(logging.Handler):
    """Streams what it handles to its clients, as version 1 messages, in order.

    A client sees records from :meth:`add_client` on. One that raises is removed; the others still get the message. One
    that is slow skips system records (nobody else waits for it), and is removed if it would miss an audit record.

    The event loop is the one of :meth:`set_event_loop`, else the one that runs where :meth:`add_client` is called.
    """

    def __init__(self, level: int = logging.NOTSET) -> None:
        self._streaming_ready = False
        super().__init__(level)
        settings = Settings.from_env(os.environ)
        self._drops = Drops()
        self._hub = Hub()
        self._queue: CallQueue[Any] = CallQueue(settings.queue_records, settings.queue_bytes)
        self._capture = CaptureHandler(self._queue, self._drops)
        self._publisher = Publisher(
            self._queue,
            Converter(redactor_for(settings), resource={}, text_chars=settings.live_text_chars),
            self._hub,
            self._drops,
        )
        self._loop: asyncio.AbstractEventLoop | None = None
        self._clients: dict[int, _Member] = {}
        self._clients_lock = threading.RLock()
        self._stop_watching: Callable[[], None] = watch_process(self, sigterm=False)

    # -- the classic methods ----------------------------------------------------------------------------------------

    def set_event_loop(self, loop: asyncio.AbstractEventLoop) -> None:
        """Serve clients on ``loop``. Clients added before are served from now on. Any thread."""
        with self._clients_lock:
            self._loop = loop
            waiting = [member for member in self._clients.values() if member.task is None]
        for member in waiting:
            self._serve(member)

    def add_client(self, websocket: StreamClient) -> None:
        """Stream to ``websocket`` from now on. Any thread. Adding it twice changes nothing."""
        try:
            running: asyncio.AbstractEventLoop | None = asyncio.get_running_loop()
        except RuntimeError:
            running = None
        with self._clients_lock:
            if id(websocket) in self._clients:
                return
            if running is not None and (self._loop is None or self._loop.is_closed()):
                self._loop = running
            member = self._clients[id(websocket)] = _Member(websocket, self._hub.end())
        self._serve(member)

    def remove_client(self, websocket: StreamClient) -> None:
        """Stop streaming to ``websocket``. Any thread. Removing one that is not there changes nothing."""
        self._remove(id(websocket))

    @property
    def client_count(self) -> int:
        """Clients now."""
        return len(self._clients)

    def statistics(self) -> dict[str, Any]:
        """Counts: published, dropped by reason, skipped by slow clients, clients."""
        return {
            "published": self._publisher.published,
            "dropped": self._drops.snapshot(),
            **self._hub.statistics()._asdict(),
            "clients": self.client_count,
        }

    # -- what the logging module calls --------------------------------------------------------------------------------

    def createLock(self) -> None:
        """No lock is needed."""
        self.lock = None

    def handle(self, record: logging.LogRecord) -> bool:
        """Capture ``record``. Never raises, never blocks."""
        if self.filters:
            kept: Any = self.filter(record)
            if not kept:
                return False
            if isinstance(kept, logging.LogRecord):
                record = kept
        return self._capture.handle(record)

    def emit(self, record: logging.LogRecord) -> None:
        """As :meth:`handle`."""
        self._capture.handle(record)

    def flush(self) -> None:
        """Nothing: sending is the clients' tasks' own."""

    def close(self) -> None:
        """Nothing: ``dictConfig`` and ``uvicorn.Config()`` close every handler, and go on using it."""

    def wait_published(self, timeout: float = 5.0) -> bool:
        """True once everything handled before the call is on its way to the clients."""
        return self._publisher.flush(timeout)

    # -- the parts ----------------------------------------------------------------------------------------------------

    def _is_here(self, member: _Member) -> bool:
        return self._clients.get(id(member.client)) is member

    def _serve(self, member: _Member) -> None:
        loop = self._loop
        if loop is None:
            return

        def start() -> None:
            with self._clients_lock:
                if self._is_here(member) and member.task is None:
                    member.task = loop.create_task(self._write(member))

        try:
            loop.call_soon_threadsafe(start)
        except RuntimeError:
            say_rarely("classic-loop", logging.WARNING, "the event loop of a LogStreamHandler is closed")

    async def _write(self, member: _Member) -> None:
        position = member.position
        try:
            while self._is_here(member):
                read = self._hub.read(position, _READ_LIMIT)
                position = read.seq
                self._hub.skipped(read.missed_system, read.missed_audit)
                if read.missed_audit:
                    say_rarely(
                        "classic-slow",
                        logging.WARNING,
                        "removed a client too slow for %d audit records",
                        read.missed_audit,
                    )
                    return
                for entry in read.entries:
                    await _send(member.client, entry.wire)
                if read.entries:
                    await asyncio.sleep(0)
                else:
                    await self._hub.wait(position)
        except Exception as error:
            say_rarely("classic-client", logging.INFO, "removed a client that raised: %r", error)
        finally:
            with self._clients_lock:
                if self._is_here(member):
                    del self._clients[id(member.client)]

    def _remove(self, key: int) -> None:
        with self._clients_lock:
            member = self._clients.pop(key, None)
        if member is not None and member.task is not None:
            try:
                member.task.get_loop().call_soon_threadsafe(member.task.cancel)
            except RuntimeError:
                pass  # the loop is closed: the task is gone with it

    def after_fork(self) -> None:
        """In a forked child: the clients are the parent's."""
        self._clients_lock = threading.RLock()
        self._clients.clear()
        self._loop = None
        self._hub.after_fork()
        self._publisher.after_fork()

    def at_exit(self) -> None:
        """Publish what is queued; sending it is up to a loop that may have ended."""
        self._publisher.flush(1.0)


async def _send(client: StreamClient, wire: bytes) -> None:
    send_text = getattr(client, "send_text", None) if type(client).__module__.startswith("starlette.") else None
    if send_text is not None:
        # A real Starlette WebSocket: the text is encoded already, once for all clients.
        await send_text(wire.decode())
    else:
        await client.send_json(msgspec.json.decode(wire))


_handler: LogStreamHandler | None = None
_handler_lock = threading.Lock()


def get_log_stream_handler() -> LogStreamHandler:
    """The process-wide handler, at level DEBUG. It is on no logger until :func:`setup_log_streaming` puts it there."""
    global _handler
    with _handler_lock:
        if _handler is None:
            _handler = LogStreamHandler(logging.DEBUG)
        return _handler


def setup_log_streaming(event_loop: asyncio.AbstractEventLoop | None = None) -> LogStreamHandler:
    """Put the process-wide handler on the root logger, once however often it is called, and return it."""
    handler = get_log_stream_handler()
    root = logging.getLogger()
    if handler not in root.handlers:
        root.addHandler(handler)
    if event_loop is not None:
        handler.set_event_loop(event_loop)
    return handler


def reset_for_tests() -> None:
    """Take the process-wide handler off and forget it."""
    global _handler, _handler_lock
    _handler_lock = threading.Lock()
    if _handler is not None:
        logging.getLogger().removeHandler(_handler)
        for key in list(_handler._clients):
            _handler._remove(key)
        _handler._publisher.stop(1.0)
    _handler = None
