"""``audit-bridge tail [URL]``."""

from __future__ import annotations

import argparse
import io
import os
import signal
import sys
from typing import Any

from bridge.errors import BridgeError

_FILTERS = (
    ("streams", "system,audit", "which streams (default both)"),
    ("min-severity", "WARN", "this severity and above"),
    ("logger", "app.*", "loggers, by name or glob"),
    ("service", "NAME", "services"),
    ("re", "PATTERN", "RE2 regular expression"),
    ("attr", "KEY:VALUE", "an attribute"),
    ("trace-id", "HEX", "a trace"),
)
_REPEATABLE = frozenset({"logger", "service", "attr"})


def register(commands: Any) -> None:
    """Add the command."""
    command = commands.add_parser(
        "tail",
        help="watch a monitor's records in the terminal",
        description="Shows a monitor's records as they come, and comes back without loss after a cut or a restart: "
        "a line says so wherever records are missing. Ctrl-C ends.",
        allow_abbrev=False,
    )
    command.add_argument("url", nargs="?", default="http://127.0.0.1:8765", metavar="URL", help="default: %(default)s")
    for name, metavar, words in _FILTERS:
        command.add_argument(
            f"--{name}", action="append" if name in _REPEATABLE else "store", metavar=metavar, help=words
        )
    command.add_argument("-q", "--query", dest="q", metavar="TEXT", help="text in any field")
    command.add_argument("--history", type=int, default=20, metavar="N", help="past records to begin with (default 20)")
    command.add_argument("--after", default="", metavar="CURSOR", help="begin after this cursor")
    command.add_argument("--max-rate", type=int, metavar="N", help="at most N system records a second")
    command.add_argument("--no-follow", action="store_true", help="show the past records and end")
    command.add_argument("--json", action="store_true", help="print messages as they come, one JSON object a line")
    command.add_argument("--color", choices=("auto", "always", "never"), default="auto", help="default: %(default)s")
    command.add_argument("--token", metavar="TOKEN", help="default: the environment's BRIDGE_TOKEN")
    command.set_defaults(run=run)


def parameters(arguments: argparse.Namespace) -> list[tuple[str, str]]:
    """The query's parameters that the options stand for."""
    found: list[tuple[str, str]] = []
    for name, _, _ in _FILTERS:
        value = getattr(arguments, name.replace("-", "_"))
        for each in value if isinstance(value, list) else [value]:
            if each is not None:
                found.append((name.replace("-", "_"), each))
    if arguments.q is not None:
        found.append(("q", arguments.q))
    if arguments.max_rate is not None:
        found.append(("max_rate", str(arguments.max_rate)))
    return found


def run(arguments: argparse.Namespace) -> int:
    """Print until Ctrl-C."""
    # At once, also in the middle of a write or a handshake: there is nothing to save.
    signal.signal(signal.SIGINT, lambda *_: os._exit(0))
    from bridge.terminal import Palette, printable, render_gap, render_record
    from bridge.watch import Follower, WatchRefused, follow, monitor_url

    out = sys.stdout
    if out is None:
        raise BridgeError("tail has no standard output to print to")
    if isinstance(out, io.TextIOWrapper):
        # JSON is UTF-8 wherever it goes; elsewhere, what a terminal has no character for is shown by its number.
        out.reconfigure(encoding="utf-8" if arguments.json else None, errors="backslashreplace")
    color = arguments.color
    palette = Palette.for_stream(out) if color == "auto" else Palette(color == "always")
    token = arguments.token or os.environ.get("BRIDGE_TOKEN")

    def say(words: str) -> None:
        print(f"audit-bridge tail: {printable(words)}", file=sys.stderr, flush=True)

    try:
        url = monitor_url(arguments.url)
        follower = Follower(url, parameters(arguments), history=arguments.history, after=arguments.after)
        for message in follow(follower, token=token, say=say, follow_on=not arguments.no_follow):
            kind = message.data["type"]
            if kind in ("system_log", "audit_log"):
                out.write((message.text if arguments.json else render_record(message.data, palette)) + "\n")
            elif kind == "gap":
                out.write((message.text if arguments.json else render_gap(message.data, palette)) + "\n")
            elif kind == "goodbye":
                say(f"the server says goodbye: {message.data.get('reason')}")
            elif kind == "error":
                say(f"the server says: {message.data.get('message')}")
            out.flush()
    except WatchRefused as refused:  # perhaps in words of the server's
        raise WatchRefused(printable(refused.url), printable(refused.reason)) from None
    return 0
