"""What every table needs: fresh processes, spreads, verdicts, plain text tables, the machine's facts."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
CHILD_TIMEOUT_SECONDS = 180.0

_PACKAGES = (
    "otel-audit-bridge",
    "opentelemetry-sdk",
    "opentelemetry-instrumentation-logging",
    "opentelemetry-exporter-otlp-proto-grpc",
    "grpcio",
    "msgspec",
    "orjson",
    "structlog",
    "loguru",
    "logfire",
    "protobuf",
)


class BenchError(Exception):
    """A measurement could not be made; the message holds the end of the child's stderr."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the command line asked for. `rounds` is None, `records` and `rate` 0 when the table decides."""

    quick: bool = False
    rounds: int | None = None
    peers: tuple[str, ...] = ()
    records: int = 0
    rate: int = 0


class Spread(NamedTuple):
    """Median over rounds, with the smallest and largest round."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        return cls(statistics.median(values), min(values), max(values))

    def show(self, digits: int = 1) -> str:
        return f"{self.median:.{digits}f} ({self.low:.{digits}f}-{self.high:.{digits}f})"


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """A ratio with its target, if it has one; `must` is the limit not to be crossed, where it is another."""

    name: str
    value: Spread
    target: float | None = None
    must: float | None = None
    at_least: bool = True

    @property
    def word(self) -> str:
        """`pass` at the target, `near` between target and must, `FAIL` beyond; judged by the median."""
        if self.target is None:
            return "info"
        if self._reaches(self.target):
            return "pass"
        return "near" if self.must is not None and self._reaches(self.must) else "FAIL"

    def _reaches(self, limit: float) -> bool:
        return self.value.median >= limit if self.at_least else self.value.median <= limit

    def show(self) -> str:
        sign = ">=" if self.at_least else "<="
        named = (("target", self.target), ("must", self.must))
        limits = [f"{word} {sign} {limit:g}" for word, limit in named if limit is not None]
        return f"  {self.word:4}  {self.name:<56} {self.value.show(2):>22}   {', '.join(limits)}".rstrip()

    def as_json(self) -> dict[str, Any]:
        return {"name": self.name, "word": self.word, "value": self.value._asdict(), "target": self.target,
                "must": self.must, "at_least": self.at_least}  # fmt: skip


@dataclass(kw_only=True)
class Result:
    """One table. A failure is a lost record or a measurement that broke, never a missed target."""

    name: str
    text: str
    data: dict[str, Any]
    verdicts: list[Verdict] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)


class Progress:
    """One line a step on stderr, so that stdout holds results only."""

    def __init__(self, steps: int) -> None:
        self._steps = steps
        self._done = 0
        self._began = time.monotonic()

    def step(self, what: str) -> None:
        self._done += 1
        seconds = time.monotonic() - self._began
        print(f"[{self._done}/{self._steps} {seconds:5.0f} s] {what}", file=sys.stderr, flush=True)


def child_environment() -> dict[str, str]:
    """The environment of a measured process: this checkout, and no setting of a measured library."""
    foreign = ("OTEL_", "BRIDGE_", "LOGFIRE_", "LOGURU_", "PYTHON")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    return kept | {"PYTHONPATH": str(ROOT), "PYTHONHASHSEED": "0"}


def run_child(module: str, spec: dict[str, Any]) -> dict[str, Any]:
    """Run `python -m module SPEC` in a fresh process and directory; the last line it prints is its answer."""
    name = f"{module} {spec.get('peer', '')}".strip()
    with tempfile.TemporaryDirectory(prefix="bench-") as directory:
        try:
            done = subprocess.run(
                [sys.executable, "-m", module, json.dumps(spec)],
                cwd=directory,
                env=child_environment(),
                capture_output=True,
                text=True,
                timeout=CHILD_TIMEOUT_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise BenchError(f"{name}: no answer in {CHILD_TIMEOUT_SECONDS:g} s") from error
    if done.returncode != 0 or not done.stdout.strip():
        tail = "\n".join(done.stderr.strip().splitlines()[-12:])
        raise BenchError(f"{name}: exit code {done.returncode}\n{tail}")
    answer: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return answer


def machine() -> dict[str, Any]:
    """Facts without which the figures mean nothing."""
    versions: dict[str, str | None] = {}
    for package in _PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = None
    return {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "system": platform.platform(),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "switch_interval": sys.getswitchinterval(),
        "load": [round(value, 2) for value in os.getloadavg()],
        "packages": versions,
    }


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()


def text_table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns as wide as their widest cell; the first to the left, the others to the right."""
    widths = [max(len(row[column]) for row in (headers, *rows)) for column in range(len(headers))]

    def line(cells: Sequence[str]) -> str:
        first, *others = cells
        shown = [cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True)]
        return "  ".join([first.ljust(widths[0]), *shown]).rstrip()

    rule = "  ".join("-" * width for width in widths)
    return "\n".join([line(headers), rule, *(line(row) for row in rows)])
