"""What the tests of capture and export share: providers, sinks that really listen, and waiting for a condition."""

from __future__ import annotations

import gzip
import json
import logging
import os
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from opentelemetry.sdk._logs import LoggerProvider, LogRecordProcessor, ReadableLogRecord, ReadWriteLogRecord
from opentelemetry.sdk._logs.export import (
    InMemoryLogRecordExporter,
    LogRecordExporter,
    LogRecordExportResult,
    SimpleLogRecordProcessor,
)
from opentelemetry.sdk.resources import Resource

import bridge
from bridge import diagnostics
from bridge.record.event import LogEvent

ROOT = Path(__file__).parent.parent
DEADLINE_SECONDS = 15.0


def wait_until(condition: Callable[[], Any], seconds: float = DEADLINE_SECONDS) -> Any:
    """The first true value of ``condition()``; fails the test when it does not come in time."""
    deadline = time.monotonic() + seconds
    pause = threading.Event()
    while not (value := condition()):
        assert time.monotonic() < deadline, "the condition did not come true in time"
        pause.wait(0.005)
    return value


def get_logger(name: str = "shop.server", level: int = logging.DEBUG) -> logging.Logger:
    logger = logging.getLogger(name)
    logger.setLevel(level)
    return logger


def new_provider(*processors: LogRecordProcessor, **attributes: str) -> LoggerProvider:
    provider = LoggerProvider(resource=Resource(attributes or {"service.name": "shop"}), shutdown_on_exit=False)
    for processor in processors:
        provider.add_log_record_processor(processor)
    return provider


class Team:
    """A team's provider, with what its processors got."""

    def __init__(self) -> None:
        self.memory: Any = InMemoryLogRecordExporter()  # type: ignore[no-untyped-call]
        self.provider = new_provider(SimpleLogRecordProcessor(self.memory))

    def setup(self, **arguments: Any) -> bridge.Bridge:
        return bridge.setup(logger_provider=self.provider, **arguments)

    @property
    def records(self) -> list[ReadableLogRecord]:
        return list(self.memory.get_finished_logs())

    @property
    def bodies(self) -> list[Any]:
        return [each.log_record.body for each in self.records]

    def only(self) -> tuple[Any, dict[str, Any]]:
        """The one record, and its attributes."""
        (record,) = self.records
        return record, dict(record.log_record.attributes or {})


def shown(b: bridge.Bridge) -> list[LogEvent]:
    """What the live view holds, oldest first."""
    return [entry.event for entry in b.hub.read(0, 1_000_000).entries]


def wires(b: bridge.Bridge) -> list[dict[str, Any]]:
    return [json.loads(entry.wire) for entry in b.hub.read(0, 1_000_000).entries]


def messages(b: bridge.Bridge) -> list[str]:
    return [event.message for event in shown(b)]


class Recorder(LogRecordProcessor):
    """Calls a function with every record; the base of processors that misbehave."""

    def __init__(self, on_emit: Callable[[ReadWriteLogRecord], Any]) -> None:
        self._on_emit = on_emit

    def on_emit(self, log_record: ReadWriteLogRecord) -> None:
        self._on_emit(log_record)

    def shutdown(self) -> None: ...

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return True


class FakeExporter(LogRecordExporter):
    """Keeps batches; ``answer`` is called for each and gives the result, or raises."""

    def __init__(self, answer: Callable[[], LogRecordExportResult] = lambda: LogRecordExportResult.SUCCESS) -> None:
        self.answer = answer
        self.batches: list[list[Any]] = []
        self.shut_down = threading.Event()

    def export(self, batch: Any) -> LogRecordExportResult:
        self.batches.append([each.log_record.body for each in batch])
        return self.answer()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return True

    def shutdown(self) -> None:
        self.shut_down.set()


class Sink:
    """An OTLP endpoint that really listens; ``requests`` are decoded ExportLogsServiceRequest messages."""

    def __init__(self) -> None:
        self.requests: list[Any] = []
        self.headers: list[dict[str, str]] = []
        self.connections: set[Any] = set()
        self.endpoint = ""

    def take(self, body: bytes) -> None:
        from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest

        self.requests.append(ExportLogsServiceRequest.FromString(body))

    def rows(self) -> list[dict[str, Any]]:
        """Every record received, as plain values, with its scope and resource."""
        return [
            {
                "body": record.body.string_value,
                "severity": record.severity_text,
                "number": record.severity_number,
                "event": record.event_name,
                "trace_id": record.trace_id.hex(),
                "time": record.time_unix_nano,
                "scope": scope.scope.name,
                "attributes": {each.key: plain(each.value) for each in record.attributes},
                "resource": {each.key: plain(each.value) for each in resource.resource.attributes},
            }
            for request in list(self.requests)
            for resource in request.resource_logs
            for scope in resource.scope_logs
            for record in scope.log_records
        ]


def plain(value: Any) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [plain(each) for each in value.array_value.values]
    if kind == "kvlist_value":
        return {each.key: plain(each.value) for each in value.kvlist_value.values}
    return None if kind is None else getattr(value, kind)


class said:
    """What the private logger says inside the block."""

    def __enter__(self) -> list[str]:
        diagnostics._forget()
        self._words: list[str] = []
        words = self._words

        class Listener(logging.Handler):
            def emit(self, record: logging.LogRecord) -> None:
                words.append(f"{record.levelname} {record.getMessage()}")

        self._listener = Listener()
        logging.getLogger("bridge.diagnostics").addHandler(self._listener)
        return words

    def __exit__(self, *_: object) -> None:
        logging.getLogger("bridge.diagnostics").removeHandler(self._listener)


@contextmanager
def http_sink(status: int = 200) -> Iterator[Sink]:
    sink = Sink()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            sink.connections.add(self.client_address)
            sink.headers.append(dict(self.headers))
            sink.take(gzip.decompress(body) if self.headers["content-encoding"] == "gzip" else body)
            self.send_response(status)
            self.send_header("content-type", "application/x-protobuf")
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        sink.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield sink
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def grpc_sink() -> Iterator[Sink]:
    import grpc

    sink = Sink()

    def export(request: bytes, context: Any) -> bytes:
        sink.headers.append(dict(context.invocation_metadata()))
        sink.take(request)
        return b""

    service = "opentelemetry.proto.collector.logs.v1.LogsService"
    method = grpc.unary_unary_rpc_method_handler(export)
    server = grpc.server(ThreadPoolExecutor(max_workers=2))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {"Export": method}),))
    sink.endpoint = f"http://127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    try:
        yield sink
    finally:
        server.stop(0).wait()


def start_script(folder: Path, code: str, **env: str) -> subprocess.Popen[str]:
    """Run a program of its own, that imports this bridge, in ``folder``."""
    path = folder / "program.py"
    path.write_text(textwrap.dedent(code))
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(("BRIDGE_", "OTEL_"))}
    paths = [str(Path(bridge.__file__).parent.parent), str(ROOT)]
    return subprocess.Popen(
        [sys.executable, "-X", "dev", "-W", "ignore", "-u", str(path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=inherited | {"PYTHONPATH": os.pathsep.join(paths)} | env,
        cwd=folder,
    )


def run_script(folder: Path, code: str, *, expected_status: int = 0, seconds: float = 30.0, **env: str) -> Any:
    """Run a program to its end; the JSON of its last line on standard output, and its standard error."""
    process = start_script(folder, code, **env)
    try:
        out, err = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        out, err = process.communicate()
        raise AssertionError(f"the program hung\n{out}\n{err}") from None
    assert process.returncode == expected_status, f"{process.returncode}\n{out}\n{err}"
    lines = out.splitlines()
    return (json.loads(lines[-1]) if lines else None), err
