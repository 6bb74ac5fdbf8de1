"""``audit-bridge demo``."""

from __future__ import annotations

import argparse
import os
from typing import Any

from bridge.cli.arguments import port


def _seconds(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 < number <= 86_400:
        raise argparse.ArgumentTypeError(f"{text!r}: must be a number of seconds above 0, at most 86400")
    return number


def register(commands: Any) -> None:
    """Add the command."""
    command = commands.add_parser(
        "demo",
        help="run a small real service and watch its system and audit records live",
        description="Runs a small web service with bridge.setup(), sends requests to it, and shows in this terminal "
        "what a client of /ws/monitor receives.",
        allow_abbrev=False,
    )
    command.add_argument("--seconds", type=_seconds, default=None, metavar="N", help="end after N seconds")
    command.add_argument("--port", type=port, metavar="N", help="port to listen on (default: BRIDGE_PORT, else 8765)")
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run the demo until Ctrl-C or the time is over."""
    from bridge.demo import run_demo
    from bridge.settings import Settings

    wanted = arguments.port if arguments.port is not None else Settings.from_env(os.environ).port
    return run_demo(port=wanted, seconds=arguments.seconds)
