"""The ledger in memory: the executable specification of BudgetLedger.

Read this, memory_books.py, memory_holds.py and memory_leases.py to know what the Lua does; a hypothesis state
machine holds the two together, outbox included. It is also the ledger of tests that are not about the store.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from gateway.budget import outbox
from gateway.budget.certainty import REASONS, Certainty
from gateway.budget.ledger import (
    FORWARD_JUMP_MAX,
    TOMBSTONE_TTL,
    Adjustment,
    Draw,
    Granted,
    HoldRequest,
    Leased,
    LeaseRequest,
    LeaseState,
    Outcome,
    Refused,
    Resolved,
    check_accounts,
    check_draws,
    check_hold,
    check_ttl,
)
from gateway.budget.measure import Amounts
from gateway.budget.memory_books import (
    Books,
    Hold,
    Lease,
    frozen_standing,
    over,
    payable,
    standings,
    tightest,
)
from gateway.budget.memory_holds import drawn, outcome_of, overdue_holds, refusal_of, remembered, resolve
from gateway.budget.memory_leases import (
    adjust,
    bare,
    charge_rest,
    ends_at,
    give_back,
    leased,
    no_lease,
    notice_recall,
    overdue_leases,
    recall,
    remembered_lease,
    share_of,
    take_policy,
)
from gateway.budget.memory_outbox import MemoryOutbox
from gateway.budget.window import Account, Enforcement, Standing
from gateway.contract.clock import Clock
from gateway.contract.errors import LedgerEmptied
from gateway.contract.ids import AccountId, HoldId, OrgId
from gateway.contract.units import Millis, Tokens, UnixMillis


class MemoryLedger:
    """``clock`` is the store's clock, ``witness`` the caller's own (the same unless given).

    ``outbox`` is every entry of every org, in order, with the fields that the Lua appends.
    """

    def __init__(self, clock: Clock, *, witness: Clock | None = None) -> None:
        """Founded and empty."""
        self._clock = clock
        self._witness = witness or clock
        self._founded = True
        self._orgs: dict[OrgId, Books] = {}
        self._out = MemoryOutbox()

    @property
    def outbox(self) -> list[dict[str, str]]:
        """What was appended."""
        return self._out.entries

    async def found_epoch(self, *, fresh: bool) -> str:
        """As RedisLedger's: open an emptied ledger anew. Raises LedgerEmptied."""
        self._founded = self._founded or fresh
        self._check_founded()
        return "memory"

    def lose_everything(self) -> None:
        """As if the store were emptied: closed until founded anew."""
        self._founded = False
        self._orgs.clear()
        self._out.entries.clear()

    def _check_founded(self) -> None:
        if not self._founded:
            raise LedgerEmptied("The budget ledger is closed until its counters are rebuilt.")

    def _open(self, org: OrgId, *, reading: bool = False) -> tuple[Books, UnixMillis]:
        self._check_founded()
        store = self._clock.unix_ms()
        books = self._orgs.setdefault(org, Books(confirmed=store))
        now = max(books.latest, books.confirmed, min(store, books.confirmed + FORWARD_JUMP_MAX))
        if not reading:
            books.latest = max(books.latest, now - now % 1000)
        return books, UnixMillis(now)

    # --- holds ---

    async def reserve(self, request: HoldRequest) -> Granted | Refused:
        """See BudgetLedger."""
        books, now = self._open(request.org)
        known = remembered(books, request.hold, now)
        if known is not None:
            if known.outcome is not Outcome.LIVE:
                raise ValueError(f"hold {request.hold}: already {known.outcome}")
            return replace(known.grant, repeated=True)
        conflict = books.take_limits(request.accounts, request.policy_version)
        frozen = books.frozen(request.accounts)
        if frozen is not None:
            standing = frozen_standing(frozen)
            self._out.refused(request, now, reason=f"{frozen}|frozen", window="", needed=0, remaining=0)
            return Refused(standing=standing, needed=0, retry_after=Millis(0))
        before = books.placed(request.accounts, now)
        needed = request.amounts(request.units_needed)
        refusal = refusal_of(books, before, needed, now)
        if refusal is not None:
            placed, missing, answer = refusal
            self._out.refused(
                request, now, reason=placed.name, window=placed.id, needed=missing, remaining=placed.remaining
            )
            return answer
        units = Tokens(min([request.units_wanted, *(payable(request, one) for one in before if one.binds)]))
        if units < request.units_wanted:
            recall((one for one in before if one.binds and payable(request, one) == units), books, now)
        amounts = request.amounts(units)
        windows = tuple(one.id for one in before)
        for one in before:
            books.counter(one)
        books.hold(windows, amounts, 1)
        after = books.placed(request.accounts, now)
        grant = Granted(
            hold=request.hold,
            amounts=amounts,
            units=units,
            tightest=tightest(after),
            over=tuple(one.standing() for one in over(after, Enforcement.SOFT)),
            expires_at=UnixMillis(now + request.ttl),
            policy_conflict=conflict,
        )
        hold = books.holds[request.hold] = Hold(
            grant=grant,
            windows=windows,
            version=request.policy_version,
            context=dict(request.context),
            expires_at=grant.expires_at,
        )
        self._out.granted(request.org, hold, now, after)
        return grant

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
        check_hold(org, hold)
        books, now = self._open(org)
        found = self._found(books, org, hold, draw, now)
        if found is None:
            return Resolved(outcome=Outcome.UNKNOWN, first=False, posted=Amounts())
        live = found.outcome is Outcome.LIVE
        if not live and certainty <= found.certainty:
            return outcome_of(found, first=False)
        was = None if live or found.certainty is Certainty.UNKNOWN else found.posted
        posted = found.grant.amounts if certainty is Certainty.UNKNOWN else used
        resolve(books, found, Outcome.POSTED if live else Outcome.CORRECTED, posted, now, certainty)
        kind, reason = outbox.HOLD_SETTLED if live else outbox.HOLD_CORRECTED, REASONS[certainty]
        self._out.resolved(org, found, kind, now, reason=reason, was=was, detail=detail or {})
        return outcome_of(found, first=True)

    async def void(self, org: OrgId, hold: HoldId, *, reason: str, draw: Draw | None = None) -> Resolved:
        """See BudgetLedger."""
        check_hold(org, hold)
        books, now = self._open(org)
        found = self._found(books, org, hold, draw, now)
        if found is None:
            return Resolved(outcome=Outcome.UNKNOWN, first=False, posted=Amounts())
        if found.outcome is not Outcome.LIVE:
            return outcome_of(found, first=False)
        resolve(books, found, Outcome.VOIDED, Amounts(), now, Certainty.EXACT)
        self._out.resolved(org, found, outbox.HOLD_VOIDED, now, reason=reason)
        return outcome_of(found, first=True)

    async def extend(self, org: OrgId, hold: HoldId, ttl: Millis) -> Resolved:
        """See BudgetLedger."""
        check_hold(org, hold)
        check_ttl(ttl)
        books, now = self._open(org)
        found = remembered(books, hold, now)
        if found is None:
            return Resolved(outcome=Outcome.UNKNOWN, first=False, posted=Amounts())
        later = found.outcome is Outcome.LIVE and now + ttl > found.expires_at
        if later:
            found.expires_at = now + ttl
        return outcome_of(found, first=later)

    async def expire(self, org: OrgId, *, holds_max: int = 100) -> Sequence[HoldId]:
        """See BudgetLedger. Then forgets windows that ended long ago."""
        books, now = self._open(org)
        overdue = overdue_holds(books, now, holds_max)
        for name in overdue:
            hold = books.holds[name]
            resolve(books, hold, Outcome.EXPIRED, hold.grant.amounts, now, Certainty.UNKNOWN)
            self._out.resolved(org, hold, outbox.HOLD_EXPIRED, now)
        gone = overdue_leases(books, now, holds_max - len(overdue))
        for name in gone:
            charge_rest(books, books.leases[name], now)
            self._out.lease(org, name, books.leases[name], outbox.LEASE_EXPIRED, now)
        books.sweep(now)
        return [*overdue, *gone]

    # --- leases ---

    async def lease(self, request: LeaseRequest) -> Leased | None:
        """See BudgetLedger."""
        books, now = self._open(request.org)
        known = remembered_lease(books, request.lease, now)
        if known is not None and known.state is not LeaseState.LIVE:
            return None
        conflict = books.take_limits(request.accounts, request.policy_version)
        if known is not None:
            return leased(books, request, known, now, conflict=conflict)
        before = books.placed(request.accounts, now)
        if books.frozen(request.accounts) is not None or any(no_lease(books, one, now) for one in before):
            return None
        amounts, requests = share_of(request, before)
        if requests < 1 or not amounts.covers(request.least):
            return None
        windows = tuple(one.id for one in before)
        for one in before:
            books.counter(one)
        books.hold(windows, amounts, requests)
        books.lease_out(windows, amounts, requests)
        lease = books.leases[request.lease] = Lease(
            windows=windows,
            rest=amounts,
            requests=requests,
            granted_at=now,
            expires_at=ends_at(request, before, now),
            version=request.policy_version,
            context=dict(request.context),
        )
        after = books.placed(request.accounts, now)
        self._out.lease(request.org, request.lease, lease, outbox.LEASE_GRANTED, now, after=after)
        return leased(books, request, lease, now, conflict=conflict)

    async def draw(self, org: OrgId, lease: HoldId, draws: Sequence[Draw]) -> LeaseState:
        """See BudgetLedger."""
        check_hold(org, lease)
        check_draws(lease, draws)
        books, now = self._open(org)
        for one in draws:
            if remembered(books, one.hold, now) is None:
                self._draw(books, org, one, now)
        found = remembered_lease(books, lease, now)
        if found is None:
            return LeaseState.UNKNOWN
        notice_recall(books, found)
        return found.state

    async def return_lease(self, org: OrgId, lease: HoldId, *, reconciled: bool = False) -> LeaseState:
        """See BudgetLedger."""
        check_hold(org, lease)
        books, now = self._open(org)
        found = remembered_lease(books, lease, now)
        if found is None:
            return LeaseState.UNKNOWN
        if found.state is LeaseState.RETURNED or (found.state is LeaseState.EXPIRED and not reconciled):
            return found.state
        before = found.state
        give_back(books, found, now)
        self._out.lease(org, lease, found, outbox.LEASE_RETURNED, now, was=before)
        found.rest, found.requests = Amounts(), 0
        return found.state

    # --- the rest ---

    async def adjust(self, org: OrgId, adjustment: Adjustment) -> Sequence[Standing]:
        """See BudgetLedger."""
        check_hold(org, adjustment.id)
        check_accounts([adjustment.account])
        books, now = self._open(org)
        if books.adjusted.get(adjustment.id, now) <= now:
            take_policy(books, adjustment)
            before = books.placed([bare(adjustment.account)], now)
            adjust(books, adjustment, now)
            books.adjusted[adjustment.id] = now + TOMBSTONE_TTL
            after = books.placed([bare(adjustment.account)], now)
            recall(after, books, now)  # a worker's lease must not outlive what it was made under
            self._out.adjusted(org, adjustment, now, before, after)
        return standings(books, [bare(adjustment.account)], now)

    async def note(self, org: OrgId, kind: str, context: Mapping[str, str]) -> None:
        """See BudgetLedger."""
        _, now = self._open(org)
        self._out.note(org, kind, now, context)

    async def standing(self, org: OrgId, accounts: Sequence[Account]) -> Sequence[Standing]:
        """See BudgetLedger."""
        books, now = self._open(org, reading=True)
        return standings(books, accounts, now)

    async def accounts(self, org: OrgId) -> Sequence[AccountId]:
        """See BudgetLedger."""
        books, _ = self._open(org, reading=True)
        return sorted({*books.limits, *books.overrides})

    async def tick(self, org: OrgId) -> UnixMillis:
        """See BudgetLedger."""
        books, _ = self._open(org)
        seen = min(self._clock.unix_ms(), self._witness.unix_ms() + FORWARD_JUMP_MAX)
        books.confirmed = max(books.confirmed, seen)
        return self._open(org, reading=True)[1]

    async def orgs(self) -> Sequence[OrgId]:
        """See BudgetLedger."""
        self._check_founded()
        return sorted(self._orgs)

    def _found(
        self, books: Books, org: OrgId, hold: HoldId, draw: Draw | None, now: UnixMillis
    ) -> Hold | None:
        """The hold, made of ``draw`` where the ledger has not heard of it."""
        if draw is not None and draw.hold != hold:
            raise ValueError("draw: of another hold")
        found = remembered(books, hold, now)
        if found is None and draw is not None:
            found = self._draw(books, org, draw, now)
        return found

    def _draw(self, books: Books, org: OrgId, draw: Draw, now: UnixMillis) -> Hold | None:
        hold = drawn(books, draw, now)
        if hold is not None:
            self._out.granted(org, hold, now, ())
        return hold
