"""The one place that knows the product's API."""

from __future__ import annotations

import logging
from typing import Any

import bridge
from benchmarks.peers import Peer, StockPeer, no_work

DRAIN_TIMEOUT_SECONDS = 60.0


class OurPeer(Peer):
    """`bridge.setup()` as a service calls it, everything at its default."""

    def __init__(self, **settings: Any) -> None:
        logging.getLogger().handlers.clear()
        self._bridge = bridge.setup(service_name="bench", **settings)
        self._seen = 0

    def drain(self) -> None:
        if not self._bridge.force_flush(timeout=DRAIN_TIMEOUT_SECONDS):
            raise RuntimeError("force_flush() did not finish")
        # Messages are made when a client asks for them; here somebody does.
        while entries := (read := self._bridge.hub.read(self._seen, 4_096)).entries:
            for entry in entries:
                len(entry.wire)
            self._seen = read.seq

    def processed(self) -> int:
        # Converted, encoded and in the ring of the live view; `captured` counts what is still queued as well.
        return int(self._bridge.statistics().published)

    def dropped(self) -> dict[str, int]:
        return {reason: count for reason, count in self._bridge.statistics().dropped.items() if count}

    def close(self) -> None:
        self._bridge.shutdown(timeout=5.0)


class OurBatchPeer(OurPeer):
    """The same on a team's own provider, whose stock batch processor gets every record as well."""

    def __init__(self) -> None:
        stock = StockPeer(no_work)
        super().__init__(logger_provider=stock.provider)
        self._stock = stock

    def processed(self) -> int:
        return min(super().processed(), self._stock.processed())
