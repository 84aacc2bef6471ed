"""Every pair of the corpus through admit, store, recall and the real embedder: no trap is served."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import pytest

from ext_proc.cache.policy import Profile
from gateway.contract.clock import SystemClock
from mesh.caching.evaluating import evaluated
from mesh.caching.evaluation import Row
from mesh.caching.pairs import Pair, read_pairs
from tests.corpus.conversations import SHOULD_HITS, TRAPS, conversation_repeats, conversation_traps
from tests.harness.embedders import EMBEDDERS

PAIRS: Final = Path(__file__).parents[1] / "corpus" / "pairs"
SERVED_OF_SAME: Final = 0.3
"""Least share of the ordinary repetitions and paraphrases that one answer serves."""


def rows_of(file: Path, profile: Profile) -> tuple[list[Pair], list[Row]]:
    pairs = read_pairs(file)
    EMBEDDERS.mkdir(parents=True, exist_ok=True)
    rows = evaluated(pairs, profile, file=file, models=EMBEDDERS, clock=SystemClock())
    return pairs, rows


def served(pairs: Sequence[Pair], rows: Sequence[Row]) -> list[str]:
    """Each hit: kind of the pair, kind of the hit, last messages."""
    return [
        f"{pair.category} ({row.reason}): {pair.first[-1]['content']} | {pair.then[-1]['content']}"
        for pair, row in zip(pairs, rows, strict=True)
        if row.hit
    ]


@pytest.mark.parametrize("profile", [Profile.STRICT, Profile.VERIFIED])
def test_no_trap_is_served(profile: Profile) -> None:
    pairs, rows = rows_of(PAIRS / "traps.jsonl", profile)
    assert served(pairs, rows) == []


def test_ordinary_repetitions_are_served(capsys: pytest.CaptureFixture[str]) -> None:
    pairs, rows = rows_of(PAIRS / "same.jsonl", Profile.STRICT)
    all_of = Counter(pair.category for pair in pairs)
    hits = Counter(pair.category for pair, row in zip(pairs, rows, strict=True) if row.hit)
    with capsys.disabled():
        print(f"\n{hits.total()} of {len(pairs)}", {kind: f"{hits[kind]}/{all_of[kind]}" for kind in all_of})
    assert hits.total() >= SERVED_OF_SAME * len(pairs)


def test_another_history_is_another_question(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "conversations.jsonl"
    lines = (json.dumps(row) for row in (*conversation_traps(), *conversation_repeats()))
    file.write_text("".join(f"{line}\n" for line in lines))
    pairs, rows = rows_of(file, Profile.STRICT)
    traps = [(pair, row) for pair, row in zip(pairs, rows, strict=True) if not pair.same]
    assert len(traps) == TRAPS
    assert served(*zip(*traps, strict=True)) == []
    hits = sum(row.hit for pair, row in zip(pairs, rows, strict=True) if pair.same)
    with capsys.disabled():
        print(f"\n{hits} of {SHOULD_HITS} repeated conversations")
    assert hits >= SERVED_OF_SAME * SHOULD_HITS
