"""The ledger in Valkey 9 or Redis 7, alone or a cluster: each verb is one call of a function in ledger.lua.

Keys, epochs and terms: redis_keys.py; how books are opened: redis_session.py. With ``replicas``, what holds
or posts tokens or changes a budget (reserve, settle, void, lease, draw, adjust) is confirmed only once that
many replicas have it; if they do not say so in time the caller gets LedgerUnavailable and may repeat it: the
ids make it one. That also fences a primary whose replicas follow another one: it can confirm nothing. Keep
``replicas`` below the number of replicas there are, or a single one lost stops all; and set the servers'
``min-replicas-to-write`` likewise where other programs write too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from gateway.budget.certainty import Certainty
from gateway.budget.ledger import (
    OVERRIDES_MAX,
    Adjustment,
    Draw,
    Granted,
    HoldRequest,
    Leased,
    LeaseRequest,
    LeaseState,
    Refused,
    Resolved,
    check_accounts,
    check_draws,
    check_hold,
    check_ttl,
)
from gateway.budget.measure import Amounts
from gateway.budget.outbox import window_text
from gateway.budget.redis_library import (
    accounts_arguments,
    decision_of,
    draw_arguments,
    lease_arguments,
    leased_of,
    library_text,
    maybe_draw,
    pairs,
    reserve_arguments,
    resolved_of,
    standing_of,
    used_arguments,
    windows_text,
)
from gateway.budget.redis_route import Route, SingleRoute, route_to
from gateway.budget.redis_session import AlreadyResolved, Session, WindowRefused
from gateway.budget.window import Account, Standing
from gateway.contract.clock import Clock, SystemClock
from gateway.contract.ids import AccountId, HoldId, OrgId
from gateway.contract.units import Millis, UnixMillis
from gateway.path import hop

DEADLINE: Final = hop("ledger").deadline


class RedisLedger:
    """See BudgetLedger. One instance a process; safe for concurrent tasks."""

    def __init__(
        self,
        client: Any,
        *,
        clock: Clock | None = None,
        deadline: Millis = DEADLINE,
        replicas: int = 0,
        route: Route | None = None,
        test_store_clock: Clock | None = None,
        test_library: str | None = None,
    ) -> None:
        """``client`` as redis_connection.connect makes it, or ``route`` as redis_route.route_to does.
        ``clock`` is this process's own (the witness of ``tick``), ``deadline`` bounds each call. In tests
        only: ``test_store_clock`` takes the place of the store's TIME, ``test_library`` that of
        ledger.lua."""
        self._clock = clock or SystemClock()
        self._session = Session(
            route or SingleRoute(client, replicas=replicas),
            clock=self._clock,
            deadline=deadline,
            library=test_library or library_text(),
            test_store_clock=test_store_clock,
        )

    @classmethod
    def connect(cls, url: str, *, clock: Clock | None = None, replicas: int = 0) -> RedisLedger:
        """A ledger at TIDEGATE_LEDGER_URL: one store, or ``redis+cluster://host:port``. Does no I/O. Raises
        ValueError for a bad URL."""
        return cls(None, clock=clock, route=route_to(url, timeout=DEADLINE, replicas=replicas))

    async def leave(self) -> None:
        """Give back what was taken of the client, which stays open for its owner."""
        await self._session.route.leave()

    async def aclose(self) -> None:
        """Close the connections, the client's too."""
        await self._session.route.aclose()

    async def found_epoch(self, *, fresh: bool) -> str:
        """The store's epoch. ``fresh`` makes one where there is none: only for a caller that knows
        that no event was ever written. Raises LedgerEmptied, LedgerUnavailable."""
        return await self._session.found_epoch(fresh=fresh)

    async def reserve(self, request: HoldRequest) -> Granted | Refused:
        """See BudgetLedger."""
        try:
            reply = await self._session.call(
                "reserve",
                request.org,
                *reserve_arguments(request),
                record=f"hold:{request.hold}",
                confirmed=True,
            )
        except AlreadyResolved as error:
            raise ValueError(f"hold {request.hold}: already {error}") from None
        return decision_of(request.hold, reply)

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
        counted = used_arguments(used, certainty)
        return await self._resolve("settle", org, hold, draw, *counted, after=pairs(detail or {}))

    async def void(self, org: OrgId, hold: HoldId, *, reason: str, draw: Draw | None = None) -> Resolved:
        """See BudgetLedger."""
        return await self._resolve("void", org, hold, draw, reason)

    async def _resolve(
        self,
        verb: str,
        org: OrgId,
        hold: HoldId,
        draw: Draw | None,
        *arguments: str | int,
        after: Sequence[str] = (),
    ) -> Resolved:
        check_hold(org, hold)
        if draw is not None and draw.hold != hold:
            raise ValueError("draw: of another hold")
        reply = await self._session.call(
            verb,
            org,
            hold,
            *arguments,
            *maybe_draw(draw),
            *after,
            record=f"hold:{hold}",
            confirmed=True,
        )
        return resolved_of(reply)

    async def extend(self, org: OrgId, hold: HoldId, ttl: Millis) -> Resolved:
        """See BudgetLedger."""
        check_hold(org, hold)
        check_ttl(ttl)
        return resolved_of(await self._session.call("extend", org, hold, ttl, record=f"hold:{hold}"))

    async def expire(self, org: OrgId, *, holds_max: int = 100) -> Sequence[HoldId]:
        """See BudgetLedger."""
        return [HoldId(hold) for hold in await self._call("expire", org, holds_max)]

    async def note(self, org: OrgId, kind: str, context: Mapping[str, str]) -> None:
        """See BudgetLedger."""
        await self._call("note", org, kind, *pairs(context))

    async def lease(self, request: LeaseRequest) -> Leased | None:
        """See BudgetLedger."""
        reply = await self._session.call(
            "lease",
            request.org,
            *lease_arguments(request),
            record=f"lease:{request.lease}",
            confirmed=True,
        )
        return None if reply is None else leased_of(request.lease, reply)

    async def draw(self, org: OrgId, lease: HoldId, draws: Sequence[Draw]) -> LeaseState:
        """See BudgetLedger."""
        check_hold(org, lease)
        check_draws(lease, draws)
        arguments = [argument for draw in draws for argument in draw_arguments(draw)]
        reply = await self._session.call(
            "draw", org, lease, len(draws), *arguments, record=f"lease:{lease}", confirmed=True
        )
        return LeaseState(reply)

    async def return_lease(self, org: OrgId, lease: HoldId, *, reconciled: bool = False) -> LeaseState:
        """See BudgetLedger."""
        check_hold(org, lease)
        record = f"lease:{lease}"
        return LeaseState(
            await self._session.call("return_lease", org, lease, int(reconciled), record=record)
        )

    async def adjust(self, org: OrgId, adjustment: Adjustment) -> Sequence[Standing]:
        """See BudgetLedger."""
        check_hold(org, adjustment.id)
        check_accounts([adjustment.account])
        account = adjustment.account
        window = account.windows[0] if account.windows else None
        try:
            lines = await self._session.call(
                "adjust",
                org,
                adjustment.id,
                adjustment.kind.value,
                adjustment.actor,
                adjustment.reason,
                account.id,
                window_text(window) if window else "",
                adjustment.policy_version,
                windows_text(adjustment.policy_windows),
                confirmed=True,
            )
        except WindowRefused as error:
            if window is None or str(error) == "many":
                mend = f"has {OVERRIDES_MAX} windows set by hand; reset one of them first"
                raise ValueError(f"{account.id}: {mend}") from None
            raise ValueError(f"{account.id}: has no limit on {window.measure} per {window.span}") from None
        return [standing_of(line) for line in lines]

    async def standing(self, org: OrgId, accounts: Sequence[Account]) -> Sequence[Standing]:
        """See BudgetLedger."""
        if not accounts:
            return []
        return [
            standing_of(line) for line in await self._call("standing", org, *accounts_arguments(accounts))
        ]

    async def accounts(self, org: OrgId) -> Sequence[AccountId]:
        """See BudgetLedger."""
        fields = await self._call("accounts", org)
        return sorted({AccountId(field.removeprefix("!")) for field in fields})

    async def tick(self, org: OrgId) -> UnixMillis:
        """See BudgetLedger."""
        return UnixMillis(int(await self._call("tick", org, self._clock.unix_ms())))

    async def orgs(self) -> Sequence[OrgId]:
        """See BudgetLedger. Asks the store for its epoch each time, so it also serves as a probe."""
        return await self._session.orgs()

    async def _call(self, verb: str, org: OrgId, *arguments: object) -> Any:
        check_hold(org, HoldId("none"))
        return await self._session.call(verb, org, *arguments)
