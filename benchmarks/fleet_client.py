"""One client of a monitor that checks for itself: each sender's records, once each and in order.

    python -m benchmarks.fleet_client '{"url": …, "senders": 4, "each": 250000}'

It comes back after a cut, as the wire protocol says. Twice a second, and when its input ends, it prints what it has.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from typing import Any, NoReturn

import msgspec
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidMessage
from websockets.sync.client import connect

UID = "log.record.uid"
REPORT_SECONDS = 0.5


class _Attributes(msgspec.Struct, gc=False):
    uid: str = msgspec.field(name=UID, default="")


class _Data(msgspec.Struct, gc=False):
    attributes: _Attributes = msgspec.field(default_factory=_Attributes)


class _Record(msgspec.Struct, gc=False):
    type: str
    cursor: str
    data: _Data


class _Message(msgspec.Struct, gc=False):
    type: str
    cursor: str = ""
    newest: str = ""
    to: str = ""
    reason: str = ""
    system: int = 0
    audit: int = 0
    data: msgspec.Raw = msgspec.Raw()


class Checker:
    """What came."""

    def __init__(self, senders: int, each: int) -> None:
        self.seen = [bytearray(each) for _ in range(senders)]
        self.last = [-1] * senders
        self.records = self.distinct = self.audit = self.unordered = self.unknown = self.connections = 0
        self.gaps: dict[str, list[int]] = {}
        self.first_at = self.last_at = 0.0

    def take(self, record: _Record) -> None:
        """One record."""
        sender_text, _, index_text = record.data.attributes.uid.partition("-")
        if not index_text:
            self.unknown += 1
            return
        sender, index = int(sender_text), int(index_text)
        self.records += 1
        self.audit += record.type == "audit_log"
        seen = self.seen[sender]
        if not seen[index]:
            self.distinct += 1
            if index < self.last[sender]:
                self.unordered += 1
            else:
                self.last[sender] = index
        seen[index] = min(255, seen[index] + 1)

    def report(self) -> dict[str, Any]:
        """So far; ``missing`` of each sender, with the first and the last of them."""
        return {
            "records": self.records,
            "distinct": self.distinct,
            "twice": self.records - self.distinct,
            "missing": sum(seen.count(0) for seen in self.seen),
            "first_missing": [seen.find(0) for seen in self.seen],
            "last_missing": [seen.rfind(0) for seen in self.seen],
            "unordered": self.unordered,
            "audit": self.audit,
            "unknown": self.unknown,
            "gaps": self.gaps,
            "connections": self.connections,
            "seconds": round(self.last_at - self.first_at, 2),
        }


def main() -> NoReturn:
    """Read until the input ends."""
    spec = json.loads(sys.argv[1])
    checker = Checker(spec["senders"], spec["each"])
    over = threading.Event()
    threading.Thread(target=_watch, args=(checker, spec["url"], over), daemon=True).start()
    threading.Thread(target=lambda: (sys.stdin.read(), over.set()), daemon=True).start()
    while not over.wait(REPORT_SECONDS):
        print(json.dumps(checker.report()), flush=True)
    print(json.dumps(checker.report()), flush=True)
    sys.exit(0)


def _watch(checker: Checker, url: str, over: threading.Event) -> None:
    message_of, batch_of = msgspec.json.Decoder(_Message).decode, msgspec.json.Decoder(list[_Record]).decode
    cursor = ""
    while not over.is_set():
        place = f"&after={cursor}" if cursor else ""
        try:
            with connect(f"{url}?v=2&batch=1{place}", proxy=None, compression=None, max_size=None) as client:
                checker.connections += 1
                while True:
                    message = message_of(client.recv(decode=False))
                    if message.type == "batch":
                        checker.last_at = time.monotonic()
                        checker.first_at = checker.first_at or checker.last_at
                        records = batch_of(message.data)
                        for record in records:
                            checker.take(record)
                        cursor = records[-1].cursor
                    elif message.type == "gap":
                        counts = checker.gaps.setdefault(message.reason, [0, 0, 0])
                        for place_of, more in enumerate((1, message.system, message.audit)):
                            counts[place_of] += more
                        cursor = message.to
                    elif message.type == "hello":
                        cursor = cursor or message.newest
                    else:
                        cursor = message.cursor or cursor
        except (ConnectionClosed, InvalidHandshake, InvalidMessage, OSError):
            over.wait(0.2)


if __name__ == "__main__":
    main()
