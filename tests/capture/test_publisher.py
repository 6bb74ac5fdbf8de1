from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Sequence
from contextvars import copy_context
from typing import Any
from unittest import mock

import pytest

from bridge.capture.convert import Converter
from bridge.capture.handler import CaptureHandler
from bridge.capture.intake import CallQueue, Drops
from bridge.capture.publisher import Export, ProcessorWorker, Publisher
from bridge.record.event import LogEvent
from bridge.record.redact import NO_REDACTION
from tests.telemetry import said, wait_until


class Screen:
    """Where records are shown."""

    def __init__(self) -> None:
        self.events: list[LogEvent] = []
        self.fails = False

    def publish(self, events: Sequence[LogEvent]) -> None:
        if self.fails:
            raise RuntimeError("no screen")
        self.events.extend(events)

    @property
    def messages(self) -> list[str]:
        return [event.message for event in self.events]


class Parts:
    """A handler, the two workers behind it and what they made."""

    def __init__(self, emit: Callable[[str, Any], Any] | None = None, *, room: int = 1_000, **publisher: Any) -> None:
        self.queue: CallQueue[Any] = CallQueue(10_000, 1 << 20)
        self.drops = Drops()
        self.screen = Screen()
        self.emitted: list[tuple[str, Any]] = []
        self.handler = CaptureHandler(self.queue, self.drops)
        self.own_threads: set[int] = set()
        self.processors = ProcessorWorker(
            emit or (lambda name, record: self.emitted.append((name, record.body))),
            self.drops,
            room,
            10_000,
            self.own_threads,
        )
        self.converter = Converter(NO_REDACTION, resource={}, text_chars=1_000, own_threads=self.own_threads)
        self.publisher = Publisher(
            self.queue, self.converter, self.screen, self.drops, processors=self.processors, **publisher
        )

    def log(self, msg: Any = "m", name: str = "app", **fields: Any) -> None:
        record = logging.LogRecord(name, 20, "p", 1, msg, (), None)
        record.__dict__.update(fields)
        self.handler.handle(record)

    def flush(self, timeout: float = 10.0) -> bool:
        return self.publisher.flush(timeout) and self.processors.flush(timeout)

    def stop(self) -> bool:
        return self.publisher.stop(10.0) and self.processors.stop(10.0)


def test_records_are_shown_and_emitted_in_order() -> None:
    """Everything logged before a flush is shown and emitted when it answers True."""
    parts = Parts()
    for number in range(500):
        parts.log(f"m{number}")
    expected = [f"m{number}" for number in range(500)]
    assert parts.flush() is True
    assert parts.screen.messages == expected
    assert parts.emitted == [("app", message) for message in expected]
    assert (parts.publisher.published, parts.publisher.captured) == (500, 500)
    assert parts.stop() is True


def test_records_are_marked_before_they_are_emitted() -> None:
    """The mark says that a record is shown already."""
    marked: list[str] = []
    parts = Parts(mark=lambda record: marked.append(record.body))
    parts.log()
    assert parts.flush() is True
    assert marked == ["m"]
    parts.stop()


def test_without_processors_records_are_only_shown() -> None:
    """A publisher may stand alone."""
    parts = Parts()
    parts.publisher._processors = None
    parts.log()
    assert parts.flush() is True
    assert (parts.screen.messages, parts.emitted) == (["m"], [])
    parts.stop()


def test_a_flush_with_nothing_to_do_is_true() -> None:
    """Nothing was logged, no thread was started."""
    assert Parts().flush(0.0) is True


def test_a_worker_can_not_wait_for_itself() -> None:
    """A processor that flushes gets an honest False, at once."""
    answers: list[bool] = []
    parts = Parts(emit=lambda name, record: answers.append(parts.processors.flush(30.0)))
    parts.log()
    assert parts.flush() is True
    assert answers == [False]
    parts.stop()


def test_a_flush_that_does_not_make_it_is_false() -> None:
    """The deadline holds while a processor hangs, and the live view goes on."""
    gate = threading.Event()
    parts = Parts(emit=lambda name, record: gate.wait(30.0))
    parts.log("one")
    assert parts.publisher.flush(10.0) is True
    assert parts.processors.flush(0.05) is False
    parts.log("two")
    assert parts.publisher.flush(10.0) is True
    assert parts.screen.messages == ["one", "two"]
    assert parts.processors.stop(0.05) is False
    gate.set()
    wait_until(lambda: not parts.processors._thread.is_alive())  # type: ignore[union-attr]
    parts.publisher.stop(10.0)


def test_after_a_stop_flush_answers_at_once() -> None:
    """A stopped worker has nothing to wait for; what comes after is never done, and the answer says so."""
    parts = Parts()
    parts.log()
    assert parts.stop() is True
    assert parts.publisher.flush(30.0) is True
    parts.log()
    assert parts.publisher.flush(30.0) is False


def test_stopping_in_its_own_thread_does_not_wait() -> None:
    """A processor that shuts the bridge down does not wait for itself."""
    answers: list[bool] = []
    parts = Parts(emit=lambda name, record: answers.append(parts.processors.stop(30.0)))
    parts.log()
    assert parts.publisher.flush(10.0) is True
    wait_until(lambda: answers == [False])
    parts.publisher.stop(10.0)


@pytest.mark.parametrize("error", [ValueError("x"), SystemExit(1), KeyboardInterrupt()])
def test_a_processor_that_raises_costs_its_record_only(error: BaseException) -> None:
    """It is counted; the next record gets through, even after a SystemExit."""
    seen: list[str] = []

    def emit(name: str, record: Any) -> None:
        seen.append(record.body)
        if record.body == "bad":
            raise error

    parts = Parts(emit=emit)
    parts.log("bad")
    parts.log("good")
    assert parts.flush() is True
    assert seen == ["bad", "good"]
    assert parts.drops.snapshot() == {"processor_error": 1}
    parts.stop()


def test_a_hanging_processor_bounds_its_queue() -> None:
    """The newest system records are refused and counted; audit records have twice the room."""
    gate = threading.Event()
    started = threading.Event()

    def hang(name: str, record: Any) -> None:
        started.set()
        gate.wait(30.0)

    parts = Parts(emit=hang, room=4)
    parts.processors.put([Export(copy_context(), "app", mock.Mock(), False, 0)])
    assert started.wait(10.0)
    system = Export(copy_context(), "app", mock.Mock(), False, 0)
    audit = system._replace(is_audit=True)
    parts.processors.put([system] * 6 + [audit] * 6)
    assert len(parts.processors.queue) == 8
    assert parts.drops.snapshot() == {"processor_queue_full": 2, "audit_processor_queue_full": 2}
    gate.set()
    assert parts.processors.flush(10.0) is True
    parts.processors.stop(10.0)


def test_a_hanging_processor_bounds_its_bytes() -> None:
    """Large records, wherever their size sits, are bounded by bytes and give them back."""
    gate = threading.Event()
    started = threading.Event()

    def hang(name: str, record: Any) -> None:
        started.set()
        gate.wait(30.0)

    parts = Parts(emit=hang)
    parts.log()
    assert started.wait(10.0)
    for _ in range(4):
        parts.log(body={"deep": "x" * 4_000})
    assert parts.publisher.flush(10.0) is True
    assert parts.drops.snapshot() == {"processor_queue_full": 2}
    gate.set()
    assert parts.flush() is True
    assert parts.processors.queue._large_bytes == 0
    parts.stop()


def test_a_screen_that_fails_is_counted() -> None:
    """Records that could not be shown still go to the processors, and are not called published."""
    parts = Parts()
    parts.screen.fails = True
    parts.log()
    assert parts.flush() is True
    assert parts.emitted == [("app", "m")]
    assert parts.drops.snapshot() == {"publish_error": 1}
    assert (parts.publisher.published, parts.publisher.captured) == (0, 1)
    parts.stop()


def test_a_record_that_can_not_be_converted_is_shown_as_it_can() -> None:
    """It is counted, and the ones around it are whole."""
    parts = Parts()
    parts.log("one")
    parts.log("two", created="yesterday")
    parts.log("three")
    assert parts.flush() is True
    assert parts.screen.messages == ["one", "'two'", "three"]
    assert (parts.publisher.conversion_errors, parts.drops.snapshot()) == (1, {})
    parts.stop()


def test_a_record_that_can_not_be_shown_at_all_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Even the fallback may fail."""
    parts = Parts()
    monkeypatch.setattr(parts.converter, "convert", mock.Mock(side_effect=ValueError))
    monkeypatch.setattr(parts.converter, "fallback", mock.Mock(side_effect=ValueError))
    parts.log()
    assert parts.flush() is True
    assert parts.drops.snapshot() == {"convert_lost": 1}
    assert (parts.publisher.published, parts.publisher.captured) == (0, 1)
    parts.stop()


def test_an_ignored_record_is_in_no_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chatter left out on purpose is neither captured nor lost."""
    parts = Parts()
    monkeypatch.setattr(parts.converter, "convert", lambda captured, now: None)
    parts.log()
    assert parts.flush() is True
    assert (parts.publisher.captured, parts.drops.snapshot()) == (0, {})
    parts.stop()


def test_records_born_in_an_export_are_not_exported_again() -> None:
    """A processor that logs is shown, and does not hear itself."""
    parts = Parts(emit=lambda name, record: parts.log(f"exporting {record.body}"))
    parts.log()
    assert parts.flush() is True
    assert parts.publisher.flush(10.0) is True
    assert parts.screen.messages == ["m", "exporting m"]
    parts.stop()


def test_an_internal_error_is_told(caplog: pytest.LogCaptureFixture) -> None:
    """A worker survives its own bugs and tells of them on the private logger."""
    parts = Parts()
    with (
        said() as words,
        mock.patch.object(parts.publisher, "process", side_effect=AssertionError("bug")),
    ):
        parts.log()
        assert parts.publisher.flush(10.0) is True
    assert words == ["ERROR bridge-publisher: internal error: AssertionError('bug')"]
    parts.log("after")
    assert parts.flush() is True
    assert parts.screen.messages == ["after"]
    parts.stop()


def test_what_was_lost_is_told_once_a_minute() -> None:
    """By reason, and only what is new; nothing where nothing was lost."""
    now = [0.0]
    parts = Parts(clock=lambda: now[0])
    publisher = parts.publisher
    with said() as words:
        parts.drops.add("queue_full", 3)
        publisher.idle()
        assert words == []
        now[0] = 60.0
        publisher.idle()
        parts.drops.add("queue_full", 2)
        parts.drops.add("otlp_failed")
        publisher.idle()
        assert words == ["WARNING log records lost: 3 by queue_full"]
        now[0] = 120.0
        publisher.idle()
        now[0] = 180.0
        publisher.idle()
        assert words[1:] == ["WARNING log records lost: 1 by otlp_failed, 2 by queue_full"]


def test_a_last_report_is_told_whenever_it_comes() -> None:
    """The end of the process does not swallow what was lost since the minute's report."""
    parts = Parts()
    with said() as words:
        parts.drops.add("a")
        parts.publisher.report()
        parts.drops.add("a")
        parts.publisher.report()
    assert words == ["WARNING log records lost: 1 by a"] * 2


def test_a_stalled_processor_is_told_of() -> None:
    """After ten seconds in one processor somebody should know."""
    now = [100.0]
    parts = Parts(clock=lambda: now[0])
    parts.processors.busy_since = 95.0
    with said() as words:
        parts.publisher.idle()
        assert words == []
        now[0] = 106.0
        parts.publisher.idle()
    assert words == ["WARNING a log record processor has been busy for 11 s; the live view goes on without it"]


def test_a_running_worker_looks_after_things_once_a_second() -> None:
    """on_idle is called by a busy worker too, as the clock says."""
    now = [0.0]
    calls: list[float] = []
    parts = Parts(clock=lambda: now[0], on_idle=lambda: calls.append(now[0]))
    for second in (0.0, 0.5, 1.0, 1.5, 2.0):
        now[0] = second
        parts.log()
        parts.publisher.flush(10.0)
    assert calls == [1.0, 2.0]
    parts.stop()


def test_a_started_worker_looks_after_things_before_the_first_record() -> None:
    """Nobody has logged yet, and on_idle is called all the same."""
    called = threading.Event()
    now = [0.0]
    parts = Parts(clock=lambda: now[0], on_idle=called.set)
    parts.publisher.start()
    now[0] = 10.0
    parts.queue.wake()
    assert called.wait(10.0)
    parts.stop()


def test_a_flush_works_when_no_thread_can_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    """From Python 3.12 on none can while the interpreter ends: the flushing thread does the work itself."""
    monkeypatch.setattr(threading.Thread, "start", mock.Mock(side_effect=RuntimeError("can't start new thread")))
    parts = Parts()
    for number in range(100):
        parts.log(f"m{number}")
    assert parts.flush(0.0) is True
    assert len(parts.screen.events) == len(parts.emitted) == 100


def test_a_forked_child_starts_anew() -> None:
    """Counts, queues and threads are the parent's; the child's first record starts threads of its own."""
    parts = Parts()
    parts.log("parent's")
    assert parts.flush() is True
    parts.drops.add("a")
    parts.publisher.after_fork()
    parts.processors.after_fork()
    assert (parts.publisher.captured, parts.drops.snapshot(), parts.own_threads) == (0, {}, set())
    parts.log("child's")
    assert parts.flush() is True
    assert parts.screen.messages == ["parent's", "child's"]
    parts.stop()


def test_a_thread_that_finds_itself_in_a_child_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that forked goes on in the parent only."""
    parts = Parts()
    parts.publisher._processors = None
    parts.log()
    assert parts.flush() is True
    thread = parts.publisher._thread
    assert thread is not None
    monkeypatch.setattr(os, "getpid", lambda: -1)
    parts.queue.wake()
    thread.join(10.0)
    assert thread.is_alive() is False
    monkeypatch.undo()
