"""The receiver: from a request's body to events in the live view, whichever way the request came."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any, Final, Literal, NamedTuple, TypeAlias

import msgspec

from bridge.diagnostics import say_rarely
from bridge.receive.answers import Answer, Code
from bridge.receive.decode import decode_protobuf
from bridge.receive.decode_json import decode_json
from bridge.receive.other_signals import LOGS_ONLY, Signal, count_json, count_protobuf
from bridge.receive.recent import RecentIds, Seen
from bridge.receive.records import Malformed, Origins, TooMany
from bridge.record import attributes as names
from bridge.record.event import LogEvent
from bridge.record.received import EventBuilder

__all__ = ["Admission", "Encoding", "Receiver", "ReceiverStatistics", "Refusal"]

Encoding: TypeAlias = Literal["protobuf", "json"]
Refusal: TypeAlias = Literal[
    "overload", "malformed", "too_large", "too_slow", "forbidden", "unsupported", "internal", "shutdown"
]

# A body up to this size is decoded where it came in: a few milliseconds. Larger ones go to a thread, so that a client
# of the live view never waits for a sender.
_INLINE_BYTES: Final = 32 * 1024

# Records that are looked at and published at a time: others, the event loop among them, wait no longer than that.
_SLICE_RECORDS: Final = 256


class ReceiverStatistics(NamedTuple):
    """A snapshot of a receiver."""

    requests: int
    """Requests whose records were taken."""
    received: int
    """Records that came in requests that could be read."""
    accepted: int
    """Of those, records shown."""
    duplicates: int
    """Of those, records that had come before with the same id and content: left out."""
    rejected: int
    """Of those, records that could not be read; the sender was told how many (partial success)."""
    id_conflicts: int
    """Records shown although another one had come before with the same id."""
    audit_refused: int
    """Records shown as system records because their source is not among ``audit_sources``."""
    refused: dict[str, int]
    """Requests refused whole, by reason."""
    left_out: dict[str, int]
    """``spans`` and ``data_points`` that came along, and were not taken."""
    pending_bytes: int
    """Bytes of requests that are being received or decoded now."""


class Admission:
    """One request's share of the bytes that may be on their way at once. A context manager: leaving gives it back."""

    __slots__ = ("_held", "_receiver")

    def __init__(self, receiver: Receiver) -> None:
        self._receiver = receiver
        self._held = 0

    def grow(self, size: int) -> bool:
        """Take ``size`` bytes more; False if there is no room: answer UNAVAILABLE."""
        receiver = self._receiver
        if receiver.pending_bytes + size > receiver.max_pending_bytes:
            return False
        receiver.pending_bytes += size
        self._held += size
        return True

    def __enter__(self) -> Admission:
        return self

    def __exit__(self, *_: object) -> None:
        self._receiver.pending_bytes -= self._held
        self._held = 0


class Receiver:
    """Decodes, leaves out what came before, and publishes. All methods but the constructor are for one event loop.

    ``publish`` takes the events of one request, in its order; it is called before the sender is answered, so that an
    answer means: shown. ``max_pending_bytes`` bounds the bodies that are held at once, ``max_bytes`` each of them.
    """

    def __init__(
        self,
        publish: Callable[[Sequence[LogEvent]], None],
        builder: EventBuilder,
        *,
        audit_sources: tuple[str, ...] = ("*",),
        dedupe_records: int = 262_144,
        max_bytes: int = 16 << 20,
        max_pending_bytes: int = 64 << 20,
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        self._publish = publish
        self._builder = builder
        self._origins = Origins(builder, audit_sources)
        self._recent = RecentIds(dedupe_records)
        self._clock = clock
        self._lock = threading.Lock()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="bridge-receive")
        self.max_bytes = max_bytes
        self.max_pending_bytes = max_pending_bytes
        self.pending_bytes = 0
        self._stopping = False
        self._readers: set[asyncio.Task[Any] | None] = set()
        self._requests = 0
        self._received = 0
        self._accepted = 0
        self._duplicates = 0
        self._rejected = 0
        self._id_conflicts = 0
        self._audit_refused = 0
        self._refused: dict[str, int] = {}
        self._left_out: dict[str, int] = {}

    def admit(self) -> Admission:
        """What a request holds its bytes by."""
        return Admission(self)

    def refused(self, reason: Refusal, words: str, peer: str) -> None:
        """Count a request that was refused before it could be decoded, and say so, rarely."""
        self._refused[reason] = self._refused.get(reason, 0) + 1
        say_rarely(f"receive:{reason}", logging.WARNING, "refused a request of %s: %s", peer or "unknown", words)

    async def take(self, body: bytes, encoding: Encoding, peer: str) -> Answer:
        """Take a whole request. Never raises, except for cancellation."""
        return await self._answer(self._take, body, encoding, peer)

    async def leave_out(self, body: bytes, encoding: Encoding, signal: Signal, peer: str) -> Answer:
        """Count the spans or data points of a request, and say, rarely, that they are not taken. Never raises."""
        return await self._answer(partial(self._leave_out, signal), body, encoding, peer)

    async def _answer(
        self, work: Callable[[bytes, Encoding, str], tuple[int, str]], body: bytes, encoding: Encoding, peer: str
    ) -> Answer:
        if self._stopping:
            self.refused("shutdown", "the monitor is shutting down", peer)
            return Answer(Code.UNAVAILABLE, "the monitor is shutting down; try again")
        try:
            if len(body) <= _INLINE_BYTES:
                rejected, problem = work(body, encoding, peer)
            else:
                rejected, problem = await asyncio.get_running_loop().run_in_executor(
                    self._thread, work, body, encoding, peer
                )
        except Malformed as error:
            self.refused("malformed", str(error), peer)
            return Answer(Code.INVALID_ARGUMENT, str(error))
        except TooMany as error:
            self.refused("too_large", str(error), peer)
            return Answer(Code.RESOURCE_EXHAUSTED, str(error))
        except MemoryError:
            self.refused("overload", "out of memory", peer)
            return Answer(Code.UNAVAILABLE, "the monitor is short of memory; try again")
        except Exception as error:
            # A fault of ours. A collector drops what is answered with INTERNAL, and keeps what it may send again.
            self.refused("internal", f"internal error: {error!r}", peer)
            return Answer(Code.UNAVAILABLE, "internal error; the monitor's standard error says more")
        return Answer(Code.OK, problem, rejected)

    def _leave_out(self, signal: Signal, body: bytes, encoding: Encoding, peer: str) -> tuple[int, str]:
        number = count_protobuf(body, signal) if encoding == "protobuf" else count_json(body, signal)
        with self._lock:
            self._left_out[signal] = self._left_out.get(signal, 0) + number
        say_rarely(
            f"receive:{signal}",
            logging.INFO,
            "%s also sends %s: %s; set %s to none there, or give them another endpoint",
            peer,
            "traces" if signal == "spans" else "metrics",
            LOGS_ONLY,
            "OTEL_TRACES_EXPORTER" if signal == "spans" else "OTEL_METRICS_EXPORTER",
        )
        return number, LOGS_ONLY

    def _take(self, body: bytes, encoding: Encoding, peer: str) -> tuple[int, str]:
        decode = decode_protobuf if encoding == "protobuf" else decode_json
        arrived = self._clock()
        decoded = decode(body, self._builder, self._origins, arrived=arrived, peer=peer)
        for start in range(0, len(decoded.events), _SLICE_RECORDS):
            self._show(decoded.events[start : start + _SLICE_RECORDS], arrived)
        with self._lock:
            self._requests += 1
            self._received += decoded.rejected
            self._rejected += decoded.rejected
        if decoded.rejected:
            words = "left out %d records of %s: %s"
            say_rarely("receive:records", logging.WARNING, words, decoded.rejected, peer, decoded.problem)
        return decoded.rejected, decoded.problem

    def _show(self, received: list[LogEvent], arrived: int) -> None:
        """Publish what did not come before."""
        events: list[LogEvent] = []
        kept: list[str] = []
        conflicts = audit_refused = 0
        # Over the look and the publishing: a copy that comes by another connection meanwhile must find the id.
        with self._lock:
            for event in received:
                attributes = event.attributes
                record_id: Any = attributes.get(names.RECORD_UID) or attributes.get(names.AUDIT_RECORD_ID)
                if record_id is not None:
                    record_id = str(record_id)
                    # A record without a time has that of its arrival, and a copy of it has another.
                    time = event.timestamp if event.timestamp != arrived else 0
                    content = hash((time, event.message, event.logger, event.severity_number))
                    seen = self._recent.look(record_id, content)
                    if seen is Seen.AGAIN:
                        continue
                    if seen is Seen.NEW:
                        self._recent.keep(record_id, content)
                        kept.append(record_id)
                    else:
                        conflicts += 1
                        event = msgspec.structs.replace(event, attributes={**attributes, names.ID_CONFLICT: True})
                if names.AUDIT_REFUSED in attributes:
                    audit_refused += 1
                events.append(event)
            if events:
                try:
                    self._publish(events)
                except BaseException:
                    # They were not shown: when they come again they are no copies.
                    for record_id in kept:
                        self._recent.forget(record_id)
                    raise
            # Counted once they are shown, and all at once: the counts add up whenever somebody asks.
            self._received += len(received)
            self._accepted += len(events)
            self._duplicates += len(received) - len(events)
            self._id_conflicts += conflicts
            self._audit_refused += audit_refused

    def statistics(self) -> ReceiverStatistics:
        """A consistent snapshot."""
        with self._lock:
            return ReceiverStatistics(
                self._requests,
                self._received,
                self._accepted,
                self._duplicates,
                self._rejected,
                self._id_conflicts,
                self._audit_refused,
                dict(self._refused),
                dict(self._left_out),
                self.pending_bytes,
            )

    @property
    def stopping(self) -> bool:
        """Whether it takes nothing any more."""
        return self._stopping

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Around waiting for a body, in a task of the request's own: :meth:`stop` cancels that task."""
        task = asyncio.current_task()
        self._readers.add(task)
        try:
            yield
        finally:
            self._readers.discard(task)

    async def stop(self) -> None:
        """Take nothing more, wait for no body any longer, and return once all that was taken is shown."""
        self._stopping = True
        for task in self._readers:
            if task is not None:
                task.cancel()
        await asyncio.to_thread(self._thread.shutdown)

    def close(self) -> None:
        """The same at once: what waits to be decoded is not taken."""
        self._stopping = True
        self._thread.shutdown(wait=True, cancel_futures=True)
