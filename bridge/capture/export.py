"""A batching processor for stock OTLP exporters, with an honest account.

Why not the stock BatchLogRecordProcessor: it drops its oldest records without a count, throws a batch away when the
exporter says FAILURE, may take 35 s over a flush of one second and answer True, and waits 30 s at shutdown. This one
counts every record that does not get through, by reason, and its deadlines hold because it never waits for the
exporter's thread longer than it was told.
"""

from __future__ import annotations

import copy
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

from opentelemetry import context as otel_context
from opentelemetry.context import Context
from opentelemetry.sdk._logs import LogRecordProcessor, ReadableLogRecord, ReadWriteLogRecord
from opentelemetry.sdk._logs.export import LogRecordExporter, LogRecordExportResult
from opentelemetry.sdk.resources import Resource

from bridge.capture.intake import Drops
from bridge.diagnostics import say_rarely
from bridge.record.values import size_of
from bridge.threads import daemon

__all__ = ["TO_COLLECTOR", "TO_MONITOR", "CountingBatchProcessor", "Lane", "ProcessorSwitch"]

_SUPPRESS_KEY: Final[str | None] = getattr(otel_context, "_SUPPRESS_INSTRUMENTATION_KEY", None)


# A count alone does not bound memory: 8,192 messages of 10 MB would be 80 GB.
_MAX_QUEUE_BYTES: Final = 64 << 20
_SIZED: Final = frozenset({str, bytes, dict, tuple, list})


def _size(record: Any) -> int:
    # Not of a few bytes each, which the count bounds.
    large = (value for value in (record.body, *(record.attributes or {}).values()) if type(value) in _SIZED)
    return 512 + sum(map(size_of, large))


def _whole(environ: Mapping[str, str], name: str, default: int) -> int:
    word = environ.get(name, "").strip()
    return int(word) if word.isdigit() and int(word) > 0 else default


class Lane(NamedTuple):
    """Where records go, and the names under which those that get lost are counted."""

    where: str
    queue_full: str
    """The oldest record went, for a newer one."""
    failed: str
    """The exporter said FAILURE, or raised."""
    shutdown: str
    """Still queued at the end."""
    delay_seconds: float | None = None
    """How long records are gathered; None: as ``OTEL_BLRP_SCHEDULE_DELAY`` says."""


TO_COLLECTOR: Final = Lane("to the collector", "otlp_queue_full", "otlp_failed", "otlp_shutdown")
# Somebody is watching: gathered for as long as a glance takes.
TO_MONITOR: Final = Lane("to the monitor", "monitor_queue_full", "monitor_failed", "monitor_shutdown", 0.1)


class CountingBatchProcessor(LogRecordProcessor):
    """Queue, batch, export, count. The standard ``OTEL_BLRP_*`` variables set its sizes.

    ``make_exporter`` is called at once, and again in a forked child: two processes must not speak on one connection.
    Drops are counted in ``drops`` under the names that ``lane`` has for them.
    """

    def __init__(
        self,
        make_exporter: Callable[[], LogRecordExporter],
        drops: Drops,
        *,
        environ: Mapping[str, str],
        own_threads: set[int] | None = None,
        lane: Lane = TO_COLLECTOR,
    ) -> None:
        self._lane = lane
        self._make_exporter = make_exporter
        self._exporter: LogRecordExporter | None = make_exporter()
        self._drops = drops
        self._own_threads = own_threads if own_threads is not None else set()
        self._max_queue = _whole(environ, "OTEL_BLRP_MAX_QUEUE_SIZE", 8_192)
        self._batch_size = min(_whole(environ, "OTEL_BLRP_MAX_EXPORT_BATCH_SIZE", 512), self._max_queue)
        self._delay_seconds = lane.delay_seconds or _whole(environ, "OTEL_BLRP_SCHEDULE_DELAY", 1_000) / 1_000
        self._changed = threading.Condition(threading.RLock())
        self._queue: deque[tuple[ReadableLogRecord, int]] = deque()
        self._reset()
        # At once: from Python 3.12 no thread can be started while the interpreter ends.
        self._ensure_started()

    def _reset(self) -> None:
        self._exported = 0
        self._bytes = 0
        self._emitted = 0
        self._finished = 0
        self._flush_to = 0
        self._stopping = False
        self._thread: threading.Thread | None = None

    @property
    def exported(self) -> int:
        """Records the exporter reported as delivered."""
        return self._exported

    def _ensure_started(self) -> None:
        if self._thread is None:
            thread = daemon(self._run, "bridge-otlp-export")
            try:
                thread.start()
            except RuntimeError:  # the interpreter is ending, or the machine has no thread left
                return
            self._thread = thread

    def on_emit(self, log_record: ReadWriteLogRecord) -> None:
        """Queue a record; drops the oldest, counted, when the queue is full. Never blocks on the exporter."""
        record = copy.copy(log_record.log_record)
        record.context = Context()  # the caller's context may hold a whole request; exporters have no use for it
        readable = ReadableLogRecord(
            log_record=record,
            resource=log_record.resource if log_record.resource is not None else Resource.create({}),
            instrumentation_scope=log_record.instrumentation_scope,
            limits=log_record.limits,
        )
        size = _size(record)
        with self._changed:
            if self._stopping:
                self._drops.add(self._lane.shutdown)
                return
            self._ensure_started()
            self._queue.append((readable, size))
            self._bytes += size
            self._emitted += 1
            while len(self._queue) > self._max_queue or (self._bytes > _MAX_QUEUE_BYTES and len(self._queue) > 1):
                self._bytes -= self._queue.popleft()[1]
                self._finished += 1
                self._drops.add(self._lane.queue_full)
            if len(self._queue) == 1 or len(self._queue) >= self._batch_size:
                self._changed.notify_all()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """True only if everything emitted before the call was delivered, within the time."""
        deadline = time.monotonic() + timeout_millis / 1_000
        failed_before = self._lost()
        with self._changed:
            target = self._emitted
            self._flush_to = max(self._flush_to, target)
            self._changed.notify_all()
            while self._finished < target:
                left = deadline - time.monotonic()
                if left <= 0 or self._thread is None:
                    return False
                self._changed.wait(left)
        return self._lost() == failed_before

    def shutdown(self) -> None:
        """Stop; what the exporter does not take within its last second is counted as lost."""
        self.stop(timeout=1.0)

    def stop(self, timeout: float) -> bool:
        """Deliver what is queued within ``timeout`` seconds, then stop. True if nothing was left."""
        deadline = time.monotonic() + timeout
        with self._changed:
            if self._stopping:
                return not self._queue
            self._stopping = True
            self._changed.notify_all()
            thread = self._thread
        if thread is not None:
            thread.join(max(0.0, deadline - time.monotonic()))
        with self._changed:
            left = len(self._queue)
            self._queue.clear()
            self._bytes = 0
            in_flight = self._emitted - self._finished - left
        if left:
            self._drops.add(self._lane.shutdown, left)
        if self._exporter is not None:
            # An exporter's shutdown() may wait for its own retry; that is its thread's business, not ours.
            closing = daemon(self._exporter.shutdown, "bridge-otlp-shutdown")
            try:
                closing.start()
            except RuntimeError:  # the interpreter is ending, and the connection with it
                pass
        return left == 0 and in_flight == 0

    def after_fork(self) -> None:
        """In a forked child: the queue is the parent's to deliver."""
        self._changed = threading.Condition(threading.RLock())
        self._queue.clear()
        self._exporter = None
        self._reset()

    def _lost(self) -> int:
        counts = self._drops.snapshot()
        lane = self._lane
        return sum(counts.get(reason, 0) for reason in (lane.queue_full, lane.failed, lane.shutdown))

    def _run(self) -> None:
        self._own_threads.add(threading.get_ident())
        if _SUPPRESS_KEY is not None:
            otel_context.attach(otel_context.set_value(_SUPPRESS_KEY, True))
        try:
            while (batch := self._next_batch()) is not None:
                self._export(batch)
        finally:
            self._own_threads.discard(threading.get_ident())

    def _next_batch(self) -> list[ReadableLogRecord] | None:
        with self._changed:
            gather_until: float | None = None
            while True:
                queued = len(self._queue)
                if self._stopping and not queued:
                    return None
                if queued >= self._batch_size or (queued and (self._stopping or self._finished < self._flush_to)):
                    break
                now = time.monotonic()
                if queued and gather_until is None:
                    gather_until = now + self._delay_seconds
                if gather_until is not None and now >= gather_until:
                    break
                self._changed.wait(None if gather_until is None else gather_until - now)
            batch = [self._queue.popleft() for _ in range(min(queued, self._batch_size))]
            self._bytes -= sum(size for _, size in batch)
            return [record for record, _ in batch]

    def _export(self, batch: list[ReadableLogRecord]) -> None:
        problem: Any = None
        try:
            if self._exporter is None:
                self._exporter = self._make_exporter()
            result = self._exporter.export(batch)
            if result is not LogRecordExportResult.SUCCESS:
                problem = "the exporter reported FAILURE"
        except BaseException as error:  # whatever it is, this thread has to go on
            problem = repr(error)
        if problem is None:
            self._exported += len(batch)
        else:
            self._drops.add(self._lane.failed, len(batch))
            words = "%d log records were not delivered %s by OTLP: %s"
            say_rarely(self._lane.failed, logging.WARNING, words, len(batch), self._lane.where, problem)
        with self._changed:
            self._finished += len(batch)
            self._changed.notify_all()


class ProcessorSwitch(LogRecordProcessor):
    """Stands on a provider for good and feeds whatever is connected: providers can't be rid of a processor."""

    def __init__(self) -> None:
        self._processors: tuple[CountingBatchProcessor, ...] = ()

    def connect(self, *processors: CountingBatchProcessor) -> None:
        """Feed these from now on; none: nobody."""
        self._processors = processors

    def on_emit(self, log_record: ReadWriteLogRecord) -> None:
        for processor in self._processors:
            processor.on_emit(log_record)

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        deadline = time.monotonic() + timeout_millis / 1_000
        # All of them, whatever the first one says.
        flushed = [
            processor.force_flush(max(0, int((deadline - time.monotonic()) * 1_000))) for processor in self._processors
        ]
        return all(flushed)

    def shutdown(self) -> None:
        for processor in self._processors:
            processor.shutdown()
