"""``audit-bridge demo``, as a user runs it."""

import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Sequence

import pytest

from bridge.demo import run_demo
from bridge.errors import AddressUnavailable
from tests.serving import ROOT, Child, child, environment, listening_socket, run_python

LINK = re.compile(r"http://127\.0\.0\.1:(\d+)/")


def demo(*arguments: str) -> Sequence[str]:
    return [sys.executable, "-W", "error", "-m", "bridge", "demo", *arguments]


def port_of(process: Child) -> int:
    """The port in the link, which is the first thing that is printed."""
    line = process.line()
    found = LINK.search(line)
    assert found is not None, line
    assert process.lines[0] == line
    return int(found[1])


def test_both_kinds_appear() -> None:
    """Within two seconds it prints its link, system and audit records, and what it has shown; and ends with 0.

    It shows its records itself, whatever monitor the environment names.
    """
    env = environment(TERM="dumb", BRIDGE_MONITOR_ENDPOINT="http://127.0.0.1:9")
    with child(*demo("--seconds", "2", "--port", "0"), env=env) as process:
        port = port_of(process)
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5) as page:
            assert page.status == 200
        assert process.wait() == 0
    shown = re.search(r"shown (\d+) system and (\d+) audit records; 0 lost", process.lines[-1])
    assert shown is not None, process.lines[-1]
    assert int(shown[1]) > 0
    assert int(shown[2]) > 0
    records = "\n".join(process.lines[1:-1])
    for kind in ("AUDIT", "login", "role_grant", "INFO", "shop.orders Order "):
        assert kind in records
    assert "\033" not in records
    assert "Traceback" not in records


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c(number: signal.Signals) -> None:
    """Ctrl-C, or SIGTERM, ends it at once, with a last line and exit code 0; the port is free again."""
    with child(*demo("--port", "0")) as process:
        port = port_of(process)
        process.line("AUDIT")
        began = time.monotonic()
        process.process.send_signal(number)
        assert process.wait() == 0
        assert time.monotonic() - began < 4
        assert process.lines[-1].startswith("audit-bridge demo: shown ")
        assert not [line for line in process.lines if "Traceback" in line or "Error" in line]
    with socket.socket() as again:
        again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        again.bind(("127.0.0.1", port))


def test_ctrl_c_before_anything_happens() -> None:
    """Ctrl-C right after the link is just as clean."""
    with child(*demo("--port", "0")) as process:
        port_of(process)
        process.process.send_signal(signal.SIGINT)
        assert process.wait() == 0
        assert not [line for line in process.lines if "Traceback" in line or "Error" in line]


def test_head() -> None:
    """``audit-bridge demo | head -1`` shows the link and ends without a complaint."""
    process = subprocess.Popen(
        demo("--port", "0", "--seconds", "30"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
        cwd=ROOT,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    assert LINK.search(process.stdout.readline())
    process.stdout.close()
    assert (process.wait(20), process.stderr.read()) == (0, "")
    process.stderr.close()


def test_a_taken_port() -> None:
    """A taken port is one line with what to do, exit code 2, and no traceback."""
    with listening_socket() as other:
        port = other.getsockname()[1]
        with child(*demo("--port", str(port))) as process:
            assert process.wait() == 2
    (line,) = process.lines
    assert line.startswith(f"audit-bridge: can't listen on 127.0.0.1:{port} (taken); choose another port (--port N")


BLOCKED = """
import sys

class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == PACKAGE:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

PACKAGE = sys.argv[1]
sys.meta_path.insert(0, Block())
from bridge.cli import main
sys.exit(main(["demo", "--port", "0", "--seconds", "1"]))
"""


@pytest.mark.parametrize("package", ["uvicorn", "websockets"])
def test_without_a_server_installed(package: str) -> None:
    """Without uvicorn or websockets it says in one line what to install."""
    result = run_python(BLOCKED, package)
    assert (result.returncode, result.stdout, result.stderr) == (
        2,
        "",
        f"audit-bridge: the stand-alone server needs the package {package}, which is not installed; "
        "run: pip install 'otel-audit-bridge[server]'\n",
    )


def test_a_proxy_in_the_environment() -> None:
    """A proxy that the environment names is no way to this machine, and is not taken."""
    env = environment(http_proxy="http://127.0.0.1:1", https_proxy="http://127.0.0.1:1", all_proxy="http://127.0.0.1:1")
    with child(*demo("--seconds", "2", "--port", "0"), env=env) as process:
        assert process.wait() == 0
    assert not process.lines[-1].startswith("audit-bridge demo: shown 0 ")


def test_nothing_stays_after_a_failure() -> None:
    """A demo that can't start leaves the process as it was."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    with listening_socket() as other, pytest.raises(AddressUnavailable):
        run_demo(port=other.getsockname()[1], seconds=1)
    assert {number: signal.getsignal(number) for number in before} == before
