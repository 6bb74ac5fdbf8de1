"""Draws ``demo.svg`` from what ``audit-bridge demo`` really prints in a terminal. Run by ``make pictures``."""

from __future__ import annotations

import html
import os
import pty
import re
import subprocess
import sys
import time
from pathlib import Path

COLUMNS, ROWS = 118, 24
CELL_WIDTH, CELL_HEIGHT, MARGIN = 8.4, 20, 18
BACKGROUND, FOREGROUND = "#11151c", "#d6dbe4"
COLOURS = {
    "1": "#ffffff",
    "2": "#7d8796",
    "31": "#f0716b",
    "32": "#6fcf7c",
    "33": "#e5b454",
    "34": "#6cb0f5",
    "36": "#66c7c7",
    "1;31": "#ff5c57",
}


def record(seconds: float) -> str:
    """What the demo prints in ``seconds``, as a terminal would get it."""
    master, slave = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "bridge", "demo", "--seconds", str(seconds), "--port", "0"],
        stdout=slave,
        stderr=subprocess.DEVNULL,
        stdin=subprocess.DEVNULL,
        env={**os.environ, "TERM": "xterm-256color"},
    )
    os.close(slave)
    chunks = []
    deadline = time.monotonic() + seconds + 30
    while time.monotonic() < deadline:
        try:
            chunk = os.read(master, 65_536)
        except OSError:  # the other end is closed
            break
        if not chunk:
            break
        chunks.append(chunk)
    process.wait(30)
    return b"".join(chunks).decode()


def spans(line: str) -> list[tuple[str, str]]:
    """A line as (SGR code, text) pieces, cut at the terminal's width."""
    pieces: list[tuple[str, str]] = []
    code, left = "0", COLUMNS
    for part in re.split(r"(\x1b\[[0-9;]*m)", line):
        if part.startswith("\x1b["):
            code = part[2:-1] or "0"
        elif part and left > 0:
            pieces.append((code, part[:left]))
            left -= len(part)
    return pieces


def draw(lines: list[str]) -> str:
    """The lines as an SVG picture of a terminal."""
    width, height = round(COLUMNS * CELL_WIDTH + 2 * MARGIN), len(lines) * CELL_HEIGHT + 2 * MARGIN
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        'role="img" aria-label="audit-bridge demo in a terminal">',
        f'<rect width="{width}" height="{height}" rx="10" fill="{BACKGROUND}"/>',
        '<g font-family="ui-monospace, SFMono-Regular, Menlo, Consolas, DejaVu Sans Mono, monospace" font-size="14">',
    ]
    for row, line in enumerate(lines):
        column, y = 0, MARGIN + row * CELL_HEIGHT + 14
        for code, text in spans(line):
            x = MARGIN + column * CELL_WIDTH
            span = len(text) * CELL_WIDTH
            fill = COLOURS.get(code, FOREGROUND)
            if code == "1;30;43":
                out.append(f'<rect x="{x:.1f}" y="{y - 14}" width="{span:.1f}" height="18" rx="3" fill="#e5b454"/>')
                fill = "#11151c"
            out.append(
                f'<text x="{x:.1f}" y="{y}" fill="{fill}" textLength="{span:.1f}" '
                f'lengthAdjust="spacingAndGlyphs" xml:space="preserve">{html.escape(text)}</text>'
            )
            column += len(text)
    return "\n".join([*out, "</g>", "</svg>", ""])


def main() -> None:
    """Record, choose the liveliest stretch, draw."""
    lines = [line.rstrip("\r") for line in record(16.0).split("\n")]
    prompt, body = "$ audit-bridge demo", [line for line in lines[1:] if " uvicorn" not in line and line[:1] == "\x1b"]
    # An exception makes the better picture; its line stands for all that follow it.
    start = max(0, next((i for i, line in enumerate(body) if "ERROR" in line), ROWS) - ROWS + 4)
    first = lines[0].replace(re.search(r":(\d+)/", lines[0])[1], "8765")  # type: ignore[index]
    target = Path(__file__).with_name("demo.svg")
    target.write_text(draw([prompt, first, *body[start : start + ROWS - 2]]))
    print(f"drew {target.name}")


if __name__ == "__main__":
    main()
