"""Table B: fan-out. One record to 1, 10, 100 and 500 clients of a WebSocket, over loopback.

The server is a process of its own, and so are the clients: one counting client in C that checks on every connection
that no record is missing or out of order. Rounds interleave the peers. The source of records waits when the slowest
client is a window behind, so every peer delivers all it publishes, and deliveries a second are those that arrived.
"""

from __future__ import annotations

import importlib.util
import json
import random
import select
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from benchmarks.fanout_peers import PATH, PEERS
from benchmarks.fanout_shared import SharedPage
from benchmarks.harness import (
    ROOT,
    BenchError,
    Options,
    Progress,
    Result,
    Spread,
    Verdict,
    child_environment,
    text_table,
)

NAME = "fanout"

SOURCES = ROOT / "benchmarks" / "client"
PYTHON_CLIENT = [sys.executable, "-m", "benchmarks.fanout_counter"]
JOIN = {"c-frame": 1, "c-joined": 64}
LATENCY_RATE = 1_000
STALL_RATE = 2_000
STALL_PEERS = ("replaced", "queue", "broadcast", "ours")
# A ring that was full before can't grow; this is for send buffers and for the allocator's noise. The ring itself is
# bounded at 32 MiB.
STALL_TARGET_MB, STALL_MUST_MB = 4, 32
# From here on the counting client is what is measured.
CLIENT_BUSY = 0.95
# Of the rate that was asked for: below it a latency is that of a queue that grows.
SUSTAINED = 0.95
START_SECONDS = 30.0
PHASE_SECONDS = 60.0
CHILD_SECONDS = 180.0

Answer = dict[str, Any]
T = TypeVar("T")


class Plan(NamedTuple):
    """How much is measured."""

    rounds: int
    stall_rounds: int
    clients: tuple[int, ...]
    latency_clients: tuple[int, ...]
    warm: float
    seconds: float
    latency_seconds: float
    stall_records: int
    stall_seconds: float
    """At most, for so many records at full speed while a client is stalled."""
    budget_seconds: float
    """No step is begun after it."""


FULL = Plan(5, 2, (1, 10, 100, 500), (10, 100), 0.25, 0.75, 1.0, 60_000, 8.0, 540.0)
QUICK = Plan(3, 1, (100, 500), (100,), 0.25, 0.6, 0.75, 40_000, 3.0, 90.0)
# --quick measures what the ratios need.
QUICK_PEERS = ("replaced", "broadcast", "ours-plain", "ours", "c-joined")
QUICK_500_PEERS = ("ours",)
QUICK_STALL_PEERS = ("broadcast", "ours")


class Tools(NamedTuple):
    """What counts and what sets the ceiling."""

    client: list[str]
    server: list[str] | None
    problem: str
    """Why they are not the C programs; empty if they are."""


def run(options: Options) -> Result:
    plan = QUICK if options.quick else FULL
    rounds = options.rounds or plan.rounds
    plan = plan._replace(rounds=rounds, stall_rounds=min(rounds, plan.stall_rounds))
    peers, missing = _chosen(options)
    bench = Bench(plan, options.quick)
    with tempfile.TemporaryDirectory(prefix="bench-fanout-") as directory:
        bench.build(Path(directory))
        if bench.tools.server is None:
            missing += [f"{PEERS[name].label} (no C compiler)" for name in peers if name in JOIN]
            peers = [name for name in peers if name not in JOIN]
        bench.measure(peers)
    return bench.result(missing)


def _chosen(options: Options) -> tuple[list[str], list[str]]:
    # Names that are not ours may be another table's, unless all are.
    if options.peers and not any(name in PEERS for name in options.peers):
        raise BenchError(f"no peer named {', '.join(options.peers)}; there are {', '.join(PEERS)}")
    peers, missing = [], []
    for name, peer in PEERS.items():
        if options.peers and name not in options.peers:
            continue
        if not options.peers and options.quick and name not in QUICK_PEERS:
            missing.append(f"{peer.label} (--quick)")
        elif peer.module is not None and importlib.util.find_spec(peer.module) is None:
            missing.append(f"{peer.label} ({peer.module} is not installed)")
        else:
            peers.append(name)
    return peers, missing


def build(directory: Path) -> Tools:
    """Compile the client and the C server; if that can't be done, the Python client and no ceiling."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        return Tools(PYTHON_CLIENT, None, "no C compiler")
    programs = []
    for name in ("fanout_client", "fanout_server"):
        command = [compiler, "-O2", "-std=gnu11", "-o", str(directory / name), str(SOURCES / f"{name}.c")]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            return Tools(PYTHON_CLIENT, None, f"{compiler}: {error}")
        if done.returncode != 0:
            first = next(iter(done.stderr.strip().splitlines()), f"exit code {done.returncode}")
            return Tools(PYTHON_CLIENT, None, f"{compiler}: {first}")
        programs.append(str(directory / name))
    return Tools(programs[:1], programs[1:], "")


# -- processes --------------------------------------------------------------------------------------------------------


class Child:
    """A process that answers in lines. It is killed at the end of the block, whatever happened."""

    def __init__(self, name: str, command: Sequence[str], directory: Path) -> None:
        self._name = name
        self._stderr = tempfile.TemporaryFile("w+", dir=directory)
        self._rest = b""
        self._process = subprocess.Popen(
            command, cwd=directory, env=child_environment(),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._stderr,
        )  # fmt: skip

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *_: object) -> None:
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.close()
            process.wait(3.0)
        except (OSError, subprocess.TimeoutExpired):
            process.kill()
            process.wait()
        process.stdout.close()
        self._stderr.close()

    def say(self, value: Any) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(value).encode() + b"\n")
            self._process.stdin.flush()
        except OSError as error:
            raise self._broken(str(error)) from error

    def line(self, seconds: float) -> str:
        """The next line; BenchError if none comes in time."""
        assert self._process.stdout is not None
        deadline = time.monotonic() + seconds
        while b"\n" not in self._rest:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self._process.stdout], [], [], left)[0]:
                raise self._broken(f"no answer in {seconds:g} s")
            got = self._process.stdout.read1(65_536)  # type: ignore[attr-defined]
            if not got:
                raise self._broken("it ended")
            self._rest += got
        line, _, self._rest = self._rest.partition(b"\n")
        return str(line, "utf-8")

    def answer(self, seconds: float) -> Answer:
        answer: Answer = json.loads(self.line(seconds))
        return answer

    def _broken(self, what: str) -> BenchError:
        self._stderr.seek(0)
        tail = "\n".join(self._stderr.read().strip().splitlines()[-12:])
        return BenchError(f"{self._name}: {what}\n{tail}".strip())


class Server:
    """A peer that is up: each phase has clients of its own, and the next one finds it idle."""

    def __init__(self, name: str, tools: Tools, directory: Path) -> None:
        self.name = name
        self._tools = tools
        self._directory = directory
        self._number = 0
        self._child: Child | None = None
        self._port = 0
        self._path = PATH

    @contextmanager
    def running(self) -> Iterator[Server]:
        if self.name in JOIN:
            yield self
            return
        command = [sys.executable, "-m", "benchmarks.fanout_child", self.name, str(CHILD_SECONDS)]
        with Child(PEERS[self.name].label, command, self._directory) as self._child:
            about = self._child.answer(START_SECONDS)
            self._port, self._path = about["port"], about["path"]
            yield self

    def phase(self, phase: str, clients: int, **spec: Any) -> Answer:
        """What the server measured, with what the client saw in it under "client"."""
        self._number += 1
        page = SharedPage(self._directory / f"{self.name}-{self._number}.page", create=True)
        with page:
            if self._child is None:
                return self._phase_of_c(page, clients, spec)
            with self._client(page, self._port, clients, spec) as client:
                self._child.say({"phase": phase, "clients": clients, "shared": str(page.path), **spec})
                answer = self._child.answer(PHASE_SECONDS)
                answer["client"] = client.answer(5.0)
                return answer

    def _phase_of_c(self, page: SharedPage, clients: int, spec: dict[str, Any]) -> Answer:
        assert self._tools.server is not None
        command = [*self._tools.server, "--shared", str(page.path), "--clients", str(clients)]
        command += ["--join", str(JOIN[self.name])]
        for option in ("rate", "warm", "seconds"):
            command += [f"--{option}", str(spec.get(option, 0))]
        with Child(PEERS[self.name].label, command, self._directory) as server:
            port = int(server.line(START_SECONDS).split()[1])
            with self._client(page, port, clients, spec) as client:
                answer = server.answer(PHASE_SECONDS)
                answer["client"] = client.answer(5.0)
                return answer

    def _client(self, page: SharedPage, port: int, clients: int, spec: dict[str, Any]) -> Child:
        command = [
            *self._tools.client, "--port", str(port), "--path", self._path, "--shared", str(page.path),
            "--clients", str(clients), "--stall", str(spec.get("stalled", 0)), "--seconds", str(PHASE_SECONDS),
        ]  # fmt: skip
        return Child("the counting client", command, self._directory)


# -- the table --------------------------------------------------------------------------------------------------------


class Bench:
    """The rounds, and what came of them.

    `speed[peer][clients]`, `latency[peer][clients]` and `stall[peer]` hold an answer a round, None where it broke.
    """

    def __init__(self, plan: Plan, quick: bool) -> None:
        self.plan = plan
        self.quick = quick
        self.tools = Tools([], None, "")
        self.speed: dict[str, dict[int, list[Answer | None]]] = {}
        self.latency: dict[str, dict[int, list[Answer | None]]] = {}
        self.stall: dict[str, list[Answer | None]] = {}
        self.failures: list[str] = []
        self.notes: list[str] = []
        self._directory = Path()
        self._until = 0.0

    def build(self, directory: Path) -> None:
        self._directory = directory
        self._until = time.monotonic() + self.plan.budget_seconds
        self.tools = build(directory)
        if self.tools.problem:
            self.notes.append(
                f"The counting client is the Python one ({self.tools.problem}): fast rows show its limit, not theirs."
            )

    def measure(self, peers: Sequence[str]) -> None:
        plan = self.plan
        stalled = [name for name in (QUICK_STALL_PEERS if self.quick else STALL_PEERS) if name in peers]
        progress = Progress(plan.rounds * len(peers) + plan.stall_rounds * len(stalled))
        for number in range(plan.rounds):
            order = list(peers)
            # Another order each round, the same in every run.
            random.Random(number).shuffle(order)
            for name in order:
                if self._out_of_time(f"round {number + 1} of {plan.rounds}"):
                    return
                progress.step(f"{NAME}: round {number + 1} of {plan.rounds}, {PEERS[name].label}")
                self._round(name, number)
            if number < plan.stall_rounds:
                for name in stalled:
                    if self._out_of_time(f"round {number + 1} of {plan.stall_rounds} with a stalled client"):
                        return
                    progress.step(f"{NAME}: round {number + 1}, one stalled client of two, {PEERS[name].label}")
                    self._stall_round(name, number)

    def _out_of_time(self, where: str) -> bool:
        if time.monotonic() < self._until:
            return False
        self.notes.append(f"Out of time ({self.plan.budget_seconds:g} s) in {where}: what is left was not measured.")
        return True

    def _round(self, name: str, number: int) -> None:
        plan = self.plan
        speeds = [count for count in plan.clients if not self.quick or count != 500 or name in QUICK_500_PEERS]
        speed = {count: _rounds(self.speed, name, count, number) for count in speeds}
        latency = {count: _rounds(self.latency, name, count, number) for count in plan.latency_clients}
        try:
            with Server(name, self.tools, self._directory).running() as server:
                for count, answers in speed.items():
                    answers[number] = self._checked(
                        server.phase("speed", count, warm=plan.warm, seconds=plan.seconds), name, count
                    )
                # Last: who can't keep up is left with a queue that would be in the way of everything after it.
                for count, answers in latency.items() if name != "c-joined" else ():
                    answer = server.phase(
                        "latency", count, rate=LATENCY_RATE, warm=plan.warm, seconds=plan.latency_seconds
                    )
                    answers[number] = self._checked(answer, name, count, may_lag=True)
                    if not answer["drained"]:
                        break
        except BenchError as error:
            self.failures.append(str(error))

    def _stall_round(self, name: str, number: int) -> None:
        answers = self.stall.setdefault(name, [])
        answers.append(None)
        plan = self.plan
        try:
            with Server(name, self.tools, self._directory).running() as server:
                answer = server.phase(
                    "stall", 2, stalled=1, rate=STALL_RATE, records=plan.stall_records,
                    seconds=plan.stall_seconds, paced_seconds=plan.latency_seconds,
                )  # fmt: skip
                answers[number] = self._checked(answer, name, 2)
        except BenchError as error:
            self.failures.append(str(error))

    def _checked(self, answer: Answer, name: str, clients: int, *, may_lag: bool = False) -> Answer:
        """What makes a figure worthless is said: records that did not arrive, or in another order.

        It is a failure of the bench where it happens to us, and a note where it happens to a peer.
        """
        said = self.failures if name.startswith("ours") else self.notes
        client = answer["client"]
        where = f"{PEERS[name].label}, {clients} clients"
        if client["lost"] or client["reordered"] or client["closed"] or client["unmarked"]:
            said.append(
                f"{where}: {client['lost']} records lost in {client['gaps']} gaps, {client['reordered']} out of order, "
                f"{client['unmarked']} not ours, {client['closed']} connections closed; server: {answer.get('facts')}"
            )
        elif not answer["drained"] and not may_lag:
            said.append(f"{where}: the slowest client got {client['min_sequence']} of {answer['published']} records")
        return answer

    # -- what is shown ------------------------------------------------------------------------------------------------

    def result(self, missing: Sequence[str]) -> Result:
        plan = self.plan
        self.speed, self.latency = _ordered(self.speed), _ordered(self.latency)
        self.stall = _ordered(self.stall)
        counts = list(plan.clients)
        headers = ["", *(f"{count} client{'s' if count > 1 else ''}" for count in counts)]
        parts = [
            f"Deliveries/s at full speed, in thousands; {self._message_bytes()}",
            text_table(headers, self._rows(self.speed, counts, _deliveries, 0)),
            "CPU seconds of the server process per million deliveries, its source of records included",
            text_table(headers, self._rows(self.speed, counts, _cpu, 2)),
            self._client_share(),
            f"Latency in ms at {LATENCY_RATE:,} records/s, from the call to the client. > : it could not keep up, and "
            "records that were still queued at the end would make it more",
            self._latency_table(),
            *self._stall_table(),
            "What a row includes for each record, at full speed (all Python rows on asyncio's own event loop; at "
            "1,000/s and with a stalled client every record comes from a thread)",
            "\n".join(f"  {PEERS[name].label}: {PEERS[name].includes}" for name in self.speed),
            *self.notes,
            *(["Not measured: " + "; ".join(missing)] if missing else []),
        ]
        data = {
            "plan": plan._asdict(),
            "labels": {name: PEERS[name].label for name in self.speed},
            "speed": self.speed,
            "latency": self.latency,
            "stall": self.stall,
            "client": "python" if self.tools.problem else "c",
            "notes": self.notes,
        }
        text = "\n\n".join(part for part in parts if part)
        return Result(name=NAME, text=text, data=data, verdicts=self._verdicts(), failures=self.failures)

    def _rows(
        self,
        table: dict[str, dict[int, list[Answer | None]]],
        counts: Sequence[int],
        figure: Callable[[Answer], float],
        digits: int,
    ) -> list[list[str]]:
        return [
            [PEERS[name].label, *(_show(by_count.get(count, []), figure, digits) for count in counts)]
            for name, by_count in table.items()
        ]

    def _message_bytes(self) -> str:
        clients = [
            answer["client"]
            for by_count in self.speed.values()
            for answers in by_count.values()
            for answer in answers
            if answer and answer["client"]["received"]
        ]
        sizes = [client["bytes"] / client["received"] for client in clients] or [0.0]
        return f"a record a frame, version 1 JSON of {min(sizes):.0f} to {max(sizes):.0f} bytes"

    def _client_share(self) -> str:
        """Where the counting client was the limit, the figure is a lower bound."""
        busy = [
            f"{PEERS[name].label} at {count} ({Spread.of(shares).median:.0%})"
            for name, by_count in self.speed.items()
            for count, answers in by_count.items()
            if (shares := [each["client"]["cpu_seconds"] / each["client"]["seconds"] for each in answers if each])
            and Spread.of(shares).median > CLIENT_BUSY
        ]
        return f"Lower bounds, as the counting client had a core full to do: {', '.join(busy)}" if busy else ""

    def _latency_table(self) -> str:
        headers = [""]
        for count in self.plan.latency_clients:
            headers += [f"{count} clients p50", "p99"]
        rows = []
        for name, by_count in self.latency.items():
            row = [PEERS[name].label]
            for count in self.plan.latency_clients:
                answers = [answer for answer in by_count.get(count, []) if answer]
                behind = "> " if any(not _sustained(answer, count) for answer in answers) else ""
                row += [
                    f"{behind}{_show(answers, _p50, 2)}" if answers else "-",
                    f"{behind}{_show(answers, _p99, 2)}" if answers else "-",
                ]
            if any(cell != "-" for cell in row[1:]):
                rows.append(row)
        return text_table(headers, rows)

    def _stall_table(self) -> list[str]:
        rows = []
        for name, answers in self.stall.items():
            good = [answer for answer in answers if answer]
            if good:
                rows.append([
                    PEERS[name].label, _show(good, _growth, 1), _show(good, lambda each: each["records"] / 1_000, 0),
                    _show(good, lambda each: each["growth_bytes"] / each["records"], 0),
                    _show(good, lambda each: each["client"]["latency_ns"][0]["p99"] / 1e6, 2),
                    _show(good, lambda each: each["client"]["latency_ns"][1]["p99"] / 1e6, 2),
                ])  # fmt: skip
        if not rows:
            return []
        headers = ["", "growth MB", "thousand records", "bytes a record", "p99 ms before", "p99 ms while stalled"]
        return [
            "One stalled client of two: growth of the server's memory while records go on, with the ring full before, "
            f"and the other client's latency at {STALL_RATE:,} records/s",
            text_table(headers, rows),
        ]

    def _verdicts(self) -> list[Verdict]:
        speed, verdicts = self.speed, []

        def ratio(
            above: tuple[str, int],
            below: tuple[str, int],
            text: str,
            target: float | None,
            figure: Callable[[Answer], float] = _deliveries,
        ) -> None:
            # Round by round, so that what both suffered cancels.
            pairs = zip(*(speed.get(name, {}).get(clients, []) for name, clients in (above, below)), strict=False)
            values = [figure(one) / figure(other) for one, other in pairs if one and other and other["deliveries"]]
            if values:
                verdicts.append(Verdict(name=text, value=Spread.of(values), target=target))

        ours, replaced, joined = ("ours", 100), ("replaced", 100), ("c-joined", 100)
        ratio(ours, replaced, "deliveries/s at 100 clients, ours / replaced", 150)
        ratio(ours, ("broadcast", 100), "deliveries/s at 100 clients, ours / broadcast()", 20)
        ratio(ours, joined, "deliveries/s at 100 clients, ours / C joined", 0.35)
        ratio(("ours-publish", 100), joined, "deliveries/s at 100 clients, publish only / C joined", None)
        ratio(("ours", 500), ours, "deliveries/s, ours at 500 clients / at 100", 1)
        ratio(("ours-plain", 100), replaced, "deliveries/s at 100, ours on stock uvicorn / replaced", 5)
        # Less at the mercy of who else uses the machine than deliveries/s are.
        ratio(replaced, ours, "CPU a delivery at 100 clients, replaced / ours", None, _cpu)
        ratio(("broadcast", 100), ours, "CPU a delivery at 100 clients, broadcast() / ours", None, _cpu)
        latencies = [answer for answer in self.latency.get("ours", {}).get(100, []) if answer]
        if latencies:
            for text, figure, target in (("p50", _p50, 0.6), ("p99", _p99, 1.5)):
                value = Spread.of([figure(answer) for answer in latencies])
                name = f"ms at {LATENCY_RATE:,}/s and 100 clients, ours, {text}"
                verdicts.append(Verdict(name=name, value=value, target=target, at_least=False))
        if stalls := [answer for answer in self.stall.get("ours", []) if answer]:
            value = Spread.of([_growth(answer) for answer in stalls])
            verdicts.append(
                Verdict(
                    name="MB more with a stalled client, ring full, ours",
                    value=value,
                    target=STALL_TARGET_MB,
                    must=STALL_MUST_MB,
                    at_least=False,
                )
            )
        return verdicts


def _ordered(table: dict[str, T]) -> dict[str, T]:
    return {name: table[name] for name in PEERS if name in table}


def _rounds(
    table: dict[str, dict[int, list[Answer | None]]], name: str, count: int, number: int
) -> list[Answer | None]:
    """The answers of a peer at so many clients, with room for that of round `number`."""
    answers = table.setdefault(name, {}).setdefault(count, [])
    answers += [None] * (number + 1 - len(answers))
    return answers


def _show(answers: Sequence[Answer | None], figure: Callable[[Answer], float], digits: int) -> str:
    values = [figure(answer) for answer in answers if answer]
    return Spread.of(values).show(digits) if values else "-"


def _deliveries(answer: Answer) -> float:
    """Thousands a second."""
    return float(answer["deliveries"]) / float(answer["seconds"]) / 1_000


def _cpu(answer: Answer) -> float:
    return float(answer["cpu_seconds"]) / max(float(answer["deliveries"]), 1.0) * 1e6


def _p50(answer: Answer) -> float:
    return float(answer["client"]["latency_ns"][0]["p50"]) / 1e6


def _p99(answer: Answer) -> float:
    return float(answer["client"]["latency_ns"][0]["p99"]) / 1e6


def _growth(answer: Answer) -> float:
    return float(answer["growth_bytes"]) / 1e6


def _sustained(answer: Answer, clients: int) -> bool:
    wanted: float = SUSTAINED * LATENCY_RATE * clients * answer["seconds"]
    return bool(answer["drained"]) and float(answer["deliveries"]) >= wanted
