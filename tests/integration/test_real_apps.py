"""Applications that nobody here wrote: httpbin under gunicorn, and a Celery worker; each with an OTLP sink."""

from __future__ import annotations

import concurrent.futures
import contextlib
import re
import signal
import sys
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from tests.serving import PATIENCE_SECONDS, Child, child, environment, eventually, receive
from tests.telemetry import Sink, http_sink, wait_until

# Celery's own end takes 4 to 6 s.
END_SECONDS = 15.0


@contextlib.contextmanager
def running(sink: Sink, folder: Path, *arguments: str, **variables: str) -> Iterator[Child]:
    """The module as a program that sends to the sink."""
    variables = {"OTEL_BLRP_SCHEDULE_DELAY": "50", "OTEL_EXPORTER_OTLP_ENDPOINT": sink.endpoint} | variables
    env = environment(**variables)
    with child(sys.executable, "-m", *arguments, env=env, cwd=folder) as process:
        yield process


def ends(process: Child, number: signal.Signals) -> None:
    """Send the signal; the process then ends well, and the bridge has lost nothing."""
    process.process.send_signal(number)
    assert process.wait(END_SECONDS) == 0
    assert not [line for line in process.lines if "records lost" in line or "internal error" in line]


# -- httpbin under gunicorn -------------------------------------------------------------------------------------------

GUNICORN = """
import logging, os

bind, workers, threads, accesslog, control_socket_disable = "127.0.0.1:0", 2, 2, "-", True
graceful_timeout = 5

def start():
    import bridge
    bridge.setup(service_name="httpbin").attach()

def post_fork(server, worker):
    logging.getLogger().setLevel(logging.INFO)
    if os.environ["WHERE"] == "post_fork":
        start()

def post_worker_init(worker):
    import bridge
    from bridge.server.standalone import StandaloneServer, bind
    server = StandaloneServer(bridge.setup(service_name="httpbin").app, bind("127.0.0.1", 0, token=None))
    server.start()
    os.write(1, f"live view {os.getpid()} {server.port}\\n".encode())  # whole: two workers say it at once
"""

HTTPBIN = """
import os
import gunicorn_config
if os.environ["WHERE"] == "import":
    gunicorn_config.start()
from httpbin import app

@app.route("/boom")
def boom():
    raise RuntimeError("boom")
"""


def get(port: int, path: str) -> int:
    """The status of the answer."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=PATIENCE_SECONDS) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code


def paths_shown(client: ClientConnection, count: int) -> list[str]:
    """Paths of the next ``count`` records of gunicorn.access."""
    found: list[str] = []
    while len(found) < count:
        (message,) = receive(client, 1)
        if message["data"]["logger"] == "gunicorn.access":
            found.append(message["data"]["message"].split('"')[1].split()[1])
    return found


@pytest.mark.parametrize("worker", ["sync", "gthread"])
@pytest.mark.parametrize("where", ["post_fork", "import", "import, preload"])
def test_httpbin_under_gunicorn(where: str, worker: str, tmp_path: Path) -> None:
    """Every request is a record once: at the collector, and at the client of the one worker that answered it."""
    (tmp_path / "gunicorn_config.py").write_text(GUNICORN)
    (tmp_path / "service.py").write_text(HTTPBIN)
    command = ["gunicorn", "-c", "gunicorn_config.py", "-k", worker, "service:app"]
    command += ["--preload"] if "preload" in where else []
    kinds = {"/status/500?{}": 500, "/status/404?{}": 404, "/anything/{}": 200, "/uuid?{}": 200, "/boom?{}": 500}
    requests = {path.format(number): status for number in range(12) for path, status in kinds.items()}
    with http_sink() as sink, running(sink, tmp_path, *command, WHERE=where.partition(",")[0]) as process:
        monitors = dict(process.line("live view").split()[2:] for _ in range(2))
        port = int(re.findall(r"Listening at: http://127\.0\.0\.1:(\d+)", "\n".join(process.lines))[0])
        with contextlib.ExitStack() as stack:
            clients = {
                pid: stack.enter_context(connect(f"ws://127.0.0.1:{monitor}/ws/monitor", proxy=None, compression=None))
                for pid, monitor in monitors.items()
            }
            with concurrent.futures.ThreadPoolExecutor(4) as pool:
                answers = dict(zip(requests, pool.map(lambda path: get(port, path), requests), strict=True))
            assert answers == requests
            access = wait_until(lambda: rows if len(rows := rows_of(sink, "gunicorn.access")) >= len(requests) else [])
            by_worker = Counter(str(row["attributes"]["process.pid"]) for row in access)
            assert set(by_worker) <= set(monitors)
            shown = [path for pid, client in clients.items() for path in paths_shown(client, by_worker[pid])]
            assert sorted(shown) == sorted(requests)
            # With the clients connected.
            ends(process, signal.SIGTERM)
            for client in clients.values():
                with pytest.raises(ConnectionClosed):
                    paths_shown(client, 1)
        access = rows_of(sink, "gunicorn.access")
        assert sorted(row["body"].split('"')[1].split()[1] for row in access) == sorted(requests)
        statuses = Counter(row["attributes"]["http.response.status_code"] for row in access)
        assert statuses == Counter(requests.values())
        errors = [row["attributes"] for row in rows_of(sink, "httpbin.core") if row["severity"] == "ERROR"]
        assert [error["exception.type"] for error in errors] == ["RuntimeError"] * 12


def rows_of(sink: Sink, logger: str) -> list[dict[str, Any]]:
    return [row for row in sink.rows() if row["scope"] == logger]


# -- Celery -----------------------------------------------------------------------------------------------------------

CELERY = """
import logging, os, threading
import bridge
from celery import Celery, signals
from celery.utils.log import get_task_logger

def start(**_):
    # Celery's own logger of tasks does not pass its records on to the root.
    bridge.setup(service_name="tasks").attach("celery.task")

def start_plainly(**_):
    # Who takes this signal sets logging up alone.
    logging.basicConfig(level=logging.INFO)
    start()

where = os.environ["WHERE"]
if where == "import":
    start()
else:
    getattr(signals, where).connect(start_plainly if where == "setup_logging" else start)

app = Celery("tasks", broker="filesystem://")
folders = {"data_folder_in": "queue", "data_folder_out": "queue", "control_folder": "control"}
for folder in folders.values():
    os.makedirs(folder, exist_ok=True)
app.conf.update(
    broker_transport_options=folders | {"polling_interval": 0.02},
    task_ignore_result=True,
    worker_hijack_root_logger="HIJACK" not in os.environ,
)
log = get_task_logger("tasks")

@app.task
def work(number):
    log.debug("debug %d", number)
    log.info("info %d", number)
    logging.getLogger("shop").warning("warning %d", number)
    logging.getLogger("audit.shop").info("audit %d", number)

@app.task
def fail(number):
    raise ValueError(f"fail {number}")

@app.task(bind=True, max_retries=2)
def again(self, number):
    log.error("try %d %d", number, self.request.retries)
    raise self.retry(countdown=0)

@app.task(time_limit=1)
def hang(number):
    log.critical("hang %d", number)
    threading.Event().wait(60)

@signals.worker_ready.connect
def send(**_):
    for number in range(4):
        for name in os.environ.get("TASKS", "work fail again").split():
            globals()[name].delay(number)
    if os.environ.get("HANG"):
        hang.delay(0)
    os.write(1, b"sent\\n")  # print() is Celery's by now
"""

OF_TASKS = re.compile(r"(debug|info|warning|audit|try|hang) \d")
DONE = sorted(
    [f"{kind} {number}" for number in range(4) for kind in ("info", "warning", "audit")]
    + [f"try {number} {retry}" for number in range(4) for retry in range(3)]
)


def worker(*options: str) -> list[str]:
    options = ("--loglevel", "INFO", "--concurrency", "2", "--without-gossip", "--without-mingle", *options)
    return ["celery", "-A", "tasks", "worker", *options]


def of_tasks(sink: Sink) -> list[str]:
    """What the tasks said, as it arrived."""
    return sorted(row["body"] for row in sink.rows() if OF_TASKS.match(row["body"]))


def failures(sink: Sink) -> list[str]:
    """Exceptions that Celery itself logged."""
    rows = [row["attributes"] for row in rows_of(sink, "celery.app.trace") if row["severity"] == "ERROR"]
    return sorted(row["exception.message"] for row in rows)


def check_celery(where: str, folder: Path, *options: str, number: signal.Signals = signal.SIGTERM, **env: str) -> None:
    """Run a worker until all that its tasks say has arrived, then end it: everything arrived once."""
    (folder / "tasks.py").write_text(CELERY)
    expected = sorted([*DONE, "hang 0"]) if "HANG" in env else DONE
    with http_sink() as sink, running(sink, folder, *worker(*options), WHERE=where, **env) as process:
        process.line("sent")
        eventually(lambda: len(of_tasks(sink)) >= len(expected) and len(failures(sink)) >= 8, "all arrives", 25.0)
        if "HANG" in env:
            eventually(lambda: any("Hard time limit" in row["body"] for row in sink.rows()), "the kill is logged", 15.0)
        ends(process, number)
        assert of_tasks(sink) == expected
        assert failures(sink)[4:] == [f"fail {number}" for number in range(4)]
        pids = {row["attributes"]["process.pid"] for row in sink.rows() if OF_TASKS.match(row["body"])}
        assert (process.process.pid in pids) is ("threads" in options)
        # Whatever the bridge does, Celery shows what it would have shown.
        assert len([line for line in process.lines if line.endswith("info 0")]) == 1


WHERES = ["setup_logging", "after_setup_logger"]


@pytest.mark.parametrize("where", [*WHERES, "import", "worker_process_init"])
def test_celery_children(where: str, tmp_path: Path) -> None:
    """What tasks log in forked children arrives once, wherever setup() is called, and the worker ends as told."""
    check_celery(where, tmp_path)


def test_celery_children_without_hijack(tmp_path: Path) -> None:
    """The same if Celery is told to leave the root logger's handlers alone."""
    check_celery("import", tmp_path, HIJACK="")


def test_celery_cold_shutdown(tmp_path: Path) -> None:
    """The same if the worker is told to end at once."""
    check_celery("setup_logging", tmp_path, number=signal.SIGQUIT)


def test_celery_kills_a_task(tmp_path: Path) -> None:
    """What a task logged arrives though its process is killed at the time limit, and the worker still ends."""
    check_celery("setup_logging", tmp_path, HANG="1")


def test_celery_replaces_children(tmp_path: Path) -> None:
    """What tasks log arrives though each child ends after its task, whatever the exporter's delay."""
    (tmp_path / "tasks.py").write_text(CELERY)
    command = worker("--concurrency", "4", "--max-tasks-per-child", "1")
    env = {"WHERE": "setup_logging", "TASKS": "work", "OTEL_BLRP_SCHEDULE_DELAY": "10000"}
    with http_sink() as sink, running(sink, tmp_path, *command, **env) as process:
        expected = sorted(text for text in DONE if not text.startswith("try"))
        process.line("sent")
        eventually(lambda: of_tasks(sink) == expected, "all arrives", 25.0)
        ends(process, signal.SIGTERM)
        assert of_tasks(sink) == expected


@pytest.mark.parametrize("where", WHERES)
def test_celery_threads(where: str, tmp_path: Path) -> None:
    """The same in a pool of threads; with setup() at import the first second would be missed, and the docs say so."""
    check_celery(where, tmp_path, "--pool", "threads")
