"""Types of arguments that several commands have."""

from __future__ import annotations

import argparse


def port(text: str) -> int:
    """A port number; 0 stands for any free one."""
    try:
        number = int(text)
    except ValueError:
        number = -1
    if not 0 <= number <= 65_535:
        raise argparse.ArgumentTypeError(f"{text!r}: a port is a whole number from 0 (any free one) to 65535")
    return number
