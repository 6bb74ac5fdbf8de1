"""Many records, fast, to many clients: some filtered, some stalled, some that keep leaving and coming back.

Run by tests/integration/test_soak.py on a small scale; on the full one by

    python -m tests.integration.soak --records 1000000 --clients 100 --rate 6000

The rate is what the clients can take, who are written in Python and share a process of their own. They check
themselves: a healthy one has exactly its records, in order; of every other, records received plus gap counts are the
records published.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import multiprocessing
import re
import resource
import sys
import threading
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake

SHARDS = 10
AUDIT_EVERY = 20
_RECORD = re.compile(r'"type":"(system|audit)_log","cursor":"\w+:(\d+)"')
_NUMBER = re.compile(r'"message":"n=(\d+)"')


class Finding(NamedTuple):
    """What a client has to say at the end."""

    kind: str
    received: int
    gap_system: int
    gap_audit: int
    problems: list[str]


class Client:
    """One client, over any number of connections."""

    def __init__(self, kind: str, shard: int | None) -> None:
        self.kind = kind
        self.shard = shard
        self.cursor = ""
        self.last_seq = 0
        self.counts = {"system": 0, "audit": 0}
        self.gaps = {"system": 0, "audit": 0}
        self.numbers = 0
        self.next_number = shard if shard is not None else 0
        self.problems: list[str] = []
        self.goodbye = False
        self.connected = asyncio.Event()

    def path(self) -> str:
        """The query to connect with."""
        query = "?v=2&batch=1"
        if self.shard is not None:
            query += f"&attr=shard:{self.shard}"
        return query + (f"&after={self.cursor}" if self.cursor else "")

    def heard(self, text: str) -> None:
        """Check a message."""
        if text.startswith('{"type":"batch"'):
            for kind, digits in _RECORD.findall(text):
                seq = int(digits)
                if seq <= self.last_seq:
                    self.problems.append(f"record {seq} after {self.last_seq}")
                self.last_seq = seq
                self.counts[kind] += 1
            if self.shard is not None:
                for digits in _NUMBER.findall(text):
                    if int(digits) != self.next_number and not self.gaps["system"] + self.gaps["audit"]:
                        self.problems.append(f"number {digits} instead of {self.next_number}")
                    self.next_number = int(digits) + SHARDS
            self.cursor = self.cursor.partition(":")[0] + f":{self.last_seq}"
            return
        message = json.loads(text)
        match message["type"]:
            case "gap":
                self.gaps["system"] += message["system"]
                self.gaps["audit"] += message["audit"]
                # Told, and so behind: whoever resumes from before it is told again.
                self.cursor = message["to"]
            case "hello" if not self.cursor:
                self.cursor = message["newest"]
                self.last_seq = int(self.cursor.partition(":")[2])
        self.cursor = message.get("cursor", self.cursor)

    async def run(self, url: str, end: asyncio.Event, total: asyncio.Future[tuple[int, int, int]]) -> Finding:
        """Watch until everything has come."""
        while True:
            try:
                async with connect(url + self.path(), compression=None, max_size=None, proxy=None) as socket:
                    self.connected.set()
                    if self.kind == "stalled" and not end.is_set():
                        # Not a byte is taken from the socket's own buffer on.
                        socket.transport.pause_reading()
                        await end.wait()
                        socket.transport.resume_reading()
                    if await self._read(socket, total):
                        break
            except (ConnectionClosed, InvalidHandshake, OSError, TimeoutError):
                await asyncio.sleep(0.02)
        newest, system, audit = total.result()
        if self.shard is None:
            for kind, published in (("system", system), ("audit", audit)):
                if self.counts[kind] + self.gaps[kind] != published:
                    self.problems.append(
                        f"{self.counts[kind]} {kind} records and {self.gaps[kind]} in gaps, of {published}"
                    )
        else:
            if self.gaps != {"system": 0, "audit": 0}:
                self.problems.append(f"a healthy client was told of gaps: {self.gaps}")
            if sum(self.counts.values()) != (newest := (system + audit) // SHARDS):
                self.problems.append(f"{sum(self.counts.values())} records instead of {newest}")
        return Finding(self.kind, sum(self.counts.values()), self.gaps["system"], self.gaps["audit"], self.problems[:5])

    async def _read(self, socket: ClientConnection, total: asyncio.Future[tuple[int, int, int]]) -> bool:
        """Read until everything has come (True), or it is time to leave for a while."""
        leave_at = time.monotonic() + 1.0
        while True:
            try:
                self.heard(str(await asyncio.wait_for(socket.recv(), 1.0)))
            except TimeoutError:
                pass
            if total.done() and int(self.cursor.rpartition(":")[2] or 0) >= total.result()[0]:
                return True
            if self.kind == "leaving" and not total.done() and time.monotonic() >= leave_at:
                return False


async def _watch(pipe: Connection, url: str, clients: int) -> None:
    end = asyncio.Event()
    loop = asyncio.get_running_loop()
    total: asyncio.Future[tuple[int, int, int]] = loop.create_future()
    special = max(1, clients // 20)
    members = [Client("stalled", None) for _ in range(special)] + [Client("leaving", None) for _ in range(special)]
    members += [Client("healthy", number % SHARDS) for number in range(clients - len(members))]
    tasks = [loop.create_task(member.run(url, end, total)) for member in members]
    for member in members:
        await member.connected.wait()
    # Each has its hello by now, or the first thing it reads is one.
    pipe.send("connected")
    totals = await loop.run_in_executor(None, pipe.recv)
    total.set_result(totals)
    end.set()
    pipe.send([tuple(finding) for finding in await asyncio.gather(*tasks)])


def _clients_main(pipe: Connection, url: str, clients: int) -> None:
    asyncio.run(_watch(pipe, url, clients))


class Report(NamedTuple):
    """The outcome of a run."""

    findings: list[Finding]
    seconds: float
    deliveries: int
    rss_before_kib: int
    rss_peak_kib: int
    dropped: dict[str, int]

    @property
    def problems(self) -> list[str]:
        """Everything that was not as promised."""
        found = [f"{finding.kind}: {problem}" for finding in self.findings for problem in finding.problems]
        return found + [f"dropped: {self.dropped}"] * bool(self.dropped)


def _rss_kib() -> int:
    return int(re.findall(r"VmRSS:\s+(\d+)", Path("/proc/self/status").read_text())[0])


def run(records: int, clients: int, *, rate: int, timeout: float, ring: int = 20_000) -> Report:
    """Publish ``records`` by logging calls, ``rate`` a second; the server holds ``ring`` system records."""
    import bridge
    from bridge.server.standalone import StandaloneServer, bind

    allowed = resource.getrlimit(resource.RLIMIT_NOFILE)
    sys.setswitchinterval(0.000_5)  # as the programs of the package do that serve and work in one process
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(8_192, allowed[1]), allowed[1]))
    b = bridge.setup(service_name="soak", max_clients=2 * clients, ring_system_records=ring)
    server = StandaloneServer(b.app, bind("127.0.0.1", 0, token=None))
    server.start()
    logger = logging.getLogger("soak")
    logger.setLevel(logging.INFO)
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
    here, there = multiprocessing.get_context("spawn").Pipe()
    context = multiprocessing.get_context("spawn")
    process = context.Process(
        target=_clients_main, args=(there, f"ws://127.0.0.1:{server.port}/ws/monitor", clients), daemon=True
    )
    process.start()
    try:
        if not here.poll(timeout):
            raise TimeoutError("the clients did not connect")
        here.recv()
        before = _rss_kib()
        peak = before
        began = time.monotonic()
        for number in range(records):
            logger.info("n=%d", number, extra={"shard": number % SHARDS, "is_audit": number % AUDIT_EVERY == 0})
            if number % 100 == 0:
                peak = max(peak, _rss_kib())
                time.sleep(max(0.0, began + number / rate - time.monotonic()))
        if not b.force_flush(60.0):
            raise TimeoutError("the publisher did not finish")
        seconds = time.monotonic() - began
        peak = max(peak, _rss_kib())
        audit = len(range(0, records, AUDIT_EVERY))
        here.send((b.hub.end(), records - audit, audit))
        if not here.poll(timeout):
            raise TimeoutError("the clients did not get everything")
        findings = [Finding(*each) for each in here.recv()]
        deliveries = sum(finding.received for finding in findings)
        return Report(findings, seconds, deliveries, before, peak, b.statistics().dropped)
    finally:
        process.kill()
        process.join()
        server.stop()
        b.shutdown(timeout=2.0)


def main() -> int:
    """Run on the scale that the options say, and print what came of it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--records", type=int, default=1_000_000)
    parser.add_argument("--clients", type=int, default=100)
    parser.add_argument("--rate", type=int, default=6_000, help="records a second")
    parser.add_argument("--timeout", type=float, default=300.0)
    options = parser.parse_args()
    watchdog = threading.Timer(options.timeout * 3, lambda: sys.exit("too long"))
    watchdog.daemon = True
    watchdog.start()
    report = run(options.records, options.clients, rate=options.rate, timeout=options.timeout)
    for kind in ("healthy", "leaving", "stalled"):
        of_kind = [finding for finding in report.findings if finding.kind == kind]
        print(
            f"{kind:8} {len(of_kind):3} clients, {sum(f.received for f in of_kind):>11,} records received, "
            f"{sum(f.gap_system for f in of_kind):>10,} system, {sum(f.gap_audit for f in of_kind):>8,} audit in gaps"
        )
    print(
        f"{options.records:,} records in {report.seconds:.1f} s, {report.deliveries:,} deliveries; "
        f"memory {report.rss_before_kib // 1024} → {report.rss_peak_kib // 1024} MiB; dropped {report.dropped}"
    )
    for problem in report.problems:
        print(problem)
    return 1 if report.problems else 0


if __name__ == "__main__":
    sys.exit(main())
