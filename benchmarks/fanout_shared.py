"""A page of counters that the server process and the counting client both see; client/fanout.h has the same numbers."""

from __future__ import annotations

import mmap
import os
import resource
from pathlib import Path
from types import TracebackType

PAGE_BYTES = 4096

# Written by the client: connections past the handshake, messages so far over all of them, and the lowest sequence
# number among the connections that read.
CONNECTED, RECEIVED, MIN_SEQUENCE = 0, 1, 2
# Written by the server: end now; stop reading the connections that are to stall; the latency histogram to record in,
# 0 for none.
STOP, STALL, SLOT = 8, 9, 10


class SharedPage:
    """64-bit words in a file mapped by two processes. Aligned words are read and written whole."""

    def __init__(self, path: Path, *, create: bool = False) -> None:
        self.path = path
        if create:
            path.write_bytes(bytes(PAGE_BYTES))
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), PAGE_BYTES)
        self._bytes = memoryview(self._map)
        self.words = self._bytes.cast("Q")

    def __enter__(self) -> SharedPage:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.words.release()
        self._bytes.release()
        self._map.close()

    @property
    def connected(self) -> int:
        return self.words[CONNECTED]

    @property
    def received(self) -> int:
        return self.words[RECEIVED]

    @property
    def min_sequence(self) -> int:
        return self.words[MIN_SEQUENCE]

    def stop(self) -> None:
        self.words[STOP] = 1

    def stall(self) -> None:
        self.words[STALL] = 1

    def record_latency(self, slot: int) -> None:
        self.words[SLOT] = slot


def allow_many_sockets() -> None:
    """As many open files as the hard limit has: 500 clients are more than many a soft limit."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def resident_bytes() -> int:
    """Memory of this process now; where there is no /proc, the most that it ever had."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return pages * os.sysconf("SC_PAGE_SIZE")
