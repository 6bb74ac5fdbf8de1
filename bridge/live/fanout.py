"""Fan-out on one event loop: who is connected, and how records reach them with the least work.

One wake-up of the loop serves everybody. Clients that stand at the same place with the same filter share one chunk and,
where the server lets many frames leave in one write, the very same bytes. A client that does not take more is left
where it is: it holds a position, nothing else.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final, Protocol, TypeAlias

from bridge.diagnostics import say_rarely
from bridge.live.chunk import Chunk, join_frames
from bridge.live.hub import Hub
from bridge.live.session import SessionV1
from bridge.live.session_v2 import SessionV2
from bridge.record.filters import Filter

__all__ = ["FanOut", "FrameWriter", "JoinedClient", "PlainClient", "Session"]

Session: TypeAlias = SessionV1 | SessionV2

# Records read at a time. A chunk of small records is about 100 kB: large enough that a write is worth its system call,
# small enough that a slow client holds little.
_CHUNK_RECORDS: Final = 512

# Chunks that a client may be given in one turn of the loop, so that one that catches up keeps nobody waiting.
_CHUNKS_A_TURN: Final = 4

# Chunks remembered, for clients that stand where another has just been.
_CHUNKS_KEPT: Final = 64

TICK_SECONDS: Final = 0.5


class FrameWriter(Protocol):
    """What a server offers that can send many ready frames in one write."""

    writable: bool
    """False while the transport's buffer is above its bound."""

    def write(self, frames: bytes) -> None:
        """Send whole frames. Never blocks; does nothing on a closed connection."""
        ...

    def abort(self) -> None:
        """Drop the connection with whatever is buffered: nobody takes it."""
        ...

    def listen(self, on_writable: Callable[[], None] | None, on_shutdown: Callable[[], None] | None) -> None:
        """Call ``on_writable`` when the buffer has drained, ``on_shutdown`` when the server is about to close it."""
        ...


class FanOut:
    """The clients of one hub on one event loop. Everything here runs on that loop."""

    def __init__(self, hub: Hub, loop: asyncio.AbstractEventLoop) -> None:
        self.hub = hub
        self.loop = loop
        self._clients: set[JoinedClient | PlainClient] = set()
        self._chunks: dict[tuple[int, str], Chunk] = {}
        self._timer: asyncio.TimerHandle | None = None

    def add(self, client: JoinedClient | PlainClient) -> None:
        """Serve a client from now on."""
        if not self._clients:
            self.hub.listen(self.loop, self._on_records)
            self._timer = self.loop.call_later(TICK_SECONDS, self._tick)
        self._clients.add(client)

    def remove(self, client: JoinedClient | PlainClient) -> None:
        """Stop serving a client."""
        self._clients.discard(client)
        if not self._clients:
            self.hub.unlisten(self.loop, self._on_records)
            self._chunks.clear()
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

    def chunk(self, filter: Filter, seq: int) -> Chunk | None:
        """What comes after number ``seq``; None if nothing does."""
        key = (seq, filter.key)
        found = self._chunks.get(key)
        if found is None:
            read = self.hub.read(seq, _CHUNK_RECORDS)
            if not read.entries:
                return None
            found = Chunk(self.hub.epoch, read, filter)
            while len(self._chunks) >= _CHUNKS_KEPT:
                del self._chunks[next(iter(self._chunks))]
            self._chunks[key] = found
        return found

    def _on_records(self) -> None:
        for client in tuple(self._clients):
            client.on_records()

    def _tick(self) -> None:
        self._timer = self.loop.call_later(TICK_SECONDS, self._tick)
        now = self.loop.time()
        for client in tuple(self._clients):
            client.on_tick(now)


class JoinedClient:
    """A client on a server that takes joined frames: served straight from the wake-up, without a task."""

    def __init__(self, fan_out: FanOut, session: Session, writer: FrameWriter, stuck_seconds: float) -> None:
        self._fan_out = fan_out
        self.session = session
        self._writer = writer
        self._stuck_seconds = stuck_seconds
        self._blocked_since: float | None = None
        self.done: asyncio.Future[None] = fan_out.loop.create_future()
        """Done once the session has closed, with everything written that goes before."""
        self.left = False
        """True once the client has gone by itself."""

    def start(self) -> None:
        """Serve from now on."""
        self._writer.listen(self._on_writable, self._on_shutdown)
        self._fan_out.add(self)
        self._pump()

    def stop(self) -> None:
        """The connection is gone, or done."""
        self._fan_out.remove(self)
        self._writer.listen(None, None)

    def heard(self, text: str | bytes) -> None:
        """A message from the client."""
        self.session.receive(text, self._fan_out.loop.time())
        self._pump()

    def on_records(self) -> None:
        """There are new records, or the hub has closed."""
        if self._writer.writable:
            self._pump()

    def on_tick(self, now: float) -> None:
        """Half a second has passed."""
        if not self._writer.writable:
            if self._blocked_since is None:
                self._blocked_since = now
            elif now - self._blocked_since >= self._stuck_seconds:
                self.session.stuck(f"too slow: nothing was read for {self._stuck_seconds:g} s")
                say_rarely(
                    "stuck",
                    logging.WARNING,
                    "closed a client of /ws/monitor: too slow: nothing was read for %g s",
                    self._stuck_seconds,
                )
                _finish(self.done)
            return
        self._blocked_since = None
        self.session.tick(now)
        self._pump()

    def _on_writable(self) -> None:
        self._blocked_since = None
        self._pump()

    def _on_shutdown(self) -> None:
        self.session.shut_down()
        control = self.session.take_control()
        if control:
            self._writer.write(join_frames(control))
        _finish(self.done)

    def _pump(self) -> None:
        session, writer, fan_out = self.session, self._writer, self._fan_out
        turns = 0
        while writer.writable and not self.done.done():
            control = session.take_control()
            if control:
                writer.write(join_frames(control))
            if not session.wants_records:
                break
            chunk = fan_out.chunk(session.filter, session.seq)
            if chunk is None:
                if fan_out.hub.closed:
                    session.shut_down()
                    continue
                break
            if turns == _CHUNKS_A_TURN:
                fan_out.loop.call_soon(self.on_records)
                break
            turns += 1
            _count_missed(fan_out.hub, chunk)
            before, own, after = session.deliver(chunk, fan_out.loop.time())
            if own is None:
                frames = chunk.joined(session.version, session.batch)
                if before or after:
                    frames = join_frames(before) + frames + join_frames(after)
            else:
                frames = join_frames([*before, *own, *after])
            if frames:
                writer.write(frames)
        if session.close is not None:
            control = session.take_control()
            if control and writer.writable:
                writer.write(join_frames(control))
            _finish(self.done)


class PlainClient:
    """A client on any ASGI server: one task, one ``send`` a message."""

    def __init__(
        self,
        fan_out: FanOut,
        session: Session,
        send_text: Callable[[str], Awaitable[None]],
        stuck_seconds: float,
    ) -> None:
        self._fan_out = fan_out
        self.session = session
        self._send_text = send_text
        self._stuck_seconds = stuck_seconds
        self._sending_since: float | None = None
        self._changed = asyncio.Event()
        self.done: asyncio.Future[None] = fan_out.loop.create_future()
        """Done once the session has closed, with everything sent that goes before; fails with what a send raised."""
        self.left = False
        """True once the client has gone by itself."""
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Serve from now on."""
        self._fan_out.add(self)
        self._task = self._fan_out.loop.create_task(self._write())

    def stop(self) -> None:
        """The connection is gone, or done."""
        self._fan_out.remove(self)
        if self._task is not None:
            self._task.cancel()

    def heard(self, text: str | bytes) -> None:
        """A message from the client."""
        self.session.receive(text, self._fan_out.loop.time())
        self._changed.set()

    def on_records(self) -> None:
        """There are new records, or the hub has closed."""
        self._changed.set()

    def on_tick(self, now: float) -> None:
        """Half a second has passed."""
        if self._sending_since is not None and now - self._sending_since >= self._stuck_seconds:
            self.session.stuck(f"too slow: nothing was read for {self._stuck_seconds:g} s")
            say_rarely(
                "stuck",
                logging.WARNING,
                "closed a client of /ws/monitor: too slow: nothing was read for %g s",
                self._stuck_seconds,
            )
            _finish(self.done)
        elif self._sending_since is None:
            self.session.tick(now)
            self._changed.set()

    async def _write(self) -> None:
        session, fan_out = self.session, self._fan_out
        try:
            while True:
                # Cleared before looking, so that nothing falls between the look and the sleep.
                self._changed.clear()
                messages = session.take_control()
                chunk = fan_out.chunk(session.filter, session.seq) if session.wants_records else None
                if chunk is not None:
                    _count_missed(fan_out.hub, chunk)
                    before, own, after = session.deliver(chunk, fan_out.loop.time())
                    if own is None:
                        own = chunk.payloads(session.version, session.batch)
                    messages = [*messages, *before, *own, *after]
                elif fan_out.hub.closed and session.close is None and not session.paused:
                    session.shut_down()
                    continue
                messages += session.take_control()
                for message in messages:
                    self._sending_since = fan_out.loop.time()
                    await self._send_text(message.decode())
                self._sending_since = None
                if session.close is not None:
                    _finish(self.done)
                    return
                if chunk is None:
                    await self._changed.wait()
                else:
                    # A send that does not have to wait does not let others run either.
                    await asyncio.sleep(0)
        except Exception as error:
            if not self.done.done():
                self.done.set_exception(error)


def _finish(done: asyncio.Future[None]) -> None:
    if not done.done():
        done.set_result(None)


def _count_missed(hub: Hub, chunk: Chunk) -> None:
    if chunk.gaps:
        hub.skipped(chunk.missed_system, chunk.missed_audit)
