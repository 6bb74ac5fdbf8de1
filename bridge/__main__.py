"""``python -m bridge``: the same as the command ``audit-bridge``."""

from __future__ import annotations

import sys

from bridge.cli import main

if __name__ == "__main__":
    sys.exit(main())
