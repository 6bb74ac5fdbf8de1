"""`python -m benchmarks [NAME ...] [--quick] [--peers A,B] [--rounds N] [--json FILE]`."""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.harness import ROOT, BenchError, Options, Result, machine

# A table is a module with `NAME` and `run(options) -> Result`, imported when it runs.
TABLES = {"log_call": "benchmarks.log_call", "fanout": "benchmarks.fanout", "receive": "benchmarks.receive"}
# These run only when they are named.
ON_REQUEST = {"fleet": "benchmarks.fleet", "soak": "benchmarks.soak"}
RESULTS = ROOT / "benchmarks" / "results"


def main(arguments: list[str] | None = None) -> int:
    """Run the tables; 0 whatever the verdicts, 1 when the bench broke or records of ours went missing."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "names",
        nargs="*",
        metavar="NAME",
        help=f"of {', '.join(TABLES)} (all if none is named), {', '.join(ON_REQUEST)}",
    )
    parser.add_argument("--quick", action="store_true", help="fewer rounds and rows, under 90 seconds")
    parser.add_argument("--peers", default="", help="comma-separated, for example ours,stock,null")
    parser.add_argument("--rounds", type=int, help="at least 5 for figures to keep")
    parser.add_argument("--records", type=int, default=0, metavar="N", help="of fleet: how many")
    parser.add_argument("--rate", type=int, default=0, metavar="N", help="of fleet: at most so many a second are sent")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where the raw data goes")
    chosen = parser.parse_args(arguments)
    modules = TABLES | ON_REQUEST
    if unknown := [name for name in chosen.names if name not in modules]:
        parser.error(f"there is no {', '.join(unknown)}; there are {', '.join(modules)}")
    file = chosen.json or RESULTS / f"{'-'.join(chosen.names) or 'latest'}.json"
    options = Options(
        quick=chosen.quick,
        rounds=chosen.rounds,
        peers=tuple(name for name in chosen.peers.split(",") if name),
        records=chosen.records,
        rate=chosen.rate,
    )

    facts = machine()
    began = time.time()
    print(f"{facts['cpu']}, {facts['cores']} cores, {facts['python']}, load {facts['load'][0]}")
    print(", ".join(f"{name} {version}" for name, version in facts["packages"].items() if version))
    results: list[Result] = []
    for name in chosen.names or TABLES:
        try:
            result: Result = importlib.import_module(modules[name]).run(options)
        except BenchError as error:
            result = Result(name=name, text="", data={}, failures=[str(error)])
        results.append(result)
        _show(result)
    facts["load_after"] = machine()["load"]
    report: dict[str, Any] = {
        "began": began,
        "seconds": round(time.time() - began, 1),
        "machine": facts,
        "options": {"quick": options.quick, "rounds": options.rounds, "peers": options.peers},
        "tables": {
            result.name: {
                "verdicts": [verdict.as_json() for verdict in result.verdicts],
                "failures": result.failures,
                **result.data,
            }
            for result in results
        },
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    load = f"load {facts['load'][0]} → {facts['load_after'][0]}"
    print(f"\n{report['seconds']:.0f} s, {load}; raw data: {file}")
    return 1 if any(result.failures for result in results) else 0


def _show(result: Result) -> None:
    print(f"\n== {result.name}: median (smallest-largest round) ==\n\n{result.text}")
    if result.verdicts:
        print("\n" + "\n".join(verdict.show() for verdict in result.verdicts))
    for failure in dict.fromkeys(result.failures):
        print(f"\nFAILED: {failure}")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
