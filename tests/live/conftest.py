"""The parts of the live view, without a server."""

import bridge.assembly  # noqa: F401  (the fixture that forgets process-wide state after each test works through it)
