"""A ledger that decides the requests of busy accounts in memory, out of leases it holds on another ledger.

What is promised: a client is never clamped for a lease's sake (what a lease cannot pay, the ledger decides);
a refusal is believed only after the leases in its way had their chance to come back; and never more is
handed out than was leased, so that a worker which is cut off from the ledger goes on for one lease's time
and amount, and no further.

What was drawn is told in batches. A worker that dies before leaves it in its lease, which is charged in full
after its end; the settle of such a hold carries the draw with it. The worker hears of a recall when it tells
its draws, every FLUSH_EVERY_S, or asks how a lease stands that it does not use, every HEAR_EVERY_S.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, Final

from gateway.budget.certainty import Certainty
from gateway.budget.lease_hand import Hand
from gateway.budget.lease_pool import ASK_AGAIN_S, Pool, PoolKey, may_lease, pool_key
from gateway.budget.ledger import (
    Adjustment,
    BudgetLedger,
    Draw,
    Granted,
    HoldRequest,
    Leased,
    LeaseRequest,
    LeaseState,
    Refused,
    Resolved,
)
from gateway.budget.measure import Amounts
from gateway.budget.policy import LeasePolicy
from gateway.budget.store_time import store_time
from gateway.budget.window import Account, Standing
from gateway.contract.clock import Clock
from gateway.contract.errors import LedgerEmptied, LedgerUnavailable
from gateway.contract.ids import AccountId, HoldId, OrgId
from gateway.contract.units import Millis, UnixMillis

FLUSH_EVERY_S: Final = 0.02
"""How long a draw may wait to be told, and so how late a worker hears of a recall."""
AWAY_AGAIN_S: Final = 0.25
"""How long to leave a ledger in peace that did not answer; as the breaker's probe."""
RECALL_WAITS_S: Final = (0.02, 0.04, 0.08)
"""After a refusal that recalled leases. The first covers a flush of workers that are busy, the sum (140 ms)
the return of a lease that is not used (HEAR_EVERY_S and a flush)."""
RECALL_AGAIN_S: Final = 1.0
"""After waits in vain (a lease of a worker that died stands until its end) refusals of the same account are
believed at once for so long."""
GIVE_BACK: Final = Millis(25)
"""How long a request waits for our own leases to be returned before it is decided all the same: half of the
bound of the decision itself."""
POOLS_MAX: Final = 1024
"""Account sets that are watched. Beyond them the one that asked least lately makes room."""


class LeasingLedger:
    """See BudgetLedger. One instance a process; ``run`` while it is used, then ``leave``."""

    def __init__(
        self,
        inner: BudgetLedger,
        clock: Clock,
        policy: Callable[[], LeasePolicy],
        *,
        worker: str | None = None,
        count: Callable[[str], None] = lambda _: None,
    ) -> None:
        """``policy`` as it is now. ``worker`` names this process in the ids of its leases; random unless
        given. ``count`` hears ``drawn``, ``drawn_away`` (the ledger was silent), ``asked`` (a request that
        the ledger decided), ``leased``, ``returned`` and ``recalled``."""
        self._inner = inner
        self._clock = clock
        self._policy = policy
        self.worker: Final = worker or secrets.token_hex(8)
        """Names this process in the ids of its leases."""
        self._count = count
        self._leases_made = 0
        self._pools: dict[PoolKey, Pool] = {}
        self._hands: dict[HoldId, tuple[Pool, Hand]] = {}
        """Every lease that is not returned, by its id."""
        self._drawn: dict[HoldId, Hand] = {}
        self._in_doubt: dict[HoldId, OrgId] = {}
        """Leases whose question was not answered: they may stand."""
        self._in_vain: dict[tuple[OrgId, AccountId], float] = {}
        """Until when a refusal that recalled is believed at once."""
        self._away_until_s = float("-inf")
        self._work = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    # --- decisions ---

    async def reserve(self, request: HoldRequest) -> Granted | Refused:
        """See BudgetLedger."""
        policy = self._policy()
        pool = self._pool(request) if policy.enabled and may_lease(request) else None
        if pool is None:
            return await self._asked(request)
        if (hand := self._drawn.get(request.hold)) is not None:
            return replace(hand.pending[request.hold][1], repeated=True)
        now_s = self._clock.monotonic_s()
        wanted = request.amounts(request.units_wanted)
        pool.demand.add(wanted, now_s)
        granted = pool.draw(request, now_s)
        if now_s >= self._away_until_s and pool.wants(now_s):
            pool.asking = True
            self._start(self._lease(pool, request.org, policy))
        if granted is None:
            return await self._asked(request)
        self._drawn[request.hold] = next(hand for hand in pool.hands if request.hold in hand.pending)
        self._work.set()
        self._count("drawn_away" if now_s < self._away_until_s else "drawn")
        return granted

    async def _asked(self, request: HoldRequest) -> Granted | Refused:
        """The ledger's decision, once nothing of ours stands in its way and others had their chance."""
        self._count("asked")
        wanted = request.amounts(request.units_wanted)
        ids = [account.id for account in request.accounts]
        await self._give_back(request.org, lambda hand: hand.in_the_way(ids, wanted))
        answer = await self._inner.reserve(request)
        if isinstance(answer, Granted) or not answer.recalled:
            return answer
        refusing = answer.standing.account
        if await self._give_back(request.org, lambda hand: refusing in hand.accounts):
            answer = await self._inner.reserve(request)
        for wait_s in RECALL_WAITS_S:
            if isinstance(answer, Granted) or not answer.recalled or self._in_vain_of(request.org, answer):
                return answer
            await asyncio.sleep(wait_s)
            answer = await self._inner.reserve(request)
        if isinstance(answer, Refused) and answer.recalled:
            if len(self._in_vain) >= POOLS_MAX:
                self._in_vain.clear()
            self._in_vain[request.org, answer.standing.account] = self._clock.monotonic_s() + RECALL_AGAIN_S
        return answer

    def _in_vain_of(self, org: OrgId, refused: Refused) -> bool:
        until_s = self._in_vain.get((org, refused.standing.account), float("-inf"))
        return self._clock.monotonic_s() < until_s

    def _pool(self, request: HoldRequest) -> Pool | None:
        """The request's, made where there is none; None for a request under an older policy, and where there
        is no room."""
        key = pool_key(request)
        pool = self._pools.pop(key, None)
        if pool is None:
            if len(self._pools) >= POOLS_MAX and not self._make_room():
                return None
            pool = Pool(accounts=request.accounts, version=request.policy_version)
        self._pools[key] = pool  # behind the others: first is who asked least lately
        if request.policy_version > pool.version:
            pool.renew(request.accounts, request.policy_version)
        return pool if request.policy_version == pool.version else None

    def _make_room(self) -> bool:
        spare = next((key for key, pool in self._pools.items() if not pool.hands and not pool.asking), None)
        if spare is not None:
            del self._pools[spare]
        return spare is not None

    # --- what the worker owes the ledger ---

    async def run(self) -> None:
        """Tell draws, return leases; until cancelled."""
        while True:
            await self._work.wait()
            await self.tend()
            if not self._hands and not self._in_doubt:
                self._work.clear()
            await asyncio.sleep(FLUSH_EVERY_S)

    async def tend(self) -> None:
        """One round: what was drawn is told, what is to be returned goes back. Raises nothing of the
        ledger's: what cannot be told now is told later."""
        now_s = self._clock.monotonic_s()
        enabled = self._policy().enabled
        for pool in [pool for pool, _ in self._hands.values()]:
            if not enabled:
                pool.stop()
            pool.retire(now_s, away=now_s < self._away_until_s)
        if now_s < self._away_until_s:
            return
        await asyncio.gather(*(self._told(pool, hand) for pool, hand in list(self._hands.values())))
        for lease, org in list(self._in_doubt.items()):
            try:
                await self._inner.return_lease(org, lease, reconciled=True)
            except LedgerUnavailable as error:
                self._went_away(error)
                return
            self._in_doubt.pop(lease, None)

    async def leave(self) -> None:
        """Tell and return everything that can be; what cannot, because the ledger is away, is charged in full
        after the leases' end, until it is reconciled."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        for pool, _ in self._hands.values():
            pool.stop()
        self._away_until_s = float("-inf")
        await self.tend()

    async def _told(self, pool: Pool, hand: Hand) -> None:
        """Tell the draws of ``hand`` and, if it is stopped, return it."""
        try:
            while hand.pending or (not hand.stopped and hand.unheard(self._clock.monotonic_s())):
                await self._flush(hand)
                if not hand.stopped:
                    return
            if hand.stopped:
                # Reconciled: should it have expired meanwhile, all that was drawn of it is told.
                await self._inner.return_lease(hand.org, hand.leased.lease, reconciled=True)
                pool.without(hand)
                if self._hands.pop(hand.leased.lease, None) is not None:
                    self._count("returned")
        except LedgerUnavailable as error:
            self._went_away(error)

    async def _flush(self, hand: Hand) -> None:
        batch = hand.batch()
        state = await self._inner.draw(hand.org, hand.leased.lease, batch)
        self._forget(hand, batch)
        hand.heard_s = self._clock.monotonic_s()
        if state is not LeaseState.LIVE and not hand.stopped:
            hand.stopped = True
            self._count("recalled")

    async def _give_back(self, org: OrgId, which: Callable[[Hand], bool]) -> bool:
        """Return our own leases that stand in the way of a request; False when there was none."""
        found = [(pool, hand) for pool, hand in self._hands.values() if hand.org == org and which(hand)]
        for _, hand in found:
            hand.stopped = True
        if found:
            with suppress(TimeoutError):
                async with store_time(GIVE_BACK):
                    await asyncio.gather(*(self._told(pool, hand) for pool, hand in found))
        return bool(found)

    async def _lease(self, pool: Pool, org: OrgId, policy: LeasePolicy) -> None:
        """Ask for one more lease."""
        self._leases_made += 1
        lease = HoldId(f"lease/{self.worker}/{self._leases_made}")
        asked_s = self._clock.monotonic_s()
        question = pool.question(lease, org, policy, asked_s)
        leased: Leased | None = None
        try:
            leased = await self._inner.lease(question)
        except LedgerUnavailable as error:
            self._doubt(lease, org)
            self._went_away(error)
        except asyncio.CancelledError:
            self._doubt(lease, org)
            raise
        finally:
            pool.asking = False
        if leased is None:
            pool.ask_again_s = self._clock.monotonic_s() + ASK_AGAIN_S
            return
        hand = Hand.of(org, leased, asked_s=asked_s, now_s=self._clock.monotonic_s())
        hand.stopped = question.policy_version != pool.version
        pool.hands.append(hand)
        self._hands[lease] = (pool, hand)
        self._count("leased")
        self._work.set()

    def _doubt(self, lease: HoldId, org: OrgId) -> None:
        self._in_doubt[lease] = org
        self._work.set()

    def _forget(self, hand: Hand, draws: Sequence[Draw]) -> None:
        hand.told(draw.hold for draw in draws)
        for draw in draws:
            self._drawn.pop(draw.hold, None)

    def _went_away(self, error: LedgerUnavailable) -> None:
        if isinstance(error, LedgerEmptied):  # what was leased stood in books that are gone: closed
            for pool, _ in self._hands.values():
                pool.stop()
        self._away_until_s = self._clock.monotonic_s() + AWAY_AGAIN_S

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _untold(self, hold: HoldId) -> Draw | None:
        hand = self._drawn.get(hold)
        return hand.pending[hold][0] if hand is not None else None

    def _known(self, draw: Draw | None) -> None:
        """The ledger has it now."""
        if draw is not None and (hand := self._drawn.get(draw.hold)) is not None:
            self._forget(hand, (draw,))

    # --- the other verbs: the inner ledger's, with the draw of a hold that it may not know ---

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
        draw = self._untold(hold) or draw
        resolved = await self._inner.settle(org, hold, used, certainty=certainty, detail=detail, draw=draw)
        self._known(draw)
        return resolved

    async def void(self, org: OrgId, hold: HoldId, *, reason: str, draw: Draw | None = None) -> Resolved:
        """See BudgetLedger."""
        draw = self._untold(hold) or draw
        resolved = await self._inner.void(org, hold, reason=reason, draw=draw)
        self._known(draw)
        return resolved

    async def extend(self, org: OrgId, hold: HoldId, ttl: Millis) -> Resolved:
        """See BudgetLedger."""
        if (draw := self._untold(hold)) is not None:
            await self._inner.draw(org, draw.lease, (draw,))
            self._known(draw)
        return await self._inner.extend(org, hold, ttl)

    async def lease(self, request: LeaseRequest) -> Leased | None:
        """See BudgetLedger."""
        return await self._inner.lease(request)

    async def draw(self, org: OrgId, lease: HoldId, draws: Sequence[Draw]) -> LeaseState:
        """See BudgetLedger."""
        return await self._inner.draw(org, lease, draws)

    async def return_lease(self, org: OrgId, lease: HoldId, *, reconciled: bool = False) -> LeaseState:
        """See BudgetLedger."""
        return await self._inner.return_lease(org, lease, reconciled=reconciled)

    async def expire(self, org: OrgId, *, holds_max: int = 100) -> Sequence[HoldId]:
        """See BudgetLedger."""
        return await self._inner.expire(org, holds_max=holds_max)

    async def note(self, org: OrgId, kind: str, context: Mapping[str, str]) -> None:
        """See BudgetLedger."""
        await self._inner.note(org, kind, context)

    async def adjust(self, org: OrgId, adjustment: Adjustment) -> Sequence[Standing]:
        """See BudgetLedger."""
        return await self._inner.adjust(org, adjustment)

    async def standing(self, org: OrgId, accounts: Sequence[Account]) -> Sequence[Standing]:
        """See BudgetLedger."""
        return await self._inner.standing(org, accounts)

    async def accounts(self, org: OrgId) -> Sequence[AccountId]:
        """See BudgetLedger."""
        return await self._inner.accounts(org)

    async def tick(self, org: OrgId) -> UnixMillis:
        """See BudgetLedger."""
        return await self._inner.tick(org)

    async def orgs(self) -> Sequence[OrgId]:
        """See BudgetLedger."""
        return await self._inner.orgs()
