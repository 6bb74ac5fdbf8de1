"""The counting client in Python, for machines without a C compiler; options and answer of client/fanout_client.c.

It takes about 1 µs a frame where the C client takes 0.06: it is the limit of whatever is faster than that.
"""

from __future__ import annotations

import argparse
import json
import re
import resource
import selectors
import socket
import struct
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.fanout_shared import (
    CONNECTED,
    MIN_SEQUENCE,
    RECEIVED,
    SLOT,
    STALL,
    STOP,
    SharedPage,
    allow_many_sockets,
)

KEY = b"dGhlIHNhbXBsZSBub25jZQ=="
ACCEPT = b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
MARKER = re.compile(rb"~n=(\d+) t=(\d+)~")
BUFFER_BYTES = 256 * 1024
STALLED_RECEIVE_BYTES = 64 * 1024
SLOTS = 3


class Connection:
    """One client, and what it has seen."""

    def __init__(self, port: int, request: bytes, *, small: bool) -> None:
        self.socket = socket.socket()
        if small:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, STALLED_RECEIVE_BYTES)
        self.socket.settimeout(10.0)
        self.socket.connect(("127.0.0.1", port))
        self.socket.sendall(request)
        self.socket.setblocking(False)
        self.carried = b""
        self.upgraded = False
        self.open = True
        self.reading = True
        self.sequence = 0

    def send(self, opcode: int, payload: bytes) -> None:
        mask = b"\x5a\x13\xc7\x2e"
        masked = bytes(byte ^ mask[index & 3] for index, byte in enumerate(payload))
        try:
            self.socket.send(bytes((0x80 | opcode, 0x80 | len(payload))) + mask + masked)
        except OSError:
            return  # it is gone, or full: no matter


class Counter:
    """Counts, checks and times the frames of all connections."""

    def __init__(self, page: SharedPage, connections: list[Connection]) -> None:
        self.page = page
        self.connections = connections
        names = "received bytes unmarked gaps lost reordered fragmented binary pings closed close_code recv_calls"
        self.counts = dict.fromkeys(names.split(), 0)
        self.latencies: list[list[int]] = [[] for _ in range(SLOTS)]

    def readable(self, connection: Connection, slot: int) -> None:
        try:
            got = connection.socket.recv(BUFFER_BYTES)
        except BlockingIOError:
            return
        except OSError:
            got = b""
        if not got:
            self.counts["closed"] += 1
            self.drop(connection)
            return
        now = time.monotonic_ns()
        self.counts["recv_calls"] += 1
        data = connection.carried + got if connection.carried else got
        at = 0
        if not connection.upgraded:
            end = data.find(b"\r\n\r\n")
            if end >= 0:
                at = end + 4
                if b" 101 " not in data[:at] or ACCEPT not in data[:at]:
                    raise SystemExit(f"handshake refused: {data[:400]!r}")
                connection.upgraded = True
                self.page.words[CONNECTED] += 1
        if connection.upgraded:
            at = self.frames(connection, data, at, slot, now)
        connection.carried = data[at:]
        self.page.words[RECEIVED] = self.counts["received"]

    def frames(self, connection: Connection, data: bytes, at: int, slot: int, now: int) -> int:
        size = len(data)
        while size - at >= 2:
            head, length, header = data[at], data[at + 1], 2
            if length >= 126:
                header = 4 if length == 126 else 10
                if size - at < header:
                    break
                length = struct.unpack_from(">H" if header == 4 else ">Q", data, at + 2)[0]
            end = at + header + length
            if size < end:
                break
            opcode = head & 0x0F
            if opcode == 0x1:
                self.counts["fragmented"] += head != 0x81
                self.text(connection, data, at + header, end, slot, now)
            elif opcode == 0x9:
                self.counts["pings"] += 1
                connection.send(0xA, data[at + header : end])
            elif opcode == 0x8:
                self.counts["closed"] += 1
                if length >= 2:
                    self.counts["close_code"] = struct.unpack_from(">H", data, at + header)[0]
                connection.send(0x8, data[at + header : at + header + 2])
                self.drop(connection)
                return end
            elif opcode == 0x2:
                self.counts["binary"] += 1
            at = end
        return at

    def text(self, connection: Connection, data: bytes, start: int, end: int, slot: int, now: int) -> None:
        counts = self.counts
        counts["received"] += 1
        counts["bytes"] += end - start
        found = MARKER.search(data, start, end)
        if found is None:
            counts["unmarked"] += 1
            return
        number = int(found[1])
        ahead = number - connection.sequence - 1
        if ahead < 0:
            counts["reordered"] += 1
        else:
            counts["gaps"] += ahead > 0
            counts["lost"] += ahead
            connection.sequence = number
        if slot:
            self.latencies[slot].append(max(0, now - int(found[2])))

    def drop(self, connection: Connection) -> None:
        connection.open = connection.reading = False
        connection.socket.close()
        self.page.words[CONNECTED] -= 1

    def slowest(self) -> int:
        return min((each.sequence for each in self.connections if each.reading), default=0)


def quantiles(values: list[int]) -> dict[str, int]:
    ordered = sorted(values)
    at = {name: ordered[int(len(ordered) * part)] if ordered else 0
          for name, part in (("p50", 0.5), ("p90", 0.9), ("p99", 0.99))}  # fmt: skip
    return {"count": len(ordered), **at, "max": ordered[-1] if ordered else 0}


def main() -> int:
    parser = argparse.ArgumentParser()
    for name in ("--port", "--clients"):
        parser.add_argument(name, type=int, required=True)
    parser.add_argument("--shared", type=Path, required=True)
    parser.add_argument("--path", default="/")
    parser.add_argument("--header", action="append", default=[])
    parser.add_argument("--stall", type=int, default=0)
    parser.add_argument("--messages", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=60.0)
    chosen = parser.parse_args()
    allow_many_sockets()
    lines = [
        f"GET {chosen.path} HTTP/1.1",
        f"Host: 127.0.0.1:{chosen.port}",
        "Upgrade: websocket",
        "Connection: Upgrade",
        f"Sec-WebSocket-Key: {KEY.decode()}",
        "Sec-WebSocket-Version: 13",
        *chosen.header,
    ]
    request = ("\r\n".join(lines) + "\r\n\r\n").encode()
    with SharedPage(chosen.shared) as page:
        print(json.dumps(count(page, chosen, request)))
    return 0


def count(page: SharedPage, chosen: argparse.Namespace, request: bytes) -> dict[str, Any]:
    began = time.monotonic()
    selector = selectors.DefaultSelector()
    connections = []
    for index in range(chosen.clients):
        connection = Connection(chosen.port, request, small=index >= chosen.clients - chosen.stall)
        connections.append(connection)
        selector.register(connection.socket, selectors.EVENT_READ, connection)
    counter = Counter(page, connections)
    end, stalling = "stopped", False
    while not page.words[STOP]:
        if time.monotonic() - began > chosen.seconds:
            end = "deadline"
            break
        if chosen.stall and not stalling and page.words[STALL]:
            stalling = True
            for connection in connections[-chosen.stall :]:
                connection.reading = False
                selector.unregister(connection.socket)
        ready = selector.select(0.01)
        slot = page.words[SLOT]
        for key, _ in ready:
            if key.data.reading:
                counter.readable(key.data, slot)
                if not key.data.open:
                    selector.unregister(key.fileobj)
        if ready:
            least = page.words[MIN_SEQUENCE] = counter.slowest()
            if chosen.messages and least >= chosen.messages:
                end = "messages"
                break
            if not any(connection.open for connection in connections):
                end = "closed"
                break
    least = counter.slowest()
    for connection in connections:
        if connection.open:
            connection.send(0x8, b"\x03\xe8")
            connection.socket.close()
    page.words[CONNECTED] = 0
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "end": end,
        "clients": chosen.clients,
        "min_sequence": least,
        **counter.counts,
        "cpu_seconds": usage.ru_utime + usage.ru_stime,
        "seconds": time.monotonic() - began,
        "latency_ns": [quantiles(values) for values in counter.latencies[1:]],
    }


if __name__ == "__main__":
    sys.exit(main())
