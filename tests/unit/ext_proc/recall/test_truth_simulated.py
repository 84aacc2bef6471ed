"""Seeded streams of hits of a known rate of wrong answers: who is switched off, how soon, who comes back."""

from __future__ import annotations

from random import Random

import pytest

from ext_proc.recall.truth import State, Truth
from gateway.contract.units import UnixMillis

BUCKET, SLO, SHARE, NOW = "demo/m/words/0.92", 0.01, 0.02, UnixMillis(0)
"""The policy's defaults."""


def stays_on(rng: Random, rate: float, hits: int) -> bool:
    """Whether a bucket is still ON after ``hits``, drawn at the share that the truth itself asks for."""
    truth = Truth()
    for _ in range(hits):
        wrong = rng.random() < rate
        drawn = rng.random() < truth.share(BUCKET, SLO, SHARE)
        if drawn and truth.observe(BUCKET, SLO, agreed=not wrong, now=NOW) is not None:
            return False
    return True


def with_past(samples: int) -> bytes:
    """A truth that has seen so many right ones."""
    truth = Truth()
    for _ in range(samples):
        assert truth.observe(BUCKET, SLO, agreed=True, now=NOW) is None
    return truth.to_json()


def samples_until_off(rng: Random, rate: float, past: bytes) -> int:
    """Verified samples of ``rate`` that a truth with that ``past`` needs."""
    truth = Truth.from_json(past)
    for number in range(1, 20_000):
        if truth.observe(BUCKET, SLO, agreed=rng.random() >= rate, now=NOW) is not None:
            return number
    raise AssertionError("never switched off")


@pytest.mark.parametrize(("rate", "runs"), [(0.0, 20), (0.002, 60), (0.005, 200)])
def test_a_bucket_within_its_slo_stays_on_in_95_of_100_runs(rate: float, runs: int) -> None:
    rng = Random(1)
    assert sum(stays_on(rng, rate, 5000) for _ in range(runs)) >= 0.95 * runs


@pytest.mark.parametrize(
    ("rate", "past", "median", "most"),
    [
        (0.03, 0, 120, 360),
        (0.10, 0, 36, 80),
        (0.30, 0, 12, 26),
        (0.03, 2000, 320, 650),
        (0.10, 2000, 95, 160),
        (0.30, 2000, 33, 50),
    ],
)
def test_a_bucket_that_breaks_it_is_off_within_so_many_samples(
    rate: float, past: int, median: int, most: int
) -> None:
    """Also when it was right 2,000 times before; ``most`` in 95 of 100 runs."""
    rng = Random(2)
    before = with_past(past)
    needed = sorted(samples_until_off(rng, rate, before) for _ in range(200))
    print(f"rate {rate}, past {past}: median {needed[100]}, 95 % {needed[190]}")
    assert needed[100] <= median and needed[190] <= most


def probations(rng: Random, rate: float, most: int) -> int | None:
    """How many probations a bucket needs that was off at 30 % and now has ``rate``; None: more than
    ``most``."""
    truth = Truth()
    while truth.state(BUCKET, SLO) is State.ON:
        truth.observe(BUCKET, SLO, agreed=rng.random() >= 0.3, now=NOW)
    for number in range(1, most + 1):
        now = truth.standing(BUCKET, SLO).until
        assert [change.standing.state for change in truth.tick(now)] == [State.PROBATION]
        while truth.state(BUCKET, SLO) is State.PROBATION:
            truth.observe(BUCKET, SLO, agreed=rng.random() >= rate, now=now)
        if truth.state(BUCKET, SLO) is State.ON:
            return number
    return None


@pytest.mark.parametrize(("rate", "first", "third"), [(0.0, 1.0, 1.0), (0.002, 0.9, 1.0), (0.005, 0.5, 0.85)])
def test_a_bucket_that_recovered_comes_back(rate: float, first: float, third: float) -> None:
    """``first``: share of runs in which one probation is enough; ``third``: in which three are."""
    rng = Random(3)
    needed = [probations(rng, rate, 3) for _ in range(100)]
    assert needed.count(1) >= first * 100
    assert sum(number is not None for number in needed) >= third * 100


@pytest.mark.parametrize("rate", [0.03, 0.1, 0.3])
def test_one_that_did_not_recover_stays_off(rate: float) -> None:
    rng = Random(4)
    assert [probations(rng, rate, 8) for _ in range(50)] == [None] * 50
