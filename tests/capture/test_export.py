from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import pytest
from opentelemetry import context as otel_context
from opentelemetry._logs import LogRecord
from opentelemetry.sdk._logs import ReadWriteLogRecord
from opentelemetry.sdk._logs.export import LogRecordExportResult
from opentelemetry.sdk.resources import Resource

from bridge.capture.export import CountingBatchProcessor, ProcessorSwitch
from bridge.capture.intake import Drops
from tests.telemetry import FakeExporter, said, wait_until

SUCCESS, FAILURE = LogRecordExportResult.SUCCESS, LogRecordExportResult.FAILURE
QUICK = {"OTEL_BLRP_SCHEDULE_DELAY": "1"}
SLOW = {"OTEL_BLRP_SCHEDULE_DELAY": "60000"}


def record(body: Any = "m", **attributes: Any) -> ReadWriteLogRecord:
    return ReadWriteLogRecord(LogRecord(body=body, attributes=attributes), resource=Resource({}))


class Hanging:
    """An exporter's answer that comes when the test lets it."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.entered = threading.Event()

    def __call__(self) -> LogRecordExportResult:
        self.entered.set()
        self.gate.wait(30.0)
        return SUCCESS


@contextmanager
def processing(
    answer: Callable[[], LogRecordExportResult] = lambda: SUCCESS, **environ: str
) -> Iterator[tuple[CountingBatchProcessor, FakeExporter, Drops]]:
    exporter, drops = FakeExporter(answer), Drops()
    processor = CountingBatchProcessor(lambda: exporter, drops, environ=environ or SLOW)
    try:
        yield processor, exporter, drops
    finally:
        if isinstance(answer, Hanging):
            answer.gate.set()
        processor.stop(10.0)


def test_records_are_delivered_in_order_and_counted() -> None:
    """A flush that answers True means: delivered."""
    with processing() as (processor, exporter, drops):
        for number in range(3):
            processor.on_emit(record(number))
        assert processor.force_flush(10_000) is True
        assert exporter.batches == [[0, 1, 2]]
        assert (processor.exported, drops.snapshot()) == (3, {})


def test_a_flush_with_nothing_to_do_is_true() -> None:
    """Nothing was emitted, nothing is owed."""
    with processing() as (processor, _, _):
        assert processor.force_flush(0) is True


def test_a_batch_goes_when_it_is_full() -> None:
    """A full batch does not wait for the schedule."""
    with processing(OTEL_BLRP_SCHEDULE_DELAY="60000", OTEL_BLRP_MAX_EXPORT_BATCH_SIZE="2") as (processor, exporter, _):
        for number in range(5):
            processor.on_emit(record(number))
        wait_until(lambda: processor.exported == 4)
        assert exporter.batches == [[0, 1], [2, 3]]


def test_a_batch_goes_after_its_delay() -> None:
    """A few records do not wait for more for ever."""
    with processing(OTEL_BLRP_SCHEDULE_DELAY="1") as (processor, _, _):
        processor.on_emit(record())
        wait_until(lambda: processor.exported == 1)


@pytest.mark.parametrize("word", ["", "0", "-5", "many"])
def test_senseless_sizes_are_the_defaults(word: str) -> None:
    """What is no positive number in the environment counts as not set."""
    with processing(OTEL_BLRP_MAX_QUEUE_SIZE=word) as (processor, _, _):
        assert processor._max_queue == 8_192


def raises(error: BaseException) -> Callable[[], LogRecordExportResult]:
    def answer() -> LogRecordExportResult:
        raise error

    return answer


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda: FAILURE, "the exporter reported FAILURE"),
        (raises(ConnectionError("no")), "ConnectionError('no')"),
        (raises(SystemExit(3)), "SystemExit(3)"),
    ],
)
def test_a_batch_that_is_not_delivered_is_counted_and_told(
    answer: Callable[[], LogRecordExportResult], words: str
) -> None:
    """The flush says False, and the thread goes on with the next batch."""
    with said() as told, processing(answer) as (processor, exporter, drops):
        processor.on_emit(record())
        processor.on_emit(record())
        assert processor.force_flush(10_000) is False
        assert drops.snapshot() == {"otlp_failed": 2}
        assert processor.exported == 0
        assert told == [f"WARNING 2 log records were not delivered to the collector by OTLP: {words}"]
        exporter.answer = lambda: SUCCESS
        processor.on_emit(record())
        assert processor.force_flush(10_000) is True
        assert processor.exported == 1


def test_a_full_queue_drops_the_oldest_and_counts() -> None:
    """With a hanging exporter the memory is bounded and every loss is counted."""
    hanging = Hanging()
    environ = QUICK | {"OTEL_BLRP_MAX_QUEUE_SIZE": "3", "OTEL_BLRP_MAX_EXPORT_BATCH_SIZE": "1"}
    with processing(hanging, **environ) as (processor, exporter, drops):
        processor.on_emit(record("first"))
        assert hanging.entered.wait(10.0)
        for number in range(5):
            processor.on_emit(record(number))
        assert drops.snapshot() == {"otlp_queue_full": 2}
        assert processor.force_flush(1) is False
        hanging.gate.set()
        wait_until(lambda: processor.exported == 4)
        assert exporter.batches == [["first"], [2], [3], [4]]


@pytest.mark.parametrize("large", [{"body": "x" * 30_000_000}, {"deep": {"a": ["x" * 30_000_000]}}])
def test_a_full_queue_is_one_of_bytes_too(large: dict[str, Any]) -> None:
    """Large bodies and large attributes count; the newest always stays."""
    hanging = Hanging()
    with processing(hanging, **QUICK) as (processor, _, drops):
        processor.on_emit(record("first"))
        assert hanging.entered.wait(10.0)
        for _ in range(4):
            processor.on_emit(record(**large))
        assert drops.snapshot() == {"otlp_queue_full": 2}


def test_deadlines_hold_with_a_hanging_exporter() -> None:
    """Flush and stop come back in time and say False; what is still queued is counted."""
    hanging = Hanging()
    environ = QUICK | {"OTEL_BLRP_MAX_EXPORT_BATCH_SIZE": "1"}
    with processing(hanging, **environ) as (processor, exporter, drops):
        processor.on_emit(record())
        processor.on_emit(record())
        assert hanging.entered.wait(10.0)
        assert processor.force_flush(10) is False
        assert processor.stop(0.01) is False
        assert drops.snapshot() == {"otlp_shutdown": 1}
        assert exporter.shut_down.wait(10.0)
        processor.on_emit(record())
        assert drops.snapshot() == {"otlp_shutdown": 2}
        assert processor.stop(0.01) is True, "there is nothing left to stop"


def test_stop_delivers_what_is_queued() -> None:
    """True means that nothing was left."""
    with processing() as (processor, exporter, drops):
        processor.on_emit(record())
        assert processor.stop(10.0) is True
        assert exporter.batches == [["m"]]
        assert drops.snapshot() == {}
        assert exporter.shut_down.wait(10.0)


def test_shutdown_is_a_stop_within_a_second() -> None:
    """The provider's own shutdown delivers as well."""
    with processing() as (processor, exporter, _):
        processor.on_emit(record())
        processor.shutdown()
        assert exporter.batches == [["m"]]


def test_the_callers_record_is_copied() -> None:
    """What a later processor changes on the record does not reach the queue, and no context is held."""
    with processing() as (processor, _, _):
        written = record()
        processor.on_emit(written)
        written.log_record.body = "changed"
        ((queued, _),) = processor._queue
        assert queued.log_record.body == "m"
        assert not queued.log_record.context
        assert processor.force_flush(10_000) is True


def test_a_record_without_a_resource_gets_an_empty_one() -> None:
    """Exporters need one."""
    with processing() as (processor, _, _):
        processor.on_emit(ReadWriteLogRecord(LogRecord(body="m"), resource=None))
        ((queued, _),) = processor._queue
        assert queued.resource is not None


def test_exports_run_with_instrumentation_suppressed() -> None:
    """The exporter's requests make no spans, and its thread is known as ours while it runs."""
    keys: list[Any] = []
    own: set[int] = set()

    def answer() -> LogRecordExportResult:
        keys.append(otel_context.get_value(otel_context._SUPPRESS_INSTRUMENTATION_KEY))
        keys.append(threading.get_ident() in own)
        return SUCCESS

    processor = CountingBatchProcessor(lambda: FakeExporter(answer), Drops(), environ=QUICK, own_threads=own)
    processor.on_emit(record())
    assert processor.force_flush(10_000) is True
    assert processor.stop(10.0) is True
    assert keys == [True, True]
    assert own == set()


def test_a_forked_child_has_an_exporter_of_its_own() -> None:
    """Two processes must not speak on one connection; counts and queue are the parent's."""
    made: list[FakeExporter] = []

    def make() -> FakeExporter:
        made.append(FakeExporter())
        return made[-1]

    # Without the parent's thread, which would not be there in a child.
    with mock.patch.object(threading.Thread, "start", side_effect=RuntimeError):
        processor = CountingBatchProcessor(make, Drops(), environ=SLOW)
        processor.on_emit(record("parent's"))
    processor._exported = 1
    processor.after_fork()
    assert processor.exported == 0
    assert len(made) == 1, "a child that never logs makes none"
    assert processor.stop(1.0) is True, "nor does it fail to stop"

    processor.after_fork()
    processor.on_emit(record("child's"))
    assert processor.force_flush(10_000) is True
    assert [each.batches for each in made] == [[], [["child's"]]]
    processor.stop(10.0)


def test_when_no_thread_can_be_started_nothing_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    """While the interpreter ends, what can't be delivered is counted."""
    monkeypatch.setattr(threading.Thread, "start", mock.Mock(side_effect=RuntimeError("can't start new thread")))
    drops = Drops()
    processor = CountingBatchProcessor(FakeExporter, drops, environ=SLOW)
    processor.on_emit(record())
    assert processor.force_flush(10_000) is False
    assert processor.stop(0.0) is False
    assert drops.snapshot() == {"otlp_shutdown": 1}


def test_a_switch_feeds_whom_it_is_told_to() -> None:
    """Connected it passes everything on; disconnected it answers for itself."""
    switch = ProcessorSwitch()
    switch.on_emit(record())
    assert switch.force_flush(0) is True
    switch.shutdown()
    with processing() as (processor, exporter, _):
        switch.connect(processor)
        switch.on_emit(record("a"))
        assert switch.force_flush(10_000) is True
        switch.connect()
        switch.on_emit(record("b"))
        switch.connect(processor)
        switch.shutdown()
        assert exporter.batches == [["a"]]
