"""What holds for every test: clean global state after it, asyncio only, and no silent skips in CI."""

import os
import sys
from collections.abc import Generator, Iterator

import pytest

from tests.serving import kept_loggers

IN_CI = os.environ.get("CI") == "true"
# A skip for this reason is a fact about the machine; any other skip in CI hides a missing install step.
ALLOWED_SKIP = "platform:"


def forbidden_skip(report: pytest.TestReport | pytest.CollectReport) -> str | None:
    """The reason why a report was skipped, if CI must not accept it."""
    if not IN_CI or not report.skipped or hasattr(report, "wasxfail"):
        return None
    detail = report.longrepr
    reason = detail[2] if isinstance(detail, tuple) else str(detail)
    reason = reason.removeprefix("Skipped: ")
    return None if reason.startswith(ALLOWED_SKIP) else reason


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if (reason := forbidden_skip(report)) is not None:
        report.outcome = "failed"
        report.longrepr = f"skipped in CI, where every test has to run: {reason}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    if (reason := forbidden_skip(report)) is not None:
        report.outcome = "failed"
        report.longrepr = f"skipped in CI, where every test has to run: {reason}"
    return report


@pytest.fixture(autouse=True)
def clean_bridge() -> Iterator[None]:
    """Undo what a test installed into this process."""
    yield
    assembly = sys.modules.get("bridge.assembly")
    if assembly is not None:
        assembly.reset_for_tests()


@pytest.fixture(autouse=True)
def clean_uvicorn_loggers() -> Iterator[None]:
    """uvicorn's default configuration would make later tests see its own log lines."""
    with kept_loggers("uvicorn", "uvicorn.error", "uvicorn.access", "uvicorn.asgi"):
        yield


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"
