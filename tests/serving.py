"""Real servers, clients and child processes for tests; all on loopback, on ports that were free."""

import base64
import contextlib
import json
import logging
import os
import queue
import socket
import struct
import subprocess
import sys
import threading
import time
import tomllib
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, TypeAlias

import uvicorn
from websockets.sync.client import ClientConnection, connect

from bridge.server.uvicorn_protocol import websocket_protocol

ROOT = Path(__file__).parent.parent
PATIENCE_SECONDS = 20.0
Message: TypeAlias = dict[str, Any]


def eventually(condition: Callable[[], Any], what: str = "", timeout: float = PATIENCE_SECONDS) -> None:
    """Return as soon as ``condition()`` is true; fail after ``timeout`` seconds."""
    deadline = time.monotonic() + timeout
    pause = threading.Event()
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"did not happen within {timeout:g} s: {what or condition}")
        pause.wait(0.005)


def listening_socket(host: str = "127.0.0.1") -> socket.socket:
    """A socket that listens on a free port."""
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((host, 0))
    listener.listen(256)
    return listener


def free_port() -> int:
    """A port that was free a moment ago."""
    with listening_socket() as listener:
        return int(listener.getsockname()[1])


class Served:
    """A running uvicorn."""

    def __init__(self, server: uvicorn.Server, thread: threading.Thread, host: str, port: int) -> None:
        self.server = server
        self.thread = thread
        self.port = port
        self.address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    def ws(self, path: str = "/ws/monitor") -> str:
        return f"ws://{self.address}{path}"

    def client(self, path: str = "/ws/monitor", **options: Any) -> ClientConnection:
        """A client like any other, connected."""
        client: ClientConnection = connect(self.ws(path), proxy=None, compression=None, max_size=None, **options)
        return client

    def stop(self, timeout: float = PATIENCE_SECONDS) -> None:
        self.server.should_exit = True
        self.thread.join(timeout)
        assert not self.thread.is_alive(), "uvicorn did not end"


_UVICORN_LOGGERS = ("uvicorn", "uvicorn.error", "uvicorn.access", "uvicorn.asgi")


@contextlib.contextmanager
def kept_loggers(*names: str) -> Iterator[None]:
    """Leave these loggers as they were."""
    kept = []
    for logger in (logging.getLogger(name or None) for name in names):
        kept.append((logger, logger.level, logger.propagate, logger.disabled, logger.handlers[:]))
    try:
        yield
    finally:
        for logger, level, propagate, disabled, handlers in kept:
            logger.setLevel(level)
            logger.propagate, logger.disabled = propagate, disabled
            logger.handlers[:] = handlers


@contextlib.contextmanager
def serve(app: Any, host: str = "127.0.0.1", **config: Any) -> Iterator[Served]:
    """Serve an ASGI application with uvicorn in a thread; the configuration is uvicorn's own, less its logging."""
    config.setdefault("log_config", None)
    config.setdefault("timeout_graceful_shutdown", 5)
    config.setdefault("loop", "asyncio")
    if config.get("ws") == "joined":
        config["ws"] = websocket_protocol()
    with kept_loggers(*_UVICORN_LOGGERS), listening_socket(host) as listener:
        server = uvicorn.Server(uvicorn.Config(app, **config))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, name="test-uvicorn")
        thread.start()
        served = Served(server, thread, host, listener.getsockname()[1])
        try:
            eventually(lambda: server.started or not thread.is_alive(), "uvicorn starts")
            yield served
        finally:
            served.stop()
            for connection in list(server.server_state.connections):
                # uvicorn gave it up when its time was over, and ended its loop: nobody else closes the descriptor.
                transport: Any = connection.transport
                transport._sock.close()
                transport._sock = None


def receive(client: ClientConnection, count: int) -> list[Message]:
    """The next ``count`` messages."""
    return [json.loads(client.recv(timeout=PATIENCE_SECONDS)) for _ in range(count)]


def receive_until(client: ClientConnection, last: Callable[[Message], bool]) -> list[Message]:
    """The next messages up to the first for which ``last(message)`` is true, that one included."""
    messages = []
    while True:
        messages.append(json.loads(client.recv(timeout=PATIENCE_SECONDS)))
        if last(messages[-1]):
            return messages


def texts(messages: list[Message]) -> list[str]:
    """What the records say."""
    return [message["data"]["message"] for message in messages]


def says(text: str) -> Callable[[Message], bool]:
    """Whether a record's message is ``text``."""
    return lambda message: bool(message["data"]["message"] == text)


class RawClient:
    """A client of a few lines: it parses frames without decoding them, and reads only if it is told to."""

    def __init__(self, port: int, *, receive_buffer: int | None = None) -> None:
        self.socket = socket.socket()
        if receive_buffer is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.settimeout(PATIENCE_SECONDS)
        self.socket.connect(("127.0.0.1", port))
        self.payloads: list[bytes] = []
        self.close: int | None = None
        self._buffer = b""

    def ask(self) -> None:
        key = base64.b64encode(os.urandom(16)).decode()
        self.socket.sendall(
            "GET /ws/monitor HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )

    def handshake(self) -> "RawClient":
        self.ask()
        while b"\r\n\r\n" not in self._buffer:
            self._buffer += self.socket.recv(4_096)
        head, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 101"), head
        return self

    def read(self, until: int | None = None) -> None:
        """Read up to ``until`` records, or to the end of the connection."""
        while self.close is None and (until is None or len(self.payloads) < until):
            data = self.socket.recv(1 << 16)
            if not data:
                return
            self._buffer += data
            self._parse()

    def _parse(self) -> None:
        buffer, at = self._buffer, 0
        while len(buffer) - at >= 2:
            opcode, length, start = buffer[at] & 0x0F, buffer[at + 1] & 0x7F, at + 2
            if length == 126:
                length, start = int.from_bytes(buffer[at + 2 : at + 4]), at + 4
            elif length == 127:
                length, start = int.from_bytes(buffer[at + 2 : at + 10]), at + 10
            if len(buffer) < start + length:
                break
            payload, at = buffer[start : start + length], start + length
            if opcode == 1:
                self.payloads.append(payload)
            elif opcode == 8:
                self.close = int.from_bytes(payload[:2])
        self._buffer = buffer[at:]

    def __enter__(self) -> "RawClient":
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def reset(self) -> None:
        """End it with a TCP reset."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def messages(self) -> list[str]:
        return [json.loads(payload)["data"]["message"] for payload in self.payloads]


class Child:
    """A child process whose output is read line by line as it comes."""

    def __init__(self, *arguments: str, env: Mapping[str, str] | None = None, cwd: Path | None = None) -> None:
        self.process = subprocess.Popen(
            arguments,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            bufsize=1,
            env=environment() if env is None else dict(env),
            cwd=cwd or ROOT,
        )
        self.lines: list[str] = []
        self._queue: queue.Queue[str | None] = queue.Queue()
        self._thread = threading.Thread(target=self._read, name="test-child-output")
        self._thread.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.rstrip("\n"))
            self._queue.put(self.lines[-1])
        self._queue.put(None)

    def line(self, containing: str = "", timeout: float = PATIENCE_SECONDS) -> str:
        """The next line with that text; fails if the output ends before."""
        deadline = time.monotonic() + timeout
        while True:
            try:
                line = self._queue.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                line = None
            if line is None:
                raise AssertionError(f"no line with {containing!r} in:\n" + "\n".join(self.lines))
            if containing in line:
                return line

    def wait(self, timeout: float = PATIENCE_SECONDS) -> int:
        """Its exit code, once it has ended and all its output is in ``lines``."""
        try:
            code = self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running after {timeout:g} s:\n" + "\n".join(self.lines)) from None
        self._thread.join(PATIENCE_SECONDS)
        return code

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self._thread.join(PATIENCE_SECONDS)
        assert self.process.stdout is not None
        self.process.stdout.close()


@contextlib.contextmanager
def child(*arguments: str, env: Mapping[str, str] | None = None, cwd: Path | None = None) -> Iterator[Child]:
    """A child process, killed at the end if it still runs."""
    process = Child(*arguments, env=env, cwd=cwd)
    try:
        yield process
    finally:
        process.end()


def environment(**variables: str) -> dict[str, str]:
    """This environment without what would configure OpenTelemetry, the bridge or a server, and with ``variables``."""
    kept = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith(("OTEL_", "BRIDGE_", "UVICORN_", "GUNICORN_")) and key != "WEB_CONCURRENCY"
    }
    import bridge

    # The package that this process tests, installed or not; in front of it nothing of the current directory.
    package_folder = str(Path(bridge.__file__).parent.parent)
    path = [package_folder, kept["PYTHONPATH"]] if kept.get("PYTHONPATH") else [package_folder]
    return kept | {"PYTHONPATH": os.pathsep.join(path), "PYTHONUNBUFFERED": "1"} | variables


def run_python(script: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a script in a fresh interpreter; its output is text."""
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", script, *arguments],
        env=environment(**variables),
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS * 2,
        check=False,
        cwd=ROOT,
    )


def register_entry_point(folder: Path) -> None:
    """Lay the package's metadata into a folder of the import path, where the package is not installed."""
    group = "opentelemetry_logs_exporter"
    if "bridge" in entry_points(group=group).names:
        return
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    info = folder / f"otel_audit_bridge-{project['version']}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    (info / "entry_points.txt").write_text(f"[{group}]\nbridge = {project['entry-points'][group]['bridge']}\n")
