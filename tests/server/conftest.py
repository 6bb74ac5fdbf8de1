"""The endpoints, driven as ASGI applications."""

import bridge.assembly  # noqa: F401  (the fixture that forgets process-wide state after each test works through it)
