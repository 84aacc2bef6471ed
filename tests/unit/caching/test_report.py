"""The figures of an evaluation, and its tables."""

from __future__ import annotations

import orjson

from mesh.caching.evaluation import Row
from mesh.caching.pairs import Pair
from mesh.caching.report import by_category, by_reason, document, written

TURN = ({"role": "user", "content": "q"},)


def pair(*, same: bool, category: str) -> Pair:
    return Pair(first=TURN, then=TURN, same=same, category=category, line=1)


PAIRS = [
    pair(same=True, category="words"),
    pair(same=True, category="words"),
    pair(same=False, category="number"),
    pair(same=False, category="number"),
]
ROWS = [
    Row(hit=True, reason="canonical", ms=1.0),
    Row(hit=False, reason="far", ms=2.0),
    Row(hit=False, reason="guard.number", ms=3.0),
    Row(hit=True, reason="semantic", ms=4.0),
]


def test_the_document_counts_hits_apart_from_false_ones() -> None:
    found = orjson.loads(written(document(PAIRS, ROWS)))
    assert found == {
        "pairs": 4,
        "should_hit": 2,
        "hits": 1,
        "should_miss": 2,
        "false_hits": 1,
        "p50_ms": 2.5,
        "p99_ms": 3.97,
        "rows": [
            {"i": 0, "hit": True, "reason": "canonical"},
            {"i": 1, "hit": False, "reason": "far"},
            {"i": 2, "hit": False, "reason": "guard.number"},
            {"i": 3, "hit": True, "reason": "semantic"},
        ],
    }


def test_one_pair_has_quantiles_too() -> None:
    found = document(PAIRS[:1], ROWS[:1])
    assert (found["p50_ms"], found["p99_ms"]) == (1.0, 1.0)


def test_the_tables_add_up() -> None:
    assert by_category(PAIRS, ROWS) == [("number", 0, 0, 2, 1), ("words", 2, 1, 0, 0)]
    assert by_reason(PAIRS, ROWS) == [
        ("canonical", 1, 0),
        ("far", 1, 0),
        ("guard.number", 0, 1),
        ("semantic", 0, 1),
    ]
