"""One lease in a worker's hand: what is left of it, until when, and what was drawn and not yet told.

Pure: times are arguments, in monotonic seconds of the worker.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from gateway.budget.ledger import DRAWS_MAX, Draw, Granted, HoldRequest, Leased
from gateway.budget.measure import Amounts, Measure
from gateway.budget.window import UNLIMITED, Standing
from gateway.contract.ids import AccountId, HoldId, OrgId
from gateway.contract.units import UnixMillis

MARGIN_S: Final = 0.25
"""How long before its end a lease is no more drawn from. Its time is counted from before it was asked for, so
this is for a clock that runs slower than the store's (0.25 s of 60 are 4,000 ppm) and for the draw's way."""
IDLE_S: Final = 0.5
"""A lease that was not drawn from for so long is returned."""
HEAR_EVERY_S: Final = 0.1
"""A lease that has nothing to tell is asked about so often: others wait for what was recalled, and a worker
hears of a recall only when it speaks (leasing_ledger.RECALL_WAITS_S)."""
RENEW_AT: Final = 0.5
"""Part of a lease, in any measure or of its time, below which the next one is asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseGrant(Granted):
    """A grant out of a lease; ``lease_windows``: where its draw posts (Draw.windows)."""

    lease_windows: tuple[str, ...] = ()


@dataclass(slots=True)
class Hand:
    """A lease that this worker made. ``stopped``: nothing more may be handed out; once ``pending`` is told,
    the lease is returned."""

    org: OrgId
    leased: Leased
    asked_s: float
    """Before the question was sent."""
    rest: Amounts
    requests: int
    drawn_s: float
    """When it was last drawn from; at first, when it was asked for."""
    heard_s: float
    """When the ledger last said how it stands."""
    stopped: bool = False
    pending: dict[HoldId, tuple[Draw, Granted]] = field(default_factory=dict)
    """Drawn, and not known to be in the ledger."""

    @classmethod
    def of(cls, org: OrgId, leased: Leased, *, asked_s: float, now_s: float) -> Hand:
        """As it was answered."""
        return cls(
            org=org,
            leased=leased,
            asked_s=asked_s,
            rest=leased.amounts,
            requests=leased.requests,
            drawn_s=now_s,
            heard_s=now_s,
        )

    @property
    def until_s(self) -> float:
        """When it is no more drawn from."""
        return self.asked_s + self.leased.lasts / 1000 - MARGIN_S

    @property
    def accounts(self) -> frozenset[str]:
        """Those of whose windows it holds a part."""
        return frozenset(window.partition("|")[0] for window in self.leased.windows)

    def usable(self, now_s: float) -> bool:
        """Whether anything may be handed out."""
        return not self.stopped and self.requests > 0 and now_s < self.until_s

    def idle(self, now_s: float) -> bool:
        """Whether it should be returned for want of use."""
        return now_s - self.drawn_s >= IDLE_S

    def unheard(self, now_s: float) -> bool:
        """Whether to ask how it stands, although there is nothing to tell."""
        return now_s - self.heard_s >= HEAR_EVERY_S

    def wanes(self, now_s: float) -> bool:
        """Whether the next lease should be asked for."""
        whole = self.leased
        time_s = whole.lasts / 1000
        return (
            self.requests < whole.requests * RENEW_AT
            or self.until_s - now_s < time_s * RENEW_AT - MARGIN_S
            or any(
                self.rest.weight(measure, 0, 0) < whole.amounts.weight(measure, 0, 0) * RENEW_AT
                for measure in Measure
            )
        )

    def pays(self, amounts: Amounts) -> bool:
        """Whether there is so much left of it."""
        return self.requests > 0 and self.rest.covers(amounts)

    def draw(self, request: HoldRequest, amounts: Amounts, now_s: float) -> Granted | None:
        """All that ``request`` wants, or nothing: a client is never clamped for a lease's sake."""
        if not self.usable(now_s) or not self.rest.covers(amounts):
            return None
        self.rest = self.rest.less(amounts)
        self.requests -= 1
        self.drawn_s = now_s
        # The store's time now, at least; later by the way of the lease's question and answer.
        store_ms = self.leased.expires_at - self.leased.lasts + round((now_s - self.asked_s) * 1000)
        draw = Draw(
            lease=self.leased.lease,
            windows=self.leased.windows,
            hold=request.hold,
            amounts=amounts,
            units=request.units_wanted,
            expires_at=UnixMillis(store_ms + request.ttl),
            policy_version=request.policy_version,
            context=request.context,
        )
        granted = LeaseGrant(
            hold=request.hold,
            amounts=amounts,
            units=request.units_wanted,
            tightest={measure: self._now(standing) for measure, standing in self.leased.tightest.items()},
            over=self.leased.over,
            expires_at=draw.expires_at,
            lease=draw.lease,
            lease_windows=draw.windows,
            policy_conflict=self.leased.policy_conflict,
        )
        self.pending[request.hold] = (draw, granted)
        return granted

    def _now(self, standing: Standing) -> Standing:
        """With what is left of the lease counted as free: it is, for this worker's clients."""
        left = self.rest.weight(standing.measure, self.requests, 0)
        return replace(standing, held=max(0, standing.held - left))

    def batch(self) -> Sequence[Draw]:
        """What to tell next."""
        return [draw for draw, _ in list(self.pending.values())[:DRAWS_MAX]]

    def told(self, holds: Iterable[HoldId]) -> None:
        """The ledger knows these."""
        for hold in holds:
            self.pending.pop(hold, None)

    def in_the_way(self, accounts: Iterable[AccountId], wanted: Amounts) -> bool:
        """Whether the ledger might clamp or refuse ``wanted`` for want of what this lease holds."""
        ids = set(accounts)
        return any(
            standing.account in ids
            and standing.limit != UNLIMITED
            and standing.remaining < wanted.weight(measure, 1, 0)
            for measure, standing in self.leased.tightest.items()
        )
