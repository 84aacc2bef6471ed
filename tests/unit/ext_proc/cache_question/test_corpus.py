"""The corpus of pairs against the comparison alone, without the embedder's floor."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from ext_proc.cache.question import Level, compare, read_question
from mesh.caching.pairs import Pair, read_pairs

PAIRS: Final = Path(__file__).parents[3] / "corpus" / "pairs"
SERVED: Final = (Level.CANONICAL, Level.WORDS)


def alike(pair: Pair) -> bool:
    stored, asked = pair.first[-1]["content"], pair.then[-1]["content"]
    found = compare(read_question(asked), read_question(stored))
    return found.guard is None and found.level in SERVED


def test_traps_are_seen() -> None:
    found = {
        (pair.category, pair.then[-1]["content"]) for pair in read_pairs(PAIRS / "traps.jsonl") if alike(pair)
    }
    assert found == set()


def test_repetitions_are_seen() -> None:
    pairs = read_pairs(PAIRS / "same.jsonl")
    assert sum(map(alike, pairs)) >= 0.3 * len(pairs)
