"""Drills at their own length, and the proof that they see: each planted bug makes its figure break."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.drills.running import drill

BREAKS = {
    "settle-twice": "drift",
    "refund-on-expiry": "overspent",
    "no-dedupe": "drift",
    "check-then-charge": "overspent",
}
PLANTED_REQUESTS = 400
LEASED_REQUESTS = 600


def test_ten_thousand_requests_and_five_hundred_kills(tmp_path: Path) -> None:
    ran = drill(tmp_path, "budget-crash")
    assert ran.code == 0, ran.output
    assert ran.figures["requests"] >= 10_000
    assert ran.figures["kills"] >= 500


def test_budgets_hold_while_workers_die_with_leases(tmp_path: Path) -> None:
    ran = drill(tmp_path, "budget-crash", "--leases", "--requests", str(LEASED_REQUESTS))
    assert ran.code == 0, ran.output
    assert ran.figures["leases_on"] and ran.figures["drawn"] > 0
    assert ran.figures["kills"] >= LEASED_REQUESTS // 20


@pytest.mark.parametrize("canary", BREAKS)
def test_a_planted_bug_is_found(canary: str, tmp_path: Path) -> None:
    ran = drill(tmp_path, "budget-crash", "--requests", str(PLANTED_REQUESTS), "--canary", canary)
    assert ran.code == 1, ran.output
    assert BREAKS[canary] in ran.figures["broken"], ran.output
