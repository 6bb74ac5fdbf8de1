"""The transcripts on docs/reference/wire-protocol.md, replayed: a real service, a real server, a real client.

A transcript is a `text` block. What stands behind

- `#` is what the service does: Python, run here;
- `*` is what becomes of the connection: the address it is opened with, or the code and the reason of its end;
- `>` is what the client sends, and behind `<` what it gets: these messages, in this order, byte for byte.

Epochs, times, process numbers and UUIDs of the page stand for those of the run; `…` stands for any text. `stats` and
`heartbeat` come by the clock: where the page does not show them they are passed over.
"""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.frames import Close
from websockets.sync.client import ClientConnection, connect

import bridge
from bridge.live.session_v2 import SessionV2
from bridge.server.monitor import MonitorEndpoint
from bridge.server.standalone import StandaloneServer, bind
from tests.logging_state import fresh_logging
from tests.serving import PATIENCE_SECONDS, eventually, kept_loggers, serve

PAGE = Path(__file__).parent.parent / "docs" / "reference" / "wire-protocol.md"
SIGNS = "#*><"
BY_THE_CLOCK = ("stats", "heartbeat")


class Line(NamedTuple):
    sign: str
    text: str
    number: int


def transcripts_of(page: str) -> list[list[Line]]:
    """The blocks of which every line has one of the signs."""
    found = []
    for block in re.finditer(r"^```text\n(.*?)^```$", page, re.MULTILINE | re.DOTALL):
        start = page.count("\n", 0, block.start(1)) + 1
        lines = [line for line in enumerate(block[1].splitlines(), start) if line[1].strip()]
        if all(text[0] in SIGNS and text[1:2] == " " for _, text in lines):
            found.append([Line(text[0], text[2:].strip(), number) for number, text in lines])
    return found


TRANSCRIPTS = transcripts_of(PAGE.read_text())


def same_names(text: str, epochs: dict[str, str]) -> str:
    """``text`` with the page's names for what is different in every run."""
    for real, shown in epochs.items():
        text = text.replace(real, shown)
    text = re.sub(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", "<time>", text)
    text = re.sub(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", "<uuid>", text)
    return re.sub(r'"pid":\d+', '"pid":0', text)


def fits(expected: str, text: str) -> bool:
    """Whether a received text is what the page has, where ``…`` is any text."""
    return re.fullmatch(".*".join(map(re.escape, expected.split("…"))), text, re.DOTALL) is not None


class Replay:
    """One transcript."""

    def __init__(self, lines: list[Line], *, plain: bool = False) -> None:
        self.lines = lines
        self.plain = plain
        shown = [line.text for line in lines]
        self.epoch = next(match[1] for text in shown if (match := re.search(r'"epoch":"([0-9a-f]+)"', text)))
        self.url = ""
        self.servers = ExitStack()
        self.client: ClientConnection | None = None
        self.cleanup = ExitStack()
        self.names: dict[str, Any] = {
            "bridge": bridge,
            "logging": logging,
            "time": SimpleNamespace(sleep=self.sleep),
            "__name__": "__main__",
        }
        self.done = 0

    @property
    def bridge(self) -> Any:
        return self.names["b"]

    def run(self) -> None:
        for line in self.lines:
            try:
                match line.sign:
                    case "#":
                        self.service(line.text)
                    case "*":
                        self.connection(line.text)
                    case ">":
                        json.loads(line.text)
                        assert self.client is not None
                        self.client.send(line.text.replace(self.epoch, self.bridge.hub.epoch))
                    case "<":
                        self.expect(line.text)
            except AssertionError as error:
                raise AssertionError(f"{PAGE.name}:{line.number}: {line.text}\n{error}") from None

    def service(self, text: str) -> None:
        """Do what the service does, and see to it that the bridge has it."""
        self.done += 1
        exec(compile("\n" * (self.done - 1) + text, "shop.py", "exec"), self.names)  # noqa: S102  (our own page)
        if not self.url:
            self.url = self.start(self.bridge.app)
        assert self.bridge.force_flush()

    def start(self, app: Any) -> str:
        if self.plain:
            return self.servers.enter_context(serve(app, ws="websockets-sansio", log_level="error")).ws("")
        server = StandaloneServer(app, bind("127.0.0.1", 0, token=None))
        server.start()
        self.servers.callback(server.stop)
        eventually(lambda: server.started)
        return server.url.replace("http", "ws", 1)

    def sleep(self, seconds: float) -> None:
        """Not really: what comes by the clock is made due."""
        endpoint = next(
            route.endpoint for route in self.bridge.app.routes if isinstance(route.endpoint, MonitorEndpoint)
        )
        for fan_out in endpoint._fan_outs.values():
            for client in tuple(fan_out._clients):
                if isinstance(client.session, SessionV2):
                    client.session._next_heartbeat -= seconds
                    client.session._next_stats -= seconds

    def connection(self, text: str) -> None:
        if end := re.fullmatch(r"closed with (\d+): (.*)", text):
            assert self.client is not None
            frame = self.last_frame()
            assert frame is not None
            assert frame.code == int(end[1])
            assert fits(end[2], frame.reason), frame.reason
        else:
            assert text.startswith("/ws/monitor"), text
            self.leave()
            address = self.url + text.replace(self.epoch, self.bridge.hub.epoch)
            self.client = self.cleanup.enter_context(connect(address, proxy=None, compression=None))

    def last_frame(self) -> Close | None:
        """How the server ends the connection, with no message before that the page does not show."""
        assert self.client is not None
        try:
            while True:
                message = str(self.client.recv(timeout=PATIENCE_SECONDS))
                assert json.loads(message)["type"] in BY_THE_CLOCK, message
        except ConnectionClosed as closed:
            return closed.rcvd

    def expect(self, expected: str) -> None:
        assert self.client is not None
        expected = same_names(expected, {})
        wanted = re.match(r'\{"type":"(\w+)"', expected)
        assert wanted, "not a message"
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            received = str(self.client.recv(timeout=PATIENCE_SECONDS))
            text = same_names(received, {self.bridge.hub.epoch: self.epoch})
            if fits(expected, text):
                return
            # Those of the clock may have been on their way before what the page shows had happened.
            assert json.loads(received)["type"] in BY_THE_CLOCK, f"received: {received}"
            assert time.monotonic() < deadline, f"the last was: {received}"

    def leave(self) -> None:
        self.cleanup.close()
        self.client = None

    def stop(self) -> None:
        self.leave()
        if self.url:
            self.bridge.shutdown()
        self.servers.close()


@pytest.fixture
def fresh_service() -> Iterator[None]:
    """Logging as in a new process."""
    with fresh_logging(), kept_loggers("shop.orders", "audit"):
        yield


@pytest.mark.usefixtures("fresh_service")
@pytest.mark.parametrize("plain", [False, True], ids=["own-server", "any-server"])
@pytest.mark.parametrize("lines", TRANSCRIPTS, ids=lambda lines: f"line-{lines[0].number}")
def test_transcript(lines: list[Line], plain: bool) -> None:
    """A server says what the page says, be it the bridge's own or any other."""
    replay = Replay(lines, plain=plain)
    try:
        replay.run()
    finally:
        replay.stop()


def test_every_type_of_message_is_shown() -> None:
    """The page has each message in a transcript, sent and received."""
    shown = {
        (line.sign, match[1])
        for lines in TRANSCRIPTS
        for line in lines
        if line.sign in "<>" and (match := re.search(r'"type":"(\w+)"', line.text))
    }
    received = "hello ready subscribed history gap batch stats heartbeat pong error goodbye system_log audit_log"
    sent = "subscribe pause resume history ping"
    assert shown == {("<", name) for name in received.split()} | {(">", name) for name in sent.split()}


@pytest.mark.parametrize(
    ("expected", "text", "good"),
    [("a…c", "abbc", True), ("a…c", "abbd", False), ("a.c", "abc", False), ("…", "", True)],
)
def test_fits(expected: str, text: str, good: bool) -> None:
    """`…` is any text, and nothing else is."""
    assert fits(expected, text) is good


def test_transcripts_of() -> None:
    """Other text blocks are left alone."""
    page = "x\n```text\na ─► b\n```\n\n```text\n# b = 1\n\n> {}\n```\n"
    assert transcripts_of(page) == [[Line("#", "b = 1", 7), Line(">", "{}", 9)]]
