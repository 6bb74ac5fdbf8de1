"""Several processes, one monitor: with BRIDGE_MONITOR_ENDPOINT a client of it sees the records of all."""

import concurrent.futures
import contextlib
import os
import re
import signal
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from tests.senders.monitored import Monitor, Watcher, monitor, once_each
from tests.serving import PATIENCE_SECONDS, Child, Message, child, environment, free_port

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="platform: no fork")

# The same service with ASGI and with WSGI. A request keeps its worker busy, so that others get some, too.
SERVICE = """
import atexit, logging, os, time
import bridge

b = bridge.setup(service_name="shop")
logging.getLogger("shop").setLevel(logging.INFO)
log = logging.getLogger("shop.orders")

def order(number):
    log.info("order %s", number)
    if int(number) % 10 == 0:
        bridge.audit_log(log, f"refund {number}", action="refund", metadata={"order": int(number)})
    time.sleep(0.01)

def say_goodbye():
    logging.getLogger("shop.end").info("last words of %s", os.getpid())

atexit.register(say_goodbye)  # gunicorn's workers come by it, uvicorn's do not

async def asgi(scope, receive, send):
    if scope["type"] == "lifespan":
        while (await receive())["type"] != "lifespan.shutdown":
            await send({"type": "lifespan.startup.complete"})
        say_goodbye()
        await send({"type": "lifespan.shutdown.complete"})
    if scope["type"] == "websocket":
        await b.app(scope, receive, send)
    elif scope["type"] == "http":
        order(scope["path"].strip("/"))
        await send({"type": "http.response.start", "status": 204, "headers": [(b"connection", b"close")]})
        await send({"type": "http.response.body", "body": b""})

def wsgi(environ, start_response):
    order(environ["PATH_INFO"].strip("/"))
    start_response("204 No Content", [])
    return [b""]
"""


def is_order(message: Message) -> bool:
    return bool(message["data"]["logger"] == "shop.orders" and message["type"] == "system_log")


def is_refund(message: Message) -> bool:
    return bool(message["type"] == "audit_log")


def request_all(port: int, numbers: range) -> None:
    """A request for each, eight at a time."""

    def get(number: int) -> None:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/{number}", timeout=PATIENCE_SECONDS) as answer:
            assert answer.status == 204

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        list(pool.map(get, numbers))


def assert_seen(watcher: Watcher, numbers: range) -> None:
    """One client has got a record for each request, and an audit record for every tenth; none twice."""
    refunds = [f"refund {number}" for number in numbers if number % 10 == 0]
    watcher.wait_for(len(numbers), is_order)
    watcher.wait_for(len(refunds), is_refund)
    once_each(watcher.texts(is_order), [f"order {number}" for number in numbers])
    once_each(watcher.texts(is_refund), refunds)
    watcher.assert_nothing_missed()


def workers_of(watcher: Watcher) -> set[int]:
    """The processes that the records are of."""
    return {each["data"]["attributes"]["process.pid"] for each in watcher.wanted(is_order)}


@contextlib.contextmanager
def running(receiving: Monitor, folder: Path, *arguments: str) -> Iterator[Child]:
    """The service under a server, that sends all to the monitor."""
    (folder / "service.py").write_text(SERVICE)
    env = environment(BRIDGE_MONITOR_ENDPOINT=receiving.http_endpoint)
    with child(sys.executable, "-m", *arguments, env=env, cwd=folder) as process:
        try:
            yield process
        finally:
            # Not the parent alone: uvicorn's workers would go on without it.
            if process.process.poll() is None:
                process.process.terminate()
                process.process.wait(PATIENCE_SECONDS)


def uvicorn(port: int) -> list[str]:
    return ["uvicorn", "service:asgi", "--port", str(port), "--workers", "4", "--no-access-log"]


def gunicorn(*more: str) -> list[str]:
    return ["gunicorn", "--bind", "127.0.0.1:0", "--workers", "4", "--no-control-socket", *more, "service:wsgi"]


def port_of(process: Child) -> int:
    """Where gunicorn listens."""
    return int(re.findall(r"127\.0\.0\.1:(\d+)", process.line("Listening at:"))[0])


@pytest.fixture
def receiving() -> Iterator[Monitor]:
    with monitor() as running:
        yield running


def test_uvicorn(receiving: Monitor, tmp_path: Path) -> None:
    """200 requests to four workers: one client gets 200 of 200; a worker itself says where they are."""
    port = free_port()
    with receiving.watched() as watcher, running(receiving, tmp_path, *uvicorn(port)) as process:
        for _ in range(4):
            process.line("Application startup complete")
        request_all(port, range(200))
        assert_seen(watcher, range(200))
        assert len(workers_of(watcher)) > 1
        with pytest.raises(InvalidStatus, match="404") as refused, connect(f"ws://127.0.0.1:{port}/ws/monitor"):
            pass
        assert receiving.http_endpoint.encode() in (refused.value.response.body or b"")
        process.process.send_signal(signal.SIGTERM)
        assert process.wait() == 0


@needs_fork
@pytest.mark.parametrize("how", [[], ["--preload"], ["--worker-class", "gthread"]], ids=["", "preload", "gthread"])
def test_gunicorn(how: list[str], receiving: Monitor, tmp_path: Path) -> None:
    """The same with WSGI; workers that are forked from one that has the bridge already have one of their own."""
    with receiving.watched() as watcher, running(receiving, tmp_path, *gunicorn(*how)) as process:
        request_all(port_of(process), range(200))
        assert_seen(watcher, range(200))
        assert len(workers_of(watcher)) > 1
        process.process.send_signal(signal.SIGTERM)
        assert process.wait() == 0


@pytest.mark.parametrize("server", ["uvicorn", pytest.param("gunicorn", marks=needs_fork)])
def test_a_graceful_stop_loses_nothing(server: str, receiving: Monitor, tmp_path: Path) -> None:
    """What the workers have not sent yet when they are told to end is sent at their end, with their last words."""
    port = free_port()
    command = uvicorn(port) if server == "uvicorn" else gunicorn()
    with receiving.watched() as watcher, running(receiving, tmp_path, *command) as process:
        if server == "uvicorn":
            for _ in range(4):
                process.line("Application startup complete")
        else:
            port = port_of(process)
        request_all(port, range(100))
        # At once: records are gathered for a tenth of a second before they are sent.
        process.process.send_signal(signal.SIGTERM)
        assert process.wait() == 0
        assert_seen(watcher, range(100))
        said = watcher.wait_for(4, lambda each: bool(each["data"]["logger"] == "shop.end"), timeout=5)
        assert len({each["data"]["message"] for each in said}) == 4
        assert not [line for line in process.lines if "audit-bridge" in line]


@needs_fork
def test_new_workers_send_too(receiving: Monitor, tmp_path: Path) -> None:
    """After a reload, and in the place of one that was killed; what had been sent is there once."""
    with receiving.watched() as watcher, running(receiving, tmp_path, *gunicorn()) as process:
        port = port_of(process)
        request_all(port, range(50))
        assert_seen(watcher, range(50))
        before = workers_of(watcher)
        killed = before.pop()
        os.kill(killed, signal.SIGKILL)
        process.line(f"(pid:{killed}) was sent SIGKILL")
        request_all(port, range(50, 100))
        assert_seen(watcher, range(100))
        process.process.send_signal(signal.SIGHUP)
        for _ in range(4):
            process.line("Worker exiting")
        request_all(port, range(100, 150))
        assert_seen(watcher, range(150))
        assert workers_of(watcher) - before - {killed}
        process.process.send_signal(signal.SIGTERM)
        assert process.wait() == 0


FORKS = """
import logging, multiprocessing, os, sys
import bridge

b = bridge.setup(service_name="shop")
log = logging.getLogger("shop.orders")
log.setLevel(logging.INFO)

def work(number):
    log.info("order %d", number)
    if number % 10 == 0:
        bridge.audit_log(log, f"refund {number}", action="refund")

if __name__ == "__main__":
    work(0)
    context = multiprocessing.get_context(sys.argv[1])
    children = [context.Process(target=work, args=(number,)) for number in range(1, 8)]
    for child in children: child.start()
    for child in children: child.join(30)
    work(8)
    assert [child.exitcode for child in children] == [0] * 7
"""


@pytest.mark.parametrize("method", [pytest.param("fork", marks=needs_fork), "spawn"])
def test_children(method: str, receiving: Monitor, tmp_path: Path) -> None:
    """Children that end right after their one record have sent it, and nothing of their parent's."""
    (tmp_path / "program.py").write_text(FORKS)
    env = environment(BRIDGE_MONITOR_ENDPOINT=receiving.http_endpoint)
    with receiving.watched() as watcher:
        with child(sys.executable, "program.py", method, env=env, cwd=tmp_path) as process:
            assert process.wait() == 0
        assert_seen(watcher, range(9))
        assert len(workers_of(watcher)) == 8
        assert process.lines == []
