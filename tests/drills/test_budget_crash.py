"""The drill of the budgets, short, as a user runs it; at its own length by night."""

from __future__ import annotations

from pathlib import Path

import pytest

from mesh.drill.catalogue import DRILLS
from mesh.drill.crash import LABELS
from tests.drills.running import drill

REQUESTS = 100


def test_budgets_hold_while_everything_dies(tmp_path: Path) -> None:
    ran = drill(tmp_path, "budget-crash", "--requests", str(REQUESTS))
    figures = ran.figures
    assert ran.code == 0, ran.output
    assert figures["passed"] and figures["broken"] == []
    assert (figures["overspent"], figures["drift"], figures["leaked_holds"]) == (0, 0, 0)
    assert set(figures["kills_by_label"]) == set(LABELS)
    assert min(figures["kills_by_label"].values()) > 0
    assert figures["produced"] > 0 and figures["reconciled"]["corrected"] > 0, "there was something to mend"


def test_drills_are_listed_and_unknown_ones_refused(tmp_path: Path) -> None:
    listed = drill(tmp_path)
    assert listed.code == 0
    assert all(name in listed.output for name in DRILLS)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("no-such",), "no drill 'no-such'"),
        (("budget-crash", "--canary", "colour"), "plants no 'colour'"),
        (("budget-crash", "--requests", "7"), "must be 100 to 1000000"),
    ],
)
def test_what_cannot_be_drilled_is_refused_in_one_line(
    arguments: tuple[str, ...], said: str, tmp_path: Path
) -> None:
    refused = drill(tmp_path, *arguments)
    assert refused.code in (1, 2)
    assert said in refused.output
