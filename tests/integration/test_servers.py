"""Real servers as they are started in production: their own processes, workers and signals."""

import concurrent.futures
import contextlib
import json
import re
import signal
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from websockets.sync.client import ClientConnection, connect

from tests.serving import PATIENCE_SECONDS, Child, child, environment, free_port, receive, texts

SERVICE = """
import logging, os, time
import bridge
from fastapi import FastAPI

b = bridge.setup(service_name="shop")
app = FastAPI()
app.router.routes.extend(b.routes())

@app.get("/log/{text}")
async def log(text: str):
    time.sleep(0.02)  # on purpose in the way: the next request goes to another worker
    logging.getLogger("shop").warning("%s %d", text, os.getpid())
    return os.getpid()
"""

WARNING = re.compile(r"(gunicorn|uvicorn) runs (\d+) worker processes, and each shows only its own records")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "service.py").write_text(SERVICE)
    return tmp_path


@contextlib.contextmanager
def watching(port: int, count: int) -> Iterator[list[ClientConnection]]:
    with contextlib.ExitStack() as stack:
        yield [
            stack.enter_context(connect(f"ws://127.0.0.1:{port}/ws/monitor", proxy=None, compression=None))
            for _ in range(count)
        ]


def log(port: int, text: str) -> int:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/log/{text}", timeout=PATIENCE_SECONDS) as answer:
        return int(answer.read())


def check_each_worker_shows_its_own(port: int) -> None:
    """Log through all workers until every client has something: each must have all of one worker's, and no more."""
    with watching(port, 6) as clients, concurrent.futures.ThreadPoolExecutor(8) as pool:
        seen: list[list[str]] = [[] for _ in clients]
        logged: list[tuple[str, int]] = []
        for attempt in range(40):
            names = [f"r{attempt}-{number}" for number in range(16)]
            logged += zip(names, pool.map(lambda name: log(port, name), names), strict=True)
            for records, client in zip(seen, clients, strict=True):
                with contextlib.suppress(TimeoutError):
                    while True:
                        records.append(json.loads(client.recv(timeout=0.02))["data"]["message"])
            if all(seen):
                break
        for records, client in zip(seen, clients, strict=True):
            (pid,) = {int(record.split(" ")[1]) for record in records}
            expected = [f"{name} {of}" for name, of in logged if of == pid]
            records += texts(receive(client, len(expected) - len(records)))
            assert sorted(records) == sorted(expected)
        assert len({pid for _, pid in logged}) > 1


def check_it_ends_well(process: Child, number: signal.Signals, codes: tuple[int, ...]) -> None:
    process.process.send_signal(number)
    assert process.wait() in codes
    output = "\n".join(process.lines)
    assert "Traceback" not in output, output
    assert "Exception in ASGI" not in output, output


@pytest.mark.parametrize("preload", [False, True], ids=["own", "preload"])
@pytest.mark.parametrize("worker", ["uvicorn.workers.UvicornWorker", "asgi"], ids=["uvicorn", "asgi"])
def test_gunicorn(worker: str, preload: bool, folder: Path) -> None:
    """Each of four workers shows its own records, a start-up warning says so, and nothing hangs at the end."""
    command = [sys.executable, "-m", "gunicorn", "service:app", "-w", "4", "-k", worker, "--bind", "127.0.0.1:0"]
    command += ["--graceful-timeout", "5", "--no-control-socket"]
    with child(*command, *(["--preload"] if preload else []), cwd=folder) as process:
        port = int(process.line("Listening at").split("127.0.0.1:")[1].split()[0])
        check_each_worker_shows_its_own(port)
        check_it_ends_well(process, signal.SIGTERM, (0,))
        warnings = [found.groups() for line in process.lines if (found := WARNING.search(line))]
        assert warnings == [("gunicorn", "4")] * (1 if preload else 4)


def test_one_gunicorn_worker(folder: Path) -> None:
    """One worker is no reason for a warning."""
    command = [sys.executable, "-m", "gunicorn", "service:app", "-k", "uvicorn.workers.UvicornWorker"]
    with child(*command, "--bind", "127.0.0.1:0", "--no-control-socket", cwd=folder) as process:
        port = int(process.line("Listening at").split("127.0.0.1:")[1].split()[0])
        with watching(port, 1) as (client,):
            pid = log(port, "hello")
            assert [message["data"]["message"] for message in receive(client, 1)] == [f"hello {pid}"]
            # With a client connected.
            check_it_ends_well(process, signal.SIGTERM, (0,))
        assert not [line for line in process.lines if WARNING.search(line)]


@pytest.mark.parametrize("how", ["--workers", "WEB_CONCURRENCY"])
def test_uvicorn_workers(how: str, folder: Path) -> None:
    """The same with uvicorn's own workers, wherever their number comes from."""
    port = free_port()
    command = [sys.executable, "-m", "uvicorn", "service:app", "--port", str(port)]
    command += ["--workers", "3"] if how == "--workers" else []
    env = environment(**({} if how == "--workers" else {"WEB_CONCURRENCY": "3"}))
    with child(*command, env=env, cwd=folder) as process:
        for _ in range(3):
            process.line("Application startup complete")
        check_each_worker_shows_its_own(port)
        check_it_ends_well(process, signal.SIGTERM, (0, -signal.SIGTERM))
        warnings = [found.groups() for line in process.lines if (found := WARNING.search(line))]
        assert warnings == [("uvicorn", "3")] * 3


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_plain_uvicorn(loop: str, folder: Path) -> None:
    """uvicorn as it comes, with a client connected: records come through, and Ctrl-C ends it without complaint."""
    port = free_port()
    command = [sys.executable, "-m", "uvicorn", "service:app", "--port", str(port), "--loop", loop]
    with child(*command, cwd=folder) as process:
        process.line("Uvicorn running")
        with watching(port, 1) as (client,):
            pid = log(port, "hello")
            assert [message["data"]["message"] for message in receive(client, 1)] == [f"hello {pid}"]
            check_it_ends_well(process, signal.SIGINT, (0, 130, -signal.SIGINT))
        assert not [line for line in process.lines if WARNING.search(line)]
