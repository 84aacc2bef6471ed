"""Damage to real books is found and its place named; tests/nightly has the large numbers."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.harness.damage import DAMAGES, Damaged
from tests.unit.bookkeeper.logged import LOCAL, end_of, written

TIMES = 8


@pytest.mark.parametrize("damage", DAMAGES)
async def test_all_damage_is_found_where_it_is(damage: str, tmp_path: Path) -> None:
    await written(tmp_path / "books", steps=80, events=25)
    damaged = Damaged(tmp_path / "books", tmp_path / "copy", LOCAL, end_of(tmp_path / "books"), seed=5)
    assert damaged.unnoticed(damage, TIMES) == []
    assert damaged.clean()
