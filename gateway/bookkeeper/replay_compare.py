"""Hold what replay made of the events against what the ledger has. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TypeVar

from gateway.bookkeeper.window_ids import forgotten_at
from gateway.budget.certainty import Certainty
from gateway.budget.ledger import FORWARD_JUMP_MAX, LeaseState, Outcome
from gateway.budget.measure import Amounts
from gateway.budget.rebuilt import (
    RebuiltBooks,
    RebuiltCounter,
    RebuiltHold,
    RebuiltLease,
    RebuiltOverride,
)

_Name = TypeVar("_Name", bound=str)
_Value = TypeVar("_Value")


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One value that is not the same. ``replay`` and ``ledger`` are empty where one of them has none."""

    org: str
    kind: str
    """counter, hold, lease or override."""
    name: str
    replay: str
    ledger: str


def differences(replay: RebuiltBooks, ledger: RebuiltBooks) -> list[Difference]:
    """Every counter, hold, lease and override that differs, sorted; none for a drained log.

    Either side may have forgotten what is over: windows long after their end, tombstones after their time. A
    counter of nothing is none. The ledger keeps no amounts of holds that nothing can correct any more. Limits
    are not in the log, and no recall is.
    """
    now = max(replay.clock_ms, ledger.clock_ms) + FORWARD_JUMP_MAX
    found: list[Difference] = []
    for kind, pairs in (
        ("counter", _counters(replay, ledger, now)),
        ("hold", _holds(replay, ledger, now)),
        ("lease", _leases(replay, ledger, now)),
        ("override", _overrides(replay, ledger)),
    ):
        found += [
            Difference(org=replay.org, kind=kind, name=name, replay=ours, ledger=theirs)
            for name, ours, theirs in sorted(pairs)
        ]
    return found


Pairs = Iterator[tuple[str, str, str]]


def _counters(replay: RebuiltBooks, ledger: RebuiltBooks, now: int) -> Pairs:
    nothing = RebuiltCounter()
    for name, ours, theirs in _both(replay.counters, ledger.counters):
        if (ours or nothing) == (theirs or nothing):
            continue
        only = ours or theirs
        if (ours is None or theirs is None) and only is not None and not only.held:
            forgotten = forgotten_at(name)
            if forgotten and forgotten <= now:
                continue
        yield name, _counter(ours), _counter(theirs)


def _counter(one: RebuiltCounter | None) -> str:
    if one is None:
        return ""
    return f"used {one.used}, held {one.held}, leased {one.leased}, credit {one.credit}"


def _holds(replay: RebuiltBooks, ledger: RebuiltBooks, now: int) -> Pairs:
    for name, ours, theirs in _both(replay.holds, ledger.holds):
        only = ours or theirs
        settled = only is not None and only.outcome is not Outcome.LIVE and only.certainty is Certainty.EXACT
        forgotten = only is not None and only.outcome is not Outcome.LIVE and only.ends_at <= now
        if (ours is None or theirs is None) and (settled or forgotten):
            continue
        if _hold(ours) != _hold(theirs):
            yield name, _hold(ours), _hold(theirs)


def _hold(one: RebuiltHold | None) -> str:
    if one is None:
        return ""
    flag = "" if one.certainty is Certainty.EXACT else f" {one.certainty.name.lower()}"
    return f"{one.outcome}{flag}, held {_amounts(one.amounts)}, posted {_amounts(one.posted)}"


def _leases(replay: RebuiltBooks, ledger: RebuiltBooks, now: int) -> Pairs:
    for name, ours, theirs in _both(replay.leases, ledger.leases):
        only = ours or theirs
        forgotten = only is not None and only.state is LeaseState.EXPIRED and only.ends_at <= now
        if (ours is None or theirs is None) and forgotten:
            continue
        if _lease(ours) != _lease(theirs):
            yield name, _lease(ours), _lease(theirs)


def _lease(one: RebuiltLease | None) -> str:
    if one is None:
        return ""
    state = LeaseState.LIVE if one.state is LeaseState.RECALLED else one.state
    return f"{state}, rest {_amounts(one.rest)}, requests {one.requests}"


def _overrides(replay: RebuiltBooks, ledger: RebuiltBooks) -> Pairs:
    nothing = RebuiltOverride()
    for name, ours, theirs in _both(replay.overrides, ledger.overrides):
        if (ours or nothing) != (theirs or nothing):
            yield name, repr(ours or ""), repr(theirs or "")


def _amounts(one: Amounts) -> str:
    return "/".join(map(str, one.numbers()))


def _both(
    ours: Mapping[_Name, _Value], theirs: Mapping[_Name, _Value]
) -> Iterator[tuple[_Name, _Value | None, _Value | None]]:
    for name in ours.keys() | theirs.keys():
        yield name, ours.get(name), theirs.get(name)
