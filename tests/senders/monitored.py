"""A real `audit-bridge serve`, on ports that were free, and clients of its monitor that keep all they are told."""

import contextlib
import json
import re
import signal
import socket
import sys
import threading
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from tests.serving import PATIENCE_SECONDS, Child, Message, child, environment, eventually

SAID = re.compile(r"audit-bridge serve: (http://127\.0\.0\.1:(\d+))/ .*; OTLP in: (http\S+:(\d+)), gRPC port (\d+)\)")
RECORDS = ("system_log", "audit_log")


class Watcher:
    """A version 2 client in a thread of its own; ``records`` and ``gaps`` are messages, as they came."""

    def __init__(self, client: ClientConnection) -> None:
        self.records: list[Message] = []
        self.gaps: list[Message] = []
        self._ready = threading.Event()
        self._client = client
        self._thread = threading.Thread(target=self._read, name="test-watcher")
        self._thread.start()

    def _read(self) -> None:
        with contextlib.suppress(ConnectionClosed):
            for text in self._client:
                message = json.loads(text)
                if message["type"] in RECORDS:
                    self.records.append(message)
                elif message["type"] == "batch":
                    self.records.extend(message["data"])
                elif message["type"] == "gap":
                    self.gaps.append(message)
                elif message["type"] == "ready":
                    self._ready.set()
        self._ready.set()

    def ready(self) -> None:
        """Wait until it sees whatever comes from now on."""
        assert self._ready.wait(PATIENCE_SECONDS)

    def close(self) -> None:
        """End it."""
        self._client.close()
        self._thread.join(PATIENCE_SECONDS)

    def wanted(self, wanted: Callable[[Message], bool]) -> list[Message]:
        """The records that are asked for, so far."""
        return [each for each in list(self.records) if wanted(each)]

    def wait_for(
        self, count: int, wanted: Callable[[Message], bool] = lambda _: True, timeout: float = PATIENCE_SECONDS
    ) -> list[Message]:
        """The first ``count`` records that are asked for, once there are as many."""
        try:
            eventually(lambda: len(self.wanted(wanted)) >= count, timeout=timeout)
        except AssertionError:
            found = [each["data"]["message"] for each in self.wanted(wanted)]
            raise AssertionError(f"{len(found)} of {count} records in {timeout:g} s: {found[:200]}") from None
        return self.wanted(wanted)

    def texts(self, wanted: Callable[[Message], bool] = lambda _: True) -> list[str]:
        """What the records say that are asked for."""
        return [each["data"]["message"] for each in self.wanted(wanted)]

    def assert_nothing_missed(self) -> None:
        """Between the first record and the last, the monitor has sent all that it has shown, each once."""
        assert self.gaps == []
        numbers = [int(each["cursor"].partition(":")[2]) for each in self.records]
        assert numbers == list(range(numbers[0], numbers[0] + len(numbers))) if numbers else True


@contextlib.contextmanager
def watched_at(url: str, query: str = "") -> Iterator[Watcher]:
    """A client of any live view, that sees whatever comes from now on."""
    url = f"{url.replace('http', 'ws', 1)}/ws/monitor?v=2{query}"
    with connect(url, proxy=None, compression=None, max_size=None) as client:
        watcher = Watcher(client)
        try:
            watcher.ready()
            yield watcher
        finally:
            watcher.close()


class Monitor:
    """A running monitor."""

    def __init__(self, process: Child) -> None:
        self.process = process
        found = SAID.search(process.line("audit-bridge serve: "))
        assert found, process.lines
        self.url, self.http_endpoint = found[1], found[3]
        self.view_port, self.http_port, self.grpc_port = int(found[2]), int(found[4]), int(found[5])
        self.grpc_endpoint = f"http://127.0.0.1:{self.grpc_port}"

    def endpoint(self, protocol: str) -> str:
        """Where a sender with this protocol, or ``view``, sends to."""
        return {"grpc": self.grpc_endpoint, "view": self.url}.get(protocol, self.http_endpoint)

    def watched(self, query: str = "") -> contextlib.AbstractContextManager[Watcher]:
        """A client, that sees whatever comes from now on."""
        return watched_at(self.url, query)

    def statistics(self) -> dict[str, Any]:
        """What it counts."""
        with urllib.request.urlopen(f"{self.url}/api/stats", timeout=PATIENCE_SECONDS) as answer:
            found: dict[str, Any] = json.load(answer)
        return found

    def stop(self) -> str:
        """Ctrl-C, and an orderly end; its last line."""
        self.process.process.send_signal(signal.SIGINT)
        assert self.process.wait() == 0, self.process.lines
        return self.process.lines[-1]


def arguments(view: int = 0, http: int = 0, grpc: int = 0) -> list[str]:
    """The command."""
    ports = ["--port", str(view), "--otlp-http-port", str(http), "--otlp-grpc-port", str(grpc)]
    return [sys.executable, "-m", "bridge", "serve", *ports]


@contextlib.contextmanager
def monitor(**variables: str) -> Iterator[Monitor]:
    """A monitor, killed at the end if it still runs."""
    with child(*arguments(), env=environment(**variables)) as process:
        yield Monitor(process)


def listens(port: int) -> bool:
    """Whether anybody does."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


def once_each(found: list[str], expected: list[str]) -> None:
    """All of them, none twice, in any order; a failure says how many, and which first."""
    counts = Counter(found)
    twice = [text for text, count in counts.items() if count > 1]
    missing = [text for text in expected if text not in counts]
    unknown = sorted(set(counts) - set(expected))
    assert (missing[:5], twice[:5], unknown[:5]) == ([], [], []), (len(missing), len(twice), len(unknown))


def run_to_the_end(*command: str, cwd: Path | None = None, timeout: float = PATIENCE_SECONDS) -> list[str]:
    """A program's lines, once it has ended well."""
    with child(*command, cwd=cwd) as process:
        assert process.wait(timeout) == 0, "\n".join(process.lines)
        return process.lines
