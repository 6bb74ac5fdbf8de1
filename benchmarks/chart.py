"""`python -m benchmarks.chart [RESULTS.json] [-o FILE.svg]`: the fan-out table as a bar chart, in SVG.

Colours follow the reader's light or dark theme, also inside an <img>, and never carry a meaning alone.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.harness import ROOT

LATEST = ROOT / "benchmarks" / "results" / "latest.json"
TARGET = ROOT / "docs" / "images" / "fanout.svg"

WIDTH = 860
MARGIN = 16
LABELS = 300
VALUES = 64
ROW = 30
BAR = 18
TOP = 72
BOTTOM = 46

STYLE = """\
text{font:14px system-ui,-apple-system,'Segoe UI',Roboto,sans-serif;fill:#1f2328}
.title{font-size:17px;font-weight:600}.note,.tick{font-size:12px;fill:#59636e}
.ours,.value{font-weight:600}.paper{fill:#fff}.grid{stroke:#d1d9e0}
.bar{fill:#8c959f}.bar.ours{fill:#0969da}.bar.ceiling{fill:none;stroke:#8c959f;stroke-dasharray:4 3}
.spread{stroke:#1f2328;stroke-width:1.5}
@media(prefers-color-scheme:dark){text{fill:#f0f6fc}.note,.tick{fill:#9198a1}.paper{fill:#0d1117}
.grid{stroke:#3d444d}.bar{fill:#656c76}.bar.ours{fill:#4493f8}.bar.ceiling{stroke:#9198a1}.spread{stroke:#f0f6fc}}"""


class Bar(NamedTuple):
    """Deliveries a second: the median, the smallest and the largest round."""

    label: str
    kind: str
    median: float
    low: float
    high: float


def bars(report: dict[str, Any], clients: int) -> list[Bar]:
    """The rows that were measured with so many clients, the slowest first."""
    table = report["tables"]["fanout"]
    found = []
    for name, by_count in table["speed"].items():
        answers = [answer for answer in by_count.get(str(clients), []) if answer]
        speeds = [answer["deliveries"] / answer["seconds"] for answer in answers]
        if speeds and min(speeds) > 0:
            kind = "ours" if name.startswith("ours") else "ceiling" if name.startswith("c-") else "peer"
            label = table["labels"][name]
            found.append(Bar(label, kind, statistics.median(speeds), min(speeds), max(speeds)))
    return sorted(found, key=lambda bar: bar.median)


def short(value: float) -> str:
    """Three digits and a unit: 18.5k, 5.88M."""
    for size, unit in ((1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:#.3g}".rstrip(".") + unit
    return f"{value:.0f}"


def svg(rows: list[Bar], clients: int, footer: str) -> str:
    """The chart. The scale is logarithmic: every line of the grid is ten times the one before."""
    first = math.floor(math.log10(min(bar.low for bar in rows)))
    last = max(math.ceil(math.log10(max(bar.high for bar in rows))), first + 1)
    left, right = MARGIN + LABELS, WIDTH - MARGIN - VALUES
    bottom = TOP + ROW * len(rows)
    height = bottom + BOTTOM

    def x(value: float) -> float:
        return left + (math.log10(value) - first) / (last - first) * (right - left)

    title = f"Deliveries per second to {clients} WebSocket clients"
    spoken = "; ".join(f"{bar.label}: {short(bar.median)}" for bar in rows)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
        'role="img" aria-labelledby="title desc">',
        f'<title id="title">{escape(title)}</title>',
        f'<desc id="desc">{escape(spoken)}</desc>',
        f"<style>{STYLE}</style>",
        f'<rect class="paper" width="{WIDTH}" height="{height}" rx="6"/>',
        f'<text class="title" x="{MARGIN}" y="30">{escape(title)}</text>',
        f'<text class="note" x="{MARGIN}" y="50">Logarithmic scale: each line is ten times the one before. '
        "The thin line is the smallest to the largest round.</text>",
    ]
    for power in range(first, last + 1):
        at = x(10.0**power)
        parts.append(f'<line class="grid" x1="{at:.1f}" x2="{at:.1f}" y1="{TOP - 6}" y2="{bottom}"/>')
        parts.append(
            f'<text class="tick" x="{at:.1f}" y="{bottom + 16}" text-anchor="middle">{_tick(10.0**power)}</text>'
        )
    for index, bar in enumerate(rows):
        top = TOP + ROW * index + (ROW - BAR) / 2
        middle = top + BAR / 2
        end = x(bar.median)
        label_class = ' class="ours"' if bar.kind == "ours" else ""
        parts += [
            f'<text{label_class} x="{left - 10}" y="{middle + 5:.1f}" text-anchor="end">'
            f"{escape(_fit(bar.label))}</text>",
            f'<rect class="bar {bar.kind}" x="{left}" y="{top:.1f}" width="{max(end - left, 1):.1f}" height="{BAR}" '
            'rx="2"/>',
            f'<line class="spread" x1="{x(bar.low):.1f}" x2="{x(bar.high):.1f}" y1="{middle:.1f}" y2="{middle:.1f}"/>',
            f'<text class="value" x="{max(end, x(bar.high)) + 8:.1f}" y="{middle + 5:.1f}">{short(bar.median)}</text>',
        ]
    parts.append(f'<text class="note" x="{MARGIN}" y="{height - 12}">{escape(footer)}</text>')
    return "\n".join([*parts, "</svg>", ""])


def _tick(value: float) -> str:
    for size, unit in ((1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:g}{unit}"
    return f"{value:g}"


def _fit(label: str) -> str:
    """Labels that are a sentence lose what stands after the colon."""
    return label if len(label) <= 38 else label.partition(":")[0]


def main(arguments: list[str] | None = None) -> int:
    """Write the chart; 1 when the results hold no such table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.chart", description=__doc__)
    parser.add_argument("results", type=Path, nargs="?", default=LATEST)
    parser.add_argument("-o", "--output", type=Path, default=TARGET, metavar="FILE")
    parser.add_argument("--clients", type=int, default=100)
    chosen = parser.parse_args(arguments)
    try:
        report = json.loads(chosen.results.read_text(encoding="utf-8"))
        rows = bars(report, chosen.clients)
    except (OSError, ValueError, KeyError) as error:
        print(f"{chosen.results}: no results of the fan-out table ({error!r})", file=sys.stderr)
        return 1
    if not rows:
        print(f"{chosen.results}: nothing was measured with {chosen.clients} clients", file=sys.stderr)
        return 1
    machine = report["machine"]
    rounds = report["tables"]["fanout"]["plan"]["rounds"]
    footer = (
        f"{machine['cpu']}, {machine['cores']} cores, {machine['python']}. Median of {rounds} rounds, loopback, "
        "200-byte messages, a record a frame."
    )
    chosen.output.parent.mkdir(parents=True, exist_ok=True)
    chosen.output.write_text(svg(rows, chosen.clients, footer), encoding="utf-8")
    print(chosen.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
