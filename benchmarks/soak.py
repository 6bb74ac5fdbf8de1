"""A soak: many records at full speed to many version 2 clients, each of which checks its own exact sequence.

`python -m benchmarks soak`; it is no part of a run of all tables. The records are real logging calls, numbered from 1,
every twentieth an audit record. The caller waits while the slowest healthy client is half a ring behind: so nothing is
dropped on the way to the rings, nobody who reads misses anything, and "full speed" is what the slowest of them takes.
Clients that stall, and those that leave every second and come back by their cursor, are waited for by nobody.

The clients are one process in C. They compute from a record's number whether their filter lets it through, and so know
each record that must come; what they found is counted a second time here, from the filters' other description.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.fanout import SOURCES, Child
from benchmarks.fanout_child import cpu_seconds, wait_until
from benchmarks.fanout_shared import STOP, SharedPage, allow_many_sockets, resident_bytes
from benchmarks.harness import BenchError, Options, Progress, Result, Spread, Verdict, text_table

NAME = "soak"

AUDIT_EVERY = 20
CHUNK = 64
PAUSE_SECONDS = 0.000_5
START_SECONDS = 30.0
SAMPLE_SECONDS = 0.05
# Send buffers of clients that do not read, and the allocator's noise.
GROWTH_TARGET_MIB = 8
# Set by the server once everything is published; client/soak_client.c has the same number.
PUBLISHED = 11

FRUIT = ("apple", "cherry", "fig", "lime", "melon", "pear", "plum")
LOGGERS = ("soak.zero", "soak.one", "soak.two")
KINDS = "abcd"


class Filtered(NamedTuple):
    """A filter, as the server is asked for it, as the C clients compute it, and once more as Python does."""

    query: str
    rule: str
    passes: Callable[[int], bool]
    streams: str = "sa"


FILTERS = (
    Filtered("", "-", lambda n: True),
    Filtered("streams=system", "20!0", lambda n: n % 20 != 0, "s"),
    Filtered("streams=audit", "20=0", lambda n: n % 20 == 0, "a"),
    Filtered("min_severity=WARN", "8=4", lambda n: n % 8 == 4),
    Filtered("logger=soak.one", "3=1", lambda n: n % 3 == 1),
    Filtered("logger=soak.t*", "3=2", lambda n: n % 3 == 2),
    Filtered("attr=shard:3", "10=3", lambda n: n % 10 == 3),
    Filtered("attr=shard:0&attr=kind:a", "10=0,4=0", lambda n: n % 20 == 0),
    Filtered("q=pear", "7=5", lambda n: n % 7 == 5),
    Filtered("re=n%3D%5Cd*7~", "10=7", lambda n: str(n).endswith("7")),
)


class Plan(NamedTuple):
    """How much."""

    records: int
    clients: int
    """A multiple of ten: as many with each filter. One with each filter is stalled or leaving, in turn."""
    ring: int
    """Records that each of the two rings holds."""
    stay: float
    """Seconds after which a leaving client leaves."""
    seconds: float
    """At most."""


FULL = Plan(1_000_000, 100, 20_000, 1.0, 900.0)
QUICK = Plan(30_000, 20, 1_000, 0.2, 90.0)

# Parts of the run in which a stalled client does not read: from and to, in thousandths.
SPELLS = (
    ((0, 1000),),
    ((50, 350), (500, 950)),
    tuple((start, start + 60) for start in range(50, 950, 100)),
    ((100, 900),),
    ((300, 450), (600, 640), (800, 1000)),
)


def run(options: Options) -> Result:
    return soak(QUICK if options.quick else FULL)


def soak(plan: Plan, *, plant: str = "") -> Result:
    """Run it. `plant` names a mistake for the server to make, to see that it is found."""
    progress = Progress(3)
    with tempfile.TemporaryDirectory(prefix="bench-soak-") as name:
        directory = Path(name)
        program = _compile(directory)
        members = directory / "clients"
        members.write_text("".join(line + "\n" for line in _client_lines(plan)), encoding="ascii")
        spec = {"records": plan.records, "clients": plan.clients, "ring": plan.ring, "plant": plant}
        with (
            SharedPage(directory / "page", create=True) as page,
            Child("the server", [sys.executable, "-m", "benchmarks.soak", json.dumps(spec)], directory) as server,
        ):
            options = {
                "port": server.answer(START_SECONDS)["port"], "shared": page.path, "clients": members,
                "records": plan.records, "audit-every": AUDIT_EVERY, "stay": plan.stay, "seconds": plan.seconds,
            }  # fmt: skip
            command = [str(program), *(part for name, value in options.items() for part in (f"--{name}", str(value)))]
            progress.step(f"{NAME}: {plan.clients} clients connect, {plan.records:,} records")
            with Child("the clients", command, directory) as clients:
                server.say({"shared": str(page.path)})
                seen = clients.answer(plan.seconds + START_SECONDS)
            progress.step(f"{NAME}: the clients have ended: {seen['end']}")
            page.stop()
            return _result(plan, server.answer(START_SECONDS), seen)


def _compile(directory: Path) -> Path:
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        raise BenchError("no C compiler, and the clients are written in C")
    program = directory / "soak_client"
    command = [compiler, "-O2", "-std=gnu11", "-o", str(program), str(SOURCES / "soak_client.c")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    if done.returncode != 0:
        raise BenchError(f"{compiler}: {done.stderr.strip()}")
    return program


def _members(plan: Plan) -> list[tuple[str, Filtered, bool, Sequence[tuple[int, int]]]]:
    """Each client's kind, filter, whether it takes batches, and when it does not read, in numbers of records."""
    found: list[tuple[str, Filtered, bool, Sequence[tuple[int, int]]]] = []
    for number in range(plan.clients):
        which, copy = number % len(FILTERS), number // len(FILTERS)
        kind = "healthy" if copy else ("stalled", "leaving")[which % 2]
        spells = SPELLS[which // 2] if kind == "stalled" else ()
        scaled = [(start * plan.records // 1_000, end * plan.records // 1_000) for start, end in spells]
        found.append((kind, FILTERS[which], number % 3 == 1, scaled))
    return found


def _client_lines(plan: Plan) -> list[str]:
    lines = []
    for kind, filtered, batch, spells in _members(plan):
        query = "&".join(part for part in ("v=2", filtered.query, "batch=1" if batch else "") if part)
        when = ",".join(f"{start}-{end}" for start, end in spells) or "-"
        lines.append(f"{kind[0]} {filtered.streams} /ws/monitor?{query} {filtered.rule} {when}")
    return lines


# -- what came of it --------------------------------------------------------------------------------------------------

# What never may happen, whatever a client does; each is counted by the clients.
FAULTS = ("missing", "jumped", "twice", "late", "foreign", "wrong_gaps", "strange")
COLUMNS = {
    "expected": "to come",
    "came": "came",
    "told": "in gaps",
    "gaps": "gaps",
    "gap_system": "system",
    "gap_audit": "audit",
    "visits": "connections",
    "too_slow": "4408 by audit",
    **{name: name for name in FAULTS[:4]},
}


def _result(plan: Plan, server: dict[str, Any], seen: dict[str, Any]) -> Result:
    failures = []
    if seen["end"] != "complete":
        failures.append(f"the clients did not get to the end: {seen['end']}")
    if server["dropped"] or server["shown"] != plan.records:
        failures.append(f"{server['shown']:,} of {plan.records:,} records were shown; dropped: {server['dropped']}")
    clients = seen["clients"]
    for client, (kind, filtered, _, _) in zip(clients, _members(plan), strict=True):
        client |= {"kind": kind, "query": filtered.query}
    passing = {filtered.query: _passing(filtered, plan.records) for filtered in FILTERS}
    for number, client in enumerate(clients):
        if faults := _faults(client, *passing[client["query"]]):
            where = f"client {number}, {client['kind']}, {client['query'] or 'no filter'}"
            said = ", ".join(f"{name}: {value}" for name, value in faults.items())
            failures.append(f"{where}: {said}; {client['first']}")
    rows = []
    for kind in ("healthy", "leaving", "stalled"):
        of_kind = [client for client in clients if client["kind"] == kind]
        sums = (sum(client[name] for client in of_kind) for name in COLUMNS)
        rows.append([kind, str(len(of_kind)), *(f"{each:,}" for each in sums)])
    rss, mib = server["rss"], 1 << 20
    memory = [["", "start", "rings full", "most", "end", "held by the rings", "bound of the rings"]]
    memory.append(["MiB", *(f"{rss[name] / mib:.0f}" for name in ("start", "full", "most", "end"))])
    memory[1] += [f"{server['held_bytes'] / mib:.0f}", f"{server['bound_bytes'] / mib:.0f}"]
    seconds = server["seconds"]
    text = "\n\n".join([
        f"{plan.records:,} records, {server['audit']:,} of them audit records, to {plan.clients} clients with "
        f"{len(FILTERS)} filters in {seconds:.1f} s: {plan.records / seconds:,.0f} records and "
        f"{seen['received'] / seconds:,.0f} deliveries a second, {seen['received']:,} in all, "
        f"{seen['bytes'] / 1e9:.1f} GB. CPU: server {server['cpu_seconds']:.1f} s, clients {seen['cpu_seconds']:.1f} s",
        text_table(["", "clients", *COLUMNS.values()], rows),
        "Memory of the server's process",
        text_table(memory[0], memory[1:]),
    ])  # fmt: skip
    growth = (rss["most"] - rss["full"]) / mib
    verdicts = [
        Verdict(
            name="MiB more once the rings were full",
            value=Spread(growth, growth, growth),
            target=GROWTH_TARGET_MIB,
            at_least=False,
        )
    ]
    data = {"plan": plan._asdict(), "server": server, "clients": seen}
    return Result(name=NAME, text=text, data=data, verdicts=verdicts, failures=failures)


def _passing(filtered: Filtered, records: int) -> tuple[int, int]:
    """How many records pass a filter, and the sum of their numbers."""
    numbers = [number for number in range(1, records + 1) if filtered.passes(number)]
    return len(numbers), sum(numbers)


def _faults(client: dict[str, Any], count: int, total: int) -> dict[str, Any]:
    """What is not as promised: as the client has counted it, and by a count of our own."""
    faults = {name: client[name] for name in FAULTS if client[name]}
    if client["kind"] == "healthy" and client["gaps"]:
        faults["gaps"] = client["gaps"]
    if client["expected"] != count or client["came"] + client["told"] != count:
        faults["came"] = f"{client['came']}, and {client['told']} in gaps, of {count}"
    elif not client["told"] and client["sum"] != total:
        faults["sum"] = f"{client['sum']} instead of {total}"
    return faults


# -- the server's process ---------------------------------------------------------------------------------------------


class Memory(threading.Thread):
    """Looks at this process's memory while clients are connected."""

    def __init__(self, page: SharedPage, full_at: int) -> None:
        super().__init__(name="memory", daemon=True)
        self._page = page
        self._full_at = full_at
        start = resident_bytes()
        self.rss = {"start": start, "full": 0, "most": start, "end": start}
        self.series: list[tuple[int, int]] = []
        """How far the slowest healthy client was, and the bytes."""

    def run(self) -> None:
        while self._page.connected:
            at, now = self._page.min_sequence, resident_bytes()
            self.rss["most"] = max(self.rss["most"], now)
            self.rss["end"] = now
            if at >= self._full_at and not self.rss["full"]:
                self.rss["full"] = now
            if not self.series or now != self.series[-1][1]:
                self.series.append((at, now))
            time.sleep(SAMPLE_SECONDS)


def _publish(records: int, most_ahead: int, page: SharedPage) -> None:
    """Records 1 to `records` by logging calls, no further ahead of the slowest healthy client than that."""
    import bridge

    loggers = [logging.getLogger(name) for name in LOGGERS]
    for number in range(1, records + 1):
        if number % CHUNK == 0:
            while number - page.min_sequence > most_ahead:
                if page.words[STOP]:
                    return
                time.sleep(PAUSE_SECONDS)
        level = logging.WARNING if number % 8 == 4 else logging.INFO
        logger, fruit = loggers[number % 3], FRUIT[number % 7]
        fields: dict[str, Any] = {"shard": number % 10, "kind": KINDS[number % 4]}
        if number % AUDIT_EVERY:
            logger.log(level, "~n=%d~ %s", number, fruit, extra=fields)
        else:
            bridge.audit_log(logger, f"~n={number}~ {fruit}", action="soak", level=level, **fields)


def serve(spec: dict[str, Any]) -> None:
    """Publish what `spec` says once everybody is connected, and answer when the clients have ended."""
    import bridge
    from bridge.server.standalone import StandaloneServer, bind

    allow_many_sockets()
    sys.setswitchinterval(0.000_5)  # as the programs of the package do that serve and work in one process
    records, ring = spec["records"], spec["ring"]
    settings = {"ring_system_records": ring, "ring_audit_records": ring}
    # Twice the clients: who left without a word still has its place for a while.
    b = bridge.setup(service_name="soak", max_clients=2 * spec["clients"], flush_on_sigterm=False, **settings)
    for name in LOGGERS:
        logging.getLogger(name).setLevel(logging.INFO)
    logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
    server = StandaloneServer(b.app, bind("127.0.0.1", 0, token=None))
    server.start()
    if not wait_until(lambda: bool(server.started), START_SECONDS):
        raise TimeoutError("the server did not start")
    if spec["plant"]:
        plant(spec["plant"], records // 2)
    print(json.dumps({"port": server.port}), flush=True)
    shared = json.loads(sys.stdin.readline())["shared"]
    # Whoever started us has gone, and the clients with it.
    threading.Thread(target=lambda: (sys.stdin.read(), os._exit(3)), name="watchdog", daemon=True).start()
    with SharedPage(Path(shared)) as page:
        if not wait_until(lambda: page.connected == spec["clients"], START_SECONDS):
            raise TimeoutError(f"{page.connected} of {spec['clients']} clients are connected")
        first, cpu, began = b.hub.end(), cpu_seconds(), time.monotonic()
        memory = Memory(page, min(records, ring * AUDIT_EVERY))
        memory.start()
        _publish(records, ring // 2, page)
        b.force_flush(START_SECONDS)
        page.words[PUBLISHED] = 1
        wait_until(lambda: page.min_sequence >= records or bool(page.words[STOP]), START_SECONDS)
        seconds, cpu = time.monotonic() - began, cpu_seconds() - cpu
        while not page.words[STOP]:
            time.sleep(SAMPLE_SECONDS)
        memory.join()
    statistics, used = b.statistics(), b.settings
    answer = {
        "shown": b.hub.end() - first,
        "audit": b.hub.statistics().audit,
        "dropped": {reason: count for reason, count in statistics.dropped.items() if count},
        "held_bytes": statistics.held_bytes,
        "bound_bytes": used.ring_system_bytes + used.ring_audit_bytes,
        "skipped": [statistics.skipped_system, statistics.skipped_audit],
        "seconds": seconds,
        "cpu_seconds": cpu,
        "rss": memory.rss,
        "series": memory.series,
    }
    print(json.dumps(answer), flush=True)
    os._exit(0)


# -- mistakes, to see that they are found -----------------------------------------------------------------------------


def plant(what: str, at: int) -> None:
    """Let the server make a mistake: with record `at` for whoever gets it, with every gap, or at every resumption."""
    from bridge.live.chunk import Chunk
    from bridge.live.session_v2 import SessionV2
    from bridge.record.filters import Filter

    encode, gap, seek, matches = Chunk.encode, SessionV2._gap, SessionV2._seek, Filter.matches

    def encode_wrong(self: Any, entries: Any, version: int, batch: bool) -> list[bytes]:
        entries = list(entries)
        index = next((index for index, entry in enumerate(entries) if entry.seq == at), None)
        if index is not None:
            entry = entries.pop(index)
            if what == "twice":
                entries[index:index] = [entry, entry]
            elif what == "swap":
                entries.insert(index + 1 if index < len(entries) else index - 1, entry)
        return encode(self, entries, version, batch)

    def gap_wrong(self: Any, reason: str, missed: Any) -> bytes:
        return gap(self, reason, missed._replace(system=missed.system + 1))

    def seek_wrong(self: Any, cursor: Any) -> None:
        seek(self, cursor._replace(seq=min(cursor.seq + 1, self._source.end())))

    def matches_wrong(self: Any, event: Any) -> bool:
        return f"~n={at}~" in event.message or matches(self, event)

    wrong: dict[str, tuple[type, str, Callable[..., Any]]] = {
        "drop": (Chunk, "encode", encode_wrong),
        "twice": (Chunk, "encode", encode_wrong),
        "swap": (Chunk, "encode", encode_wrong),
        "gap": (SessionV2, "_gap", gap_wrong),
        "resume": (SessionV2, "_seek", seek_wrong),
        "filter": (Filter, "matches", matches_wrong),
    }
    setattr(*wrong[what])


if __name__ == "__main__":
    serve(json.loads(sys.argv[1]))
