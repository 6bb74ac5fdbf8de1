"""The how-to runs from top to bottom as it is written, but for its ports: with the real Collector and the monitor."""

import re
import shlex
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import grpc
import pytest

from tests.collector.binaries import CONFIGS, ROOT, openssl, otelcol
from tests.collector.ports import free_port
from tests.collector.running import READY, file_bodies, grpc_export
from tests.collector.secrets import Secrets
from tests.serving import Child, child, environment, eventually

pytestmark = [pytest.mark.timeout(120), pytest.mark.usefixtures("real_collector")]

PAGE = ROOT / "docs" / "howto" / "behind-a-collector.md"
STANDARD = {"OTELCOL_GRPC_PORT": "4317", "OTELCOL_HTTP_PORT": "4318", "OTELCOL_HEALTH_PORT": "13133"}
STANDARD |= {"OTELCOL_METRICS_PORT": "8888", "BRIDGE_PORT": "8765", "MONITOR_ENDPOINT": "127.0.0.1:14317"}
NUMBER = re.compile(r"(?<![\w.])\d{4,5}(?![\w.])")


class Page:
    """A how-to, on ports of this test's own, and the processes that its commands have started."""

    def __init__(self, path: Path, folder: Path, cleanup: ExitStack) -> None:
        self._text = path.read_text()
        self._folder = folder
        self._cleanup = cleanup
        numbers = NUMBER.findall("\n".join([*STANDARD.values(), *self.blocks("sh")]))
        self._ports = {number: str(free_port()) for number in numbers}
        (folder / "collector_config").symlink_to(CONFIGS)

    def blocks(self, language: str) -> list[str]:
        """The blocks of a language, in their order."""
        return re.findall(rf"^```{language}\b[^\n]*\n(.*?)^```$", self._text, re.MULTILINE | re.DOTALL)

    def here(self, text: str) -> str:
        """``text`` with this test's ports."""
        return NUMBER.sub(lambda found: self._ports.get(found[0], found[0]), text)

    def start(self, command: str, **variables: str) -> Child:
        """Run a command of the page; it is ended with the test."""
        words = shlex.split(self.here(command), comments=True)
        environ = environment() | {name: self.here(number) for name, number in STANDARD.items()} | variables
        while setting := re.fullmatch(r"([A-Z_]+)=(.*)", words[0]):
            environ[setting[1]] = setting[2]
            del words[0]
        programs = {"audit-bridge": [sys.executable, "-m", "bridge"], "otelcol-contrib": [otelcol()]}
        programs["python"] = [sys.executable]
        return self._cleanup.enter_context(child(*programs[words[0]], *words[1:], env=environ, cwd=self._folder))

    def send(self) -> None:
        """Run the page's service."""
        (self._folder / "job.py").write_text(self.here(self.blocks("python")[0]))
        self.start("python job.py").line("all delivered: True")


def commands(block: str) -> list[str]:
    """The commands of a block, each on one line."""
    return block.replace("\\\n", " ").strip().splitlines()


def test_page(tmp_path: Path) -> None:
    """On one machine, then with agent and gateway: the records are shown, and the audit record is in the file."""
    openssl()
    with ExitStack() as cleanup:
        page = Page(PAGE, tmp_path, cleanup)
        quickstart, secrets, fleet, *_ = page.blocks("sh")
        serve, collect, tail = commands(quickstart)
        page.start(serve).line("audit-bridge serve: ")
        collecting = page.start(collect)
        collecting.line(READY)
        watching = page.start(tail)
        page.send()
        watching.line("Role granted")
        watching.line("Stock is low")
        collecting.end()
        subprocess.run(["sh", "-ec", secrets], cwd=tmp_path, check=True, capture_output=True, timeout=30)
        for command in commands(fleet):
            page.start(command).line(READY)
        page.send()
        watching.line("Role granted")
        eventually(lambda: file_bodies(tmp_path / "audit" / "audit.jsonl") == ["Role granted"], "it is in the file")


def test_monitor_on_another_machine(tmp_path: Path, secrets: Secrets) -> None:
    """It speaks TLS, wants its token, and `audit-bridge tail` watches it as the Kubernetes page says."""
    with ExitStack() as cleanup:
        page = Page(PAGE, tmp_path, cleanup)
        (tmp_path / "secrets").symlink_to(secrets.folder)
        (serve,) = [block for block in page.blocks("sh") if "--tls-certificate" in block]
        token = secrets.token("monitor")
        command = commands(serve)[0].replace("$(cat secrets/monitor-token)", token)
        assert token in command
        ports = {name: str(free_port()) for name in ("BRIDGE_OTLP_GRPC_PORT", "BRIDGE_OTLP_HTTP_PORT")}
        page.start(command, **ports).line("audit-bridge serve: ")
        kubernetes = (PAGE.parent / "kubernetes.md").read_text()
        watch = re.search(r"SSL_CERT_FILE=ca\.crt BRIDGE_TOKEN=\S+ \S+ (audit-bridge tail .+)", kubernetes)
        assert watch
        watching = page.start(watch[1], SSL_CERT_FILE=str(secrets.folder / "ca.crt"), BRIDGE_TOKEN=token)
        address = f"127.0.0.1:{ports['BRIDGE_OTLP_GRPC_PORT']}"
        assert grpc_export(address, secrets, token, {"body": "Stock is low"}) is grpc.StatusCode.OK
        watching.line("Stock is low")
