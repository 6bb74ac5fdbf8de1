"""``audit-bridge tail``: its options, and what it says when it is used wrongly."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from bridge.cli import main, parser
from bridge.cli.tail import parameters
from tests.monitors import event, monitor
from tests.serving import PATIENCE_SECONDS, ROOT, environment, free_port


@pytest.fixture(autouse=True)
def kept_signals() -> Iterator[None]:
    """The command takes Ctrl-C for itself."""
    kept = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, kept)


def tail(*arguments: str, **variables: str) -> subprocess.CompletedProcess[bytes]:
    """Run it to its end in a process of its own."""
    return subprocess.run(
        [sys.executable, "-W", "error", "-m", "bridge", "tail", *arguments],
        env=environment(**variables),
        capture_output=True,
        timeout=PATIENCE_SECONDS,
        check=False,
        cwd=ROOT,
    )


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], []),
        (["--streams", "audit"], [("streams", "audit")]),
        (["--min-severity", "WARN"], [("min_severity", "WARN")]),
        (["--logger", "a.*", "--logger", "b"], [("logger", "a.*"), ("logger", "b")]),
        (["--service", "s", "--attr", "k:v", "--attr", "l:w"], [("service", "s"), ("attr", "k:v"), ("attr", "l:w")]),
        (["--re", "(?i)x", "--trace-id", "ab"], [("re", "(?i)x"), ("trace_id", "ab")]),
        (["-q", "text"], [("q", "text")]),
        (["--query", ""], [("q", "")]),
        (["--max-rate", "20"], [("max_rate", "20")]),
    ],
)
def test_options_become_parameters(arguments: list[str], expected: list[tuple[str, str]]) -> None:
    """Each option is the parameter of the protocol that it is named after."""
    assert expected == parameters(parser().parse_args(["tail", *arguments]))


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["ftp://h"], "ftp://h: not an address of a monitor; for example http://127.0.0.1:8765"),
        (["http://a..b"], "not an address of a monitor"),
        (["http://\x1b[31mh"], "http://\\x1b[31mh: not an address"),
        (["--history", "x"], "argument --history: invalid int value: 'x'; see audit-bridge tail --help"),
        (["--max-rate", "x"], "argument --max-rate: invalid int value"),
        (["--color", "red"], "argument --color: invalid choice: 'red'"),
        (["--nonsense"], "unrecognized arguments: --nonsense"),
        (["8765", "8766"], "unrecognized arguments: 8766"),
    ],
)
def test_wrong_use(arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Wrong use is one line that says what is wrong, and exit code 2."""
    assert 2 == main(["tail", *arguments])
    said = capsys.readouterr()
    assert ("", 1) == (said.out, said.err.count("\n"))
    assert complaint in said.err


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--re", "("], "re='('"),
        (["--min-severity", "LOUD"], "min_severity='LOUD'"),
        (["--streams", "both"], "streams='both'"),
        (["--after", "nonsense"], "after='nonsense': must be a cursor"),
        (["--history", "-1"], "history='-1': must be a number"),
        (["--history", "1000000"], "history='1000000': must be a number"),
        (["--max-rate", "0"], "max_rate='0': must be a number"),
    ],
)
def test_what_the_server_refuses(arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str]) -> None:
    """What the server can't serve is one line in its words, and exit code 2."""
    with monitor() as running:
        assert 2 == main(["tail", str(running.port), *arguments])
    said = capsys.readouterr()
    assert ("", 1) == (said.out, said.err.count("\n"))
    assert said.err.startswith(f"audit-bridge: {running.url}: ")
    assert complaint in said.err


def test_tokens(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The token comes from the option or the environment; without the right one it ends with exit code 2."""
    with monitor(token="s3cret") as running:
        running.publish()
        end = [str(running.port), "--no-follow"]
        assert [2, 2, 0] == [main(["tail", *end, *more]) for more in ([], ["--token", "no"], ["--token", "s3cret"])]
        monkeypatch.setenv("BRIDGE_TOKEN", "s3cret")
        assert 0 == main(["tail", *end])
    said = capsys.readouterr()
    assert 2 == said.out.count("n=1")
    assert 2 == said.err.count(f"audit-bridge: {running.url}: no or a wrong token")
    assert "s3cret" not in said.out + said.err


def test_nobody_there_and_not_following(capsys: pytest.CaptureFixture[str]) -> None:
    """Asked for the past only, a service that is not there is the end: one line and exit code 2."""
    assert 2 == main(["tail", str(free_port()), "--no-follow"])
    said = capsys.readouterr()
    assert ("", 1) == (said.out, said.err.count("\n"))
    assert "Connection refused" in said.err


def test_the_past(capsys: pytest.CaptureFixture[str]) -> None:
    """By default the last 20 records; as many as asked for; none with ``--history 0``."""
    with monitor() as running:
        running.publish(50)
        shown = []
        for arguments in ([], ["--history", "3"], ["--history", "0"], ["--after", f"{running.hub.epoch}:45"]):
            assert 0 == main(["tail", str(running.port), "--no-follow", *arguments])
            shown.append([line.split("n=")[1] for line in capsys.readouterr().out.splitlines()])
    assert [[str(n) for n in range(first, 51)] for first in (31, 48, 51, 46)] == shown


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-8"])
def test_any_encoding_of_the_output(encoding: str) -> None:
    """What the output's encoding has no character for is shown by its number; JSON is always UTF-8."""
    with monitor() as running:
        running.hub.publish([event("日本 → grüße \x1b")])
        line = tail(str(running.port), "--no-follow", PYTHONIOENCODING=encoding)
        as_json = tail(str(running.port), "--no-follow", "--json", PYTHONIOENCODING=encoding)
    assert ((0, b""), (0, b"")) == ((line.returncode, line.stderr), (as_json.returncode, as_json.stderr))
    assert "日本 → grüße \\u001b" in as_json.stdout.decode()
    assert "日本 → grüße \\x1b".encode(encoding, "backslashreplace") in line.stdout


def test_without_a_standard_output() -> None:
    """With standard output closed it says so, and ends."""
    process = subprocess.Popen(
        [sys.executable, "-m", "bridge", "tail", "8765"],
        env=environment(),
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        preexec_fn=lambda: os.close(1),
    )
    _, said = process.communicate(timeout=PATIENCE_SECONDS)
    assert (2, "audit-bridge: tail has no standard output to print to\n") == (process.returncode, said)
