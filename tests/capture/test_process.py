from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from typing import Any
from unittest import mock

import pytest

from bridge.capture import process
from bridge.capture.process import watch_process


class Watcher:
    def __init__(self, fails: bool = False) -> None:
        self.seen: list[str] = []
        self.fails = fails

    def after_fork(self) -> None:
        self.seen.append("fork")
        if self.fails:
            raise RuntimeError

    def at_exit(self) -> None:
        self.seen.append("exit")
        if self.fails:
            raise RuntimeError


@pytest.fixture(autouse=True)
def default_sigterm() -> Iterator[None]:
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGTERM, before)


def test_every_watcher_hears_of_forks_and_of_the_end() -> None:
    """One that fails does not keep it from the others; one that stopped hears nothing."""
    watchers = [Watcher(), Watcher(fails=True), Watcher(), Watcher()]
    stops = [watch_process(each, sigterm=False) for each in watchers]
    stops.pop()()
    process._after_fork_in_child()
    process._at_exit()
    for stop in stops:
        stop()
    process._at_exit()
    assert [each.seen for each in watchers] == [["fork", "exit"]] * 3 + [[]]


def test_a_watcher_is_held_weakly() -> None:
    """Watching keeps nobody alive."""
    before = len(process._watched)
    watch_process(Watcher(), sigterm=False)
    assert len(process._watched) == before


def test_sigterm_counts_as_an_orderly_end() -> None:
    """The watchers hear of the end, then the signal does what it would have done."""
    watcher = Watcher()
    stop = watch_process(watcher, sigterm=True)
    handler: Any = signal.getsignal(signal.SIGTERM)
    with mock.patch.object(os, "kill") as kill:
        handler(signal.SIGTERM, None)
    assert watcher.seen == ["exit"]
    kill.assert_called_once_with(os.getpid(), signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    stop()


def test_sigterm_is_restored() -> None:
    """Stopping gives the signal back, unless somebody has taken it meanwhile."""
    stop = watch_process(Watcher(), sigterm=True)
    assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
    stop()
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL

    stop = watch_process(Watcher(), sigterm=True)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    stop()
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN


def test_sigterm_is_left_alone_where_somebody_handles_it_or_nobody_asked() -> None:
    """An application's own handler stays."""
    watch_process(Watcher(), sigterm=False)()
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    watch_process(Watcher(), sigterm=True)()
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN


def test_sigterm_can_not_be_taken_outside_the_main_thread() -> None:
    """Nor in a subinterpreter; both is quiet."""
    thread = threading.Thread(target=lambda: watch_process(Watcher(), sigterm=True)())
    thread.start()
    thread.join()
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    with mock.patch.object(signal, "signal", side_effect=ValueError):
        watch_process(Watcher(), sigterm=True)()


def test_multiprocessing_is_hooked_once_it_is_there() -> None:
    """Its children end by os._exit(), so their own finalizers tell of the end."""
    import multiprocessing.util as util

    with (
        mock.patch.object(process, "_multiprocessing_hooked", False),
        mock.patch.object(util, "register_after_fork") as hook,
    ):
        process._hook_multiprocessing()
        process._hook_multiprocessing()
    hook.assert_called_once_with(process._anchor, process._in_multiprocessing_child)
    with mock.patch.object(util, "Finalize") as finalize:
        process._in_multiprocessing_child(None)
    finalize.assert_called_once_with(None, process._at_exit, exitpriority=100)
