"""The soak, on a scale that fits into every test run."""

from __future__ import annotations

import pytest

from tests.integration import soak


@pytest.mark.timeout(180)
def test_every_client_has_its_records_or_a_gap_that_counts_them() -> None:
    """Healthy clients get exactly theirs; stalled and leaving ones get each record or are told how many they missed."""
    report = soak.run(60_000, 20, timeout=100.0)
    assert [] == report.problems
    assert {"healthy", "leaving", "stalled"} == {finding.kind for finding in report.findings}
