"""The soak, on a scale that fits into every test run."""

from __future__ import annotations

import pytest

from tests.integration import soak


@pytest.mark.timeout(180)
def test_every_client_has_its_records_or_a_gap_that_counts_them() -> None:
    """Healthy clients get exactly theirs; stalled and leaving ones get each record or are told how many they missed."""
    report = soak.run(20_000, 20, rate=3_000, timeout=100.0, ring=5_000)
    assert [] == report.problems
    assert any(finding.gap_system for finding in report.findings if finding.kind == "stalled")
    assert {"healthy", "leaving", "stalled"} == {finding.kind for finding in report.findings}
