"""The server process of one peer: runs the phases it is told to on stdin, a line of JSON each, and answers in kind.

The source of records is held back when it is a window ahead of the slowest client that reads, as the client reports
in the shared page: so every peer delivers every record, and "full speed" is what it can sustain. The window is what the
peer delivers in a quarter of a second: enough to keep a fast one busy, and no heap of work for a slow one.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import resource
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.fanout_peers import PEERS, FanoutPeer
from benchmarks.fanout_shared import SharedPage, allow_many_sockets, resident_bytes

CHUNK = 64
PAUSE_SECONDS = 0.000_5
CONNECT_SECONDS = 20.0
DRAIN_SECONDS = 6.0
OVERLOAD_DRAIN_SECONDS = 1.0
# The most is well below the 20,000 records of our ring: nobody is to miss any.
LEAST_WINDOW, MOST_WINDOW = 16, 8_192
WINDOW_SECONDS = 0.25
WINDOW_STEP_SECONDS = 0.02
LEAVE_SECONDS = 3.0


def cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def wait_until(true: Callable[[], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.002)
    return True


class Window:
    """How many records may be on their way: what was delivered in the last quarter of a second."""

    def __init__(self, page: SharedPage) -> None:
        self._page = page
        self._size = LEAST_WINDOW
        self._seen: deque[tuple[float, int]] = deque([(time.monotonic(), page.min_sequence)])

    def room(self, published: int) -> int:
        sequence, now, seen = self._page.min_sequence, time.monotonic(), self._seen
        if now - seen[-1][0] >= WINDOW_STEP_SECONDS:
            # Over the whole time, not over a step: a client gets its records in bursts.
            seen.append((now, sequence))
            while now - seen[0][0] > WINDOW_SECONDS:
                seen.popleft()
            self._size = min(MOST_WINDOW, max(LEAST_WINDOW, sequence - seen[0][1]))
        return self._size - (published - sequence)


class Source:
    """Publishes numbered records in a thread, or inside the event loop, until it is told to stop.

    `rate` is in records a second, without a window, as a backlog is then what is to be seen; 0 is full speed.
    """

    def __init__(self, peer: FanoutPeer, page: SharedPage) -> None:
        self._peer = peer
        self._page = page
        self.published = 0
        self._stopping = False
        self._most = 0
        self._thread: threading.Thread | None = None

    def start(self, *, rate: float = 0, most: int = 0) -> None:
        self._stopping = False
        self._most = self.published + most if most else sys.maxsize
        run, argument = (self._paced, rate) if rate else (self._full_speed, Window(self._page))
        self._thread = threading.Thread(target=run, args=(argument,), name="source", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stopping = True
        self.join(5.0)

    def join(self, seconds: float) -> None:
        if self._thread is not None:
            self._thread.join(seconds)
            if self._thread.is_alive():
                raise TimeoutError("the source of records did not come to an end")

    def ended(self) -> bool:
        """All that was asked for is published, or it was told to stop."""
        return self._stopping or self.published >= self._most

    def _grant(self, window: Window) -> int:
        return min(CHUNK, window.room(self.published), self._most - self.published)

    def _full_speed(self, window: Window) -> None:
        in_loop = self._peer.publish_in_loop
        if in_loop is not None:
            asyncio.run_coroutine_threadsafe(self._in_loop(in_loop, window), self._peer.loop).result()
            return
        while not self.ended():
            count = self._grant(window)
            if count <= 0:
                time.sleep(PAUSE_SECONDS)
                continue
            self._peer.publish_many(self.published + 1, count)
            self.published += count

    async def _in_loop(self, publish: Callable[[int], None], window: Window) -> None:
        while not self.ended():
            count = self._grant(window)
            for number in range(self.published + 1, self.published + count + 1):
                publish(number)
            self.published += max(count, 0)
            await asyncio.sleep(0 if count > 0 else PAUSE_SECONDS)

    def _paced(self, rate: float) -> None:
        began, first = time.monotonic(), self.published
        while not self.ended():
            wait = began + (self.published - first) / rate - time.monotonic()
            if wait > 0:
                time.sleep(wait)
            else:
                self._peer.publish(self.published + 1)
                self.published += 1


class Phases:
    """What is measured, by name."""

    def __init__(self, peer: FanoutPeer, page: SharedPage, spec: dict[str, Any]) -> None:
        self._peer = peer
        self._page = page
        self._spec = spec
        self._source = Source(peer, page)

    def run(self) -> dict[str, Any]:
        wanted = self._spec["clients"]
        if not wait_until(lambda: self._page.connected >= wanted and self._peer.clients() >= wanted, CONNECT_SECONDS):
            raise TimeoutError(f"{self._page.connected} and {self._peer.clients()} of {wanted} clients are connected")
        before = self._peer.facts()
        answer: dict[str, Any] = getattr(self, self._spec["phase"])()
        answer["published"] = self._source.published
        self._page.stop()
        answer["left"] = answer["drained"] and wait_until(lambda: self._peer.clients() == 0, LEAVE_SECONDS)
        return answer | {"facts_before": before, "facts": self._peer.facts()}

    def speed(self) -> dict[str, Any]:
        """Deliveries at full speed."""
        self._source.start()
        # A slow design makes all its tasks first, and sends nothing meanwhile.
        wait_until(lambda: self._page.min_sequence >= LEAST_WINDOW, DRAIN_SECONDS)
        time.sleep(self._spec["warm"])
        answer = self._measure(self._spec["seconds"])
        self._source.stop()
        return answer | {"drained": self._drained()}

    def latency(self) -> dict[str, Any]:
        """At a steady rate, without regard for how far the clients are behind."""
        self._source.start(rate=self._spec["rate"])
        time.sleep(self._spec["warm"])
        self._page.record_latency(1)
        answer = self._measure(self._spec["seconds"])
        self._page.record_latency(0)
        self._source.stop()
        return answer | {"drained": self._drained(OVERLOAD_DRAIN_SECONDS)}

    def stall(self) -> dict[str, Any]:
        """Memory, with what the design keeps for itself filled before, and latency of the client that still reads."""
        spec, page, source = self._spec, self._page, self._source
        source.start(most=self._peer.prefill)
        source.join(60.0)
        drained = self._drained()
        self._paced_latency(1)
        drained &= self._drained()
        gc.collect()
        memory = resident_bytes()
        page.stall()
        time.sleep(0.05)
        published = source.published
        self._paced_latency(2)
        # So many that the kernel's own buffers, about 4 MB, are the smaller part of what is not read.
        source.start(most=spec["records"])
        wait_until(source.ended, spec["seconds"])
        source.stop()
        drained &= self._drained()
        return {
            "growth_bytes": resident_bytes() - memory,
            "before_bytes": memory,
            "records": source.published - published,
            "drained": drained,
        }

    def _paced_latency(self, slot: int) -> None:
        self._source.start(rate=self._spec["rate"])
        time.sleep(0.2)
        self._page.record_latency(slot)
        time.sleep(self._spec["paced_seconds"])
        self._page.record_latency(0)
        self._source.stop()

    def _measure(self, seconds: float) -> dict[str, Any]:
        page, source = self._page, self._source
        began, cpu, received, published = time.perf_counter(), cpu_seconds(), page.received, source.published
        time.sleep(seconds)
        wall = time.perf_counter() - began
        return {
            "deliveries": page.received - received,
            "records": source.published - published,
            "seconds": wall,
            "cpu_seconds": cpu_seconds() - cpu,
        }

    def _drained(self, seconds: float = DRAIN_SECONDS) -> bool:
        return wait_until(lambda: self._page.min_sequence >= self._source.published, seconds)


def _watch(parent: int, lifetime: float) -> None:
    """Whatever hangs, this process does not outlive its time, nor whoever started it."""
    deadline = time.monotonic() + lifetime
    while os.getppid() == parent and time.monotonic() < deadline:
        time.sleep(0.5)
    os._exit(3)


def main() -> int:
    name, lifetime = sys.argv[1], float(sys.argv[2])
    threading.Thread(target=_watch, args=(os.getppid(), lifetime), name="watchdog", daemon=True).start()
    allow_many_sockets()
    make = PEERS[name].make
    if make is None:
        raise ValueError(f"{name} is not served by Python")
    peer = make()
    print(json.dumps({"port": peer.port, "path": peer.path}), flush=True)
    for line in sys.stdin:
        spec = json.loads(line)
        with SharedPage(Path(spec["shared"])) as page:
            answer = Phases(peer, page, spec).run()
        print(json.dumps(answer), flush=True)
    # Without a farewell: a peer that could not keep up would take its time for one.
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
