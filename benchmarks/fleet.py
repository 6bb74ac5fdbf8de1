"""A fleet through a real collector into one monitor, and one client of it: what was sent, and what arrived.

`python -m benchmarks fleet --records 1000000`; it is no part of a run of all tables. Four senders, two by gRPC and two
by HTTP, send records with ids, one request of 512 at a time. The collector has a queue on disk and one sender to
`audit-bridge serve`. The client counts every id of every sender. Then the same again, and in the middle the monitor is
killed (SIGKILL) and started again ten seconds later.

The collector is the OpenTelemetry Collector (`make collector`, or OTELCOL=/path); without one it is Rotel, whose queue
is in memory.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
import os
import queue
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.fleet_sender import AUDIT_EVERY, BATCH
from benchmarks.harness import ROOT, BenchError, Options, Progress, Result, child_environment, text_table

NAME = "fleet"

SENDERS = ("grpc", "http", "grpc", "http")
RECORDS = 1_000_000
QUICK_RECORDS = 40_000
LARGE_RECORDS = 200_000
AWAY_SECONDS = 10.0
QUICK_AWAY_SECONDS = 2.0
START_SECONDS = 40.0
# Without one more record for so long, no more will come: the collector's longest pause between two attempts is 2 s.
STILL_SECONDS = 20.0
# Between the monitor's last answer to us and its end, so that it is not just then idle.
UNRELATED_SECONDS = 0.15


class Program:
    """A child process: its output by line, its processor time, its end."""

    def __init__(self, *command: str, cwd: Path | None = None, **variables: str) -> None:
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=cwd,
            env=child_environment() | variables,
        )
        self.lines: list[str] = []
        self._queue: queue.Queue[str | None] = queue.Queue()
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.rstrip("\n"))
            self._queue.put(self.lines[-1])
        self._queue.put(None)

    def line(self, containing: str) -> str:
        """The next line with that text."""
        while True:
            try:
                line = self._queue.get(timeout=START_SECONDS)
            except queue.Empty:
                line = None
            if line is None:
                raise BenchError(f"no line with {containing!r}:\n" + "\n".join(self.lines[-12:]))
            if containing in line:
                return line

    def cpu_seconds(self) -> float:
        """Processor time so far, 0 where it can't be known."""
        try:
            fields = Path(f"/proc/{self.process.pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        except OSError:
            return 0.0
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def kill(self) -> None:
        """SIGKILL, if it still runs, and wait."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self._thread.join()
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()

    def answer(self) -> dict[str, Any]:
        """End its input; the JSON of its last line."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        if self.process.wait(60) != 0:
            raise BenchError("\n".join(self.lines[-12:]))
        self._thread.join()
        found: dict[str, Any] = json.loads(self.lines[-1])
        return found


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def until(condition: Callable[[], bool], what: str, seconds: float = START_SECONDS) -> None:
    """Wait for it."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise BenchError(f"did not happen within {seconds:g} s: {what}")
        time.sleep(0.02)


# -- the parts --------------------------------------------------------------------------------------------------------


class Monitor:
    """`audit-bridge serve`, that can be killed and started again on its ports."""

    def __init__(self) -> None:
        self.view, self.http, self.grpc = free_port(), free_port(), free_port()
        self.program = self._start()
        self.cpu = 0.0

    def _start(self) -> Program:
        ports = ["--port", str(self.view), "--otlp-http-port", str(self.http), "--otlp-grpc-port", str(self.grpc)]
        program = Program(sys.executable, "-m", "bridge", "serve", *ports)
        try:
            program.line("audit-bridge serve: ")
        except BenchError:
            program.kill()
            raise
        return program

    def again(self, away: float) -> dict[str, Any]:
        """SIGKILL, a while of nothing, and a new one; what the old one had counted."""
        counted = self.statistics()
        time.sleep(UNRELATED_SECONDS)
        self.cpu += self.program.cpu_seconds()
        self.program.kill()
        time.sleep(away)
        self.program = self._start()
        return counted

    def statistics(self) -> dict[str, Any]:
        """What it counts."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.view}/api/stats", timeout=30) as answer:
            found: dict[str, Any] = json.load(answer)
        return found


class Collector(NamedTuple):
    """A running collector, and what it is."""

    name: str
    program: Program
    grpc: int
    http: int


def otelcol() -> Path | None:
    """The one that OTELCOL names, or that of `make collector`."""
    if named := os.environ.get("OTELCOL"):
        return Path(named)
    manifest = ROOT / "collector_config" / "builder.yaml"
    if not manifest.exists():
        return None
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "otel-audit-bridge"
    built = cache / f"otelcol-{hashlib.sha256(manifest.read_bytes()).hexdigest()[:16]}"
    return built if built.exists() else None


def rotel() -> Path | None:
    """The one that the package rotel carries."""
    spec = importlib.util.find_spec("rotel")
    for place in (spec.submodule_search_locations or ()) if spec else ():
        if (program := Path(place, "rotel-agent")).exists():
            return program
    return None


def _otelcol_config(folder: Path, monitor: Monitor, grpc: int, http: int) -> Path:
    """As collector_config/gateway.yaml sends audit records to a monitor: never give up, keep the order, on disk."""
    config = {
        "extensions": {
            "file_storage": {"directory": str(folder / "queue"), "create_directory": True, "fsync": True},
        },
        "receivers": {
            "otlp": {
                "protocols": {
                    "grpc": {"endpoint": f"127.0.0.1:{grpc}", "max_recv_msg_size_mib": 16},
                    "http": {"endpoint": f"127.0.0.1:{http}"},
                }
            }
        },
        "exporters": {
            "otlp_http": {
                "endpoint": f"http://127.0.0.1:{monitor.http}",
                "compression": "gzip",
                "timeout": "5s",
                "retry_on_failure": {
                    "enabled": True,
                    "initial_interval": "200ms",
                    "max_interval": "2s",
                    "max_elapsed_time": 0,
                },
                "sending_queue": {
                    "storage": "file_storage",
                    "sizer": "bytes",
                    "queue_size": 1 << 30,
                    "block_on_overflow": True,
                    "num_consumers": 1,
                    "batch": {"flush_timeout": "50ms", "sizer": "bytes", "min_size": 65_536, "max_size": 2_097_152},
                },
            }
        },
        "service": {
            "extensions": ["file_storage"],
            "telemetry": {"metrics": {"level": "none"}},
            "pipelines": {"logs": {"receivers": ["otlp"], "exporters": ["otlp_http"]}},
        },
    }
    path = folder / "collector.yaml"
    path.write_text(json.dumps(config, indent=1), encoding="utf-8")  # JSON is YAML
    return path


@contextlib.contextmanager
def collector(folder: Path, monitor: Monitor) -> Iterator[Collector]:
    """The best collector there is."""
    grpc, http = free_port(), free_port()
    if (program := otelcol()) is not None:
        name = "OpenTelemetry Collector, queue on disk with fsync"
        running = Program(str(program), "--config", str(_otelcol_config(folder, monitor, grpc, http)), cwd=folder)
        ready = "Everything is ready"
    elif (program := rotel()) is not None:
        name = "Rotel, queue in memory"
        running = Program(
            str(program),
            "start",
            ROTEL_OTLP_GRPC_ENDPOINT=f"127.0.0.1:{grpc}",
            ROTEL_OTLP_HTTP_ENDPOINT=f"127.0.0.1:{http}",
            ROTEL_EXPORTER="otlp",
            ROTEL_OTLP_EXPORTER_ENDPOINT=f"http://127.0.0.1:{monitor.grpc}",
            ROTEL_OTLP_EXPORTER_PROTOCOL="grpc",
            ROTEL_OTLP_EXPORTER_RETRY_INITIAL_BACKOFF="200ms",
            ROTEL_OTLP_EXPORTER_RETRY_MAX_BACKOFF="2s",
            ROTEL_LOG_FILE=str(folder / "rotel.log"),
            ROTEL_PID_FILE=str(folder / "rotel.pid"),
        )
        ready = ""
    else:
        raise BenchError("no collector: make collector (needs Go), or pip install rotel")
    try:
        if ready:
            running.line(ready)
        for port in (grpc, http):
            until(lambda port=port: _listens(port), "the collector listens")
        yield Collector(name, running, grpc, http)
    finally:
        running.kill()


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


# -- the run ----------------------------------------------------------------------------------------------------------


def _run(records: int, rate: int, away: float | None) -> dict[str, Any]:
    """All records once; with ``away``, the monitor is killed when two fifths of them have arrived."""
    each = records // len(SENDERS)
    with contextlib.ExitStack() as undo:
        folder = Path(undo.enter_context(tempfile.TemporaryDirectory(prefix="fleet-")))
        monitor = Monitor()
        undo.callback(lambda: monitor.program.kill())
        between = undo.enter_context(collector(folder, monitor))
        spec = {"url": f"ws://127.0.0.1:{monitor.view}/ws/monitor", "senders": len(SENDERS), "each": each}
        client = Program(sys.executable, "-m", "benchmarks.fleet_client", json.dumps(spec))
        undo.callback(client.kill)
        client.line('"connections": 1')

        began = time.monotonic()
        senders = []
        for number, protocol in enumerate(SENDERS):
            spec = {
                "protocol": protocol,
                "port": between.grpc if protocol == "grpc" else between.http,
                "sender": number,
                "each": each,
                "rate": rate // len(SENDERS),
            }
            senders.append(Program(sys.executable, "-m", "benchmarks.fleet_sender", json.dumps(spec)))
            undo.callback(senders[-1].kill)

        before: dict[str, Any] = {}
        if away is not None:
            until(lambda: _last(client)["distinct"] >= each * len(SENDERS) * 0.4, "two fifths have arrived", 900)
            before = monitor.again(away)
        still_since, still_at = time.monotonic(), -1
        while True:
            found = _last(client)
            if found["distinct"] != still_at:
                still_since, still_at = time.monotonic(), found["distinct"]
            # When all is there, a moment longer for what may come twice.
            patience = 2.0 if found["distinct"] == each * len(SENDERS) else STILL_SECONDS
            if time.monotonic() - still_since > patience:
                break
            time.sleep(0.1)
        took = time.monotonic() - began - patience
        sent = [sender.answer() for sender in senders]
        cpu = {
            "monitor": round(monitor.cpu + monitor.program.cpu_seconds(), 1),
            "collector": round(between.program.cpu_seconds(), 1),
            "client": round(client.cpu_seconds(), 1),
        }
        after = monitor.statistics()
        received = client.answer()
    return {
        "collector": between.name,
        "sent": each * len(SENDERS),
        "sent_audit": len(SENDERS) * _audit_of(each),
        "sent_again": sum(each_sender["again"] for each_sender in sent),
        "sending_seconds": max(each_sender["seconds"] for each_sender in sent),
        "seconds": round(took, 1),
        "received": received,
        "monitor": after,
        "monitor_before_kill": before,
        "cpu_seconds": cpu,
    }


def _last(client: Program) -> dict[str, Any]:
    if client.process.poll() is not None:
        raise BenchError("the client ended:\n" + "\n".join(client.lines[-12:]))
    found: dict[str, Any] = json.loads(client.lines[-1])
    return found


def _audit_of(each: int) -> int:
    return sum(len(range(0, min(BATCH, each - first), AUDIT_EVERY)) for first in range(0, each, BATCH))


def run(options: Options) -> Result:
    """Both runs; a failure is a record that was lost or came twice in the first, or is out of order in any."""
    records = options.records or (QUICK_RECORDS if options.quick else RECORDS)
    away = AWAY_SECONDS if records >= LARGE_RECORDS else QUICK_AWAY_SECONDS
    progress = Progress(2)
    rows, data, failures = [], {}, []
    for title, seconds_away in (("undisturbed", None), (f"killed for {away:g} s", away)):
        progress.step(f"{records} records, {title}")
        found = data[title.partition(" ")[0]] = _run(records, options.rate, seconds_away)
        received = found["received"]
        rows.append(
            [
                title,
                f"{found['sent']:,}",
                f"{received['distinct']:,}",
                f"{received['missing']:,}",
                f"{received['twice']:,}",
                f"{received['unordered']:,}",
                f"{found['monitor']['duplicates']:,}",
                f"{found['seconds']:.0f} s",
                f"{found['sent'] / found['seconds']:,.0f}/s",
            ]
        )
        if received["unordered"] or received["unknown"]:
            failures.append(f"{title}: {received['unordered']} out of order, {received['unknown']} unknown")
        whole = (found["sent"], 0, found["sent_audit"], {})
        if seconds_away is None and whole != (
            received["distinct"],
            received["twice"],
            received["audit"],
            received["gaps"],
        ):
            failures.append(f"{title}: not whole: {received}")
    headers = ["run", "sent", "received", "missing", "twice", "unordered", "left out", "took", "rate"]
    return Result(
        name=NAME,
        text=f"{data['undisturbed']['collector']}; {len(SENDERS)} senders\n\n{text_table(headers, rows)}",
        data=data | {"records": records, "rate": options.rate, "away_seconds": away},
        failures=failures,
    )
