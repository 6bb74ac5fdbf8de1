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
from bridge.live.chunk import Chunk, RichEncoder, join_frames
from bridge.live.hub import Hub
from bridge.live.session import SessionV1
from bridge.live.session_v2 import SessionV2
from bridge.record.filters import Filter

__all__ = ["FanOut", "FrameWriter", "JoinedClient", "PlainClient", "Session"]

Session: TypeAlias = SessionV1 | SessionV2

# Records looked at for one chunk. Many, because a filter may let few of them through, and every write makes this thread
# wait for its turn in a process that logs at full speed; few enough (1 ms of filtering) that nobody waits for long.
_CHUNK_RECORDS: Final = 4_096

# Sends after which a task lets the loop run. asyncio and uvloop log a warning for the sixth write to a connection that
# is lost and not known to be; it would become a record, and go to every other client.
_SENDS_A_TURN: Final = 4

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
    """The clients of one hub on one event loop. Everything here runs on that loop.

    Clients are served in rounds: each gets one chunk, and those at the same place with the same filter get the same
    one, even if more records have come since its first client was served. What has come waits for the next round; so
    the busier the loop, the more records leave together.
    """

    def __init__(self, hub: Hub, loop: asyncio.AbstractEventLoop) -> None:
        self.hub = hub
        self.loop = loop
        self._clients: set[JoinedClient | PlainClient] = set()
        self._chunks: dict[tuple[int, str], Chunk] = {}
        self._encode = RichEncoder(hub.epoch)
        self._timer: asyncio.TimerHandle | None = None
        self._round_due = False
        self.round_end = 0
        """The number of the newest record when the round began."""

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
            self._encode = RichEncoder(self.hub.epoch)
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
            if self._encode.epoch != self.hub.epoch:
                self._encode = RichEncoder(self.hub.epoch)
            found = Chunk(self._encode, read, filter)
            self._chunks[key] = found
        return found

    def again(self) -> None:
        """There is more for some client: serve another round, after whatever else the loop has to do."""
        if not self._round_due:
            self._round_due = True
            self.loop.call_soon(self._round)

    def _on_records(self) -> None:
        if not self._round_due:  # else one comes anyway
            self._round()

    def _round(self) -> None:
        self._round_due = False
        self._chunks.clear()
        self.round_end = self.hub.end()
        for client in tuple(self._clients):
            client.on_records()
        self._chunks.clear()

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
        if self.session.close is not None:
            _finish(self.done)  # also if the last words wait behind a full buffer

    def on_records(self) -> None:
        """There are new records, or the hub has closed."""
        session = self.session
        if session.follows and self._writer.writable:
            # The common case of _pump(), a fifth of its cost: it comes for every client at every burst.
            chunk = self._fan_out.chunk(session.filter, session.seq)
            if chunk is not None and not chunk.gaps:
                session.seq = chunk.seq
                shared = chunk.joined(session.version, session.batch)
                if shared:
                    self._writer.write(shared)
                if chunk.seq < self._fan_out.round_end or self._fan_out.hub.closed:
                    self._fan_out.again()
                return
        self._pump()

    def on_tick(self, now: float) -> None:
        """Half a second has passed."""
        if not self._writer.writable:
            if self._blocked_since is None:
                self._blocked_since = now
            elif now - self._blocked_since >= self._stuck_seconds:
                _give_up(self, self._stuck_seconds)
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
        """Write what is due: answers, and one chunk of records."""
        session, writer, fan_out = self.session, self._writer, self._fan_out
        if self.done.done() or not writer.writable:
            return
        head = session.take_control()
        shared = b""
        tail: list[bytes] = []
        chunk = fan_out.chunk(session.filter, session.seq) if session.wants_records else None
        if chunk is not None:
            _count_missed(fan_out.hub, chunk)
            before, own, tail = session.deliver(chunk, fan_out.loop.time())
            head += before
            if own is None:
                shared = chunk.joined(session.version, session.batch)
            else:
                head += own
            if session.seq < fan_out.hub.end() or fan_out.hub.closed:
                fan_out.again()
        elif fan_out.hub.closed:
            session.shut_down()
        tail += session.take_control()
        if head or tail:
            writer.write(join_frames(head) + shared + join_frames(tail))
        elif shared:
            writer.write(shared)  # the very bytes that others get: nothing is copied
        if session.close is not None:
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
        self._tick_due = False
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
            _give_up(self, self._stuck_seconds)
        else:
            # By the task, between two chunks: what a client that takes nothing is told must not pile up.
            self._tick_due = True
            self._changed.set()

    async def _write(self) -> None:
        session, fan_out = self.session, self._fan_out
        try:
            while True:
                # Cleared before looking, so that nothing falls between the look and the sleep.
                self._changed.clear()
                if self._tick_due:
                    self._tick_due = False
                    session.tick(fan_out.loop.time())
                messages = session.take_control()
                chunk = fan_out.chunk(session.filter, session.seq) if session.wants_records else None
                if chunk is not None:
                    _count_missed(fan_out.hub, chunk)
                    before, own, after = session.deliver(chunk, fan_out.loop.time())
                    if own is None:
                        own = chunk.payloads(session.version, session.batch)
                    messages = [*messages, *before, *own, *after]
                elif fan_out.hub.closed and session.close is None:
                    session.shut_down()
                    continue
                messages += session.take_control()
                for number, message in enumerate(messages, 1):
                    self._sending_since = fan_out.loop.time()
                    await self._send_text(message.decode())
                    if number % _SENDS_A_TURN == 0:
                        await asyncio.sleep(0)
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


def _give_up(client: JoinedClient | PlainClient, seconds: float) -> None:
    """Close a client that has taken nothing for so long."""
    reason = f"too slow: nothing was read for {seconds:g} s"
    client.session.stuck(reason)
    say_rarely("stuck", logging.WARNING, "closed a client of /ws/monitor: %s", reason)
    _finish(client.done)


def _count_missed(hub: Hub, chunk: Chunk) -> None:
    if chunk.gaps:
        hub.skipped(chunk.missed_system, chunk.missed_audit)
