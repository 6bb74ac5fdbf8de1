"""Table A: one log call, `logger.info("Instance %s spawned", id, extra={...})`, above a NullHandler.

Every peer runs in a fresh process a round, rounds interleave the peers, and inside a process bursts of the
peer take turns with bursts of a NullHandler, so that a drift of the machine's speed is no difference.

At 4 threads a handler with a lock has two speeds, kept for the life of a process: with and without a convoy
at the lock. A wide spread there is that, not noise.
"""

from __future__ import annotations

import importlib.util
import math
import random
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.harness import BenchError, Options, Progress, Result, Spread, Verdict, run_child, text_table
from benchmarks.otlp_sink import otlp_sink
from benchmarks.peers import PEERS

NAME = "log_call"

# By number of threads. Long enough for threads to meet at a lock, short enough for our queue as shipped.
BURST_RECORDS = {1: 4_000, 4: 8_000}
QUICK_BURST_RECORDS = {1: 4_000, 4: 4_000}
PAIRS = 3
QUICK_PAIRS = 2
# Ten times slower than the others: one pair a scenario is enough to see that.
PAIRS_OF = {"logfire": 1}
SCENARIOS = {"1/out": "1 thread", "1/in": "1, in a span", "4/out": "4 threads", "4/in": "4, in a span"}
PACED_CALLS_PER_SECOND = 2_000
PACED_PEERS = ("stock", "ours", "file")
OVERLOAD_RECORDS = 100_000
OVERLOAD_THREADS = 4
OVERLOAD_PEERS = ("stock-otlp-default", "ours")
# What --quick leaves out: rows that no ratio needs.
QUICK_WITHOUT = ("ours-batch", "stock-orjson", "stock-sdk", "stock-otlp-default", "loguru", "logfire")
QUICK_PACED_PEERS = ("ours",)
# Beyond this the peer changed the cost of a call even while its handler was off, and "above" hides it.
NULL_DRIFT = 0.15

_CALLING, _WALL, _PROCESS = range(3)

Answer = dict[str, Any]
Rounds = dict[str, list[Answer]]
# One round's figure in one scenario, in µs.
Figure = Callable[[Answer, str], float]


def run(options: Options) -> Result:
    peers, missing = _installed(options)
    rounds = options.rounds or (3 if options.quick else 5)
    runs: Rounds = {name: [] for name in peers}
    failures: list[str] = []
    progress = Progress(rounds * len(peers))
    with otlp_sink() as sink:
        for number in range(rounds):
            order = list(peers)
            # Another order each round, the same in every run.
            random.Random(number).shuffle(order)
            for name in order:
                progress.step(f"{NAME}: round {number + 1} of {rounds}, {PEERS[name][0]}")
                try:
                    answer = run_child("benchmarks.log_call_child", _spec(name, options, sink, number))
                except BenchError as error:
                    failures.append(str(error))
                else:
                    runs[name].append(answer | {"round": number})
    runs = {name: answers for name, answers in runs.items() if answers}
    failures += _lost(runs)
    verdicts = _verdicts(runs)
    text = "\n\n".join(
        [
            "µs on the calling threads, CPU time, above a NullHandler (whose row is absolute)",
            _table(runs, _calling),
            "µs a record, wall time of the burst, above a NullHandler (whose row is absolute)",
            _table(runs, _wall),
            "µs a record, CPU time of the whole process until the last record is processed, absolute",
            _table(runs, _process),
            *_paced_table(runs),
            "Records",
            _records_table(runs),
            *(["Not measured: " + "; ".join(missing)] if missing else []),
            *_null_drift(runs),
            *_disturbed(runs),
        ]
    )
    return Result(name=NAME, text=text, data={"runs": runs}, verdicts=verdicts, failures=failures)


def _installed(options: Options) -> tuple[list[str], list[str]]:
    unknown = [name for name in options.peers if name not in PEERS]
    if unknown:
        raise BenchError(f"no peer named {', '.join(unknown)}; there are {', '.join(PEERS)}")
    peers, missing = [], []
    for name, (label, module, _) in PEERS.items():
        if options.peers and name not in options.peers:
            continue
        if not options.peers and options.quick and name in QUICK_WITHOUT:
            missing.append(f"{label} (--quick)")
        elif not name.startswith("ours") and module is not None and not _importable(module):
            missing.append(f"{label} ({module} is not installed)")
        else:
            peers.append(name)
    return peers, missing


def _importable(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def _spec(name: str, options: Options, sink: str, number: int) -> dict[str, Any]:
    paced_peers = QUICK_PACED_PEERS if options.quick else PACED_PEERS
    return {
        "peer": name,
        "sink": sink,
        "bursts": list((QUICK_BURST_RECORDS if options.quick else BURST_RECORDS).items()),
        "pairs": QUICK_PAIRS if options.quick else PAIRS_OF.get(name, PAIRS),
        "paced_seconds": (1 if options.quick else 2) if name in paced_peers else 0,
        "paced_calls_per_second": PACED_CALLS_PER_SECOND,
        # Only once: it is a demonstration, not a distribution.
        "overload": OVERLOAD_RECORDS if name in OVERLOAD_PEERS and number == 0 and not options.quick else 0,
        "overload_threads": OVERLOAD_THREADS,
    }


def _median(answer: Answer, key: str, side: str, figure: int) -> float:
    return Spread.of([pair[figure] for pair in answer["scenarios"][key][side]]).median / 1000


def _above(answer: Answer, key: str, figure: int) -> float:
    """The median over pairs of peer minus NullHandler; for the NullHandler itself what it costs."""
    if answer["peer"] == "null":
        return _median(answer, key, "peer", figure)
    scenario = answer["scenarios"][key]
    pairs = zip(scenario["peer"], scenario["null"], strict=True)
    return Spread.of([peer[figure] - null[figure] for peer, null in pairs]).median / 1000


def _calling(answer: Answer, key: str) -> float:
    return _above(answer, key, _CALLING)


def _wall(answer: Answer, key: str) -> float:
    return _above(answer, key, _WALL)


def _process(answer: Answer, key: str) -> float:
    return _median(answer, key, "peer", _PROCESS)


def _over(answers: Sequence[Answer], figure: Figure, key: str) -> Spread:
    return Spread.of([figure(answer, key) for answer in answers])


def _table(runs: Rounds, figure: Figure) -> str:
    rows = [
        [PEERS[name][0], *(_over(answers, figure, key).show() for key in SCENARIOS)] for name, answers in runs.items()
    ]
    return text_table(["", *SCENARIOS.values()], rows)


def _paced_table(runs: Rounds) -> list[str]:
    rows = []
    for name in PACED_PEERS:
        for side in ("null", "peer"):
            quantiles = [answer["paced"][side] for answer in runs.get(name, ()) if "paced" in answer]
            if quantiles:
                label = PEERS[name][0] if side == "peer" else "  NullHandler beside it"
                columns = [Spread.of([row[column] / 1000 for row in quantiles]).show() for column in range(3)]
                rows.append([label, *columns])
    title = f"µs a call at {PACED_CALLS_PER_SECOND:,} calls/s, absolute"
    return [title, text_table(["", "p50", "p99", "p99.9"], rows)] if rows else []


def _records_table(runs: Rounds) -> str:
    rows = []
    for name, answers in runs.items():
        emitted = sum(answer["emitted"] for answer in answers)
        processed = sum(answer["processed"] or 0 for answer in answers)
        known = answers[0]["processed"] is not None
        lost = f"{100 * (emitted - processed) / emitted:.1f} %" if known else ""
        overload = answers[0].get("overload")
        full_speed = ""
        if overload:
            share = 100 * (overload["records"] - overload["processed"]) / overload["records"]
            full_speed = f"{share:.1f} % of {overload['records']:,}"
        rows.append([PEERS[name][0], f"{emitted:,}", f"{processed:,}" if known else "?", lost, full_speed])
    headers = ["", "logged", "processed", "dropped", f"dropped at full speed, {OVERLOAD_THREADS} threads"]
    return text_table(headers, rows)


def _words(counts: dict[str, int]) -> str:
    return ", ".join(f"{reason} {count:,}" for reason, count in counts.items())


def _null_drift(runs: Rounds) -> list[str]:
    """A handler that makes every call dearer, even one that it does not see, would look cheap: say so."""
    if "null" not in runs:
        return []
    lines = []
    for name, answers in runs.items():
        for key, label in SCENARIOS.items():
            alone = _over(runs["null"], _calling, key).median
            beside = _over(answers, _null_beside, key).median
            if abs(beside - alone) > NULL_DRIFT * alone:
                lines.append(f"  {PEERS[name][0]}, {label}: {beside:.1f} instead of {alone:.1f} µs")
    title = "NullHandler calls cost something else beside this peer than in a process of their own:"
    return ["\n".join([title, *lines])] if lines else []


def _disturbed(runs: Rounds) -> list[str]:
    """The NullHandler's cost does not depend on us: when it moves, other work had the machine."""
    costs = [_null_beside(answer, "1/out") for answers in runs.values() for answer in answers]
    if not costs or max(costs) <= (1 + NULL_DRIFT) * min(costs):
        return []
    return [f"Other work disturbed this run: a NullHandler call took {min(costs):.1f} to {max(costs):.1f} µs."]


def _null_beside(answer: Answer, key: str) -> float:
    return _median(answer, key, "null", _CALLING)


def _lost(runs: Rounds) -> list[str]:
    """What the bench fails for: our records that went missing at a rate that every queue has to take."""
    failures = []
    ours = [answer for name in ("ours", "ours-batch") for answer in runs.get(name, ())]
    for answer in ours:
        if answer["processed"] != answer["emitted"] or answer["dropped"]:
            failures.append(
                f"{PEERS[answer['peer']][0]}: {answer['emitted']:,} logged, {answer['processed']:,} processed, "
                f"dropped: {_words(answer['dropped']) or 'nothing, it says'}"
            )
        overload = answer.get("overload")
        if overload:
            # What another lane refused was shown all the same.
            refused = sum(
                count for reason, count in overload["dropped"].items() if not reason.startswith(("processor", "otlp"))
            )
            uncounted = overload["records"] - overload["processed"] - refused
            if uncounted:
                failures.append(f"bridge, overload: {uncounted:,} records neither processed nor counted")
    return failures


def _verdicts(runs: Rounds) -> list[Verdict]:
    ours = runs.get("ours")
    if not ours:
        return []
    verdicts = []
    if stock := runs.get("stock"):
        for key, label in SCENARIOS.items():
            name = f"calling thread, stock / ours, {label}"
            verdicts.append(Verdict(name=name, value=_ratio(stock, ours, _calling, key), target=10, must=8))
        for key, label in SCENARIOS.items():
            name = f"wall time of a burst, stock / ours, {label}"
            verdicts.append(Verdict(name=name, value=_ratio(stock, ours, _wall, key)))
    if stock_json := runs.get("stock-json"):
        for key, label in SCENARIOS.items():
            name = f"process CPU, ours / stock with JSON, {label}"
            ratio = _ratio(ours, stock_json, _process, key)
            verdicts.append(Verdict(name=name, value=ratio, target=0.75, at_least=False))
    if paced := [answer["paced"] for answer in ours if "paced" in answer]:
        ratio = Spread.of([quantiles["peer"][1] / quantiles["null"][1] for quantiles in paced])
        name = f"p99 at {PACED_CALLS_PER_SECOND:,} calls/s, ours / NullHandler"
        verdicts.append(Verdict(name=name, value=ratio, target=1.3, at_least=False))
    return verdicts


def _ratio(above: list[Answer], below: list[Answer], figure: Figure, key: str) -> Spread:
    """Round by round, so that what both suffered cancels; a round that one of them failed is left out."""
    others = {answer["round"]: answer for answer in below}
    ratios = [
        figure(answer, key) / figure(others[answer["round"]], key) for answer in above if answer["round"] in others
    ]
    return Spread.of(ratios or [math.nan])
