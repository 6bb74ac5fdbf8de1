"""Measures one peer in this process, each burst beside one of NullHandler calls. Started by `log_call`."""

from __future__ import annotations

import gc
import json
import logging
import resource
import statistics
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

from benchmarks.peers import PEERS, HandlerPeer, NullPeer, Peer

Loop = Callable[[Sequence[str]], None]
SpanFactory = Callable[[], AbstractContextManager[Any]]


class Burst(NamedTuple):
    """Nanoseconds a record."""

    calling: float  # CPU time of the calling threads
    wall: float  # first call to last return
    process: float  # CPU time of the process until the last record is processed


def process_cpu_ns() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return (usage.ru_utime + usage.ru_stime) * 1e9


def burst(loop: Loop, ids: Sequence[str], threads: int, span: SpanFactory, drain: Callable[[], None]) -> Burst:
    """Log all ids, split over the threads, as fast as they go; then wait until they are processed."""
    share = len(ids) // threads
    barrier = threading.Barrier(threads)
    cpu = [0] * threads
    began = [0] * threads
    ended = [0] * threads

    def run(index: int) -> None:
        mine = ids[index * share : (index + 1) * share]
        with span():
            barrier.wait()
            began[index] = time.perf_counter_ns()
            before = time.thread_time_ns()
            loop(mine)
            cpu[index] = time.thread_time_ns() - before
            ended[index] = time.perf_counter_ns()

    # A full collection belongs to nobody; those the calls cause are theirs, and stay in the measurement.
    gc.collect()
    workers = [threading.Thread(target=run, args=(index,)) for index in range(threads)]
    before = process_cpu_ns()
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    drain()
    process = process_cpu_ns() - before
    records = share * threads
    return Burst(sum(cpu) / records, (max(ended) - min(began)) / records, process / records)


def paced(call: Callable[[str], None], ids: Sequence[str], interval_ns: int) -> list[int]:
    """Duration of each call when one starts every `interval_ns`; a late one does not make the next hurry."""
    clock = time.perf_counter_ns
    durations = []
    due = clock()
    for id_ in ids:
        wait = due - clock()
        if wait > 0:
            time.sleep(wait / 1e9)
        before = clock()
        call(id_)
        durations.append(clock() - before)
        due = max(due + interval_ns, clock())
    return durations


def timer_cost_ns() -> float:
    clock = time.perf_counter_ns
    costs = []
    for _ in range(2000):
        before = clock()
        costs.append(clock() - before)
    return statistics.median(costs)


class Measurement:
    """One peer, alone on the root logger, and beside it in the same process a NullHandler on a tree of its own."""

    def __init__(self, peer: Peer) -> None:
        self.peer = peer
        self.emitted = 0
        self._null_peer = NullPeer()

    def null_burst(self, ids: Sequence[str], threads: int, span: SpanFactory) -> Burst:
        return burst(self._null_peer.loop, ids, threads, span, lambda: None)

    def peer_burst(self, ids: Sequence[str], threads: int, span: SpanFactory) -> Burst:
        self.emitted += len(ids) // threads * threads
        return burst(self.peer.loop, ids, threads, span, self.peer.drain)

    def pairs(self, count: int, ids: Sequence[str], threads: int, span: SpanFactory) -> dict[str, list[Any]]:
        nulls, peers = [], []
        for index in range(count):
            # Taking turns at being first, so that a drift of the machine's speed falls on both.
            if index % 2:
                peers.append(self.peer_burst(ids, threads, span))
                nulls.append(self.null_burst(ids, threads, span))
            else:
                nulls.append(self.null_burst(ids, threads, span))
                peers.append(self.peer_burst(ids, threads, span))
        return {"null": nulls, "peer": peers}

    def paced(self, seconds: float, calls_per_second: int) -> dict[str, list[float]]:
        """Segments of a quarter second, NullHandler and peer in turn."""
        per_segment = calls_per_second // 4
        ids = [f"i-{number:06d}" for number in range(per_segment)]
        interval_ns = 1_000_000_000 // calls_per_second
        overhead = timer_cost_ns()
        gc.collect()
        nulls: list[int] = []
        peers: list[int] = []
        for _ in range(max(1, round(seconds * 4))):
            nulls += paced(self._null_peer.call, ids, interval_ns)
            self.emitted += len(ids)
            peers += paced(self.peer.call, ids, interval_ns)
            self.peer.drain()
        return {
            side: [_quantile(durations, share) - overhead for share in (0.5, 0.99, 0.999)]
            for side, durations in (("null", nulls), ("peer", peers))
        }

    def overload(self, records: int, threads: int) -> dict[str, Any]:
        """Full speed and no pause: what does not fit is dropped, and has to be counted."""
        self.peer.drain()
        processed = self.peer.processed() or 0
        ids = [f"i-{number:06d}" for number in range(records)]
        burst(self.peer.loop, ids, threads, nullcontext, self.peer.drain)
        return {"records": records, "processed": (self.peer.processed() or 0) - processed}


def _quantile(values: Sequence[int], share: float) -> float:
    ordered = sorted(values)
    return float(ordered[min(len(ordered) - 1, int(len(ordered) * share))])


def spans() -> dict[str, SpanFactory]:
    """In and out of a recording span of the SDK; its end has no exporter."""
    from opentelemetry.sdk.trace import TracerProvider

    tracer = TracerProvider(shutdown_on_exit=False).get_tracer("bench")
    return {"out": nullcontext, "in": lambda: tracer.start_as_current_span("request")}


def main(spec: dict[str, Any]) -> dict[str, Any]:
    logging.getLogger().setLevel(logging.INFO)
    contexts = spans()
    peer = PEERS[spec["peer"]][2](spec["sink"])
    handlers = logging.getLogger().handlers
    # One exactly, or none for a library with its own pipeline: a second handler would be in the figures.
    expected = 1 if isinstance(peer, HandlerPeer) or spec["peer"].startswith("ours") else 0
    if len(handlers) != expected:
        raise RuntimeError(f"{len(handlers)} handlers on the root logger, {expected} expected: {handlers}")

    measurement = Measurement(peer)
    bursts = {threads: [f"i-{number:06d}" for number in range(records)] for threads, records in spec["bursts"]}
    for threads, ids in bursts.items():
        for span in contexts.values():
            measurement.pairs(1, ids[:1000], threads, span)  # warm-up
    scenarios = {
        f"{threads}/{where}": measurement.pairs(spec["pairs"], ids, threads, span)
        for threads, ids in bursts.items()
        for where, span in contexts.items()
    }
    answer: dict[str, Any] = {"peer": spec["peer"], "scenarios": scenarios}
    if spec["paced_seconds"]:
        answer["paced"] = measurement.paced(spec["paced_seconds"], spec["paced_calls_per_second"])
    peer.drain()
    answer |= {"emitted": measurement.emitted, "processed": peer.processed(), "dropped": peer.dropped()}
    if spec["overload"]:
        answer["overload"] = measurement.overload(spec["overload"], spec["overload_threads"])
        answer["overload"]["dropped"] = peer.dropped()
    logging.getLogger().handlers.clear()
    peer.close()
    return answer


if __name__ == "__main__":
    print(json.dumps(main(json.loads(sys.argv[1]))))
