"""mesh/base under fuzz by itself: among all policies its turn comes once in eight."""

from __future__ import annotations

import random

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz.policies import check_mesh, check_resources
from tests.unit.mesh.policy import base

SEARCHED = 200


def test_the_mesh_is_taken_as_it_stands() -> None:
    """A search that starts from a refused mesh would see one refusal only."""
    assert check_resources(base(), base())


def test_a_search_of_the_mesh_sees_both_ends() -> None:
    """The same inputs each time: enough are refused, and enough go all the way to Envoy's config."""
    rng = random.Random()
    taken = 0
    for number in range(SEARCHED):
        rng.seed(number)
        taken += check_mesh(rng)
    assert SEARCHED // 20 < taken < SEARCHED // 2


@settings(max_examples=100, suppress_health_check=list(HealthCheck), derandomize=True)
@given(st.randoms(use_true_random=False))
def test_a_changed_mesh_is_taken_or_refused_with_its_place(chance: random.Random) -> None:
    check_mesh(chance)
