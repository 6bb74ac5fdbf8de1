"""A small run of `python -m benchmarks fleet`: senders, a real collector with a queue, the monitor, one client."""

import json
import sys
from pathlib import Path

import pytest

from tests.collector.binaries import CONFIGS, cached_name, rotel
from tests.senders.monitored import run_to_the_end
from tests.serving import ROOT


@pytest.mark.timeout(120)
def test_a_small_run(tmp_path: Path) -> None:
    """All records arrive once and in order; with the monitor killed in the middle, all of what its end took is told."""
    if not cached_name("otelcol", CONFIGS / "builder.yaml").exists():
        rotel()  # is the one that it takes instead; skips where there is none
    file = tmp_path / "fleet.json"
    command = [sys.executable, "-m", "benchmarks", "fleet", "--records", "20000", "--json", str(file)]
    run_to_the_end(*command, cwd=ROOT, timeout=100)
    table = json.loads(file.read_text())["tables"]["fleet"]
    assert table["failures"] == []
    whole = table["undisturbed"]
    received = whole["received"]
    assert (whole["sent"], received["records"], received["distinct"]) == (20_000, 20_000, 20_000)
    assert (received["unordered"], received["gaps"], received["connections"]) == (0, {}, 1)
    assert (received["audit"], whole["monitor"]["accepted"]) == (whole["sent_audit"], 20_000)
    killed = table["killed"]
    received = killed["received"]
    assert received["distinct"] + received["missing"] == killed["sent"] == 20_000
    # Lost is at most what was on its way to the client at the moment, and twice what was not answered yet.
    assert received["missing"] < 8_192
    assert received["twice"] < 8_192
    assert (received["unordered"], received["connections"]) == (0, 2)
    assert received["gaps"]["epoch_changed"] == [1, 0, 0]
