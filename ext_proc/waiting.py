"""Who waits for money, and who is first: the decisions, without a clock and without waiting.

A line is the requests of one org that one account could not pay. It is in the order of priority, then of
arrival, and only its first tries again: whoever is behind is not served before it, be its own request ever
so small. Somebody new who may wait goes behind all that wait for one of its accounts with its priority or
a higher one. All requests of a worker have one order, so that no two wait for each other.
"""

from __future__ import annotations

from bisect import insort
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from math import inf
from typing import Final

from ext_proc.phases.limits import never_fits
from ext_proc.vocabulary import AwaitTurn, Behind
from gateway.budget.ledger import Refused
from gateway.budget.measure import Measure
from gateway.contract.ids import AccountId, HoldId, OrgId
from gateway.contract.units import Seconds

POLL: Final = Seconds(0.5)
"""How often the first of a line tries again: what requests of other workers release is not heard of here."""
WAITING_MAX: Final = 512
"""Requests that wait in one worker: each keeps a stream, and its body here and in Envoy."""
WAITING_OF_ORG_MAX: Final = 128
"""A quarter of them, so that no org takes the places of the others."""

Rank = tuple[int, float]
"""Lower goes first: minus the priority, then the arrival."""


def pause_before_retry(answer: Refused | Behind, left: Seconds) -> Seconds | None:
    """How long to pause before another try; None when waiting for ``left`` would be of no use."""
    if left <= 0:
        return None
    if isinstance(answer, Behind):
        return left  # only its turn can help
    if answer.standing.frozen or never_fits(answer):
        return None
    if answer.recalled or answer.standing.measure is Measure.CONCURRENT:
        return min(POLL, left)
    wait_s = answer.retry_after / 1000
    return Seconds(min(POLL, wait_s)) if 0 < wait_s <= left else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiter:
    """One waiting request."""

    hold: HoldId
    org: OrgId
    account: AccountId
    rank: Rank


class Lines:
    """The lines of one worker."""

    def __init__(self, *, most: int = WAITING_MAX, most_of_org: int = WAITING_OF_ORG_MAX) -> None:
        """Nobody waits."""
        self._most = most
        self._most_of_org = most_of_org
        self._arrivals = 0
        self._waiters: dict[HoldId, Waiter] = {}
        self._lines: dict[tuple[OrgId, AccountId], list[Waiter]] = {}
        self._of_org: Counter[OrgId] = Counter()

    def __len__(self) -> int:
        """How many wait."""
        return len(self._waiters)

    def __contains__(self, hold: HoldId) -> bool:
        """Whether it has a place."""
        return hold in self._waiters

    def join(self, wait: AwaitTurn) -> bool:
        """A place in the line of ``wait.account`` for who has none; False: no place is left."""
        if len(self._waiters) >= self._most or self._of_org[wait.org] >= self._most_of_org:
            return False
        self._arrivals += 1
        rank = (-wait.priority, self._arrivals)
        self._stand(Waiter(hold=wait.hold, org=wait.org, account=wait.account, rank=rank))
        return True

    def move(self, hold: HoldId, account: AccountId) -> HoldId | None:
        """Stand in the line of ``account`` instead, with the same rank; returns as ``leave``."""
        waiter = self._waiters[hold]
        if waiter.account == account:
            return None
        called = self.leave(hold)
        self._stand(replace(waiter, account=account))
        return called

    def leave(self, hold: HoldId) -> HoldId | None:
        """Give the place up; who is first of the line now, and was not before."""
        waiter = self._waiters.pop(hold, None)
        if waiter is None:
            return None
        place = (waiter.org, waiter.account)
        line = self._lines[place]
        was_first = line[0] is waiter
        line.remove(waiter)
        self._of_org[waiter.org] -= 1
        if not self._of_org[waiter.org]:
            del self._of_org[waiter.org]
        if not line:
            del self._lines[place]
            return None
        return line[0].hold if was_first else None

    def is_first(self, hold: HoldId) -> bool:
        """Whether it is its turn."""
        waiter = self._waiters[hold]
        return self._lines[waiter.org, waiter.account][0] is waiter

    def firsts(self, org: OrgId) -> list[HoldId]:
        """The first of each line of ``org``, in their order."""
        if org not in self._of_org:
            return []
        firsts = [line[0] for (of, _), line in self._lines.items() if of == org]
        return [waiter.hold for waiter in sorted(firsts, key=_rank)]

    def ahead(
        self, hold: HoldId, org: OrgId, accounts: Iterable[AccountId], priority: int
    ) -> AccountId | None:
        """An account for which somebody waits who goes before ``hold``; None when it may try."""
        if org not in self._of_org:
            return None
        own = self._waiters.get(hold)
        rank = own.rank if own is not None else (-priority, inf)
        for account in accounts:
            line = self._lines.get((org, account))
            if line is not None and line[0].rank < rank:
                return account
        return None

    def _stand(self, waiter: Waiter) -> None:
        self._waiters[waiter.hold] = waiter
        self._of_org[waiter.org] += 1
        insort(self._lines.setdefault((waiter.org, waiter.account), []), waiter, key=_rank)


def _rank(waiter: Waiter) -> Rank:
    return waiter.rank
