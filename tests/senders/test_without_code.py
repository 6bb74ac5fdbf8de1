"""Services that know nothing of us: ``opentelemetry-instrument`` with OTEL_LOGS_EXPORTER=otlp,bridge, or bridge."""

import contextlib
import sys
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.senders.monitored import Monitor, Watcher, listens, monitor, once_each, watched_at
from tests.serving import (
    PATIENCE_SECONDS,
    Child,
    Message,
    child,
    environment,
    eventually,
    free_port,
    register_entry_point,
)

ROUTES = """
import logging, sys
logging.getLogger().setLevel(logging.INFO)
log = logging.getLogger("shop.orders")

def order(number):
    log.info("order %s", number, extra={"order": int(number)})
    if int(number) % 10 == 0:
        logging.getLogger("audit.refund").warning("refund %s", number, extra={"action": "refund"})
    if int(number) == 13:
        try:
            raise ValueError("unlucky")
        except ValueError:
            log.exception("order 13 failed")
    return {"number": number}
"""

FLASK = f"""{ROUTES}
from flask import Flask
app = Flask("shop")
app.get("/<number>")(order)
app.run(port=int(sys.argv[1]))
"""

FASTAPI = f"""{ROUTES}
import uvicorn
from fastapi import FastAPI
app = FastAPI()
app.get("/{{number}}")(order)
uvicorn.run(app, port=int(sys.argv[1]), log_config=None)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder; with the package's metadata, where it is not installed."""
    register_entry_point(tmp_path)
    return tmp_path


class Service:
    """A service under opentelemetry-instrument."""

    def __init__(self, process: Child, port: int) -> None:
        self.process = process
        self.port = port

    def request_all(self, numbers: range) -> None:
        for number in numbers:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/{number}", timeout=PATIENCE_SECONDS) as answer:
                assert answer.status == 200


@contextlib.contextmanager
def instrumented(folder: Path, code: str, **variables: str) -> Iterator[Service]:
    """The service, once it answers."""
    port = free_port()
    (folder / "service.py").write_text(code)
    script = Path(sys.executable).parent / "opentelemetry-instrument"
    env = environment(
        OTEL_SERVICE_NAME="shop",
        OTEL_TRACES_EXPORTER="none",
        OTEL_METRICS_EXPORTER="none",
        OTEL_PYTHON_LOGGING_AUTO_INSTRUMENTATION_ENABLED="true",
        OTEL_BLRP_SCHEDULE_DELAY="50",
        **variables,
    )
    env["PYTHONPATH"] = f"{folder}:{env['PYTHONPATH']}"
    command = [sys.executable, str(script), sys.executable, "service.py", str(port)]
    with child(*command, env=env, cwd=folder) as process:
        # No line says so: the records that would have been printed are OpenTelemetry's now.
        eventually(lambda: listens(port) or process.process.poll() is not None, "the service listens")
        yield Service(process, port)


def sending_to(receiving: Monitor, protocol: str) -> dict[str, str]:
    """What OpenTelemetry's own exporter needs."""
    return {"OTEL_EXPORTER_OTLP_ENDPOINT": receiving.endpoint(protocol), "OTEL_EXPORTER_OTLP_PROTOCOL": protocol}


def is_ours(message: Message) -> bool:
    return message["data"]["logger"] in ("shop.orders", "audit.refund")


def assert_seen(watcher: Watcher, numbers: range) -> None:
    """Each record once, the audit ones as such, with what each had."""
    orders = [f"order {number}" for number in numbers]
    refunds = [f"refund {number}" for number in numbers if number % 10 == 0]
    found = watcher.wait_for(len(orders) + len(refunds) + 1, is_ours)
    once_each(watcher.texts(is_ours), [*orders, *refunds, "order 13 failed"])
    assert [each["data"]["message"] for each in found if each["type"] == "audit_log"] == refunds
    by_text = {each["data"]["message"]: each["data"] for each in found}
    assert {each["service"] for each in by_text.values()} == {"shop"}
    assert by_text["order 7"]["attributes"]["order"] == 7
    assert by_text["refund 10"]["action"] == "refund"
    assert by_text["refund 10"]["level"] == "WARNING"
    exception = by_text["order 13 failed"]["exception"]
    assert (exception["type"], exception["message"]) == ("ValueError", "unlucky")
    assert "raise ValueError" in exception["stacktrace"]
    watcher.assert_nothing_missed()


def quiet(service: Service, port: int | None) -> None:
    """It ended as if we were not there; but for one line that says where the live view is, if it is here."""
    said = [line for line in service.process.lines if "audit-bridge" in line or "Traceback" in line]
    # The exception that is part of the test is printed by nobody: the handlers are OpenTelemetry's.
    assert [line for line in said if "live view of this process" not in line and "Traceback" not in line] == []
    assert len([line for line in said if "live view of this process" in line]) == (port is not None)


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
@pytest.mark.parametrize("code", [FLASK, FASTAPI], ids=["flask", "fastapi"])
def test_otlp_and_bridge(code: str, protocol: str, folder: Path) -> None:
    """The records are at the OTLP endpoint, and in the process's own live view; at each once."""
    port = free_port()
    with monitor() as receiving, receiving.watched() as there:
        variables = sending_to(receiving, protocol) | {"OTEL_LOGS_EXPORTER": "otlp,bridge", "BRIDGE_PORT": str(port)}
        with instrumented(folder, code, **variables) as service:
            service.request_all(range(1))
            there.wait_for(2, is_ours)
            # Each exporter has its own batches: ours may get its first one later.
            eventually(lambda: listens(port))
            with watched_at(f"http://127.0.0.1:{port}", "&history=1000") as here:
                service.request_all(range(1, 40))
                assert_seen(here, range(40))
                assert_seen(there, range(40))
            quiet(service, port)


@pytest.mark.parametrize("code", [FLASK, FASTAPI], ids=["flask", "fastapi"])
def test_bridge_to_a_monitor(code: str, folder: Path) -> None:
    """With BRIDGE_MONITOR_ENDPOINT the records are there, once, and the process serves nothing."""
    port = free_port()
    with monitor() as receiving, receiving.watched() as there:
        variables = {
            "OTEL_LOGS_EXPORTER": "bridge",
            "BRIDGE_MONITOR_ENDPOINT": receiving.http_endpoint,
            "BRIDGE_PORT": str(port),
        }
        with instrumented(folder, code, **variables) as service:
            service.request_all(range(40))
            assert_seen(there, range(40))
            with pytest.raises(OSError, match="refused"):
                urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=PATIENCE_SECONDS)
            quiet(service, None)


def test_both_to_monitors(folder: Path) -> None:
    """OTEL_LOGS_EXPORTER=otlp,bridge with a collector and a monitor: all of it at each, once."""
    with monitor() as collecting, collecting.watched() as there, monitor() as receiving, receiving.watched() as here:
        variables = sending_to(collecting, "http/protobuf") | {
            "OTEL_LOGS_EXPORTER": "otlp,bridge",
            "BRIDGE_MONITOR_ENDPOINT": receiving.http_endpoint,
        }
        with instrumented(folder, FLASK, **variables) as service:
            service.request_all(range(40))
            assert_seen(there, range(40))
            assert_seen(here, range(40))


def test_it_does_not_feed_itself(folder: Path) -> None:
    """With the root logger at DEBUG, what carries the records to the monitor is not sent there."""
    with monitor() as receiving, receiving.watched() as there:
        variables = {"OTEL_LOGS_EXPORTER": "bridge", "BRIDGE_MONITOR_ENDPOINT": receiving.http_endpoint}
        with instrumented(folder, FLASK.replace("logging.INFO", "logging.DEBUG"), **variables) as service:
            service.request_all(range(3))
            there.wait_for(4, is_ours)
            threading.Event().wait(1.0)
            before = len(there.records)
            threading.Event().wait(1.0)
            assert len(there.records) == before
