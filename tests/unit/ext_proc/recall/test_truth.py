"""Buckets: their states, their bound in number and their JSON."""

from __future__ import annotations

import orjson
import pytest

from ext_proc.recall.truth import PAUSE, PAUSE_MAX, Change, State, Truth
from gateway.contract.units import UnixMillis

BUCKET, SLO, NOW = "demo/m/words/0.92", 0.01, UnixMillis(1_800_000_000_000)


def switched_off(bucket: str = BUCKET, *, now: UnixMillis = NOW) -> Truth:
    """A truth that knows one bucket, OFF since ``now``."""
    truth = Truth()
    while truth.observe(bucket, SLO, agreed=False, now=now) is None:
        pass
    return truth


def observed(truth: Truth, agreed: int, now: UnixMillis) -> Change | None:
    """The change that the last of so many right samples makes; none before it may."""
    changes = [truth.observe(BUCKET, SLO, agreed=True, now=now) for _ in range(agreed)]
    assert not any(changes[:-1])
    return changes[-1]


def test_an_unknown_bucket_is_on_with_the_bound_of_the_corpora() -> None:
    standing = Truth().standing(BUCKET, SLO)
    assert standing.state is State.ON
    assert standing.bound == pytest.approx(1 - 0.05 ** (1 / 651))


def test_an_slo_that_the_corpora_cannot_vouch_for_has_to_be_earned() -> None:
    truth = Truth()
    assert [truth.state(BUCKET, slo) for slo in (0.005, 0.004, 0.0)] == [
        State.ON,
        State.PROBATION,
        State.PROBATION,
    ]
    changes = [truth.observe(BUCKET, 0.004, agreed=True, now=NOW) for _ in range(800)]
    at = next(number for number, change in enumerate(changes, 1) if change is not None)
    assert at == 747 and truth.state(BUCKET, 0.004) is State.ON  # 1 - 0.05 ** (1 / 748) < 0.004


def test_two_early_wrong_answers_are_within_the_slo_and_a_third_is_not() -> None:
    truth = Truth()
    assert [truth.observe(BUCKET, SLO, agreed=False, now=NOW) for _ in range(2)] == [None, None]
    change = truth.observe(BUCKET, SLO, agreed=False, now=NOW)
    assert change is not None and change.standing.state is State.OFF
    assert change.standing.bound > SLO and change.standing.until == NOW + PAUSE
    assert truth.closed() == {BUCKET}


def test_off_learns_nothing_and_verifies_nothing() -> None:
    truth = switched_off()
    assert truth.share(BUCKET, SLO, 0.02) == 0
    before = truth.standing(BUCKET, SLO)
    assert truth.observe(BUCKET, SLO, agreed=True, now=NOW) is None
    assert truth.standing(BUCKET, SLO) == before


def test_a_bucket_in_doubt_is_verified_more_often() -> None:
    truth = Truth()
    assert truth.share(BUCKET, SLO, 0.02) == 0.02
    truth.observe(BUCKET, SLO, agreed=False, now=NOW)
    assert truth.share(BUCKET, SLO, 0.02) == pytest.approx(0.1)
    assert truth.share(BUCKET, SLO, 0.5) == 1
    for _ in range(600):
        truth.observe(BUCKET, SLO, agreed=True, now=NOW)
    assert truth.share(BUCKET, SLO, 0.02) == 0.02


def test_after_a_pause_it_is_verified_whole_and_comes_back_by_its_own_samples() -> None:
    truth = switched_off()
    assert truth.tick(UnixMillis(NOW + PAUSE - 1)) == ()
    (change,) = truth.tick(UnixMillis(NOW + PAUSE))
    assert change.standing.state is State.PROBATION and truth.closed() == {BUCKET}
    assert truth.share(BUCKET, SLO, 0.02) == 1
    back = observed(truth, 298, NOW)  # 1 - 0.05 ** (1 / 299) < 0.01: the corpora count for nothing
    assert back is not None and back.standing.state is State.ON
    assert truth.closed() == frozenset()


def test_pauses_double_up_to_a_day_and_a_steady_bucket_starts_anew() -> None:
    truth, now, pauses = switched_off(), NOW, []
    for _ in range(7):
        until = truth.standing(BUCKET, SLO).until
        pauses.append((until - now) // PAUSE)
        now = until
        truth.tick(now)
        while truth.observe(BUCKET, SLO, agreed=False, now=now) is None:
            pass
    assert pauses == [1, 2, 4, 8, 16, 24, 24]
    now = truth.standing(BUCKET, SLO).until
    truth.tick(now)
    observed(truth, 298, now)
    for _ in range(500):
        truth.observe(BUCKET, SLO, agreed=True, now=now)
    while truth.state(BUCKET, SLO) is State.ON:
        truth.observe(BUCKET, SLO, agreed=False, now=now)
    assert truth.standing(BUCKET, SLO).until == now + PAUSE


def test_a_probation_ends_either_way() -> None:
    truth = switched_off()
    truth.tick(UnixMillis(NOW + PAUSE))
    seen = 0
    while truth.state(BUCKET, SLO) is State.PROBATION:
        seen += 1
        truth.observe(BUCKET, SLO, agreed=seen not in (100, 400, 600), now=NOW)
    assert truth.state(BUCKET, SLO) is State.ON and seen == 772
    again = switched_off()
    again.tick(UnixMillis(NOW + PAUSE))
    changes = [again.observe(BUCKET, SLO, agreed=False, now=NOW) for _ in range(4)]
    assert changes[:3] == [None, None, None] and again.state(BUCKET, SLO) is State.OFF


def test_a_clock_set_back_makes_no_pause_longer_than_the_longest() -> None:
    truth = switched_off()
    past = UnixMillis(NOW - 365 * PAUSE_MAX)
    assert truth.tick(past) == ()
    assert len(truth.tick(UnixMillis(past + PAUSE_MAX))) == 1


def test_another_slo_is_another_bucket_and_one_closed_closes_the_name() -> None:
    truth = switched_off()
    assert truth.state(BUCKET, 0.02) is State.ON
    truth.observe(BUCKET, 0.02, agreed=True, now=NOW)
    assert len(truth) == 2 and truth.closed() == {BUCKET}


def test_buckets_are_bounded_and_a_closed_one_is_forgotten_last() -> None:
    truth = Truth(buckets_max=3)
    while truth.observe("bad", SLO, agreed=False, now=NOW) is None:
        pass
    for name in "abcdef":
        truth.observe(name, SLO, agreed=True, now=NOW)
    assert [name for name, _, _ in truth.standings()] == ["bad", "e", "f"]


def test_one_that_was_found_off_takes_the_slo_of_the_first_that_asks() -> None:
    truth = Truth()
    truth.adopt(BUCKET, NOW)
    assert truth.closed() == {BUCKET}
    assert truth.state(BUCKET, SLO) is truth.state(BUCKET, 0.004) is State.OFF
    truth = Truth.from_json(truth.to_json())
    truth.tick(UnixMillis(NOW + PAUSE))
    assert truth.observe(BUCKET, SLO, agreed=True, now=NOW) is None
    assert truth.state(BUCKET, SLO) is State.PROBATION and truth.state(BUCKET, 0.02) is State.ON
    assert len(truth) == 1


def test_json_keeps_everything() -> None:
    truth = switched_off()
    truth.observe("demo/m/near/0.90", 0.02, agreed=True, now=NOW)
    again = Truth.from_json(truth.to_json())
    assert list(again.standings()) == list(truth.standings()) and again.to_json() == truth.to_json()


GOOD = ["b", 0.01, "on", 1.0, 0.0, 1, PAUSE, 0]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"{}",
        b'{"version":2,"buckets":[]}',
        b'{"version":1,"buckets":{}}',
        b'{"version":1,"buckets":[1]}',
        *(
            orjson.dumps({"version": 1, "buckets": [[*GOOD[:at], value, *GOOD[at + 1 :]]]})
            for at, value in [
                (0, 1),
                (1, 7.0),
                (1, 1),
                (2, "maybe"),
                (3, -1.0),
                (3, None),
                (4, "0"),
                (5, -1),
                (6, 1),
                (7, -1),
            ]
        ),
    ],
)
def test_anything_else_is_refused(data: bytes) -> None:
    assert len(Truth.from_json(orjson.dumps({"version": 1, "buckets": [GOOD]}))) == 1
    with pytest.raises(ValueError):  # orjson's own, or ours
        Truth.from_json(data)
