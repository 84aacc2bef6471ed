"""Every question of the corpus with one thing changed is another question."""

from __future__ import annotations

from collections import Counter

import pytest

from ext_proc.cache.question import Level, compare, read_question
from mesh.caching.pairs import read_pairs
from tests.corpus.changes import changed
from tests.unit.ext_proc.cache_question.test_corpus import PAIRS, SERVED


def questions() -> list[str]:
    pairs = [*read_pairs(PAIRS / "traps.jsonl"), *read_pairs(PAIRS / "same.jsonl")]
    texts = (side[-1]["content"] for pair in pairs for side in (pair.first, pair.then))
    return list(dict.fromkeys(texts))


def test_a_change_is_seen(capsys: pytest.CaptureFixture[str]) -> None:
    kinds, served, levels = Counter[str](), list[str](), Counter[Level]()
    for question in questions():
        stored = read_question(question)
        for kind, text in changed(question):
            found = compare(read_question(text), stored)
            kinds[kind] += 1
            levels[found.level] += 1
            if found.guard is None and found.level in SERVED:
                served.append(f"{kind}: {question} | {text}")
    with capsys.disabled():
        print(f"\n{kinds.total()} changed questions, {len(served)} served: {dict(kinds)}, {dict(levels)}")
    assert kinds.total() > 10_000
    assert served == []
