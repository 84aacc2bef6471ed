"""The ledgers under test, each with clocks that move only when told, and short words for requests."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from gateway.budget.ledger import (
    UNLIMITED,
    Account,
    BudgetLedger,
    Granted,
    HoldRequest,
    Refused,
    Standing,
    Window,
    WindowKind,
)
from gateway.budget.memory_ledger import MemoryLedger
from gateway.budget.redis_ledger import org_key
from gateway.contract.clock import ManualClock
from gateway.contract.ids import AccountId, HoldId, OrgId
from gateway.contract.units import Millis, Tokens

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

    async def minute(self, *accounts: Account) -> Standing:
        """The minute window of the first account."""
        return (await self.ledger.standing(ORG, accounts))[0]


def account(name: str = "org", *, minute: int = UNLIMITED, month: int = UNLIMITED) -> Account:
    """An account with both windows."""
    return Account(
        id=AccountId(name),
        windows=(
            Window(kind=WindowKind.MINUTE, limit=Tokens(minute)),
            Window(kind=WindowKind.MONTH, limit=Tokens(month)),
        ),
    )


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
        context=context or {},
    )
