"""``audit-bridge version``."""

from __future__ import annotations

import argparse
import platform
from typing import Any


def register(commands: Any) -> None:
    """Add the command."""
    command = commands.add_parser("version", help="print the version of the bridge, Python and OpenTelemetry")
    command.set_defaults(run=run)


def run(_: argparse.Namespace) -> int:
    """Print one line."""
    from importlib.metadata import version as installed

    from bridge.assembly import version

    print(
        f"audit-bridge {version()}, Python {platform.python_version()}, "
        f"opentelemetry-sdk {installed('opentelemetry-sdk')}"
    )
    return 0
