"""The OpenTelemetry SDK for JavaScript, as it is, sends to `audit-bridge serve`."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.senders.kinds import KINDS, assert_whole
from tests.senders.monitored import Monitor, monitor, once_each, run_to_the_end

FOLDER = Path(__file__).parent / "javascript"


@pytest.fixture(scope="module")
def node() -> str:
    """Node, with what the sender needs installed."""
    found = shutil.which("node")
    if found is None:
        pytest.skip("no Node.js: its OpenTelemetry SDK can't be tested (Debian: apt-get install nodejs npm)")
    if not (FOLDER / "node_modules").exists():
        pytest.skip("the JavaScript sender is not installed: run make node-modules (needs npm)")
    return found


@pytest.fixture(scope="module")
def receiving(node: str) -> Iterator[Monitor]:
    # Each test sends the same records anew.
    with monitor(BRIDGE_DEDUPE_RECORDS="0") as running:
        yield running


@pytest.mark.parametrize("way", ["grpc", "http/protobuf", "http/json", "view"])
def test_whole(way: str, node: str, receiving: Monitor) -> None:
    """Every value of every record arrives, by each protocol and on each of the three ports."""
    with receiving.watched() as watcher:
        protocol = "http/json" if way == "view" else way
        run_to_the_end(node, "sender.mjs", protocol, receiving.endpoint(way), cwd=FOLDER)
        assert_whole(watcher.wait_for(len(KINDS)))
        watcher.assert_nothing_missed()


@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf", "http/json"])
def test_many(protocol: str, node: str, receiving: Monitor) -> None:
    """Several batches arrive in order, none twice; audit records among them as such."""
    with receiving.watched() as watcher:
        run_to_the_end(node, "sender.mjs", protocol, receiving.endpoint(protocol), "3000", cwd=FOLDER)
        watcher.wait_for(3_000)
        once_each(watcher.texts(), [f"order {index}" for index in range(3_000)])
        assert watcher.texts() == [f"order {index}" for index in range(3_000)]
        audit = watcher.texts(lambda each: each["type"] == "audit_log")
        once_each(audit, [f"order {index}" for index in range(0, 3_000, 10)])
        watcher.assert_nothing_missed()
