"""What is known of false hits, by bucket, and which buckets may answer. Pure: time is passed in.

A bucket (``<org>/<model>/<level>/<band>``) under one SLO has a Beta posterior of its rate of wrong answers:
what the shipped corpora say, as PRIOR_RIGHT right answers, and the verified samples. It is

- ON while the upper bound of that rate is within the SLO;
- OFF from the sample on with which the bound breaks it: nothing is served, nothing is verified;
- in PROBATION after a pause that doubles from time to time: nothing is served, every would-be hit is
  verified. It is ON again when its own samples alone hold the bound, because the corpora have been shown not
  to speak for it, and OFF again when it has been wrong PROBATION_WRONG_MAX times.

An SLO that the corpora cannot vouch for (below 0.46 %) begins in PROBATION: it has to be earned.

All numbers of samples are in units of 1/SLO, the number of samples in which one wrong answer is allowed: a
stricter SLO needs more samples for everything, in proportion.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from enum import StrEnum
from typing import Any, Final

import orjson

from ext_proc.recall.beta import beta_cdf, beta_quantile
from gateway.contract.units import Millis, UnixMillis

CONFIDENCE: Final = 0.95
"""Of the upper bound, one-sided."""
PRIOR_RIGHT: Final = 650.0
"""Right answers that the corpora count for: about the traps of which none is served. With 0 wrong ones the
bound is 0.46 %, and up to two wrong answers at any time leave it within 1 %. Fewer would be more careful and
useless: with 400, the first wrong answer of a bucket switches it off, and a bucket with half the wrong
answers that its SLO allows has one among its first hundred samples in 4 of 10 cases."""
PRIOR_TIMES_SLO_MAX: Final = 6.5
"""PRIOR_RIGHT times an SLO of 1 %: under a lax SLO the corpora must not drown out what is measured."""
HALF_LIFE_TIMES_SLO: Final = 5.0
"""A sample weighs half as much when 5/SLO more have come (500 at 1 %). By samples, not by days: a bucket's
past must not outweigh what is seen now, however good and long it was, and a quiet bucket must not forget that
it was wrong. The effective memory (720 samples at 1 %) is about as heavy as the prior."""
PROBATION_WRONG_MAX: Final = 4
"""A probation ends with so many, or ON before 7.8/SLO samples (772 at 1 %), which three wrong ones need."""
PAUSE: Final = Millis(60 * 60 * 1000)
"""The first pause: what made the answers wrong (a release, a wave of traps) seldom passes sooner."""
PAUSE_MAX: Final = Millis(24 * 60 * 60 * 1000)
"""The longest: a probation sends at most 7.8/SLO requests to the engine a day."""
STEADY_TIMES_SLO: Final = 5.0
"""After so many samples ON since the last probation, the next pause is a first one again."""
BUCKETS_MAX: Final = 10_000
"""About 200 bytes each; an org has one for each model, level and band of 0.02 in use."""
SLO_MIN: Final = 0.0001
"""A stricter SLO is held to be this one: 30,000 right answers prove it, and nobody waits for more."""
SLO_MAX: Final = 0.5
ANY_SLO: Final = 0.0
"""Of a bucket that was found to be off, and for which nobody has asked yet."""
DOUBT: Final = 0.5
"""Weight of wrong samples from which on a bucket is in doubt."""
DOUBT_TIMES: Final = 5.0
"""How much more often the hits of a bucket in doubt are verified: of a bucket that is wrong 1 time in 10, 53
wrong answers are served before it is OFF instead of 139 (medians at a share of 2 %). Ten times would be 43,
and would switch off 5 of 100 buckets with half the wrong answers that a SLO of 1 % allows within 5,000 hits;
five times, 2 or 3."""
VERSION: Final = 1
"""Of the JSON."""


class State(StrEnum):
    """Whether a bucket may answer."""

    ON = "on"
    OFF = "off"
    PROBATION = "probation"


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """What is known of a bucket. ``bound``: upper bound of the rate of wrong answers. ``right``, ``wrong``:
    samples, weighted by age, without the prior. ``until``: end of the pause; 0 unless OFF."""

    state: State
    bound: float
    right: float
    wrong: float
    until: UnixMillis


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A bucket's state became ``standing.state``."""

    bucket: str
    slo: float
    before: State
    standing: Standing


@dataclass(slots=True, kw_only=True)
class _Bucket:
    bucket: str
    slo: float
    state: State = State.ON
    right: float = 0.0
    wrong: float = 0.0
    samples: int = 0
    """Since the state began."""
    pause: Millis = PAUSE
    """The next one."""
    until: UnixMillis = UnixMillis(0)

    def prior(self) -> float:
        return 0.0 if self.state is State.PROBATION else min(PRIOR_RIGHT, PRIOR_TIMES_SLO_MAX / self.slo)

    def holds(self) -> bool:
        """The upper bound is within the SLO; a quarter of the work of asking for the bound."""
        return beta_cdf(self.slo, 1 + self.wrong, 1 + self.prior() + self.right) >= CONFIDENCE

    def standing(self) -> Standing:
        bound = beta_quantile(CONFIDENCE, 1 + self.wrong, 1 + self.prior() + self.right)
        return Standing(state=self.state, bound=bound, right=self.right, wrong=self.wrong, until=self.until)

    def enter(self, state: State, now: UnixMillis) -> None:
        self.state, self.samples, self.until = state, 0, UnixMillis(0)
        if state is State.OFF:
            self.until = UnixMillis(now + self.pause)
            self.pause = Millis(min(2 * self.pause, PAUSE_MAX))
        elif state is State.PROBATION:
            self.right = self.wrong = 0.0

    def sampled(self, agreed: bool) -> None:
        if self.state is State.ON:  # a probation is short, and all of it counts
            faded = 0.5 ** (self.slo / HALF_LIFE_TIMES_SLO)
            self.right, self.wrong = self.right * faded, self.wrong * faded
        self.samples += 1
        if agreed:
            self.right += 1
        else:
            self.wrong += 1

    def due(self) -> State:
        """The state that the samples ask for."""
        if self.state is State.ON:
            return State.ON if self.holds() else State.OFF
        if self.holds():
            return State.ON
        return State.OFF if self.wrong >= PROBATION_WRONG_MAX else State.PROBATION


class Truth:
    """The buckets, BUCKETS_MAX at most. A bucket under another SLO is another bucket."""

    def __init__(self, *, buckets_max: int = BUCKETS_MAX) -> None:
        """Nothing known."""
        self._buckets: dict[tuple[str, float], _Bucket] = {}
        self._used: dict[tuple[str, float], None] = {}
        """The same keys, the longest unused first."""
        self._max = buckets_max

    def __len__(self) -> int:
        """Buckets known."""
        return len(self._buckets)

    def state(self, bucket: str, slo: float) -> State:
        """What a look-up has to know, in microseconds; as of the last ``tick``. From any thread."""
        known = self._known(bucket, _within(slo))
        return known.state if known is not None else _first_state(_within(slo))

    def _known(self, bucket: str, slo: float) -> _Bucket | None:
        return self._buckets.get((bucket, slo)) or self._buckets.get((bucket, ANY_SLO))

    def standing(self, bucket: str, slo: float) -> Standing:
        """For people."""
        slo = _within(slo)
        known = self._known(bucket, slo)
        return (known or _Bucket(bucket=bucket, slo=slo, state=_first_state(slo))).standing()

    def standings(self) -> Iterator[tuple[str, float, Standing]]:
        """Every bucket known, with its SLO."""
        for key in self._used:
            yield *key, self._buckets[key].standing()

    def states(self) -> Iterator[State]:
        """Of every bucket known."""
        return (bucket.state for bucket in self._buckets.values())

    def share(self, bucket: str, slo: float, usual: float) -> float:
        """Of the bucket's hits, the share to verify: none when OFF, all in PROBATION, DOUBT_TIMES the
        ``usual`` while a wrong answer is remembered. From any thread."""
        slo = _within(slo)
        match self.state(bucket, slo):
            case State.OFF:
                return 0.0
            case State.PROBATION:
                return 1.0
            case State.ON:
                known = self._known(bucket, slo)
                in_doubt = known is not None and known.wrong >= DOUBT
                return min(1.0, usual * DOUBT_TIMES) if in_doubt else usual

    def observe(self, bucket: str, slo: float, *, agreed: bool, now: UnixMillis) -> Change | None:
        """A verified sample. One that comes when the bucket is OFF was drawn before, and says nothing new."""
        slo = _within(slo)
        known = self._known(bucket, slo)
        if known is None:
            known = _Bucket(bucket=bucket, slo=slo, state=_first_state(slo))
        elif known.slo == ANY_SLO:
            known = replace(known, slo=slo)
        self._keep(known)
        self._forget(bucket, ANY_SLO)
        if known.state is State.OFF:
            return None
        known.sampled(agreed)
        if known.state is State.ON and known.samples >= STEADY_TIMES_SLO / slo:
            known.pause = PAUSE
        return self._moved(known, known.due(), now)

    def tick(self, now: UnixMillis) -> tuple[Change, ...]:
        """Those whose pause is over are in PROBATION from now on."""
        changes = []
        for known in self._buckets.values():
            if known.state is State.OFF:
                # The clock may have been set back.
                known.until = UnixMillis(min(known.until, now + PAUSE_MAX))
                change = self._moved(known, State.PROBATION if now >= known.until else State.OFF, now)
                changes += [change] if change is not None else []
        return tuple(changes)

    def adopt(self, bucket: str, now: UnixMillis) -> None:
        """Somebody else has switched ``bucket`` off: a life of this process that was forgotten, or an
        operator. It has its pause and its probation, under the SLO of the first that asks for it."""
        known = _Bucket(bucket=bucket, slo=ANY_SLO)
        known.enter(State.OFF, now)
        self._keep(known)

    def closed(self) -> frozenset[str]:
        """Buckets that must not answer, under whatever SLO."""
        return frozenset(known.bucket for known in self._buckets.values() if known.state is not State.ON)

    @staticmethod
    def _moved(known: _Bucket, state: State, now: UnixMillis) -> Change | None:
        before = known.state
        if state is before:
            return None
        known.enter(state, now)
        return Change(bucket=known.bucket, slo=known.slo, before=before, standing=known.standing())

    def _keep(self, known: _Bucket) -> None:
        key = known.bucket, known.slo
        self._used.pop(key, None)
        self._used[key] = None
        self._buckets[key] = known
        if len(self._buckets) > self._max:
            # One that is closed would come back open: forgotten only when there is no other.
            kept = (other for other in self._used if self._buckets[other].state is State.ON and other != key)
            self._forget(*next(kept, next(iter(self._used))))

    def _forget(self, bucket: str, slo: float) -> None:
        self._used.pop((bucket, slo), None)
        self._buckets.pop((bucket, slo), None)

    def to_json(self) -> bytes:
        """For ``from_json``."""
        kept = [self._buckets[key] for key in self._used]
        rows = [[getattr(known, field.name) for field in fields(known)] for known in kept]
        return orjson.dumps({"version": VERSION, "buckets": rows})

    @classmethod
    def from_json(cls, data: bytes, *, buckets_max: int = BUCKETS_MAX) -> Truth:
        """Raises ValueError for anything that ``to_json`` does not write."""
        document = orjson.loads(data)
        if not isinstance(document, dict) or document.get("version") != VERSION:
            raise ValueError("not of this version")
        rows = document.get("buckets")
        if not isinstance(rows, list) or len(rows) > buckets_max:
            raise ValueError("buckets: not a list, or too many")
        truth = cls(buckets_max=buckets_max)
        for row in rows:
            truth._keep(_read_bucket(row))
        return truth


def _within(slo: float) -> float:
    return min(max(slo, SLO_MIN), SLO_MAX)


def _first_state(slo: float) -> State:
    return State.ON if _Bucket(bucket="", slo=slo).holds() else State.PROBATION


def _read_bucket(row: Any) -> _Bucket:
    kinds = (str, float, str, float, float, int, int, int)
    if not isinstance(row, list) or len(row) != len(kinds):
        raise ValueError("bucket: not a row")
    for value, kind in zip(row, kinds, strict=True):
        if type(value) is not kind:
            raise ValueError("bucket: a value of another kind")
    name, slo, state, right, wrong, samples, pause, until = row
    if (slo != ANY_SLO and slo != _within(slo)) or not PAUSE <= pause <= PAUSE_MAX or min(samples, until) < 0:
        raise ValueError("bucket: a number out of its range")
    if not (0 <= right < math.inf and 0 <= wrong < math.inf):
        raise ValueError("bucket: a number out of its range")
    return _Bucket(
        bucket=name,
        slo=slo,
        state=State(state),
        right=right,
        wrong=wrong,
        samples=samples,
        pause=Millis(pause),
        until=UnixMillis(until),
    )
