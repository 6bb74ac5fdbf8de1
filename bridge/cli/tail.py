"""``audit-bridge tail [URL]``."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from typing import Any

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
    from bridge.terminal import Palette, render_gap, render_record
    from bridge.watch import Follower, follow, monitor_url

    color = arguments.color
    palette = Palette.for_stream(sys.stdout) if color == "auto" else Palette(color == "always")
    follower = Follower(
        monitor_url(arguments.url), parameters(arguments), history=arguments.history, after=arguments.after
    )
    token = arguments.token or os.environ.get("BRIDGE_TOKEN")
    # At once, also in the middle of a write or a handshake: there is nothing to save.
    signal.signal(signal.SIGINT, lambda *_: os._exit(0))
    out = sys.stdout
    for message in follow(follower, token=token, say=_say, follow_on=not arguments.no_follow):
        kind = message.data["type"]
        if kind in ("system_log", "audit_log"):
            out.write((message.text if arguments.json else render_record(message.data, palette)) + "\n")
        elif kind == "gap":
            out.write((message.text if arguments.json else render_gap(message.data, palette)) + "\n")
        elif kind == "goodbye":
            _say(f"the server says goodbye: {message.data.get('reason')}")
        elif kind == "error":
            _say(f"the server says: {message.data.get('message')}")
        out.flush()
    return 0


def _say(words: str) -> None:
    print(f"audit-bridge tail: {words}", file=sys.stderr, flush=True)
