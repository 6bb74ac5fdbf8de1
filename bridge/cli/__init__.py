"""The command ``audit-bridge``: one module a command, argument parsing only.

Exit codes: 0 good, 1 a finding, 2 wrong use. No traceback reaches the user.
"""

from __future__ import annotations

import argparse
import errno
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from bridge.errors import BridgeError

__all__ = ["main"]

GOOD, FINDING, WRONG_USE = 0, 1, 2


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(WRONG_USE, f"{self.prog}: {message}; see {self.prog} --help\n")


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    from bridge.cli import demo, serve, tail, version

    top = _Parser(
        prog="audit-bridge",
        description="Audit and live-log bridge for OpenTelemetry.",
        allow_abbrev=False,
    )
    commands = top.add_subparsers(title="commands", metavar="COMMAND", required=True, parser_class=_Parser)
    for module in (demo, serve, tail, version):
        module.register(commands)
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code."""
    try:
        parsed = parser().parse_args(arguments)
    except SystemExit as end:  # argparse has said what is wrong, or has shown the help
        return end.code if isinstance(end.code, int) else WRONG_USE
    try:
        code = int(parsed.run(parsed))
        sys.stdout.flush()
        return code
    except BridgeError as error:
        print(f"audit-bridge: {error}", file=sys.stderr)
        return WRONG_USE
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader of our output has gone (`| head`): not an error.
        _close_output()
        return GOOD
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        print(f"audit-bridge: the output could not be written: {error.strerror}", file=sys.stderr)
        _close_output()
        return FINDING


def _close_output() -> None:
    """Nothing more comes out: Python would try once more at its end, and complain."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
