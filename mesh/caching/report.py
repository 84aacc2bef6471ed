"""What an evaluation says: one JSON document, and two tables for people."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from statistics import quantiles
from typing import Any

import orjson

from mesh.caching.evaluation import Row
from mesh.caching.pairs import Pair


def document(pairs: Sequence[Pair], rows: Sequence[Row]) -> dict[str, Any]:
    """Stable keys. ``p50_ms`` and ``p99_ms``: of the second look-up of each pair."""
    times = [row.ms for row in rows]
    cuts = quantiles(times, n=100, method="inclusive") if len(times) > 1 else times * 99
    judged = list(zip(pairs, rows, strict=True))
    return {
        "pairs": len(pairs),
        "should_hit": sum(pair.same for pair in pairs),
        "hits": sum(row.hit for pair, row in judged if pair.same),
        "should_miss": sum(not pair.same for pair in pairs),
        "false_hits": sum(row.hit for pair, row in judged if not pair.same),
        "p50_ms": round(cuts[49], 3),
        "p99_ms": round(cuts[98], 3),
        "rows": [{"i": index, "hit": row.hit, "reason": row.reason} for index, row in enumerate(rows)],
    }


def written(found: dict[str, Any]) -> bytes:
    """``document`` as a file's contents."""
    return orjson.dumps(found, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


def by_category(pairs: Sequence[Pair], rows: Sequence[Row]) -> list[tuple[str, int, int, int, int]]:
    """Category, pairs that should hit, of which did, pairs that should not, of which did."""
    found: dict[str, list[int]] = {}
    for pair, row in zip(pairs, rows, strict=True):
        counts = found.setdefault(pair.category, [0, 0, 0, 0])
        place = 0 if pair.same else 2
        counts[place] += 1
        counts[place + 1] += row.hit
    return [
        (name, same, same_hit, other, other_hit)
        for name, (same, same_hit, other, other_hit) in sorted(found.items())
    ]


def by_reason(pairs: Sequence[Pair], rows: Sequence[Row]) -> list[tuple[str, int, int]]:
    """Reason (a hit's kind, a guard, another code), pairs that should hit, pairs that should not."""
    same: Counter[str] = Counter()
    other: Counter[str] = Counter()
    for pair, row in zip(pairs, rows, strict=True):
        (same if pair.same else other)[row.reason] += 1
    return [(reason, same[reason], other[reason]) for reason in sorted(same | other)]
