"""The soak on a scale that fits into every test run, and that it finds what a server may do wrong."""

from __future__ import annotations

import shutil
import sys

import pytest

from benchmarks.soak import QUICK, soak

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="platform: its clients use epoll"),
    pytest.mark.skipif(not any(map(shutil.which, ("cc", "gcc", "clang"))), reason="its clients need a C compiler"),
    pytest.mark.timeout(180),
]


def test_every_client_has_its_records_or_a_gap_that_counts_them() -> None:
    """Healthy clients get exactly theirs; stalled and leaving ones get each record or are told how many they missed."""
    result = soak(QUICK)
    assert [] == result.failures
    clients = result.data["clients"]["clients"]
    assert {"healthy": 10, "leaving": 5, "stalled": 5} == {
        kind: sum(client["kind"] == kind for client in clients) for kind in ("healthy", "leaving", "stalled")
    }
    assert all(client["visits"] > 1 for client in clients if client["kind"] == "leaving")
    stalled = [client for client in clients if client["kind"] == "stalled"]
    assert any(client["gap_system"] for client in stalled)
    assert any(client["gap_audit"] for client in stalled)


@pytest.mark.parametrize(
    ("mistake", "found"),
    [
        ("drop", "missing: 1"),
        ("twice", "twice: 1"),
        ("swap", "late: 1"),
        ("gap", "wrong_gaps: "),
        ("resume", "missing: "),
        ("filter", "foreign: 1"),
    ],
)
def test_a_mistake_of_the_server_is_found(mistake: str, found: str) -> None:
    """A record lost, repeated, swapped or let through, gaps or resumptions off by one: each is found by its name."""
    result = soak(QUICK._replace(records=12_000), plant=mistake)
    assert any(found in failure for failure in result.failures), result.text
