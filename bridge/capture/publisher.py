"""Two workers behind the calling threads: one shows records, one runs the provider's processors.

They are two because a team may have a processor that hangs (a SimpleLogRecordProcessor on a slow network); it then
stalls neither the callers nor the live view, and its own bounded queue counts what it does not take.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from contextvars import Context
from typing import Any, Final, Generic, NamedTuple, Protocol, TypeVar

from bridge.capture.convert import Converted, Converter
from bridge.capture.handler import Captured
from bridge.capture.intake import CallQueue, Drops
from bridge.diagnostics import say, say_rarely
from bridge.record.event import LogEvent
from bridge.threads import daemon

__all__ = ["Emitter", "EventSink", "Export", "ProcessorWorker", "Publisher"]

# Shown together: large enough to share one wake-up of the event loop, small enough (about 1 ms of work) that the
# first of a burst is not late.
_BATCH: Final = 64
_IDLE_SECONDS: Final = 1.0
_STALLED_SECONDS: Final = 10.0
_REPORT_SECONDS: Final = 60.0


class EventSink(Protocol):
    """Where records are shown."""

    def publish(self, events: Sequence[LogEvent]) -> None:
        """Show ``events``, in order. Must not block."""
        ...


Emitter = Callable[[str, Any], None]
"""``emit(logger_name, otel_log_record)``: hand a record to the provider's processors. May block and may raise."""

T = TypeVar("T")


class _Barrier:
    """An item that is reached when everything queued before it is done."""

    def __init__(self) -> None:
        self.reached = threading.Event()


class _Worker(Generic[T]):
    """A daemon thread that drains a CallQueue; started by :meth:`start`, or by the first append in a forked child."""

    name: str

    def __init__(self, queue: CallQueue[Any], clock: Callable[[], float] = time.monotonic) -> None:
        self.queue = queue
        self._clock = clock
        self._thread: threading.Thread | None = None
        self._start_lock = threading.RLock()
        self._stopping = False
        self.busy_since: float | None = None
        queue.on_wake = self._ensure_started

    def start(self) -> None:
        """Start the thread now: it keeps watch before the first record, and from Python 3.12 none can be started
        while the interpreter ends."""
        self._ensure_started()

    def _ensure_started(self) -> None:
        if self._thread is None and not self._stopping:
            with self._start_lock:
                if self._thread is None:
                    thread = daemon(self._run, self.name)
                    self._thread = thread
                    try:
                        thread.start()
                    except RuntimeError:  # the interpreter is ending, or the machine has no thread left
                        self._thread = None

    def flush(self, timeout: float) -> bool:
        """True if everything queued before the call is done within ``timeout`` seconds."""
        thread = self._thread
        if thread is None and not self.queue.items:
            return True
        if threading.current_thread() is thread:
            return False
        if self._stopping and thread is not None and not thread.is_alive():
            return not self.queue.items
        barrier = _Barrier()
        self.queue.items.append(barrier)
        self.queue.wake()
        if self._thread is None:  # none can be started any more: the interpreter is ending
            while batch := self.queue.take(_BATCH):
                self._work(batch)
        return barrier.reached.wait(timeout)

    def stop(self, timeout: float) -> bool:
        """Do what is queued, then end. True if it ended within ``timeout`` seconds."""
        flushed = self.flush(timeout)
        self._stopping = True
        self.queue.wake()
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout if flushed else 0.0)
            return flushed and not thread.is_alive()
        return flushed

    def after_fork(self) -> None:
        """In a forked child the thread is gone; the next append starts another."""
        self.queue.after_fork()
        self._thread = None
        self._start_lock = threading.RLock()
        self.busy_since = None

    def _run(self) -> None:
        queue = self.queue
        pid = os.getpid()
        next_idle = self._clock() + _IDLE_SECONDS
        while os.getpid() == pid:
            batch = queue.take(_BATCH)
            now = self._clock()
            if now >= next_idle:
                next_idle = now + _IDLE_SECONDS
                self._isolated(self.idle)
            if not batch:
                if self._stopping:
                    return
                queue.wait(_IDLE_SECONDS)
                continue
            self.busy_since = now
            self._work(batch)
            self.busy_since = None

    def _work(self, batch: list[Any]) -> None:
        part: list[T] = []
        for item in batch:
            if isinstance(item, _Barrier):
                self._isolated(self.process, part)
                part = []
                item.reached.set()
            else:
                part.append(item)
        self._isolated(self.process, part)

    def _isolated(self, call: Callable[..., None], *arguments: Any) -> None:
        try:
            call(*arguments)
        except Exception as error:
            say_rarely(f"worker:{self.name}", logging.ERROR, "%s: internal error: %r", self.name, error)

    def process(self, batch: list[T]) -> None:
        """Do a batch."""
        raise NotImplementedError

    def idle(self) -> None:
        """Called about once a second."""


class Export(NamedTuple):
    """A record on its way to the provider's processors."""

    context: Context
    logger: str
    record: Any
    is_audit: bool
    large: int
    """Bytes counted at the queue; 0 for a small record."""


class ProcessorWorker(_Worker[Export]):
    """Runs the provider's processors, each record in its caller's context."""

    name = "bridge-processors"

    def __init__(self, emit: Emitter, drops: Drops, max_records: int, max_bytes: int, own_threads: set[int]) -> None:
        super().__init__(CallQueue(max_records, max_bytes))
        self._emit = emit
        self._drops = drops
        self._own_threads = own_threads

    def put(self, batch: Sequence[Export]) -> None:
        """Queue records; the newest are refused, counted, when the queue is full. Audit records have twice the room."""
        queue = self.queue
        for item in batch:
            room = 2 if item.is_audit else 1
            if len(queue.items) >= queue.max_records * room or (
                item.large and not queue.reserve(item.large, overdraft=room)
            ):
                self._drops.add("audit_processor_queue_full" if item.is_audit else "processor_queue_full")
            else:
                queue.items.append(item)
        if queue.items and queue.idle:
            queue.wake()

    def process(self, batch: list[Export]) -> None:
        self._own_threads.add(threading.get_ident())
        for context, name, record, _, large in batch:
            if large:
                self.queue.release(large)
            try:
                context.run(self._emit, name, record)
            except BaseException as error:  # a SystemExit of somebody's processor would end this thread for good
                self._drops.add("processor_error")
                say_rarely("processor_error", logging.WARNING, "a log record processor raised %r", error)

    def after_fork(self) -> None:
        super().after_fork()
        self._own_threads.clear()


class Publisher(_Worker[Captured]):
    """Turns captured records into OpenTelemetry records and shows them, in call order."""

    name = "bridge-publisher"

    def __init__(
        self,
        queue: CallQueue[Any],
        converter: Converter,
        sink: EventSink,
        drops: Drops,
        *,
        processors: ProcessorWorker | None = None,
        mark: Callable[[Any], None] | None = None,
        wanted: Callable[[], bool] = lambda: True,
        on_idle: Callable[[], None] | None = None,
        now_ns: Callable[[], int] = time.time_ns,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(queue, clock)
        self._converter = converter
        self._sink = sink
        self._drops = drops
        self._processors = processors
        self._mark = mark
        self._wanted = wanted
        self._on_idle = on_idle
        self._now_ns = now_ns
        self._reported: dict[str, int] = {}
        self._next_report = self._clock() + _REPORT_SECONDS
        self._lost = 0
        self.published = 0
        self.conversion_errors = 0
        """Records shown without their attributes: something in them could not be converted."""

    @property
    def captured(self) -> int:
        """Records taken in so far: shown, lost later, or on their way."""
        return self.published + self._lost + len(self.queue.items)

    def process(self, batch: list[Captured]) -> None:
        events: list[LogEvent] = []
        exports: list[Export] = []
        wanted = self._processors is not None and self._wanted()
        for captured in batch:
            _, context, audit, large = captured
            if large:
                self.queue.release(large)
            converted = self._convert(captured)
            if converted is None:
                continue
            events.append(converted.event)
            if wanted and converted.exportable:
                if self._mark is not None:
                    self._mark(converted.otel)
                exports.append(Export(context, converted.event.logger, converted.otel, audit, large))
        if events:
            try:
                self._sink.publish(events)
                self.published += len(events)
            except Exception as error:
                self._lost += len(events)
                self._drops.add("publish_error", len(events))
                say_rarely("publish_error", logging.ERROR, "records could not be shown: %r", error)
        if exports and self._processors is not None:
            self._processors.put(exports)

    def _convert(self, captured: Captured) -> Converted | None:
        try:
            return self._converter.convert(captured, self._now_ns())
        except Exception as error:
            self.conversion_errors += 1
            say_rarely("convert_error", logging.ERROR, "a record could not be converted: %r", error)
        try:
            return self._converter.fallback(captured, self._now_ns())
        except Exception:
            self._lost += 1
            self._drops.add("convert_lost")
            return None

    def idle(self) -> None:
        if self._on_idle is not None:
            self._on_idle()
        now = self._clock()
        stalled = self._processors.busy_since if self._processors is not None else None
        if stalled is not None and now - stalled > _STALLED_SECONDS:
            say_rarely(
                "processors_stalled",
                logging.WARNING,
                "a log record processor has been busy for %.0f s; the live view goes on without it",
                now - stalled,
            )
        if now >= self._next_report:
            self._next_report = now + _REPORT_SECONDS
            self.report()

    def report(self) -> None:
        """Say what was lost since the last report, by reason; nothing if nothing was."""
        counts = self._drops.snapshot()
        new = {reason: count - self._reported.get(reason, 0) for reason, count in counts.items()}
        lost = {reason: count for reason, count in new.items() if count > 0}
        if lost:
            words = ", ".join(f"{count} by {reason}" for reason, count in sorted(lost.items()))
            say(logging.WARNING, "log records lost: %s", words)
            self._reported = counts

    def after_fork(self) -> None:
        super().after_fork()
        self._lost = 0
        self.published = 0
        self.conversion_errors = 0
        self._reported = {}
        self._drops.after_fork()
