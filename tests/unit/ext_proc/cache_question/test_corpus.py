"""The corpus of pairs against the comparison alone, without the embedder's floor."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest

from ext_proc.cache.question import Level, compare, read_question
from mesh.caching.pairs import Pair, read_pairs

PAIRS: Final = Path(__file__).parents[3] / "corpus" / "pairs"
SERVED: Final = (Level.CANONICAL, Level.WORDS)


def alike(pair: Pair) -> bool:
    """Whichever of the two was asked first."""
    stored, asked = read_question(pair.first[-1]["content"]), read_question(pair.then[-1]["content"])
    found, turned = compare(asked, stored), compare(stored, asked)
    served = found.guard is None and found.level in SERVED
    assert served == (turned.guard is None and turned.level in SERVED)
    return served


@pytest.mark.parametrize("name", ["traps.jsonl", "attacks.jsonl"])
def test_traps_are_seen(name: str) -> None:
    pairs = read_pairs(PAIRS / name)
    found = {(pair.category, pair.then[-1]["content"]) for pair in pairs if alike(pair)}
    assert found == set()


def test_what_still_gets_through_is_written_down() -> None:
    """A row that is seen now belongs to `attacks.jsonl`."""
    assert all(alike(pair) for pair in read_pairs(PAIRS / "open.jsonl"))


def test_repetitions_are_seen() -> None:
    pairs = read_pairs(PAIRS / "same.jsonl")
    assert sum(map(alike, pairs)) >= 0.3 * len(pairs)
