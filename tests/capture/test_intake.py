from __future__ import annotations

import threading

from bridge.capture.intake import CallQueue, Drops


def test_drops_are_counted_by_reason() -> None:
    """Counts add up by reason, and a snapshot does not change afterwards."""
    drops = Drops()
    drops.add("a")
    before = drops.snapshot()
    drops.add("a", 2)
    drops.add("b")
    assert before == {"a": 1}
    assert drops.snapshot() == {"a": 3, "b": 1}


def test_drops_lose_no_count_between_threads() -> None:
    """Threads that count at once all count."""
    drops = Drops()

    def count() -> None:
        for _ in range(5_000):
            drops.add("a")

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert drops.snapshot() == {"a": 20_000}


def test_drops_of_a_parent_are_not_its_childs() -> None:
    """A forked child counts from zero."""
    drops = Drops()
    drops.add("a")
    drops.after_fork()
    assert drops.snapshot() == {}


def test_take_gives_the_oldest_first_and_no_more_than_asked() -> None:
    """Items come out in the order in which they went in."""
    queue: CallQueue[int] = CallQueue(10, 100)
    queue.items.extend(range(5))
    assert queue.take(3) == [0, 1, 2]
    assert len(queue) == 2
    assert queue.take(3) == [3, 4]
    assert queue.take(3) == []


def test_bytes_are_bounded() -> None:
    """What would pass the bound is refused, and nothing of it is counted."""
    queue: CallQueue[int] = CallQueue(10, 100)
    assert queue.reserve(60) is True
    assert queue.reserve(60) is False
    assert queue.reserve(40) is True
    queue.release(60)
    assert queue.reserve(60) is True


def test_an_overdraft_raises_the_bound() -> None:
    """With an overdraft of two, twice the bytes find room."""
    queue: CallQueue[int] = CallQueue(10, 100)
    assert queue.reserve(100) is True
    assert queue.reserve(100) is False
    assert queue.reserve(100, overdraft=2) is True


def test_one_item_larger_than_the_bound_gets_through_alone() -> None:
    """The largest record must get through somehow: when nothing else is there."""
    queue: CallQueue[int] = CallQueue(10, 100)
    assert queue.reserve(1_000) is True
    assert queue.reserve(1) is False


def test_wake_ends_a_wait_and_calls_the_hook() -> None:
    """A sleeping worker wakes at once, however often it is woken."""
    queue: CallQueue[int] = CallQueue(10, 100)
    called: list[bool] = []
    queue.on_wake = lambda: called.append(True)
    woken = threading.Event()

    def sleep() -> None:
        queue.wait(30.0)
        woken.set()

    thread = threading.Thread(target=sleep)
    thread.start()
    queue.wake()
    queue.wake()
    assert woken.wait(10.0) is True
    thread.join()
    assert called == [True, True]
    assert queue.idle is False


def test_nobody_sleeps_while_something_is_queued() -> None:
    """A wait with an item in the queue returns at once."""
    queue: CallQueue[int] = CallQueue(10, 100)
    queue.items.append(1)
    queue.wait(30.0)
    assert queue.idle is False


def test_a_wait_ends_by_itself() -> None:
    """Nothing came: the wait ends after its time."""
    queue: CallQueue[int] = CallQueue(10, 100)
    queue.wait(0.0)
    assert queue.take(1) == []


def test_a_forked_child_starts_with_an_empty_queue() -> None:
    """What is queued is the parent's to deliver, and no lock of the parent's can block the child."""
    queue: CallQueue[int] = CallQueue(10, 100)
    queue.items.append(1)
    queue.reserve(100)
    queue.wake()
    queue._lock.acquire()
    queue.after_fork()
    assert len(queue) == 0
    assert queue.idle is True
    done: list[bool] = []
    thread = threading.Thread(target=lambda: done.append(queue.reserve(100)))
    thread.start()
    thread.join(10.0)
    assert done == [True]
