"""Full queues behind the mesh's other Envoy; tests/dataplane has them behind the product's own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.dataplane.test_drain_overload import (
    Stack,
    running_stack,
    test_both_full_is_503_after_both_were_asked,
    test_one_full_is_answered_by_the_other,
    test_refusals_cost_nothing,
)
from tests.harness.trap import ENVOYS

__all__ = [
    "test_both_full_is_503_after_both_were_asked",
    "test_one_full_is_answered_by_the_other",
    "test_refusals_cost_nothing",
]


@pytest.fixture(scope="module", params=ENVOYS[1:])
def stack(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with running_stack(tmp_path_factory, request.param) as running:
        yield running
