"""What ``tidegate cache`` prints for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mesh.caching.evaluation import Row
from mesh.caching.explanation import Explanation
from mesh.caching.pairs import Pair
from mesh.caching.reasons import in_words
from mesh.caching.report import by_category, by_reason
from mesh.caching.tally import BucketTruth, Tally
from mesh.commands.output import Cell, print_table, time_text


def print_evaluation(pairs: Sequence[Pair], rows: Sequence[Row], found: Mapping[str, Any]) -> None:
    """By category, by reason, and the figures of ``found`` (mesh/caching/report.py)."""
    print_table(("category", "should hit", "hits", "should miss", "false hits"), by_category(pairs, rows))
    print()
    print_table(
        ("reason", "should hit", "should miss", ""),
        [(reason, same, other, in_words(reason)) for reason, same, other in by_reason(pairs, rows)],
    )
    hits, wrong = found["hits"], found["false_hits"]
    print()
    print_table(
        ("", "pairs", "served", "share"),
        [
            ("should hit", found["should_hit"], hits, _share(hits, found["should_hit"])),
            ("should miss", found["should_miss"], wrong, _share(wrong, found["should_miss"])),
            ("wrong among hits", hits + wrong, wrong, _share(wrong, hits + wrong)),
        ],
    )
    print(f"\nSecond look-up of a pair: p50 {found['p50_ms']:.1f} ms, p99 {found['p99_ms']:.1f} ms.")


def print_explanation(found: Explanation) -> None:
    """The outcome, each step, and what a person would do next."""
    print(f"{'hit' if found.hit else 'miss'} ({found.code}): {found.meaning}.")
    for number, step in enumerate(found.steps, 1):
        print(f"  {number}. {step.name}: {step.said}: {step.meaning}")
    if found.hit:
        age = f", {found.age_s} s old" if found.age_s is not None else ""
        similar = f", cosine {found.similarity}" if found.similarity else ""
        print(f"entry     {found.entry}{age}{similar}")
    if found.question:
        print(f"question  {found.question}")
    print(f"request   {found.request_id}")


def print_report(tally: Tally, truth: Sequence[BucketTruth], off: Sequence[str]) -> None:
    """Counts, then buckets."""
    looked = sum(tally.hits.values()) + sum(tally.misses.values())
    rows: list[Sequence[Cell]] = []
    for what, counts, words in (
        ("hit", tally.hits, True),
        ("miss", tally.misses, True),
        ("not looked up", tally.bypassed, True),
        ("stored", tally.stored, False),
        ("verified", tally.verified, False),
        ("judged", tally.judged, False),
    ):
        for code, count in counts.items():
            share = _share(count, looked) if what in ("hit", "miss") else None
            rows.append((what, code, count, share, in_words(code) if words else None))
    print_table(("", "", "requests", "share", ""), rows)
    if truth:
        print()
        print_table(
            ("bucket", "slo", "state", "wrong at most", "right", "wrong", "until"),
            [
                (
                    *(one.bucket, f"{one.slo:.2%}", one.state, f"{one.bound:.2%}"),
                    *(f"{one.right:.1f}", f"{one.wrong:.1f}", time_text(one.until_ms)),
                )
                for one in truth
            ],
        )
    if off:
        print()
        print_table(("switched off",), [(bucket,) for bucket in off])


def _share(part: int, whole: int) -> str | None:
    return f"{part / whole:.2%}" if whole else None
