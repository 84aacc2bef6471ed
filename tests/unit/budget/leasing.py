"""A ledger in memory whose answers a test can hold back, lose or refuse, and short words for leases."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from gateway.budget.certainty import Certainty
from gateway.budget.ledger import (
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
from gateway.budget.memory_ledger import MemoryLedger
from gateway.budget.policy import LeasePolicy
from gateway.budget.window import Account, Window, WindowKind
from gateway.contract.clock import ManualClock
from gateway.contract.errors import LedgerUnavailable
from gateway.contract.ids import AccountId, HoldId, OrgId
from gateway.contract.units import Millis, Tokens

T = TypeVar("T")
ORG: Final = OrgId("acme")
TTL: Final = Millis(15 * 60_000)
NOON: Final = 1_792_411_200_000
LEASES: Final = LeasePolicy(enabled=True, share=4, requests=8, requests_least=2, ttl=Millis(5_000))


def away() -> LedgerUnavailable:
    return LedgerUnavailable("away")


def accounts(limit: int, *, kind: WindowKind = WindowKind.LIFETIME) -> tuple[Account, ...]:
    return (Account(id=AccountId("org"), windows=(Window(kind=kind, limit=limit),)),)


def hold_request(
    hold: str, windows: tuple[Account, ...], *, tokens: int = 10, least: int = 1, version: int = 1
) -> HoldRequest:
    return HoldRequest(
        hold=HoldId(hold),
        org=ORG,
        accounts=windows,
        fixed=Tokens(0),
        choices=1,
        units_wanted=Tokens(tokens),
        units_min=Tokens(least),
        ttl=TTL,
        policy_version=version,
        context={"request_id": hold},
    )


@dataclass(slots=True)
class Store:
    """A MemoryLedger behind a line that a test can break.

    ``down``: every call fails before it is done. ``lost``: calls of this verb are done, and their answers
    lost. ``calls``: the verbs that were asked for, in order. ``gate``: calls wait for it while it is set.
    """

    clock: ManualClock = field(default_factory=lambda: ManualClock(NOON))
    down: bool = False
    lost: str = ""
    calls: list[str] = field(default_factory=list)
    gate: asyncio.Event | None = None
    truth: MemoryLedger = field(init=False)

    def __post_init__(self) -> None:
        self.truth = MemoryLedger(self.clock)

    async def _call(self, verb: str, call: Coroutine[Any, Any, T]) -> T:
        self.calls.append(verb)
        try:
            await self._before()
        except BaseException:
            call.close()
            raise
        answer = await call
        if verb == self.lost:
            raise away()
        return answer

    async def _before(self) -> None:
        await asyncio.sleep(0)
        if self.gate is not None:
            await self.gate.wait()
        if self.down:
            raise away()

    async def reserve(self, request: HoldRequest) -> Granted | Refused:
        return await self._call("reserve", self.truth.reserve(request))

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
        call = self.truth.settle(org, hold, used, certainty=certainty, detail=detail, draw=draw)
        return await self._call("settle", call)

    async def void(self, org: OrgId, hold: HoldId, *, reason: str, draw: Draw | None = None) -> Resolved:
        return await self._call("void", self.truth.void(org, hold, reason=reason, draw=draw))

    async def extend(self, org: OrgId, hold: HoldId, ttl: Millis) -> Resolved:
        return await self._call("extend", self.truth.extend(org, hold, ttl))

    async def lease(self, request: LeaseRequest) -> Leased | None:
        return await self._call("lease", self.truth.lease(request))

    async def draw(self, org: OrgId, lease: HoldId, draws: Sequence[Draw]) -> LeaseState:
        return await self._call("draw", self.truth.draw(org, lease, draws))

    async def return_lease(self, org: OrgId, lease: HoldId, *, reconciled: bool = False) -> LeaseState:
        return await self._call("return", self.truth.return_lease(org, lease, reconciled=reconciled))

    async def orgs(self) -> Sequence[OrgId]:
        return await self._call("orgs", self.truth.orgs())

    def __getattr__(self, name: str) -> Any:
        """The verbs that leases have nothing to do with."""
        return getattr(self.truth, name)
