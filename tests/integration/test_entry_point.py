"""``OTEL_LOGS_EXPORTER=bridge opentelemetry-instrument``: the exporter that brings its own server."""

import contextlib
import socket
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from opentelemetry._logs import LogRecord
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import SimpleLogRecordProcessor
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from bridge import autostart
from bridge.autostart import AutostartExporter
from bridge.live.hub import process_hub
from tests.serving import (
    PATIENCE_SECONDS,
    Child,
    child,
    environment,
    eventually,
    free_port,
    listening_socket,
    receive,
    receive_until,
    register_entry_point,
    says,
    texts,
)
from tests.telemetry import new_provider

# A small service: GET /log/<text>, /native/<text>, /setup, /shutdown and /quit.
SERVICE = """
import http.server, logging, sys
from opentelemetry._logs import LogRecord, get_logger

logging.getLogger().setLevel(logging.DEBUG if "--debug" in sys.argv else logging.INFO)
bridge = None

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        global bridge
        _, what, text = (self.path + "/").split("/")[:3]
        if what == "log":
            logging.getLogger("shop").info(text)
        elif what == "audit":
            logging.getLogger("audit.role").warning(text, extra={"action": "role_grant"})
        elif what == "native":
            get_logger("native").emit(LogRecord(body=text))
        elif what == "setup":
            import bridge as package
            bridge = package.setup()
        elif what == "shutdown":
            bridge.shutdown()
        self.send_response(204)
        self.end_headers()
        self.server.going_on = what != "quit"

    def log_message(self, *arguments):
        pass

server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
server.going_on = True
print("listening on", server.server_port, flush=True)
while server.going_on:
    server.handle_request()
logging.getLogger("shop").info("last words")
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The service; and the package's metadata, where it is not installed."""
    (tmp_path / "service.py").write_text(SERVICE)
    register_entry_point(tmp_path)
    return tmp_path


class Instrumented:
    """The service under opentelemetry-instrument."""

    def __init__(self, process: Child) -> None:
        self.process = process
        self.port = int(process.line("listening on").split()[-1])

    def get(self, path: str) -> None:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/{path}", timeout=PATIENCE_SECONDS):
            pass

    def said(self, start: str) -> list[str]:
        return [line for line in self.process.lines if line.startswith(f"audit-bridge: {start}")]


@contextlib.contextmanager
def instrumented(folder: Path, *arguments: str, **variables: str) -> Iterator[Instrumented]:
    script = Path(sys.executable).parent / "opentelemetry-instrument"
    env = environment(
        OTEL_LOGS_EXPORTER="bridge",
        OTEL_TRACES_EXPORTER="none",
        OTEL_METRICS_EXPORTER="none",
        OTEL_PYTHON_LOGGING_AUTO_INSTRUMENTATION_ENABLED="true",
        OTEL_PYTHON_DISABLED_INSTRUMENTATIONS="fastapi,starlette,asgi,requests,urllib,urllib3",
        OTEL_BLRP_SCHEDULE_DELAY="50",
        **variables,
    )
    env["PYTHONPATH"] = f"{folder}:{env['PYTHONPATH']}"
    with child(sys.executable, str(script), sys.executable, "service.py", *arguments, env=env, cwd=folder) as process:
        yield Instrumented(process)


def watch(port: int) -> ClientConnection:
    """A client, as soon as there is a server."""
    found: list[ClientConnection] = []

    def connected() -> bool:
        with contextlib.suppress(OSError):
            found.append(connect(f"ws://127.0.0.1:{port}/ws/monitor", proxy=None, compression=None))
        return bool(found)

    eventually(connected, f"a server on port {port}")
    return found[0]


def test_without_code(folder: Path) -> None:
    """Records of a service that knows nothing of us arrive at BRIDGE_PORT, the last ones too, and then a goodbye."""
    port = free_port()
    with instrumented(folder, BRIDGE_PORT=str(port), OTEL_SERVICE_NAME="shop") as service:
        service.get("log/first")
        with watch(port) as client:
            service.get("log/second")
            service.get("audit/third")
            service.get("native/fourth")
            messages = [
                message
                for message in receive_until(client, says("fourth"))
                if message["data"]["logger"] != "uvicorn.error"
            ]
            assert texts(messages) == ["second", "third", "fourth"]
            assert [message["type"] for message in messages] == ["system_log", "audit_log", "system_log"]
            assert messages[1]["data"]["action"] == "role_grant"
            service.get("quit")
            receive_until(client, says("last words"))
            with pytest.raises(ConnectionClosed) as closed:
                receive(client, 1)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1001
        assert service.process.wait() == 0
        assert service.said("") == [
            f"audit-bridge: WARNING: live view of this process: http://127.0.0.1:{port}/ "
            "(audit records have no durable trail in this mode)"
        ]


def test_a_taken_port(folder: Path) -> None:
    """A port that is taken is one warning, and the service goes on."""
    with listening_socket() as other:
        port = other.getsockname()[1]
        with instrumented(folder, BRIDGE_PORT=str(port)) as service:
            for number in range(5):
                service.get(f"log/{number}")
                service.get(f"native/{number}")
            service.process.line("the live view is off")
            service.get("quit")
            assert service.process.wait() == 0
    (line,) = service.said("")
    assert line.startswith(f"audit-bridge: WARNING: the live view is off: can't listen on 127.0.0.1:{port} (taken)")


def test_a_later_setup(folder: Path) -> None:
    """setup() adopts hub and port: every record is shown there once; after its shutdown the exporter goes on alone."""
    port = free_port()
    with instrumented(folder, BRIDGE_PORT=str(port)) as service:
        service.get("log/first")
        with watch(port) as client:
            service.get("setup")
            for number in range(10):
                service.get(f"log/l{number}")
                service.get(f"native/n{number}")
                service.get(f"audit/a{number}")
            service.get("log/end")
            found = texts(receive_until(client, says("end")))
            # Native records that the batch processor has kept may come after it.
            expected = sorted(f"{kind}{number}" for number in range(10) for kind in "lna")
            assert sorted(text for text in found if re_record(text)) == expected
            service.get("shutdown")
            with pytest.raises(ConnectionClosed):
                receive_until(client, says("never"))

        def goes_on() -> bool:
            # Until the exporter has its next record, clients are still told goodbye.
            service.get("native/alone")
            with contextlib.suppress(ConnectionClosed), watch(port) as again:
                service.get("native/alone")
                return says("alone")(receive(again, 1)[0])
            return False

        eventually(goes_on)
        service.get("quit")
        assert service.process.wait() == 0
    assert not [line for line in service.process.lines if "Traceback" in line]


def re_record(text: str) -> bool:
    return text[:1] in "lna" and text[1:].isdigit()


def test_it_does_not_feed_itself(folder: Path) -> None:
    """With the root logger at DEBUG, what carries the frames is not logged into them."""
    port = free_port()
    with instrumented(folder, "--debug", BRIDGE_PORT=str(port)) as service:
        service.get("log/first")
        with watch(port) as client:
            service.get("log/once")
            receive_until(client, says("once"))
            after: list[Any] = []
            with contextlib.suppress(TimeoutError):
                while len(after) < 20:
                    after.append(client.recv(timeout=2.0))
            assert len(after) < 5, after
        service.get("quit")
        assert service.process.wait() == 0


@pytest.mark.parametrize(
    ("variables", "start"),
    [
        ({"BRIDGE_PORT": "x"}, "ERROR: the live view is off: BRIDGE_PORT='x': must be a whole number"),
        ({"BRIDGE_HOST": "0.0.0.0"}, "WARNING: the live view is off: host='0.0.0.0': other machines"),
        ({"BRIDGE_DISABLED": "true"}, ""),
    ],
    ids=["bad-setting", "no-token", "disabled"],
)
def test_off(variables: dict[str, str], start: str, folder: Path) -> None:
    """A setting that can't be, or the kill switch, takes the live view away and nothing else."""
    with instrumented(folder, **({"BRIDGE_PORT": str(free_port())} | variables)) as service:
        service.get("log/first")
        service.get("native/second")
        service.get("quit")
        assert service.process.wait() == 0
    said = service.said("")
    assert [line.removeprefix("audit-bridge: ")[: len(start)] for line in said] == ([start] if start else [])


# -- in this process --------------------------------------------------------------------------------------------------


@pytest.fixture
def provider() -> Iterator[LoggerProvider]:
    provider = new_provider()
    yield provider
    provider.shutdown()


def test_without_a_record_nothing_is_served(provider: LoggerProvider, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server starts with the first record, not before; shutdown() stops it; a new exporter may start another."""
    port = free_port()
    monkeypatch.setenv("BRIDGE_PORT", str(port))
    for round_number in range(2):
        own = new_provider()
        exporter = AutostartExporter()
        own.add_log_record_processor(SimpleLogRecordProcessor(exporter))
        assert autostart.running_server() is None
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port), 1)
        own.get_logger("a").emit(LogRecord(body="first"))
        with watch(port) as client:
            own.get_logger("a").emit(LogRecord(body=f"second {round_number}"))
            assert texts(receive(client, 1)) == [f"second {round_number}"]
        eventually(lambda: process_hub().clients == 0)
        own.shutdown()
        assert autostart.running_server() is None


def test_disabled_keeps_nothing(provider: LoggerProvider, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the kill switch no record is kept."""
    monkeypatch.setenv("BRIDGE_DISABLED", "1")
    provider.add_log_record_processor(SimpleLogRecordProcessor(AutostartExporter()))
    provider.get_logger("a").emit(LogRecord(body="unseen"))
    assert process_hub().statistics().system == 0
    assert autostart.running_server() is None
