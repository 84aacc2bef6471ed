"""A thousand random changes of each kind to the segments: verify finds all of them, and names the place."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.harness.damage import Damaged, every
from tests.unit.bookkeeper.logged import LOCAL, end_of, written

TIMES = 1000


async def test_a_thousand_changes_of_each_kind_are_found(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    seed = random.SystemRandom().randrange(2**40)
    books = tmp_path / "books"
    await written(books, steps=500, events=100)
    anchor = end_of(books)
    damaged = Damaged(books, tmp_path / "copy", LOCAL, anchor, seed)
    for damage, unnoticed in every(damaged, TIMES):
        with capsys.disabled():
            found = TIMES - len(unnoticed)
            print(f"{damage}: {found} of {TIMES} found (seed {seed}, {anchor.count} records)", flush=True)
        assert unnoticed == []
    assert damaged.clean()
