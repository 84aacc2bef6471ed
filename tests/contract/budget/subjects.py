"""The ledgers under test, each with clocks that move only when told, and short words for requests."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from gateway.budget.ledger import (
    BudgetLedger,
    Draw,
    Granted,
    HoldRequest,
    Leased,
    LeaseRequest,
    Refused,
)
from gateway.budget.measure import FREE, Amounts, Price
from gateway.budget.memory_ledger import MemoryLedger
from gateway.budget.redis_keys import org_key
from gateway.budget.window import UNLIMITED, Account, Standing, Window, WindowKind
from gateway.contract.clock import ManualClock
from gateway.contract.ids import AccountId, HoldId, OrgId
from gateway.contract.units import Millis, Tokens, UnixMillis

ORG: Final = OrgId("acme")
TTL: Final = Millis(15 * 60_000)
PATIENT: Final = Millis(10_000)
"""Deadline of tests that are not about deadlines: a busy machine must not fail them."""
NOON: Final = 1_792_411_215_250
"""2026-10-19 12:00:15.250 UTC: 44.750 s before the minute ends."""


@dataclass(slots=True)
class Subject:
    """One implementation: ``clock`` is the store's, ``witness`` the caller's own."""

    ledger: BudgetLedger
    client: Any = None
    clock: ManualClock = field(default_factory=lambda: ManualClock(NOON))
    witness: ManualClock = field(default_factory=lambda: ManualClock(NOON))

    def advance(self, millis: int) -> None:
        """Both clocks agree."""
        self.clock.advance_ms(millis)
        self.witness.advance_ms(millis)

    async def pass_time(self, millis: int, org: OrgId = ORG) -> None:
        """Both clocks move and the bookkeeper confirms it."""
        self.advance(millis)
        await self.ledger.tick(org)

    async def outbox(self, org: OrgId = ORG) -> list[Mapping[str, str]]:
        """Every entry so far."""
        if isinstance(self.ledger, MemoryLedger):
            return [entry for entry in self.ledger.outbox if entry["org"] == org]
        entries = await self.client.xrange(org_key(org, "outbox"))
        return [fields for _, fields in entries]

    async def reserve(self, request: HoldRequest) -> Granted:
        """Reserve what must be granted."""
        answer = await self.ledger.reserve(request)
        assert isinstance(answer, Granted), answer
        return answer

    async def refused(self, request: HoldRequest) -> Refused:
        """Reserve what must be refused."""
        answer = await self.ledger.reserve(request)
        assert isinstance(answer, Refused), answer
        return answer

    async def leased(self, request: LeaseRequest) -> Leased:
        """Lease what must be granted."""
        answer = await self.ledger.lease(request)
        assert answer is not None
        return answer

    async def minute(self, *accounts: Account) -> Standing:
        """The first window of the first account."""
        return (await self.ledger.standing(ORG, accounts))[0]


def used(tokens: int) -> Amounts:
    """So many tokens, of which nobody says more."""
    return Amounts(tokens=Tokens(tokens))


def account(name: str = "org", *, minute: int = UNLIMITED, month: int = UNLIMITED) -> Account:
    """An account with the two windows that version 1 knew."""
    return of(name, Window(kind=WindowKind.MINUTE, limit=minute), Window(kind=WindowKind.MONTH, limit=month))


def of(name: str, *windows: Window) -> Account:
    """An account with these windows."""
    return Account(id=AccountId(name), windows=windows)


def want(
    hold: str,
    *accounts: Account,
    units: int = 100,
    units_min: int = 1,
    fixed: int = 0,
    choices: int = 1,
    ttl: int = TTL,
    version: int = 1,
    org: OrgId = ORG,
    price: Price = FREE,
    context: Mapping[str, str] | None = None,
) -> HoldRequest:
    """A request for a hold; one org account with 1,000 tokens a minute unless given."""
    return HoldRequest(
        hold=HoldId(hold),
        org=org,
        accounts=accounts or (account(minute=1000),),
        fixed=Tokens(fixed),
        choices=choices,
        units_wanted=Tokens(units),
        units_min=Tokens(units_min),
        ttl=Millis(ttl),
        policy_version=version,
        price=price,
        context=context or {},
    )


def lend(
    lease: str,
    *accounts: Account,
    wanted: int = 400,
    least: int = 1,
    requests: int = 10,
    share: int = 1,
    ttl: int = 10_000,
    version: int = 1,
) -> LeaseRequest:
    """A request for a lease of tokens; one org account with 1,000 tokens a minute unless given."""
    return LeaseRequest(
        lease=HoldId(lease),
        org=ORG,
        accounts=accounts or (account(minute=1000),),
        wanted=Amounts(tokens=Tokens(wanted)),
        wanted_requests=requests,
        least=Amounts(tokens=Tokens(least)),
        share=share,
        ttl=Millis(ttl),
        policy_version=version,
        context={"worker": "w1"},
    )


def draw_of(
    leased: Leased, hold: str, tokens: int = 100, *, ttl: int = TTL, now: int = NOON, version: int = 1
) -> Draw:
    """A hold out of a lease."""
    return Draw(
        lease=leased.lease,
        windows=leased.windows,
        hold=HoldId(hold),
        amounts=Amounts(tokens=Tokens(tokens)),
        units=Tokens(tokens),
        expires_at=UnixMillis(now + ttl),
        policy_version=version,
        context={"request_id": f"r-{hold}"},
    )
