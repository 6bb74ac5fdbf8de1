"""Every code block of the documentation does what it says.

A page is run from top to bottom in a folder of its own. `python` blocks run in one namespace, each `setup()` on a clean
process; one with a title is the file of that name, for the page's commands. In `console` blocks every line after `$ `
is a command; the lines below it stand in its output, in that order (`…` is any text). A command that printed them may
go on running until the end of the page, or until the page starts it anew; one `audit-bridge serve` takes the place of
another. Version 1 messages in `json` blocks have to be printed by a command of the page, times apart.

Ports are exchanged for free ones; a page that sends to 4318, and runs no `serve`, finds a collector there. `make` and
`pip` are not run, but checked; `curl` and `jq` are played, and `node` is left out where there is none with a WebSocket.
"""

from __future__ import annotations

import argparse
import http.client
import json
import logging
import os
import re
import runpy
import shlex
import shutil
import socket
import subprocess
import sys
import threading
import time
import tomllib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import pytest
from sybil import Document
from sybil.parsers.markdown.lexers import RawFencedCodeBlockLexer
from websockets.sync.client import connect

import bridge
from bridge import assembly
from bridge.cli import parser as command_line
from bridge.server.standalone import StandaloneServer, bind
from tests.serving import eventually, kept_loggers

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
PORTS = ("8000", "8765", "4317", "4318")
PATIENCE_SECONDS = 20.0


class Block(NamedTuple):
    language: str
    title: str
    text: str
    line: int


def blocks_of(page: Path) -> list[Block]:
    document = Document(page.read_text(), str(page))
    lexer = RawFencedCodeBlockLexer(re.compile(r"(?P<language>\w*)(?P<info>[^\n]*)$\n", re.MULTILINE))
    found = []
    for region in lexer(document):
        title = re.search(r'title="([^"]+)"', region.lexemes["info"])
        line = document.text.count("\n", 0, region.start) + 2
        source = region.lexemes["source"]
        found.append(Block(region.lexemes["language"], title[1] if title else "", str(source), line))
    return found


# -- commands ---------------------------------------------------------------------------------------------------------


class Command(NamedTuple):
    line: str
    words: list[str]
    environ: dict[str, str]
    output: list[str]


def commands_of(text: str) -> list[Command]:
    found: list[Command] = []
    lines = iter(text.splitlines())
    for line in lines:
        if line.startswith("$ "):
            line = line[2:]
            while line.endswith("\\"):
                line = line[:-1] + next(lines).strip()
            words = shlex.split(line, comments=True)
            environ: dict[str, str] = {}
            while words and (setting := re.fullmatch(r"([A-Z_][A-Z0-9_]*)=(.*)", words[0])):
                environ[setting[1]] = setting[2]
                del words[0]
            found.append(Command(line, words, environ, []))
        elif line.strip():
            assert found, f"output without a command: {line}"
            found[-1].output.append(line)
    return found


def check_make(words: list[str]) -> None:
    targets = set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert {word for word in words[1:] if "=" not in word} <= targets


def check_pip(words: list[str]) -> None:
    assert words[1] == "install", words
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    locked = set(re.findall(r"^([a-z0-9._-]+)==", (ROOT / "requirements.lock").read_text(), re.MULTILINE))
    for word in words[2:]:
        requirement = re.fullmatch(r"(\.|[a-z0-9-]+)(?:\[([a-z,]+)\])?", word)
        assert requirement, word
        if requirement[1] in (project["name"], "."):
            extras = set(requirement[2].split(",")) if requirement[2] else set()
            assert extras <= set(project["optional-dependencies"]), word
        else:
            assert requirement[1] in locked, word


def curl(words: list[str]) -> str:
    """What curl would print. A bare Debian has none."""
    parser = argparse.ArgumentParser(exit_on_error=False)
    parser.add_argument("-X", default="GET")
    parser.add_argument("-H", action="append", default=[])
    parser.add_argument("url")
    given = parser.parse_args(words[1:])
    url = urlsplit(given.url)
    assert url.hostname
    connection = http.client.HTTPConnection(url.hostname, url.port, timeout=10)
    try:
        connection.request(given.X, url.path or "/", headers=dict(header.split(": ", 1) for header in given.H))
        return connection.getresponse().read().decode()
    finally:
        connection.close()


JQ = """
import json, sys
assert sys.argv[1] == "-r"
for line in sys.stdin:
    value = json.loads(line)
    for key in sys.argv[2].split(".")[1:]:
        value = None if value is None else value.get(key)
    print(value if isinstance(value, str) else json.dumps(value), flush=True)
"""
"""As much of jq as the pages need: a path."""


@cache
def node() -> list[str] | None:
    """A Node that has a WebSocket, as a command."""
    found = shutil.which("node")
    if found is None:
        return None
    script = "new WebSocket('ws://127.0.0.1:9').onerror = () => process.exit(0)"
    for options in ([], ["--experimental-websocket"]):
        tried = subprocess.run([found, *options, "-e", script], capture_output=True, check=False, timeout=30)
        if tried.returncode == 0:
            return [found, *options, "--no-warnings"]
    return None


def executable(words: list[str]) -> list[str]:
    if "|" in words:
        at = words.index("|")
        return ["sh", "-c", f"{shlex.join(executable(words[:at]))} | {shlex.join(executable(words[at + 1 :]))}"]
    match words:
        case ["jq", *rest]:
            return [sys.executable, "-c", JQ, *rest]
        case ["node", script] if runs := node():
            return [*runs, script]
        case ["python", *rest]:
            return [sys.executable, *rest]
        case ["pytest" | "uvicorn" | "gunicorn", *rest]:
            return [sys.executable, "-m", words[0], *rest]
        case ["audit-bridge", *rest]:
            command_line().parse_args(rest)
            return [sys.executable, "-m", "bridge", *rest]
        case ["opentelemetry-instrument", *rest]:
            instrument = shutil.which(words[0], path=str(Path(sys.executable).parent))
            assert instrument, "opentelemetry-instrument is not installed beside this Python"
            return [instrument, *(executable(rest) if rest[0] == "python" else rest)]
    raise AssertionError(f"this harness can't run {words[0]!r}")


def environment(home: Path) -> dict[str, str]:
    """Of a user without any setting of ours."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("BRIDGE_", "OTEL_", "PYTEST_"))}
    if find_spec("opentelemetry.instrumentation.logging.handler") is None:
        kept["OTEL_PYTHON_LOGGING_AUTO_INSTRUMENTATION_ENABLED"] = "true"  # as the page says of older ones
    return {
        **kept,
        "HOME": str(home),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
        "PYTHONPATH": str(Path(bridge.__file__).parent.parent),
        "PYTHONUNBUFFERED": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
    }


class Running:
    """A process that was started here, and what it has printed."""

    def __init__(self, words: list[str], folder: Path, environ: dict[str, str] | None = None) -> None:
        self._log = folder / f"output-{time.monotonic_ns()}.txt"
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                words, cwd=folder, env=environment(folder) | (environ or {}), stdout=log, stderr=subprocess.STDOUT
            )

    @property
    def output(self) -> str:
        return self._log.read_text(errors="replace")

    def wait_for(self, wanted: list[str]) -> None:
        """Until it has printed ``wanted``; for its end, if nothing is wanted."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            ended = self.process.poll() is not None
            output = self.output
            if wanted and prints(output, wanted):
                return
            if ended:
                assert self.process.returncode == 0, output
                assert not wanted, f"it should have printed {wanted}, but printed\n{output}"
                return
            assert time.monotonic() < deadline, f"it should have printed {wanted or 'and ended'}, but printed\n{output}"
            time.sleep(0.02)

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait(10)


def prints(output: str, wanted: list[str]) -> bool:
    """Whether the lines of ``wanted`` are among those of ``output``, in this order."""
    lines = iter(output.splitlines())
    patterns = [re.compile(".*".join(map(re.escape, line.rstrip().split("…")))) for line in wanted]
    return all(any(pattern.fullmatch(line.rstrip()) for line in lines) for pattern in patterns)


# -- messages ---------------------------------------------------------------------------------------------------------

KEYS = {
    "system_log": ["timestamp", "level", "logger", "message", "module", "function", "line"],
    "audit_log": ["timestamp", "level", "logger", "message", "action", "metadata"],
}


def messages_in(text: str) -> list[dict[str, Any]]:
    """The version 1 messages among the lines of ``text``, without their times."""
    found = []
    for line in text.splitlines():
        if line.startswith('{"type":'):
            message = json.loads(line)
            del message["data"]["timestamp"]
            found.append(message)
    return found


def check_shape(line: str) -> None:
    message = json.loads(line)
    assert list(message) == ["type", "data"]
    allowed = KEYS[message["type"]]
    assert [key for key in allowed if key in message["data"]] == list(message["data"])
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", message["data"]["timestamp"])


# -- a page -----------------------------------------------------------------------------------------------------------


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


class Collector:
    """Answers OTLP/HTTP as a collector does, and counts the requests."""

    def __init__(self, port: int) -> None:
        self.paths: list[str] = []
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["content-length"]))
                collector.paths.append(self.path)
                self.send_response(200)
                self.send_header("content-type", "application/x-protobuf")
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()

    def stop(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@contextmanager
def untouched_logging() -> Iterator[None]:
    """The root logger as it was, whatever a page has configured."""
    root = logging.getLogger()
    level, handlers = root.level, list(root.handlers)
    try:
        yield
    finally:
        root.setLevel(level)
        root.handlers[:] = handlers


class PageRun:
    def __init__(self, page: Path, folder: Path, cleanup: ExitStack) -> None:
        self.page = page
        self.folder = folder
        self.cleanup = cleanup
        self.ports = {port: str(free_port()) for port in PORTS}
        self.namespace: dict[str, Any] = {"__name__": "__main__"}
        self.outputs: list[Running | str] = []
        self.running: dict[str, Running] = {}

    def here(self, text: str) -> str:
        """``text`` with this run's ports."""
        return re.sub(rf"\b(?:{'|'.join(PORTS)})\b", lambda match: self.ports[match[0]], text)

    def run(self) -> None:
        blocks = blocks_of(self.page)
        collector = None
        texts = [block.text for block in blocks if block.language in ("python", "console")]
        if any("4318" in text for text in texts) and not any("audit-bridge serve" in text for text in texts):
            collector = Collector(int(self.ports["4318"]))
            self.cleanup.callback(collector.stop)
        commands = " ".join(block.text for block in blocks if block.language == "console")
        for block in blocks:
            if block.title:
                assert re.search(rf"\b{re.escape(block.title.removesuffix('.py'))}\b", commands), (
                    f"{self.page.name}:{block.line}: no command on the page uses {block.title}"
                )
                (self.folder / block.title).write_text(self.here(block.text))
            elif block.language == "python":
                self.run_python(block)
            elif block.language == "console":
                for command in commands_of(self.here(block.text)):
                    self.run_command(command)
        for block in blocks:
            if block.language == "json":
                self.check_json(block)
        if collector is not None:
            assert set(collector.paths) == {"/v1/logs"}

    def run_python(self, block: Block) -> None:
        if "bridge.setup(" in block.text:
            assembly.reset_for_tests()
        code = compile("\n" * (block.line - 1) + self.here(block.text), str(self.page), "exec")
        exec(code, self.namespace)  # noqa: S102  (our own pages)

    def run_command(self, command: Command) -> None:
        words = command.words
        if words[:3] == ["python", "-m", "pip"]:
            words = words[2:]
        if words[0] == "make":
            check_make(words)
        elif words[0] == "pip":
            check_pip(words)
        elif words[0] == "node" and node() is None:
            assert (self.folder / words[1]).exists()
        elif words[0] == "curl":
            output = curl(words)
            assert prints(output, command.output), output
            self.outputs.append(output)
        else:
            for line, process in self.running.items():
                # One monitor takes the place of another: they share their ports.
                if line == command.line or ("audit-bridge serve" in line and words[1:2] == ["serve"]):
                    process.stop()
            # Where a page relies on the default ports.
            environ = {
                "BRIDGE_PORT": self.ports["8765"],
                "BRIDGE_OTLP_GRPC_PORT": self.ports["4317"],
                "BRIDGE_OTLP_HTTP_PORT": self.ports["4318"],
                **command.environ,
            }
            running = Running(executable(words), self.folder, environ)
            self.running[command.line] = running
            self.cleanup.callback(running.stop)
            self.outputs.append(running)
            running.wait_for(command.output)

    def check_json(self, block: Block) -> None:
        for line in block.text.splitlines():
            if line.startswith('{"type":'):
                check_shape(line)
        wanted = messages_in(self.here(block.text))
        if not wanted or not self.running:
            return
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            outputs = [output if isinstance(output, str) else output.output for output in self.outputs]
            printed = [message for output in outputs for message in messages_in(output)]
            missing = [message for message in wanted if message not in printed]
            if not missing:
                return
            assert time.monotonic() < deadline, f"not printed: {missing}\nprinted: {printed}"
            time.sleep(0.02)


@pytest.mark.timeout(180)
@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_blocks(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its blocks run, and show what the page shows."""
    monkeypatch.chdir(tmp_path)
    with ExitStack() as cleanup:
        cleanup.enter_context(untouched_logging())
        PageRun(page, tmp_path, cleanup).run()


# -- the README -------------------------------------------------------------------------------------------------------


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Any]:
    """Starts processes that end with the test."""
    with ExitStack() as cleanup:

        def start(*words: str, command: Sequence[str] = (sys.executable,)) -> Running:
            process = Running([*command, *words], tmp_path)
            cleanup.callback(process.stop)
            return process

        yield start


def test_readme_shows_what_its_service_sends(tmp_path: Path, running: Any) -> None:
    """The README's two messages are what a client gets from its service."""
    blocks = blocks_of(ROOT / "README.md")
    (tmp_path / "service.py").write_text(next(block.text for block in blocks if block.language == "python"))
    shown = messages_in("\n".join(block.text for block in blocks if block.language == "json"))
    assert [message["type"] for message in shown] == ["system_log", "audit_log"]
    port = free_port()
    running("-m", "uvicorn", "service:app", "--port", str(port)).wait_for(["…Uvicorn running on…"])
    with connect(f"ws://127.0.0.1:{port}/ws/monitor") as client:
        curl(["curl", "-X", "POST", f"http://127.0.0.1:{port}/roles/u17"])
        received = messages_in("\n".join(str(client.recv(timeout=10)) for _ in shown))
    assert received == shown


# -- clients that come back ------------------------------------------------------------------------------------------


@contextmanager
def served(app: Any, port: int) -> Iterator[int]:
    """The bridge's own server, for as long as the block."""
    server = StandaloneServer(app, bind("127.0.0.1", port, token=None))
    server.start()
    eventually(lambda: server.started)
    try:
        yield server.port
    finally:
        server.stop()


@pytest.mark.parametrize("title", ["follow.py", "follow.mjs"])
def test_client_comes_back(title: str, tmp_path: Path, running: Any) -> None:
    """Each record is printed once, in order; what was gone when the client came back is told where it is missing."""
    command = [sys.executable] if title.endswith(".py") else node()
    if command is None:
        pytest.skip("platform: there is no node with a WebSocket")
    page = ROOT / "docs" / "howto" / "write-a-client.md"
    (source,) = [block.text for block in blocks_of(page) if block.title == title]
    log = logging.getLogger("shop")
    with untouched_logging(), kept_loggers("shop"):
        log.setLevel(logging.INFO)
        b = bridge.setup(ring_system_records=4)

        def logged(first: int, last: int) -> None:
            for number in range(first, last + 1):
                log.info("n=%d", number)
            assert b.force_flush()

        logged(1, 4)
        with served(b.app, 0) as port:
            (tmp_path / title).write_text(source.replace("8765", str(port)))
            client = running(str(tmp_path / title), command=command)
            client.wait_for(["…n=4…"])
            logged(5, 6)
            client.wait_for(["…n=6…"])
        logged(7, 12)
        with served(b.app, port):
            client.wait_for(["…n=12…"])
            logged(13, 13)
            client.wait_for(["…n=13…"])
            client.stop()
        b.shutdown()
    printed = [match[1] or match[2] for match in re.finditer(r"n=(\d+)|(missing: .*)", client.output)]
    assert printed == [*"123456", "missing: evicted 2 0", "9", "10", "11", "12", "13"]


# -- examples/ --------------------------------------------------------------------------------------------------------


def test_fastapi_service_is_the_readme_service() -> None:
    """One service to keep right, not two."""
    service = next(block.text for block in blocks_of(ROOT / "README.md") if block.language == "python")
    assert service.strip() in (ROOT / "examples" / "fastapi_service.py").read_text()


def test_fastapi_service_and_watch(running: Any) -> None:
    """The watcher prints what the service logs, and says how the connection ended."""
    port = str(free_port())
    service = running(str(ROOT / "examples" / "fastapi_service.py"), port)
    service.wait_for(["…Uvicorn running on…"])
    watcher = running(str(ROOT / "examples" / "watch.py"), f"ws://127.0.0.1:{port}/ws/monitor")
    watcher.wait_for(["watching …"])
    curl(["curl", "-X", "POST", f"http://127.0.0.1:{port}/roles/u17"])
    watcher.wait_for(
        [
            "… WARNING orders: Granting admin to u17",
            '… AUDIT orders: Role granted (role_grant {"role": "admin"})',
        ]
    )
    service.stop()
    assert watcher.process.wait(10) == 1
    assert "closed: 10" in watcher.output


def test_native_logs_api(running: Any) -> None:
    """Records of the Logs API reach a client, audit records as such."""
    port = str(free_port())
    running(str(ROOT / "examples" / "native_logs_api.py"), port).wait_for(["…Uvicorn running on…"])
    watcher = running(str(ROOT / "examples" / "watch.py"), f"ws://127.0.0.1:{port}/ws/monitor")
    watcher.wait_for(
        [
            "… INFO thermostat.sensor: 19.5 °C in room 4",
            '… AUDIT audit.thermostat: Target set to 21 °C (target_set {"room": "4"})',
        ]
    )


def test_every_example_is_tested() -> None:
    """By its name, in this file."""
    names = [path.name for path in sorted((ROOT / "examples").glob("*.py"))]
    assert names == ["fastapi_service.py", "native_logs_api.py", "watch.py"]


@pytest.mark.parametrize("text", ["a\x1b[2Jb", "a\u202eb", "a\nb"])
def test_watch_shows_control_characters(text: str) -> None:
    """A record can't rewrite the watcher's terminal."""
    printable = runpy.run_path(str(ROOT / "examples" / "watch.py"))["printable"]
    assert printable(text).isprintable()


# -- the harness ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("output", "wanted", "expected"),
    [
        ("a\nb\nc", ["a", "c"], True),
        ("a\nb\nc", ["c", "a"], False),
        ("id 17 ok", ["id … ok"], True),
        ("id 17 bad", ["id … ok"], False),
    ],
)
def test_prints(output: str, wanted: list[str], expected: bool) -> None:
    """Lines are found whole, in order."""
    assert prints(output, wanted) is expected


def test_commands_of() -> None:
    """A command has its variables, its continuation and its output."""
    (first, second) = commands_of("$ A=1 b \\\n    c\nout\n$ d\n")
    assert (first.words, first.environ, first.output) == (["b", "c"], {"A": "1"}, ["out"])
    assert (second.words, second.environ, second.output) == (["d"], {}, [])
