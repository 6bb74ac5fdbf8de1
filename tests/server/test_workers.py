"""Finding out that this process is one of several workers."""

import multiprocessing
import types
from typing import Any

import pytest

from bridge.live.hub import Hub
from bridge.server.app import build_routes
from bridge.server.auth import Policy
from bridge.server.workers import Workers, sibling_workers


class Config:
    def __init__(self, workers: Any) -> None:
        self.workers = workers


class Owner:
    def __init__(self, **parts: Any) -> None:
        vars(self).update(parts)


def called_by(module: str, call: Any, **variables: Any) -> Any:
    """Run ``call`` from a function of a module of that name, with these variables."""
    fake = types.ModuleType(module)
    fake.__dict__["call"] = call
    names = ", ".join(variables)
    exec(f"def run({names}):\n    return call()\n", fake.__dict__)  # noqa: S102
    return fake.__dict__["run"](**variables)


@pytest.fixture
def in_child(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(multiprocessing, "parent_process", lambda: object())


def test_no_server() -> None:
    """Without a server on the stack there is nothing to say."""
    assert sibling_workers() is None


@pytest.mark.parametrize(
    ("module", "variables", "found"),
    [
        ("gunicorn.app.base", {"self": Owner(cfg=Config(4))}, Workers("gunicorn", 4)),
        ("gunicorn.app.base", {"self": Owner(cfg=Config(1))}, None),
        ("gunicorn.app.base", {"self": Owner()}, None),
        ("gunicorn.util", {"other": 1}, None),
        ("uvicorn._subprocess", {"config": Config(3)}, Workers("uvicorn", 3)),
        ("uvicorn.server", {"self": Owner(config=Config(2))}, Workers("uvicorn", 2)),
        ("uvicorn.server", {"self": Owner(config=Config(None))}, None),
        ("uvicorn.server", {"self": Owner(config=Config(True))}, None),
        ("hypercorn.asyncio.run", {"config": Config(2)}, Workers("hypercorn", 2)),
        ("uvicornish", {"config": Config(2)}, None),
        ("shop.server", {"config": Config(2)}, None),
    ],
)
@pytest.mark.usefixtures("in_child")
def test_servers(module: str, variables: dict[str, Any], found: Workers | None) -> None:
    """The number is read from the configuration in the frames of the server that called us."""
    assert called_by(module, sibling_workers, **variables) == found


def test_a_configuration_is_not_a_worker() -> None:
    """In a process that no supervisor started, uvicorn serves alone whatever WEB_CONCURRENCY put in its settings."""
    assert called_by("uvicorn.server", sibling_workers, self=Owner(config=Config(4))) is None


def test_a_server_without_numbers_hides_none_below() -> None:
    """Frames are looked through down to the first that says more than one."""
    inner = lambda: called_by("uvicorn.importer", sibling_workers, x=1)  # noqa: E731
    found = called_by("gunicorn.arbiter", inner, self=Owner(cfg=Config(2)))
    assert found == Workers("gunicorn", 2)


def test_it_is_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    """Routes made in one of several workers warn, once, that each shows its own records only."""

    def make() -> None:
        for _ in range(2):
            build_routes(Hub(), Policy(), prefix="", max_clients=1, statistics=dict, version="0")

    called_by("gunicorn.app.base", make, self=Owner(cfg=Config(4)))
    said = capsys.readouterr().err
    assert said.count("gunicorn runs 4 worker processes, and each shows only its own records") == 1
