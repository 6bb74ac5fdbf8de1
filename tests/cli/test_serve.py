"""The command ``serve``: its options, and what becomes of them. Running it is ``tests/test_serve.py``'s."""

import sys
from collections.abc import Mapping
from typing import Any

import pytest

import bridge.serve
from bridge.cli import main
from bridge.settings import Settings
from tests.serving import run_python


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> list[Settings]:
    """The settings that the command would run with."""
    found: list[Settings] = []

    def run(settings: Settings, environ: Mapping[str, str]) -> int:
        found.append(settings)
        assert environ["BRIDGE_PORT"] == "1"
        return 0

    monkeypatch.setattr(bridge.serve, "run_serve", run)
    for name in ("HOST", "OTLP_GRPC_PORT", "OTLP_HTTP_PORT", "TLS_CERTIFICATE", "TLS_KEY", "TLS_CLIENT_CA", "TOKEN"):
        monkeypatch.delenv(f"BRIDGE_{name}", raising=False)
    monkeypatch.setenv("BRIDGE_PORT", "1")
    monkeypatch.setenv("BRIDGE_DEDUPE_RECORDS", "5")
    return found


def test_options_win(given: list[Settings], tmp_path: Any) -> None:
    """An option wins over the environment; all else is read from there."""
    file = tmp_path / "x.pem"
    file.write_text("")
    assert main(["serve"]) == 0
    options = ["--host", "::1", "--port", "2", "--otlp-grpc-port", "0", "--otlp-http-port", "4"]
    for name in ("certificate", "key", "client-ca"):
        options += [f"--tls-{name}", str(file)]
    assert main(["serve", *options]) == 0
    plain, full = given
    assert (plain.host, plain.port, plain.otlp_grpc_port, plain.otlp_http_port) == ("127.0.0.1", 1, 4317, 4318)
    assert (full.host, full.port, full.otlp_grpc_port, full.otlp_http_port) == ("::1", 2, 0, 4)
    assert (full.tls_certificate, full.tls_key, full.tls_client_ca) == (str(file),) * 3
    assert full.dedupe_records == 5


@pytest.mark.parametrize(
    "options",
    [
        ["--port", "x"],
        ["--otlp-grpc-port", "-1"],
        ["--otlp-http-port", "65536"],
        ["--tls-key", "nowhere.pem"],
        ["--host", ""],
        ["--hos", "::1"],
        ["more"],
    ],
)
def test_wrong_use(given: list[Settings], options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """What can't be is one line, and exit code 2."""
    assert main(["serve", *options]) == 2
    assert given == []
    assert capsys.readouterr().err.count("\n") == 1


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    """The help names every option."""
    assert main(["serve", "--help"]) == 0
    shown = capsys.readouterr().out
    for name in ("host", "port", "otlp-grpc-port", "otlp-http-port", "tls-certificate", "tls-key", "tls-client-ca"):
        assert f"--{name}" in shown


BLOCKED = """
import sys

class Block:
    def find_spec(self, name, path=None, target=None):
        if name == PACKAGE or name.startswith(PACKAGE + "."):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

PACKAGE = sys.argv[1]
sys.meta_path.insert(0, Block())
from bridge.cli import main
sys.exit(main(["serve", "--port", "0", "--otlp-grpc-port", "0", "--otlp-http-port", "0"]))
"""


@pytest.mark.parametrize(
    ("package", "extra"),
    [("grpc", "serve"), ("google.protobuf", "serve"), ("opentelemetry.proto", "serve"), ("uvicorn", "server")],
)
def test_without_what_it_needs(package: str, extra: str) -> None:
    """Without one of the packages of its extra it says in one line what to install."""
    result = run_python(BLOCKED, package)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.count("\n") == 1
    assert f"which is not installed; run: pip install 'otel-audit-bridge[{extra}]'" in result.stderr


def test_python_of_this_process() -> None:
    """Serving is a command of its own: importing the command line brings in no server and no gRPC."""
    result = run_python("import sys, bridge.cli.serve; print('grpc' in sys.modules, 'uvicorn' in sys.modules)")
    assert (result.stdout, result.stderr) == ("False False\n", ""), sys.version
