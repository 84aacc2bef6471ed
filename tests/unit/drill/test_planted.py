"""Planted bugs: each fits the ledger's functions as they are today, and changes them."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.budget.redis_library import library_text
from mesh.drill.drill import CANARIES
from mesh.drill.planted import PLANTED, planted_library
from mesh.local.refusal import Refusal


def test_every_canary_is_a_bug_that_can_be_planted() -> None:
    assert set(PLANTED) == set(CANARIES)


@pytest.mark.parametrize("canary", CANARIES)
def test_a_bug_fits_the_source_and_changes_it(canary: str, tmp_path: Path) -> None:
    assert planted_library(canary, tmp_path).read_text() != library_text()


def test_what_is_no_bug_is_not_planted(tmp_path: Path) -> None:
    with pytest.raises(Refusal, match="no bug"):
        planted_library("colour", tmp_path)
