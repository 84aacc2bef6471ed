"""budgets.yaml under fuzz by itself: among all policies its turn comes once in three."""

from __future__ import annotations

import random

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.budget.policy import BudgetPolicy, budget_policy_from
from gateway.config.document import parse_documents
from tests.fuzz.budgets import DATA, SMALL, TEXT, changed_budgets, check_budgets
from tests.fuzz.policies import check_data, check_text

SEARCHED = 400


def read(text: str) -> BudgetPolicy:
    return budget_policy_from(parse_documents(text, "budgets.yaml")[0])


def test_the_whole_grammar_is_taken_as_it_stands() -> None:
    check_budgets(read(TEXT))
    assert check_text("budgets.yaml", SMALL)


def test_a_search_of_the_budgets_sees_both_ends() -> None:
    """The same inputs each time: enough are refused, and enough give accounts to ask for."""
    rng = random.Random()
    taken = 0
    for number in range(SEARCHED):
        rng.seed(number)
        changed = changed_budgets(rng)
        taken += changed != DATA and check_data("budgets.yaml", changed)
    assert SEARCHED // 10 < taken < SEARCHED // 2


@settings(max_examples=100, suppress_health_check=list(HealthCheck), derandomize=True)
@given(st.randoms(use_true_random=False))
def test_changed_budgets_are_taken_or_refused_with_their_place(chance: random.Random) -> None:
    check_data("budgets.yaml", changed_budgets(chance))
