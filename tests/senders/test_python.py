"""The OpenTelemetry SDK for Python, as it is, sends to `audit-bridge serve`."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bridge.capture.convert import _TAKES_MIXED_SEQUENCES
from tests.senders.kinds import KINDS, assert_whole
from tests.senders.monitored import Monitor, monitor, once_each, run_to_the_end

SENDER = str(Path(__file__).parent / "python_sender.py")


@pytest.fixture(scope="module")
def receiving() -> Iterator[Monitor]:
    # Each test sends the same records anew.
    with monitor(BRIDGE_DEDUPE_RECORDS="0") as running:
        yield running


@pytest.mark.parametrize("way", ["grpc", "http/protobuf", "view"])
def test_whole(way: str, receiving: Monitor) -> None:
    """Every value of every record arrives, with gzip, on each of the three ports."""
    with receiving.watched() as watcher:
        protocol = "http/protobuf" if way == "view" else way
        run_to_the_end(sys.executable, SENDER, protocol, receiving.endpoint(way))
        assert_whole(watcher.wait_for(len(KINDS)), mixed=_TAKES_MIXED_SEQUENCES)
        assert {each["data"]["peer"].rpartition(":")[0] for each in watcher.records} == {"127.0.0.1"}
        watcher.assert_nothing_missed()


@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
def test_many(protocol: str, receiving: Monitor) -> None:
    """Several batches arrive in order, none twice; audit records among them as such."""
    with receiving.watched() as watcher:
        run_to_the_end(sys.executable, SENDER, protocol, receiving.endpoint(protocol), "3000")
        watcher.wait_for(3_000)
        once_each(watcher.texts(), [f"order {index}" for index in range(3_000)])
        assert watcher.texts() == [f"order {index}" for index in range(3_000)]
        assert watcher.texts(lambda each: each["type"] == "audit_log") == [f"order {i}" for i in range(0, 3_000, 10)]
        watcher.assert_nothing_missed()


def test_twice() -> None:
    """Of records that come again, those with an id are left out and counted; the others can't be told apart."""
    with monitor() as receiving, receiving.watched() as watcher:
        for _ in range(2):
            run_to_the_end(sys.executable, SENDER, "grpc", receiving.grpc_endpoint)
        watcher.wait_for(2 * len(KINDS) - 1)
        assert watcher.texts().count("Role granted") == 1
        assert receiving.statistics()["duplicates"] == 1
        assert receiving.stop().endswith("1 copies left out, 0 records and 0 requests refused")
