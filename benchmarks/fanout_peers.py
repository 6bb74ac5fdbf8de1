"""Servers that send every record to every client. Each is made in a process of its own; see fanout_child.

All run on asyncio's own event loop, in a thread. `publish()` is what a calling thread does for one record; where
`publish_in_loop` is set, the records of the full-speed run come from a tight loop inside the event loop instead, which
is the best case for such a design.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, NamedTuple

LOGGER_NAME = "bench"
PATH = "/ws/monitor"
START_SECONDS = 20.0

clock = time.monotonic_ns
logger = logging.getLogger(LOGGER_NAME)


def log_call(number: int) -> None:
    """The call that ours and the design replaced both take."""
    logger.info("~n=%d t=%d~", number, clock(), extra={"instance_id": number, "role": "worker"})


def ready_text(number: int) -> str:
    """A message that costs next to nothing to make: what follows is the fan-out alone. About 200 bytes."""
    return (
        '{"type":"system_log","data":{"timestamp":"2025-10-08T18:30:45.123Z","level":"INFO","logger":"bench",'
        f'"message":"~n={number} t={clock()}~","module":"fanout_peers","function":"ready_text","line":142}}}}'
    )


class FanoutPeer:
    """A server. What it is given to publish carries the marker that the client checks."""

    path = PATH
    # Records that fill whatever the design keeps for itself, before memory is measured.
    prefill = 2_000
    loop: asyncio.AbstractEventLoop
    port: int
    publish_in_loop: Callable[[int], None] | None = None

    def clients(self) -> int:
        """Clients that the next record would reach."""
        raise NotImplementedError

    def publish(self, number: int) -> None:
        """One record, from a calling thread."""
        raise NotImplementedError

    def publish_many(self, first: int, count: int) -> None:
        """Records in a row at full speed, from a calling thread."""
        for number in range(first, first + count):
            self.publish(number)

    def facts(self) -> dict[str, Any]:
        """What the server says of itself: drops, for example."""
        return {}


class _Uvicorn:
    """A stock uvicorn.Server in a thread, on asyncio's own event loop."""

    def __init__(self, app: Any) -> None:
        import uvicorn

        class Server(uvicorn.Server):
            @contextmanager
            def capture_signals(self) -> Iterator[None]:
                yield

        self.server = Server(
            uvicorn.Config(
                app,
                host="127.0.0.1",
                port=0,
                log_config=None,
                access_log=False,
                lifespan="off",
                loop="asyncio",
                timeout_graceful_shutdown=1,
            )
        )
        self.loop = asyncio.new_event_loop()
        threading.Thread(target=self._run, name="server", daemon=True).start()
        _wait_until(lambda: self.server.started)
        self.port: int = self.server.servers[0].sockets[0].getsockname()[1]

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_until_complete(self.server.serve())


def _wait_until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not true():
        if time.monotonic() > deadline:
            raise TimeoutError("the server did not start")
        time.sleep(0.005)


def _serve(endpoint: Callable[[Any], Awaitable[None]]) -> _Uvicorn:
    from starlette.applications import Starlette
    from starlette.routing import WebSocketRoute

    return _Uvicorn(Starlette(routes=[WebSocketRoute(PATH, endpoint)]))


# -- the design replaced ----------------------------------------------------------------------------------------------


class CoroutineHandler(logging.Handler):
    """For each record and client a coroutine is scheduled, and each sends the dict as JSON of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.loop: asyncio.AbstractEventLoop | None = None
        self.sockets: list[Any] = []

    def emit(self, record: logging.LogRecord) -> None:
        message = {
            "type": "system_log",
            "data": {
                "timestamp": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")[:-6] + "Z",
                "level": record.levelname,
                "logger": record.name,
                "message": record.getMessage(),
                "module": record.module,
                "function": record.funcName,
                "line": record.lineno,
            },
        }
        for socket in list(self.sockets):
            asyncio.run_coroutine_threadsafe(self._send(socket, message), self.loop)  # type: ignore[arg-type]

    async def _send(self, socket: Any, message: dict[str, Any]) -> None:
        try:
            await socket.send_json(message)
        except Exception:
            with contextlib.suppress(ValueError):
                self.sockets.remove(socket)


class ReplacedPeer(FanoutPeer):
    def __init__(self) -> None:
        self._handler = CoroutineHandler()
        self._server = _serve(self._endpoint)
        self.loop = self._handler.loop = self._server.loop
        self.port = self._server.port
        logger.setLevel(logging.INFO)
        logger.propagate = False
        logger.addHandler(self._handler)

    async def _endpoint(self, socket: Any) -> None:
        await socket.accept()
        self._handler.sockets.append(socket)
        try:
            await _until_gone(socket)
        finally:
            with contextlib.suppress(ValueError):
                self._handler.sockets.remove(socket)

    def clients(self) -> int:
        return len(self._handler.sockets)

    def publish(self, number: int) -> None:
        log_call(number)


async def _until_gone(socket: Any) -> None:
    from starlette.websockets import WebSocketDisconnect

    with contextlib.suppress(WebSocketDisconnect):
        while True:
            await socket.receive_text()


# -- a queue and a writer for each client -----------------------------------------------------------------------------


class QueuePeer(FanoutPeer):
    """Encoded once; each client has an asyncio.Queue without a bound and a task that sends what is in it."""

    def __init__(self) -> None:
        self._queues: set[asyncio.Queue[str]] = set()
        self._server = _serve(self._endpoint)
        self.loop, self.port = self._server.loop, self._server.port
        self.publish_in_loop = self._put

    async def _endpoint(self, socket: Any) -> None:
        await socket.accept()
        queue: asyncio.Queue[str] = asyncio.Queue()
        self._queues.add(queue)
        writer = asyncio.create_task(self._write(socket, queue))
        try:
            await _until_gone(socket)
        finally:
            self._queues.discard(queue)
            writer.cancel()
            await asyncio.gather(writer, return_exceptions=True)

    async def _write(self, socket: Any, queue: asyncio.Queue[str]) -> None:
        while True:
            await socket.send_text(await queue.get())

    def _put(self, number: int) -> None:
        self._put_text(ready_text(number))

    def _put_text(self, text: str) -> None:
        for queue in self._queues:
            queue.put_nowait(text)

    def clients(self) -> int:
        return len(self._queues)

    def publish(self, number: int) -> None:
        self.loop.call_soon_threadsafe(self._put_text, ready_text(number))


# -- websockets' broadcast() ------------------------------------------------------------------------------------------


class BroadcastPeer(FanoutPeer):
    """`websockets.asyncio.server.broadcast()`, compression off, no web framework in between."""

    def __init__(self) -> None:
        self._sockets: set[Any] = set()
        self._started = threading.Event()
        self.loop = asyncio.new_event_loop()
        threading.Thread(target=self._run, name="server", daemon=True).start()
        if not self._started.wait(START_SECONDS):
            raise TimeoutError("the server did not start")
        self.publish_in_loop = self._send

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_until_complete(self._serve())

    async def _serve(self) -> None:
        from websockets.asyncio.server import broadcast, serve

        self._broadcast: Callable[[Any, str], None] = broadcast
        async with serve(self._endpoint, "127.0.0.1", 0, compression=None) as server:
            self.port = next(iter(server.sockets)).getsockname()[1]
            self._started.set()
            await asyncio.Event().wait()

    async def _endpoint(self, socket: Any) -> None:
        self._sockets.add(socket)
        try:
            await socket.wait_closed()
        finally:
            self._sockets.discard(socket)

    def _send(self, number: int) -> None:
        self._broadcast(self._sockets, ready_text(number))

    def clients(self) -> int:
        return len(self._sockets)

    def publish(self, number: int) -> None:
        self.loop.call_soon_threadsafe(self._broadcast, self._sockets, ready_text(number))


# -- ours -------------------------------------------------------------------------------------------------------------


class OurPeer(FanoutPeer):
    """`bridge.setup()` and the stand-alone server, as `audit-bridge demo` has them; real logging calls."""

    # The ring holds 20,000 system records, and what was joined for many clients at once is kept for a while.
    prefill = 48_000

    def __init__(self) -> None:
        import bridge

        sys.setswitchinterval(0.000_5)  # as the programs of the package do that serve
        self._bridge = bridge.setup(service_name="bench")
        logger.setLevel(logging.INFO)
        self._start()

    def _start(self) -> None:
        from bridge.server.standalone import StandaloneServer, bind

        self._server: Any = StandaloneServer(self._bridge.app, bind("127.0.0.1", 0, token=None))
        self._server.start()
        _wait_until(lambda: bool(self._server.started))
        self.port = self._server.port

    def clients(self) -> int:
        return self._bridge.statistics().clients

    def publish(self, number: int) -> None:
        log_call(number)

    def facts(self) -> dict[str, Any]:
        statistics = self._bridge.statistics()
        return {
            "dropped": {reason: count for reason, count in statistics.dropped.items() if count},
            "skipped": statistics.skipped_system + statistics.skipped_audit,
            "held_bytes": statistics.held_bytes,
        }


class OurPlainPeer(OurPeer):
    """The same application on somebody else's uvicorn, which knows nothing of us."""

    def _start(self) -> None:
        self._server = _Uvicorn(self._bridge.app)
        self.port = self._server.port


class OurPublishPeer(OurPeer):
    """`hub.publish()` with LogEvents made on the spot, as a receiver would: no logging call, no conversion."""

    batch = 64

    def __init__(self) -> None:
        super().__init__()
        from bridge.record.event import LogEvent

        self._event: Callable[..., Any] = LogEvent

    def _make(self, number: int) -> Any:
        now = time.time_ns()
        return self._event(
            timestamp=now, observed_timestamp=now, severity_number=9, level="INFO", logger=LOGGER_NAME,
            message=f"~n={number} t={clock()}~", module="fanout_peers", function="_make", line=142,
        )  # fmt: skip

    def publish(self, number: int) -> None:
        self._bridge.hub.publish((self._make(number),))

    def publish_many(self, first: int, count: int) -> None:
        self._bridge.hub.publish([self._make(number) for number in range(first, first + count)])


class Peer(NamedTuple):
    """A row of the table."""

    label: str
    make: Callable[[], FanoutPeer] | None
    """None: the C server."""
    includes: str
    """What the server process does for a record, at full speed."""
    module: str | None = None
    """What has to be installed, beside the bridge's own dependencies."""


PEERS: dict[str, Peer] = {
    "replaced": Peer(
        "the design replaced: a coroutine a record and client",
        ReplacedPeer,
        "logging call, handler makes a dict, send_json() for each client; Starlette on uvicorn",
        "uvicorn",
    ),
    "queue": Peer(
        "a queue and a writer for each client",
        QueuePeer,
        "ready text from a loop inside the event loop, send_text() for each client; Starlette on uvicorn",
        "uvicorn",
    ),
    "broadcast": Peer(
        "websockets broadcast()",
        BroadcastPeer,
        "ready text from a loop inside the event loop, broadcast(); no framework",
        "websockets",
    ),
    "ours-plain": Peer(
        "bridge, on stock uvicorn",
        OurPlainPeer,
        "logging call, capture, OpenTelemetry record, classification, redaction, JSON, ring; ASGI sends",
        "uvicorn",
    ),
    "ours": Peer(
        "bridge",
        OurPeer,
        "logging call, capture, OpenTelemetry record, classification, redaction, JSON, ring; its own server",
        "uvicorn",
    ),
    "ours-publish": Peer(
        "bridge, publish only",
        OurPublishPeer,
        "LogEvent made, hub.publish() 64 at a time, JSON, ring; its own server",
        "uvicorn",
    ),
    "c-frame": Peer("C, one send() a frame", None, "ready frames, nothing else"),
    "c-joined": Peer("C, 64 frames a send()", None, "ready frames, nothing else"),
}
