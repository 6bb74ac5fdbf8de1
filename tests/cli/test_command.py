"""The command line: what every command has in common, and ``version``."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import bridge.cli
from bridge.cli import main
from bridge.cli import version as version_command
from bridge.errors import SetupError
from tests.serving import ROOT, environment


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    """``version`` prints one line: of the bridge, Python and OpenTelemetry."""
    assert main(["version"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("audit-bridge ")
    assert f"Python {sys.version.split()[0]}, opentelemetry-sdk 1." in line


def test_python_m() -> None:
    """``python -m bridge`` is the same command."""
    result = subprocess.run(
        [sys.executable, "-W", "error", "-m", "bridge", "version"],
        capture_output=True,
        text=True,
        env=environment(),
        cwd=ROOT,
        check=False,
    )
    assert (result.returncode, result.stdout.startswith("audit-bridge "), result.stderr) == (0, True, "")


@pytest.mark.parametrize("arguments", [["--help"], ["demo", "--help"], ["version", "--help"]])
def test_help(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Help goes to standard output and is no failure."""
    assert main(arguments) == 0
    said = capsys.readouterr()
    assert (said.out.startswith("usage: audit-bridge"), said.err) == (True, "")


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ([], "the following arguments are required: COMMAND"),
        (["nonsense"], "invalid choice: 'nonsense'"),
        (["version", "more"], "unrecognized arguments: more"),
        (["demo", "--nonsense"], "unrecognized arguments: --nonsense"),
        (["demo", "--sec", "1"], "unrecognized arguments: --sec 1"),
        (["demo", "--port"], "expected one argument"),
        (["demo", "--port", "x"], "'x': a port is a whole number from 0 (any free one) to 65535"),
        (["demo", "--port", "65536"], "'65536': a port is"),
        (["demo", "--port", "-1"], "a"),
        (["demo", "--seconds", "0"], "'0': must be a number of seconds above 0, at most 86400"),
        (["demo", "--seconds", "x"], "'x': must be a number"),
        (["demo", "--seconds", "nan"], "'nan': must be a number"),
        (["demo", "--seconds", "inf"], "'inf': must be a number"),
    ],
)
def test_wrong_use(arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Wrong use is one line on standard error that says what is wrong, and exit code 2."""
    assert main(arguments) == 2
    said = capsys.readouterr()
    assert (said.out, said.err.count("\n")) == ("", 1)
    assert complaint in said.err
    assert said.err.endswith(" --help\n")


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [(SetupError("can't be done"), 2, "audit-bridge: can't be done\n"), (KeyboardInterrupt(), 130, "")],
)
def test_errors(
    error: BaseException,
    code: int,
    line: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """An error made for the user is one line and exit code 2; Ctrl-C is 130, in silence."""

    def run(_: Any) -> int:
        raise error

    monkeypatch.setattr(version_command, "run", run)
    assert main(["version"]) == code
    assert capsys.readouterr().err == line


def test_a_defect_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any other exception is a defect, and is seen as one."""
    monkeypatch.setattr(version_command, "run", lambda _: {"code": 0}["defect"])
    with pytest.raises(KeyError):
        main(["version"])


def test_nobody_reads() -> None:
    """If the reader of the output is gone there is no complaint."""
    process = subprocess.Popen(
        [sys.executable, "-m", "bridge", "version"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
        cwd=ROOT,
    )
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    assert (process.stderr.read(), process.wait()) == (b"", 0)
    process.stderr.close()


def test_every_command_is_listed() -> None:
    """The help names every command."""
    text = bridge.cli.parser().format_help()
    assert all(f"\n    {name} " in text for name in ("demo", "version"))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="platform: no /dev/full")
def test_a_full_disk() -> None:
    """Output that can't be written is one line on standard error, and no success."""
    with open("/dev/full", "w") as full:
        result = subprocess.run(
            [sys.executable, "-m", "bridge", "version"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            env=environment(),
            cwd=ROOT,
            check=False,
        )
    assert result.returncode == 1
    assert result.stderr == "audit-bridge: the output could not be written: No space left on device\n"
