"""Random histories of a ledger, for whoever rebuilds its state: every verb, every kind of window, clocks that
move far, holds that end in every way or not at all."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from gateway.budget.certainty import Certainty
from gateway.budget.ledger import (
    Adjustment,
    AdjustmentKind,
    BudgetLedger,
    Draw,
    Granted,
    HoldRequest,
    Leased,
    LeaseRequest,
    Outcome,
)
from gateway.budget.measure import Amounts, Measure, Price
from gateway.budget.window import UNLIMITED, Account, Enforcement, Window, WindowKind
from gateway.contract.clock import ManualClock
from gateway.contract.ids import AccountId, HoldId, OrgId
from gateway.contract.units import Millis, Tokens, UnixMillis

ORGS = (OrgId("acme"), OrgId("globex"))
MINUTE, HOUR = 60_000, 3_600_000
ORG = Account(
    id=AccountId("org"),
    windows=(
        Window(kind=WindowKind.MINUTE, limit=4000, burst=500),
        Window(kind=WindowKind.MONTH, limit=UNLIMITED, zone="Europe/Berlin"),
        Window(kind=WindowKind.DAY, limit=900_000, measure=Measure.MICRO_USD),
        Window(kind=WindowKind.ROLLING, limit=60, measure=Measure.REQUESTS, seconds=300),
    ),
)
KEY = Account(
    id=AccountId("key/k1"),
    windows=(
        Window(kind=WindowKind.LIFETIME, limit=400_000),
        Window(kind=WindowKind.HOUR, limit=9000, measure=Measure.COMPLETION_TOKENS),
        Window(kind=WindowKind.HOUR, limit=50, measure=Measure.PROMPT_TOKENS, enforcement=Enforcement.SHADOW),
    ),
)
IN_FLIGHT = Account(
    id=AccountId("team/t1"),
    windows=(
        Window(kind=WindowKind.LIFETIME, limit=6, measure=Measure.CONCURRENT),
        Window(kind=WindowKind.MINUTE, limit=100, enforcement=Enforcement.SOFT),
    ),
)


@dataclass
class History:
    """``step`` as often as wanted. The same seed makes the same history on every ledger."""

    ledger: BudgetLedger
    clock: ManualClock
    witness: ManualClock
    seed: int
    live: list[tuple[OrgId, HoldId]] = field(default_factory=list)
    charged: list[tuple[OrgId, HoldId]] = field(default_factory=list)
    leases: list[tuple[OrgId, Leased]] = field(default_factory=list)
    count: int = 0

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        self.steps = [
            (self._reserve, 30),
            (self._settle, 22),
            (self._correct, 6),
            (self._void, 5),
            (self._extend, 2),
            (self._expire, 6),
            (self._lease, 5),
            (self._draw, 12),
            (self._return, 3),
            (self._adjust, 4),
            (self._note, 2),
            (self._wait, 10),
        ]

    async def run(self, steps: int) -> None:
        for _ in range(steps):
            await self.step()

    async def step(self) -> None:
        chosen = self.random.choices([step for step, _ in self.steps], [odds for _, odds in self.steps])[0]
        self.count += 1
        await chosen(self.random.choice(ORGS))

    def _amounts(self) -> Amounts:
        return Amounts.of(
            self.random.randint(0, 300), self.random.randint(0, 500), micro_usd=self.random.randint(0, 900)
        )

    async def _reserve(self, org: OrgId) -> None:
        name = HoldId(f"h-{self.count}")
        granted = await self.ledger.reserve(
            HoldRequest(
                hold=name,
                org=org,
                accounts=(ORG, KEY, IN_FLIGHT) if self.random.random() < 0.5 else (ORG, KEY),
                fixed=Tokens(self.random.randint(0, 200)),
                choices=self.random.randint(1, 2),
                units_wanted=Tokens(self.random.randint(0, 400)),
                units_min=Tokens(1),
                ttl=Millis(self.random.choice([5_000, 90_000, HOUR])),
                policy_version=3,
                price=Price(prompt=1_500_000, completion=2_500_000),
                context={"request_id": f"r-{self.count}", "model": "m", "key": "k1", "policy_version": "3"},
            )
        )
        if isinstance(granted, Granted):
            self.live.append((org, name))

    async def _settle(self, _: OrgId) -> None:
        if self.live:
            org, name = self.live.pop(self.random.randrange(len(self.live)))
            certainty = self.random.choice([Certainty.EXACT, *Certainty])
            detail = {"prompt": "3", "completion": "4", "cached": "1", "finish_reason": "stop"}
            used = self._amounts()
            done = await self.ledger.settle(org, name, used, certainty=certainty, detail=detail)
            if certainty < Certainty.EXACT or done.outcome is Outcome.EXPIRED:
                self.charged.append((org, name))

    async def _correct(self, _: OrgId) -> None:
        if self.charged:
            org, name = self.charged.pop(self.random.randrange(len(self.charged)))
            certainty = self.random.choice([Certainty.PROVISIONAL, Certainty.EXACT])
            await self.ledger.settle(org, name, self._amounts(), certainty=certainty)
            if certainty is Certainty.PROVISIONAL:
                self.charged.append((org, name))

    async def _void(self, _: OrgId) -> None:
        if self.live:
            org, name = self.live.pop(self.random.randrange(len(self.live)))
            await self.ledger.void(org, name, reason="engine")

    async def _extend(self, _: OrgId) -> None:
        if self.live:
            await self.ledger.extend(*self.random.choice(self.live), Millis(90_000))

    async def _expire(self, org: OrgId) -> None:
        for name in await self.ledger.expire(org):
            if (org, name) in self.live:
                self.live.remove((org, name))
                self.charged.append((org, name))

    async def _lease(self, org: OrgId) -> None:
        leased = await self.ledger.lease(
            LeaseRequest(
                lease=HoldId(f"lease-{self.count}"),
                org=org,
                accounts=(ORG, KEY),
                wanted=Amounts.of(600, 900, micro_usd=4000),
                wanted_requests=5,
                least=Amounts.of(50, 50, micro_usd=100),
                share=3,
                ttl=Millis(30_000),
                policy_version=3,
            )
        )
        if leased is not None:
            self.leases.append((org, leased))

    async def _draw(self, _: OrgId) -> None:
        if not self.leases:
            return
        org, leased = self.random.choice(self.leases)
        name = HoldId(f"d-{self.count}")
        draw = Draw(
            lease=leased.lease,
            windows=leased.windows,
            hold=name,
            amounts=Amounts.of(self.random.randint(0, 60), self.random.randint(0, 120), micro_usd=90),
            units=Tokens(120),
            expires_at=UnixMillis(self.clock.unix_ms() + 90_000),
            policy_version=3,
            context={"request_id": f"r-{self.count}", "model": "m", "key": "k1"},
        )
        if self.random.random() < 0.3:
            await self.ledger.settle(org, name, self._amounts(), draw=draw)
        else:
            await self.ledger.draw(org, leased.lease, [draw])
            self.live.append((org, name))

    async def _return(self, _: OrgId) -> None:
        if self.leases:
            org, leased = self.leases.pop(self.random.randrange(len(self.leases)))
            await self.ledger.return_lease(org, leased.lease, reconciled=self.random.random() < 0.5)

    async def _adjust(self, org: OrgId) -> None:
        kind = self.random.choice(list(AdjustmentKind))
        window = Window(kind=WindowKind.LIFETIME, limit=self.random.randint(100_000, 500_000))
        bare = kind in (AdjustmentKind.FREEZE, AdjustmentKind.UNFREEZE)
        account = AccountId("key/other" if bare else KEY.id)
        await self.ledger.adjust(
            org,
            Adjustment(
                id=HoldId(f"adjust-{self.count}"),
                kind=kind,
                account=Account(id=account, windows=() if bare else (window,)),
                actor="ada",
                reason="asked for",
                policy_windows=() if bare else KEY.windows,
                policy_version=3,
            ),
        )

    async def _note(self, org: OrgId) -> None:
        await self.ledger.note(org, "cache.hit", {"request_id": f"n-{self.count}", "model": "m"})

    async def _wait(self, _: OrgId) -> None:
        moved = self.random.choice([1, 900, 20_000, 20_000, MINUTE, 16 * MINUTE, HOUR, 26 * HOUR])
        self.clock.advance_ms(moved)
        self.witness.advance_ms(moved)
        for org in await self.ledger.orgs():
            await self.ledger.tick(org)
