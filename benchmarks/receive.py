"""Table C: receiving OTLP, from the socket to the ring, in records a second and a core.

The monitor is measured whole: `audit-bridge serve` in a process of its own, its processor time as the system counts.
Beside it stand a gRPC server that turns every record into JSON as most people would (`MessageToDict`), and one that
only parses. All get the same requests: 512 records of about 240 bytes, two requests under way at a time.
"""

from __future__ import annotations

import http.client
import json
import os
import random
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, Final, NamedTuple

import grpc
from google.protobuf.json_format import MessageToDict
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest

from benchmarks.harness import BenchError, Options, Progress, Result, Spread, Verdict, child_environment, text_table

NAME = "receive"

BATCH: Final = 512
REQUESTS: Final = 200
QUICK_REQUESTS: Final = 60
WARM_UP: Final = 10
AT_ONCE: Final = 2
METHOD: Final = "/opentelemetry.proto.collector.logs.v1.LogsService/Export"
_TICKS: Final = os.sysconf("SC_CLK_TCK")

Send = Callable[[], None]


class Row(NamedTuple):
    """A server and a way to reach it."""

    label: str
    peer: str
    encoding: str
    ids: bool = False


ROWS: Final = {
    "serve-grpc": Row("audit-bridge serve, gRPC", "serve", "grpc"),
    "serve-http": Row("audit-bridge serve, HTTP", "serve", "http"),
    "serve-json": Row("audit-bridge serve, HTTP, JSON", "serve", "json"),
    "serve-ids": Row("audit-bridge serve, gRPC, every record with an id", "serve", "grpc", ids=True),
    "dict": Row("gRPC aio, MessageToDict, json.dumps", "dict", "grpc"),
    "bare": Row("gRPC aio, parse only", "bare", "grpc"),
}


def request(ids: bool) -> ExportLogsServiceRequest:
    """512 records of an ordinary kind."""
    dice = random.Random(7)
    made = ExportLogsServiceRequest()
    resource_logs = made.resource_logs.add()
    for key, value in (("service.name", "orders"), ("service.version", "1.4.2"), ("host.name", "node-7")):
        resource_logs.resource.attributes.add(key=key).value.string_value = value
    scope_logs = resource_logs.scope_logs.add()
    scope_logs.scope.name = "shop.orders"
    for index in range(BATCH):
        record = scope_logs.log_records.add(
            time_unix_nano=1_790_000_000_000_000_000 + index,
            observed_time_unix_nano=1_790_000_000_000_000_000 + index,
            severity_number=9,
            severity_text="INFO",
            trace_id=dice.randbytes(16),
            span_id=dice.randbytes(8),
            flags=1,
        )
        record.body.string_value = f"Order o-{index} placed by customer u{index * 7}"
        texts = {"order": f"o-{index}", "code.function.name": "place", "code.file.path": "/srv/shop/orders.py"}
        for key, value in texts.items():
            record.attributes.add(key=key).value.string_value = value
        record.attributes.add(key="code.line.number").value.int_value = 42
        record.attributes.add(key="total").value.double_value = 12.5
        if ids:
            record.attributes.add(key="log.record.uid").value.string_value = f"{0:08d}-{index:04d}"
    return made


def as_json(made: ExportLogsServiceRequest) -> bytes:
    """OTLP/JSON has its ids in hexadecimal digits, and protobuf's JSON in base64."""
    told = MessageToDict(made)
    records = made.resource_logs[0].scope_logs[0].log_records
    for shown, record in zip(told["resourceLogs"][0]["scopeLogs"][0]["logRecords"], records, strict=True):
        shown["traceId"], shown["spanId"] = record.trace_id.hex(), record.span_id.hex()
    return json.dumps(told).encode()


# -- the servers ------------------------------------------------------------------------------------------------------


class Server(NamedTuple):
    pid: int
    grpc_port: int
    http_port: int


@contextmanager
def running(peer: str) -> Iterator[Server]:
    if peer == "serve":
        command = ["-m", "bridge", "serve", "--port=0", "--otlp-grpc-port=0", "--otlp-http-port=0"]
    else:
        command = ["-m", "benchmarks.receive_peers", peer]
    process = subprocess.Popen(
        [sys.executable, *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=child_environment(),
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        ports = re.search(r"(?:OTLP in: \S+:(\d+), )?gRPC port (\d+)", line)
        if ports is None:
            process.kill()
            raise BenchError(f"{peer} did not start: {line}{process.communicate()[1]}")
        yield Server(process.pid, int(ports[2]), int(ports[1] or 0))
    finally:
        process.terminate()
        process.communicate(timeout=20)


def processor_seconds(pid: int) -> float:
    with open(f"/proc/{pid}/stat", encoding="utf-8") as stat:
        fields = stat.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def resident_mib(pid: int) -> float:
    with open(f"/proc/{pid}/status", encoding="utf-8") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS:")) / 1024


# -- sending ----------------------------------------------------------------------------------------------------------


@contextmanager
def sender(row: Row, server: Server, number: int) -> Iterator[Send]:
    """A function that sends one request and waits for the answer, to be called by one thread."""
    made = request(row.ids)
    body = bytearray(as_json(made) if row.encoding == "json" else made.SerializeToString())
    places = [found.start() for found in re.finditer(rb"(?<=\x0d)0{8}(?=-\d{4})", bytes(body))] if row.ids else []
    if row.ids and len(places) != BATCH:
        raise BenchError(f"{len(places)} places of ids in a request, not {BATCH}")
    sent = 0

    def fresh() -> bytes:
        nonlocal sent
        sent += 1
        for place in places:
            body[place : place + 8] = b"%08d" % (number * 1_000_000 + sent)
        return bytes(body)

    if row.encoding == "grpc":
        with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
            call = channel.unary_unary(METHOD)
            yield lambda: call(fresh(), timeout=60)
        return
    connection = http.client.HTTPConnection("127.0.0.1", server.http_port, timeout=60)
    kind = "application/json" if row.encoding == "json" else "application/x-protobuf"

    def post() -> None:
        connection.request("POST", "/v1/logs", fresh(), {"content-type": kind})
        answer = connection.getresponse()
        answer.read()
        if answer.status != 200:
            raise BenchError(f"the answer was {answer.status}")

    try:
        yield post
    finally:
        connection.close()


def measure(row: Row, requests: int) -> dict[str, Any]:
    """Send, in two threads, and look at the server's processor time."""
    with running(row.peer) as server:

        def send(number: int, count: int) -> None:
            with sender(row, server, number) as post:
                for _ in range(count):
                    post()

        with ThreadPoolExecutor(AT_ONCE) as threads:
            list(threads.map(send, range(AT_ONCE), [WARM_UP] * AT_ONCE))
            before, began = processor_seconds(server.pid), time.perf_counter()
            each = requests // AT_ONCE
            list(threads.map(send, range(10, 10 + AT_ONCE), [each] * AT_ONCE))
            wall = time.perf_counter() - began
            used = processor_seconds(server.pid) - before
        records = each * AT_ONCE * BATCH
        return {"records": records, "cpu": used, "wall": wall, "resident_mib": resident_mib(server.pid)}


# -- the table --------------------------------------------------------------------------------------------------------


def run(options: Options) -> Result:
    """Interleaved rounds, a fresh server each."""
    rounds = options.rounds or (2 if options.quick else 5)
    requests = QUICK_REQUESTS if options.quick else REQUESTS
    rows = {name: row for name, row in ROWS.items() if not options.peers or name in options.peers}
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in rows}
    progress = Progress(rounds * len(rows))
    for number in range(rounds):
        order = list(rows)
        random.Random(number).shuffle(order)
        for name in order:
            progress.step(f"{NAME}: round {number + 1} of {rounds}, {rows[name].label}")
            runs[name].append(measure(rows[name], requests))
    lines = []
    for name, row in rows.items():
        each = [Spread.of([figure(run) for run in runs[name]]) for figure in (_per_core, _micros, _per_second, _memory)]
        lines.append([row.label, each[0].show(0), each[1].show(2), each[2].show(0), each[3].show(0)])
    headers = ["", "records/s a core", "µs of CPU a record", "records/s", "resident MiB"]
    verdicts = []
    for name, target in (("serve-grpc", 150_000.0), ("serve-http", 150_000.0)):
        if name in rows:
            per_core = Spread.of([_per_core(run) for run in runs[name]])
            verdicts.append(Verdict(name=f"{rows[name].label}: records/s a core", value=per_core, target=target))
    if "dict" in rows and "serve-grpc" in rows:
        verdicts.append(Verdict(name="times MessageToDict, gRPC", value=_ratio(runs, "dict", "serve-grpc"), target=6.0))
    if "bare" in rows and "serve-grpc" in rows:
        verdicts.append(Verdict(name="CPU of a server that only parses", value=_ratio(runs, "serve-grpc", "bare")))
    return Result(name=NAME, text=text_table(headers, lines), data={"runs": runs}, verdicts=verdicts)


def _per_core(run: dict[str, Any]) -> float:
    return float(run["records"] / run["cpu"])


def _micros(run: dict[str, Any]) -> float:
    return float(run["cpu"] / run["records"] * 1e6)


def _per_second(run: dict[str, Any]) -> float:
    return float(run["records"] / run["wall"])


def _memory(run: dict[str, Any]) -> float:
    return float(run["resident_mib"])


def _ratio(runs: dict[str, list[dict[str, Any]]], more: str, less: str) -> Spread:
    return Spread.of([_micros(a) / _micros(b) for a, b in zip(runs[more], runs[less], strict=True)])
