"""Drills as data: every criterion can break, every figure that people read is explained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from gateway.budget.policy import load_budget_policy
from mesh.drill.catalogue import DRILLS
from mesh.drill.crash import LABELS
from mesh.drill.drill import CANARIES, Setup, judged
from mesh.drill.stage import budgets_text
from mesh.local.layout import BASE

GOOD: dict[str, Any] = {
    "requests_asked": 200,
    "answered": 100,
    "left": 20,
    "refused_budget": 30,
    "store_kills": 1,
    "store_stalls": 1,
    "leases_on": True,
    "drawn": 1,
    "overspent": 0,
    "drift": 0,
    "leaked_holds": 0,
    "unknown": 5,
    "unknown_most": 5,
    "unexplained": 0,
    "changed_again": 0,
    "replay_differs": 0,
    "kills": 10,
    "kills_by_label": dict.fromkeys(LABELS, 1),
    "books_clean": True,
}
DRILL = DRILLS["budget-crash"]


def setup() -> Setup:
    return Setup(requests=200, seed=1, canary="", work=Path("/nowhere"), leases=True, say=print)


def test_good_figures_pass() -> None:
    verdict = judged(DRILL, setup(), GOOD)
    assert (verdict.passed, verdict.to_fields()["broken"]) == (True, [])


@pytest.mark.parametrize(
    ("changed", "figure"),
    [
        ("answered", "answered"),
        ("left", "answered"),
        ("refused_budget", "answered"),
        ("store_kills", "store_kills"),
        ("store_stalls", "store_kills"),
    ],
)
def test_a_drill_in_which_nothing_happened_proves_nothing(changed: str, figure: str) -> None:
    assert judged(DRILL, setup(), GOOD | {changed: 0}).to_fields()["broken"] == [figure]


@pytest.mark.parametrize(
    ("figure", "value"),
    [
        ("drawn", 0),
        ("overspent", 1),
        ("drift", 1),
        ("leaked_holds", 1),
        ("unknown", 6),
        ("unexplained", 1),
        ("changed_again", 1),
        ("replay_differs", 1),
        ("kills", 9),
        ("kills_by_label", dict.fromkeys(LABELS, 1) | {"before_event": 0}),
        ("books_clean", False),
    ],
)
def test_each_criterion_breaks_by_its_own_figure(figure: str, value: object) -> None:
    verdict = judged(DRILL, setup(), GOOD | {figure: value})
    assert not verdict.passed
    assert verdict.to_fields()["broken"] == [figure]


def test_nothing_needs_to_be_drawn_where_workers_hold_no_leases() -> None:
    assert judged(DRILL, setup(), GOOD | {"leases_on": False, "drawn": 0}).passed


def test_every_bug_can_be_planted_and_the_bounds_grow_with_the_length() -> None:
    assert DRILL.canaries == CANARIES
    assert DRILL.seconds_max(10_000) > DRILL.seconds_max(200) > 0


@pytest.mark.parametrize("requests", [100, 10_000])
def test_the_budgets_of_a_drill_are_a_policy(requests: int, tmp_path: Path) -> None:
    from mesh.drill.budget_crash import TOKENS_EACH, callers_for

    file = tmp_path / "budgets.yaml"
    file.write_text(budgets_text(callers_for(requests), leases=True))
    policy = load_budget_policy(file)
    assert (sorted(policy.orgs), policy.leases.enabled) == (
        ["drill-open", "drill-rush", "drill-shared", "drill-tiny"],
        True,
    )
    shared = yaml.safe_load(file.read_text())["orgs"]["drill-shared"]
    assert shared["limits"][0]["tokens"] < 2 * requests * TOKENS_EACH // 5, "it runs out"
    assert BASE.is_dir()
