"""A circuit breaker around a ledger: a store that is silent costs a request 50 ms at first, then nothing.

``reserve`` and ``lease``, which somebody waits for, are bounded by the hop ``reserve`` of gateway/path.py
(store time, see store_time.py); the other verbs by the ledger's own deadline. After FAILURES_MAX failures in
a row the breaker opens: calls fail at once, and one probe at a time asks the store, every PROBE_EVERY_S,
until it answers. No request is the probe: none would wait for it.

A reserve whose answer did not come is in doubt: the store may still carry it out. The first void of such a
hold is refused here, so that nobody waits for it, and whoever keeps what could not be delivered (the
worker's spool) brings it again once the store answers. A reserve that was never sent has nothing to void, and
a lease nothing to return: else an outage would leave a question of each second to be cleared up after it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from gateway.budget.certainty import Certainty
from gateway.budget.ledger import (
    Adjustment,
    BudgetLedger,
    Draw,
    Granted,
    HoldRequest,
    Leased,
    LeaseRequest,
    LeaseState,
    Outcome,
    Refused,
    Resolved,
)
from gateway.budget.measure import Amounts
from gateway.budget.store_time import store_time
from gateway.budget.window import Account, Standing
from gateway.contract.clock import Clock
from gateway.contract.errors import LedgerEmptied, LedgerUnavailable
from gateway.contract.ids import AccountId, HoldId, OrgId
from gateway.contract.units import Millis, UnixMillis
from gateway.path import hop

T = TypeVar("T")
DECISION: Final = hop("reserve").deadline
FAILURES_MAX: Final = 5
"""In a row. One slow call is no outage; five together with no answer between them are one, and if they were
not, the probe that starts at once says so within milliseconds."""
PROBE_EVERY_S: Final = 0.25
"""Four calls a second do not disturb a store that struggles; once it is back it is missed for no longer."""
REMEMBERED_MAX: Final = 10_000
"""Holds whose reserve failed, until their void comes, which is at once, and leases until they are returned.
One that was forgotten has its void tried as any other."""


@dataclass(slots=True)
class Breaker:
    """The state alone: no clock, no I/O."""

    failures: int = 0
    open: bool = False

    def failed(self, *, most: int = FAILURES_MAX) -> bool:
        """One more call without an answer; True when this opens the breaker."""
        self.failures += 1
        opens = not self.open and self.failures >= most
        self.open |= opens
        return opens

    def answered(self) -> bool:
        """The store answered, if only to refuse; True when this closes the breaker."""
        closes = self.open
        self.failures, self.open = 0, False
        return closes


class BreakingLedger:
    """See BudgetLedger. One instance a process, around one store."""

    def __init__(
        self,
        inner: BudgetLedger,
        clock: Clock,
        *,
        decision: Millis = DECISION,
        on_change: Callable[[bool], None] = lambda _: None,
    ) -> None:
        """``on_change`` hears True when the breaker opens, False when it closes."""
        self._inner = inner
        self._clock = clock
        self._decision = decision
        self._on_change = on_change
        self._breaker = Breaker()
        self._probing: asyncio.Task[None] | None = None
        self._warm = False
        """Whether the store has answered a call. The first one brings it the library and is not bounded more
        tightly than the ledger's other calls; those beside it wait for it rather than bring it too."""
        self._first = asyncio.Lock()
        self._in_doubt: dict[HoldId, None] = {}
        self._not_asked: dict[HoldId, None] = {}

    @property
    def open(self) -> bool:
        """Whether calls fail at once now."""
        return self._breaker.open

    async def leave(self) -> None:
        """End the probe."""
        if self._probing is not None:
            self._probing.cancel()
            await asyncio.wait((self._probing,))

    # --- decisions ---

    async def reserve(self, request: HoldRequest) -> Granted | Refused:
        """See BudgetLedger."""
        if self._breaker.open:
            _remember(self._not_asked, request.hold)
            raise _unavailable()
        try:
            return await self._heard(self._inner.reserve(request), self._decision)
        except LedgerEmptied:
            raise
        except LedgerUnavailable:
            _remember(self._in_doubt, request.hold)
            raise

    async def lease(self, request: LeaseRequest) -> Leased | None:
        """See BudgetLedger."""
        if self._breaker.open:
            _remember(self._not_asked, request.lease)
            raise _unavailable()
        return await self._heard(self._inner.lease(request), self._decision)

    async def void(self, org: OrgId, hold: HoldId, *, reason: str, draw: Draw | None = None) -> Resolved:
        """See BudgetLedger."""
        if _forgot(self._not_asked, hold):
            return Resolved(outcome=Outcome.UNKNOWN, first=False, posted=Amounts())
        if _forgot(self._in_doubt, hold):
            raise _unavailable()
        self._refuse_if_open()
        return await self._heard(self._inner.void(org, hold, reason=reason, draw=draw))

    # --- the other verbs ---

    async def settle(
        self,
        org: OrgId,
        hold: HoldId,
        used: Amounts,
        *,
        certainty: Certainty = Certainty.EXACT,
        detail: Mapping[str, str] | None = None,
        draw: Draw | None = None,
    ) -> Resolved:
        """See BudgetLedger."""
        self._refuse_if_open()
        return await self._heard(
            self._inner.settle(org, hold, used, certainty=certainty, detail=detail, draw=draw)
        )

    async def extend(self, org: OrgId, hold: HoldId, ttl: Millis) -> Resolved:
        """See BudgetLedger."""
        self._refuse_if_open()
        return await self._heard(self._inner.extend(org, hold, ttl))

    async def expire(self, org: OrgId, *, holds_max: int = 100) -> Sequence[HoldId]:
        """See BudgetLedger."""
        self._refuse_if_open()
        return await self._heard(self._inner.expire(org, holds_max=holds_max))

    async def note(self, org: OrgId, kind: str, context: Mapping[str, str]) -> None:
        """See BudgetLedger."""
        self._refuse_if_open()
        await self._heard(self._inner.note(org, kind, context))

    async def draw(self, org: OrgId, lease: HoldId, draws: Sequence[Draw]) -> LeaseState:
        """See BudgetLedger."""
        self._refuse_if_open()
        return await self._heard(self._inner.draw(org, lease, draws))

    async def return_lease(self, org: OrgId, lease: HoldId, *, reconciled: bool = False) -> LeaseState:
        """See BudgetLedger."""
        if _forgot(self._not_asked, lease):
            return LeaseState.UNKNOWN
        self._refuse_if_open()
        return await self._heard(self._inner.return_lease(org, lease, reconciled=reconciled))

    async def adjust(self, org: OrgId, adjustment: Adjustment) -> Sequence[Standing]:
        """See BudgetLedger."""
        self._refuse_if_open()
        return await self._heard(self._inner.adjust(org, adjustment))

    async def standing(self, org: OrgId, accounts: Sequence[Account]) -> Sequence[Standing]:
        """See BudgetLedger."""
        self._refuse_if_open()
        return await self._heard(self._inner.standing(org, accounts))

    async def accounts(self, org: OrgId) -> Sequence[AccountId]:
        """See BudgetLedger."""
        self._refuse_if_open()
        return await self._heard(self._inner.accounts(org))

    async def tick(self, org: OrgId) -> UnixMillis:
        """See BudgetLedger."""
        self._refuse_if_open()
        return await self._heard(self._inner.tick(org))

    async def orgs(self) -> Sequence[OrgId]:
        """See BudgetLedger."""
        self._refuse_if_open()
        return await self._heard(self._inner.orgs())

    # --- the breaker ---

    def _refuse_if_open(self) -> None:
        if self._breaker.open:
            raise _unavailable()

    async def _heard(self, call: Coroutine[Any, Any, T], bound: Millis | None = None) -> T:
        """What ``call`` returns, in time, and the breaker told. Raises as ``call`` does."""
        if self._warm:
            return await self._bounded(call, bound)
        async with self._first:
            if self._breaker.open:
                call.close()
                raise _unavailable()
            answer = await self._bounded(call, self._tight(bound))
            self._warm = True
            return answer

    def _tight(self, bound: Millis | None) -> Millis | None:
        """None for the first call."""
        return bound if self._warm else None

    async def _bounded(self, call: Coroutine[Any, Any, T], bound: Millis | None) -> T:
        try:
            if bound is None:
                answer = await call
            else:
                async with store_time(bound):
                    answer = await call
        except LedgerEmptied:
            self._answered()
            raise
        except (LedgerUnavailable, TimeoutError) as error:
            if self._breaker.failed(most=FAILURES_MAX if self._warm else 1):
                self._on_change(True)
                self._probing = asyncio.create_task(self._probe())
            raise _unavailable() from error
        self._answered()
        return answer

    def _answered(self) -> None:
        # What was under way when the breaker opened may be answered late: the store is back then.
        if self._breaker.answered():
            self._on_change(False)

    async def _probe(self) -> None:
        """Ask until the store answers."""
        while self._breaker.open:
            began_s = self._clock.monotonic_s()
            try:
                await self._inner.orgs()  # the one call of which a ledger says that it asks each time
            except LedgerEmptied:
                self._answered()
            except LedgerUnavailable:
                await asyncio.sleep(max(0.0, began_s + PROBE_EVERY_S - self._clock.monotonic_s()))
            else:
                self._answered()


def _unavailable() -> LedgerUnavailable:
    return LedgerUnavailable("The budget ledger did not answer; try again.", retry_after_s=1)


def _remember(holds: dict[HoldId, None], hold: HoldId) -> None:
    if len(holds) >= REMEMBERED_MAX:
        del holds[next(iter(holds))]
    holds[hold] = None


def _forgot(holds: dict[HoldId, None], hold: HoldId) -> bool:
    """Whether it was remembered."""
    known = hold in holds
    holds.pop(hold, None)
    return known
