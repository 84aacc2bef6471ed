"""The processes' counts and what recall has learnt, as the report has them."""

from __future__ import annotations

import pytest

from ext_proc.recall.truth import Truth
from gateway.contract.units import UnixMillis
from mesh.caching.tally import report_object, tally_of, truth_of

METRICS = b"""
# TYPE tidegate_cache_lookups_total counter
tidegate_cache_lookups_total{reason="exact",result="hit"} 3.0
tidegate_cache_lookups_total{reason="semantic",result="hit"} 5.0
tidegate_cache_lookups_total{reason="guard.number",result="miss"} 2.0
tidegate_cache_lookups_total{reason="mode_off",result="bypass"} 7.0
tidegate_cache_lookups_total{reason="unavailable",result="unavailable"} 1.0
tidegate_cache_lookups_total{reason="gone",result="miss"} 0.0
# TYPE tidegate_cache_stores_total counter
tidegate_cache_stores_total{result="stored"} 4.0
"""
BUCKET = "demo/small/words/0.96"


def test_the_counts_are_sorted_by_number_and_zeros_left_out() -> None:
    tally = tally_of(METRICS)
    assert list(tally.hits.items()) == [("semantic", 5), ("exact", 3)]
    assert dict(tally.misses) == {"guard.number": 2}
    assert dict(tally.bypassed) == {"mode_off": 7, "unavailable": 1}
    assert (dict(tally.stored), dict(tally.verified)) == ({"stored": 4}, {})
    assert tally.hit_share == 0.8


def test_without_requests_there_is_no_share() -> None:
    assert tally_of(b"").hit_share is None


def test_truth_is_told_with_its_bound_and_the_worst_first() -> None:
    truth = Truth()
    truth.observe("demo/small/words/0.98", 0.01, agreed=True, now=UnixMillis(1))
    for _ in range(3):
        truth.observe(BUCKET, 0.01, agreed=False, now=UnixMillis(1_000))
    worst, best = truth_of(truth.to_json())
    assert (worst.bucket, worst.state, best.state) == (BUCKET, "off", "on")
    assert worst.bound > 0.01 > best.bound and worst.wrong > 2
    found = report_object(tally_of(METRICS), (worst, best), [BUCKET])
    assert found["buckets"][0]["until_ms"] == worst.until_ms and worst.until_ms is not None
    assert found["switched_off"] == [BUCKET]


def test_a_file_of_another_version_is_none_of_ours() -> None:
    with pytest.raises(ValueError, match="version"):
        truth_of(b"{}")
