"""Forks, child processes and every way to end: each test runs programs of its own."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.telemetry import grpc_sink, http_sink, run_script, start_script

PREFIX = """
import json, logging, os, signal, sys, threading, time
import bridge
from tests.telemetry import Recorder, new_provider, messages, wait_until
logging.getLogger().setLevel(logging.INFO)
logging.getLogger().addHandler(logging.NullHandler())
log = logging.getLogger("app")

class ToFile:
    '''A processor's target: one line a record, from any process.'''
    def __call__(self, record):
        with open("out.jsonl", "a") as file:
            file.write(json.dumps([os.getpid(), record.log_record.body]) + "\\n")

def lines():
    try:
        with open("out.jsonl") as file:
            return [json.loads(line) for line in file]
    except FileNotFoundError:
        return []

def setup(**arguments):
    return bridge.setup(logger_provider=new_provider(Recorder(ToFile())), **arguments)

def result(value):
    print(json.dumps(value), flush=True)

"""

needs_fork = pytest.mark.skipif(
    not hasattr(sys, "getswitchinterval") or sys.platform == "win32", reason="platform: fork"
)


def run(folder: Path, code: str, **arguments: Any) -> Any:
    import textwrap

    return run_script(folder, PREFIX + textwrap.dedent(code), **arguments)[0]


def written(folder: Path) -> list[str]:
    import json

    path = folder / "out.jsonl"
    return [json.loads(line)[1] for line in path.read_text().splitlines()] if path.exists() else []


# -- fork -------------------------------------------------------------------------------------------------------------


@needs_fork
def test_a_forked_childs_records_are_its_own(tmp_path: Path) -> None:
    """They are in the child's hub only, under another epoch; what the parent had queued is the parent's to deliver."""
    found = run(
        tmp_path,
        """
        b = setup()
        log.info("before")
        b.force_flush()
        epoch = b.hub.epoch
        read, write = os.pipe()
        log.info("queued")
        pid = os.fork()
        if pid == 0:
            log.info("child")
            bridge.audit_log(log, "child's event")
            ok = b.force_flush()
            now = b.statistics()
            os.write(write, json.dumps([ok, messages(b), b.hub.epoch != epoch, now.captured, now.dropped]).encode())
            os._exit(0)
        os.close(write)
        child = json.loads(os.read(read, 10_000))
        os.waitpid(pid, 0)
        log.info("after")
        ok = b.force_flush()
        result([child, ok, messages(b), sorted(body for _, body in lines()), b.hub.epoch == epoch])
        """,
    )
    child, ok, parent, delivered, same_epoch = found
    assert child == [True, ["child", "child's event"], True, 2, {}]
    assert (ok, parent, same_epoch) == (True, ["before", "queued", "after"], True)
    assert delivered == ["after", "before", "child", "child's event", "queued"]


@needs_fork
def test_forking_at_full_speed_never_deadlocks(tmp_path: Path) -> None:
    """Fifty children of a process whose threads log without a pause: each logs, flushes and ends."""
    found = run(
        tmp_path,
        """
        seen = []
        b = bridge.setup(
            logger_provider=new_provider(Recorder(lambda record: seen.append(1))),
            # A small process forks quickly; what is full refuses quickly, and that is a case as well.
            ring_system_records=100, ring_audit_records=100, queue_records=200, export_queue_records=200,
        )
        stop = threading.Event()
        def hammer():
            while not stop.is_set():
                log.info("x" * 3000, extra={"k": {"a": [1]}})
                bridge.audit_log(log, "event", metadata={"k": 1})
        threads = [threading.Thread(target=hammer) for _ in range(2)]
        for thread in threads: thread.start()
        failed = 0
        for number in range(50):
            pid = os.fork()
            if pid == 0:
                signal.alarm(20)
                log.warning("child")
                from bridge.diagnostics import say_rarely
                say_rarely("child", 10, "quiet")
                good = b.force_flush(15) and messages(b) == ["child"]
                os._exit(0 if good else 1)
            _, status = os.waitpid(pid, 0)
            failed += status != 0
        stop.set()
        for thread in threads: thread.join()
        result([failed, b.force_flush(20)])
        os._exit(0)
        """,
        seconds=55,
    )
    assert found == [0, True]


@needs_fork
def test_no_lock_of_the_parents_can_block_a_child(tmp_path: Path) -> None:
    """Whatever lock another thread holds at the moment of the fork, the child logs, flushes, reports and shuts down."""
    found = run(
        tmp_path,
        """
        from bridge import assembly, diagnostics
        b = setup(otlp_endpoint="http://127.0.0.1:9")
        log.info("before")
        b._publisher.flush(5)
        locks = [
            diagnostics._said_lock, assembly._setup_lock, b._lock, b._drops._lock, b.hub._lock,
            b._publisher.queue._lock, b._publisher._start_lock, b._processors.queue._lock, b._processors._start_lock,
            b._otlp._changed,
        ]
        statuses = []
        for lock in locks:
            held, release = threading.Event(), threading.Event()
            def hold():
                with lock:
                    held.set()
                    release.wait(20)
            thread = threading.Thread(target=hold)
            thread.start()
            held.wait(20)
            pid = os.fork()
            if pid == 0:
                signal.alarm(10)
                log.info("x" * 5000)
                b.force_flush(0.1)
                diagnostics.say_rarely("child", logging.DEBUG, "m")
                b._drops.add("x")
                b.statistics()
                b.shutdown(0.1)
                os._exit(0 if [message[0] for message in messages(b)] == ["x"] else 1)
            release.set()
            thread.join()
            statuses.append(os.waitpid(pid, 0)[1])
        result(statuses)
        os._exit(0)
        """,
    )
    assert found == [0] * 10


@needs_fork
def test_a_childs_orderly_end_delivers(tmp_path: Path) -> None:
    """sys.exit() in a forked child flushes what the child logged, once, and nothing of the parent's."""
    run(
        tmp_path,
        """
        b = setup()
        log.info("parent")
        pid = os.fork()
        if pid == 0:
            log.info("child")
            sys.exit(0)
        os.waitpid(pid, 0)
        """,
    )
    assert sorted(written(tmp_path)) == ["child", "parent"]


@needs_fork
def test_a_forked_child_has_a_connection_of_its_own(tmp_path: Path) -> None:
    """Parent and child send by OTLP over HTTP at once, and neither reads the other's answers."""
    with http_sink() as sink:
        found = run(
            tmp_path,
            f"""
            b = bridge.setup(otlp_endpoint={sink.endpoint!r}, service_name="x")
            log.info("parent 0")
            assert b.force_flush()
            pids = []
            for number in range(4):
                pid = os.fork()
                if pid == 0:
                    for index in range(10):
                        log.info("child %d %d", number, index)
                        assert b.force_flush()
                    os._exit(0 if b.statistics().exported == 10 else 1)
                pids.append(pid)
            for index in range(1, 10):
                log.info("parent %d", index)
                assert b.force_flush()
            statuses = [os.waitpid(pid, 0)[1] for pid in pids]
            result([statuses, b.statistics().exported, b.statistics().dropped])
            """,
        )
        assert found == [[0, 0, 0, 0], 10, {}]
        bodies = [row["body"] for row in sink.rows()]
        expected = [f"parent {n}" for n in range(10)] + [f"child {k} {n}" for k in range(4) for n in range(10)]
        assert sorted(bodies) == sorted(expected)
        assert len(sink.connections) >= 5


# -- multiprocessing --------------------------------------------------------------------------------------------------

POOL = """
import sys
sys.path[:0] = {path!r}
from program_prefix import *
import multiprocessing

{setup_here}

def work(number):
    {setup_there}
    log.info("child %d", number)
    bridge.audit_log(log, "event %d" % number)

if __name__ == "__main__":
    context = multiprocessing.get_context({method!r})
    {setup_main}
    children = [context.Process(target=work, args=(number,)) for number in range(3)]
    for child in children: child.start()
    for child in children: child.join(30)
    result([child.exitcode for child in children])
"""


@pytest.mark.parametrize("where", ["module", "worker"])
@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_multiprocessing_children_deliver_at_their_end(method: str, where: str, tmp_path: Path) -> None:
    """With setup() at import or in the worker: they end by os._exit(), and what they logged is flushed before."""
    (tmp_path / "program_prefix.py").write_text(PREFIX + "\n__all__ = [n for n in dir() if n[0] != '_']\n")
    code = POOL.format(
        path=[str(tmp_path)],
        method=method,
        setup_here="b = setup()" if where == "module" else "",
        setup_there="setup()" if where == "worker" else "pass",
        setup_main="pass",
    )
    found, _ = run_script(tmp_path, code)
    assert found == [0, 0, 0]
    assert sorted(written(tmp_path)) == sorted([f"child {n}" for n in range(3)] + [f"event {n}" for n in range(3)])


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_multiprocessing_children_deliver_by_otlp(method: str, tmp_path: Path) -> None:
    """To a server that really listens."""
    with http_sink() as sink:
        (tmp_path / "program_prefix.py").write_text(PREFIX + "\n__all__ = [n for n in dir() if n[0] != '_']\n")
        code = POOL.format(
            path=[str(tmp_path)],
            method=method,
            setup_here=f"b = bridge.setup(otlp_endpoint={sink.endpoint!r}, service_name='x')",
            setup_there="pass",
            setup_main="log.info('parent'); b.force_flush()",
        )
        found, _ = run_script(tmp_path, code)
        assert found == [0, 0, 0]
        bodies = sorted(row["body"] for row in sink.rows())
        assert bodies == sorted([f"child {n}" for n in range(3)] + [f"event {n}" for n in range(3)] + ["parent"])


@needs_fork
def test_a_forked_child_by_grpc_is_honest(tmp_path: Path) -> None:
    """gRPC does not promise to work in a forked child; what did not get through is not called delivered."""
    with grpc_sink() as sink:
        found = run(
            tmp_path,
            f"""
            b = bridge.setup(otlp_endpoint={sink.endpoint!r}, otlp_protocol="grpc", service_name="x")
            log.info("parent")
            first = b.force_flush()
            read, write = os.pipe()
            pid = os.fork()
            if pid == 0:
                log.info("child")
                ok = b.force_flush(3)
                os.write(write, json.dumps([ok, b.statistics().exported]).encode())
                os._exit(0)
            os.close(write)
            child = json.loads(os.read(read, 10_000))
            os.waitpid(pid, 0)
            log.info("parent again")
            result([first, child, b.force_flush(), b.statistics().exported])
            os._exit(0)
            """,
        )
        first, (child_ok, child_exported), again, exported = found
        bodies = [row["body"] for row in sink.rows()]
        assert (first, again, exported) == (True, True, 2)
        assert child_ok is ("child" in bodies)
        assert child_exported == bodies.count("child")


# -- the end ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["pass", "sys.exit(0)", "raise SystemExit(0)"])
def test_an_orderly_end_delivers(end: str, tmp_path: Path) -> None:
    """Even when the last call logs and the program ends at once."""
    run(tmp_path, f"setup()\nlog.info('m')\nbridge.audit_log(log, 'event')\n{end}")
    assert written(tmp_path) == ["m", "event"]


def test_an_unhandled_exception_delivers(tmp_path: Path) -> None:
    """The program ends with Python's own traceback and status."""
    run(tmp_path, "setup()\nlog.info('m')\nraise ValueError('x')", expected_status=1)
    assert written(tmp_path) == ["m"]


def test_records_logged_while_the_interpreter_ends(tmp_path: Path) -> None:
    """An atexit hook that was registered after us logs, and is delivered."""
    run(tmp_path, "import atexit\nsetup()\natexit.register(lambda: log.info('late'))")
    assert written(tmp_path) == ["late"]


def test_the_end_delivers_by_otlp(tmp_path: Path) -> None:
    """And prints nothing on standard error."""
    with http_sink() as sink:
        _, errors = run_script(
            tmp_path, PREFIX + f"bridge.setup(otlp_endpoint={sink.endpoint!r}, service_name='x')\nlog.info('m')\n"
        )
        assert [row["body"] for row in sink.rows()] == ["m"]
        assert errors == ""


def test_a_hanging_processor_does_not_hold_up_the_end(tmp_path: Path) -> None:
    """The process ends within its shutdown_timeout."""
    found = run(
        tmp_path,
        """
        import atexit
        began = time.monotonic()
        atexit.register(lambda: result(time.monotonic() - began))
        bridge.setup(
            logger_provider=new_provider(Recorder(lambda record: threading.Event().wait(60))), shutdown_timeout=0.3
        )
        log.info("m")
        """,
    )
    assert found < 10


def test_os_exit_loses_what_is_queued_and_nothing_else(tmp_path: Path) -> None:
    """It does not hang, and what was flushed is there."""
    run(
        tmp_path,
        """
        b = setup()
        log.info("flushed")
        assert b.force_flush()
        b._processors._emit = lambda *_: threading.Event().wait(60)
        log.info("queued")
        os._exit(0)
        """,
    )
    assert written(tmp_path) == ["flushed"]


def end_by_sigterm(folder: Path, code: str, **env: str) -> tuple[int, str]:
    """Start a program, send it SIGTERM when it says so; its status and its standard error."""
    process = start_script(folder, PREFIX + code, **env)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=30)
    return process.returncode, errors


WAITING = "\nlog.info('m')\nprint('ready', flush=True)\nthreading.Event().wait(30)\n"


def test_sigterm_delivers_when_nobody_handles_it(tmp_path: Path) -> None:
    """And the exit status stays that of the signal."""
    assert end_by_sigterm(tmp_path, "setup()" + WAITING) == (-signal.SIGTERM, "")
    assert written(tmp_path) == ["m"]


@pytest.mark.parametrize("when", ["before", "after"])
def test_an_applications_own_sigterm_handler_is_left_alone(when: str, tmp_path: Path) -> None:
    """Set before or after setup(), it alone decides; an orderly exit then delivers."""
    handler = "signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))"
    parts = [handler, "setup()"] if when == "before" else ["setup()", handler]
    assert end_by_sigterm(tmp_path, "\n".join(parts) + WAITING)[0] == 7
    assert written(tmp_path) == ["m"]


def test_sigterm_with_a_hanging_processor_still_ends(tmp_path: Path) -> None:
    """The signal is not held up for longer than shutdown_timeout."""
    code = """
bridge.setup(logger_provider=new_provider(Recorder(lambda r: threading.Event().wait(60))), shutdown_timeout=0.3)
"""
    assert end_by_sigterm(tmp_path, code + WAITING)[0] == -signal.SIGTERM


def test_sigterm_to_a_pool_of_workers_delivers(tmp_path: Path) -> None:
    """multiprocessing's terminate() is a SIGTERM: what the worker logged is there."""
    run(
        tmp_path,
        """
        import multiprocessing
        context = multiprocessing.get_context("fork")
        setup()
        def work(ready):
            log.info("worker")
            ready.set()
            time.sleep(60)
        ready = context.Event()
        child = context.Process(target=work, args=(ready,))
        child.start()
        assert ready.wait(20)
        child.terminate()
        child.join(20)
        result(child.exitcode)
        """,
    )
    assert written(tmp_path) == ["worker"]


# -- one process, one provider ----------------------------------------------------------------------------------------


def test_without_a_provider_setup_makes_and_sets_one(tmp_path: Path) -> None:
    """With the name of the service; a native logger got before setup() speaks through it as well."""
    found = run(
        tmp_path,
        """
        from opentelemetry import _logs
        from opentelemetry._logs import LogRecord
        early = _logs.get_logger("early")
        b = bridge.setup(service_name="orders")
        provider = _logs.get_logger_provider()
        log.info("m")
        early.emit(LogRecord(body="native"))
        b.force_flush()
        result([provider.resource.attributes["service.name"], sorted(messages(b))])
        """,
    )
    assert found == ["orders", ["m", "native"]]


def test_a_teams_global_provider_is_joined(tmp_path: Path) -> None:
    """It is the team's: it stays, with its resource, and after shutdown() it still works."""
    found = run(
        tmp_path,
        """
        from opentelemetry import _logs
        from opentelemetry._logs import LogRecord
        provider = new_provider(Recorder(ToFile()), **{"service.name": "team"})
        _logs.set_logger_provider(provider)
        b = bridge.setup()
        log.info("m")
        assert b.shutdown()
        _logs.get_logger("native").emit(LogRecord(body="after"))
        result([_logs.get_logger_provider() is provider, [body for _, body in lines()], messages(b)])
        """,
    )
    assert found == [True, ["m", "after"], ["m"]]


def test_processors_added_later_get_their_records(tmp_path: Path) -> None:
    """On the provider that setup() made."""
    found = run(
        tmp_path,
        """
        from opentelemetry import _logs
        b = bridge.setup(service_name="x")
        log.info("one")
        b.force_flush()
        _logs.get_logger_provider().add_log_record_processor(Recorder(ToFile()))
        log.info("two")
        b.force_flush()
        result([[body for _, body in lines()], messages(b)])
        """,
    )
    assert found == [["two"], ["one", "two"]]


def test_with_otel_sdk_disabled_from_the_start(tmp_path: Path) -> None:
    """The live view works, nothing else does, and it is said once."""
    value, errors = run_script(
        tmp_path,
        PREFIX + "b = bridge.setup()\nlog.info('m')\nresult([b.force_flush(), messages(b)])\n",
        OTEL_SDK_DISABLED="true",
    )
    assert value == [True, ["m"]]
    assert errors.count("OTEL_SDK_DISABLED is true") == 1
