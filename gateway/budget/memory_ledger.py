"""The ledger in memory: the executable specification of BudgetLedger.

Read this to know what the Lua does; a hypothesis state machine holds the two together, outbox
included. It is also the ledger of tests that are not about the store.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from gateway.budget import outbox
from gateway.budget.calendar import window_bounds
from gateway.budget.ledger import (
    FORWARD_JUMP_MAX,
    TOMBSTONE_TTL,
    UNLIMITED,
    WINDOW_KEPT,
    Account,
    Granted,
    HoldRequest,
    Outcome,
    Refused,
    Resolved,
    Standing,
    Window,
    WindowKind,
    check_amount,
    check_hold,
)
from gateway.contract.clock import Clock
from gateway.contract.errors import LedgerEmptied
from gateway.contract.ids import AccountId, HoldId, OrgId
from gateway.contract.units import Millis, Tokens, UnixMillis


class _WindowId(NamedTuple):
    account: AccountId
    kind: WindowKind
    start: UnixMillis

    def __str__(self) -> str:
        return f"{self.account}|{self.kind}|{self.start}"


@dataclass(slots=True)
class _Counter:
    used: int = 0
    held: int = 0
    drop_at: int = 0


@dataclass(slots=True)
class _Hold:
    request: HoldRequest
    grant: Granted
    windows: tuple[_WindowId, ...]
    outcome: Outcome = Outcome.LIVE
    posted: int = 0
    blind: bool = False
    """Charged in full without knowing the usage: a settle that knows may correct it."""
    forget_at: int = 0


@dataclass(slots=True)
class _Books:
    """One org's state."""

    confirmed: int
    limits: dict[tuple[AccountId, WindowKind], tuple[int, Tokens]] = field(default_factory=dict)
    counters: dict[_WindowId, _Counter] = field(default_factory=dict)
    holds: dict[HoldId, _Hold] = field(default_factory=dict)


class MemoryLedger:
    """``clock`` is the store's clock, ``witness`` the caller's own (the same unless given).

    ``outbox`` is every entry of every org, in order, with the fields that the Lua appends.
    """

    def __init__(self, clock: Clock, *, witness: Clock | None = None) -> None:
        """Founded and empty."""
        self._clock = clock
        self._witness = witness or clock
        self._founded = True
        self._orgs: dict[OrgId, _Books] = {}
        self.outbox: list[dict[str, str]] = []

    async def found_epoch(self, *, fresh: bool) -> str:
        """As RedisLedger's: open an emptied ledger anew. Raises LedgerEmptied."""
        self._founded = self._founded or fresh
        if not self._founded:
            raise LedgerEmptied("The budget ledger is closed until its counters are rebuilt.")
        return "memory"

    def lose_everything(self) -> None:
        """As if the store were emptied: closed until founded anew."""
        self._founded = False
        self._orgs.clear()
        self.outbox.clear()

    def _open(self, org: OrgId) -> tuple[_Books, UnixMillis]:
        if not self._founded:
            raise LedgerEmptied("The budget ledger is closed until its counters are rebuilt.")
        store = self._clock.unix_ms()
        books = self._orgs.setdefault(org, _Books(confirmed=store))
        return books, UnixMillis(max(books.confirmed, min(store, books.confirmed + FORWARD_JUMP_MAX)))

    async def reserve(self, request: HoldRequest) -> Granted | Refused:
        """See BudgetLedger."""
        books, now = self._open(request.org)
        known = self._remembered(books, request.hold, now)
        if known is not None:
            if known.outcome is not Outcome.LIVE:
                raise ValueError(f"hold {request.hold}: already {known.outcome}")
            return _repeated(known.grant)
        conflict = _take_limits(books, request)
        before = _standings(books, request.accounts, now)
        needed = request.needed
        limited = [standing for standing in before if standing.limit != UNLIMITED]
        refusing = [standing for standing in limited if standing.remaining < needed]
        if refusing:
            worst = max(refusing, key=lambda standing: (standing.resets_at, -standing.remaining))
            self._append_refusal(request, worst, needed, now)
            return Refused(standing=worst, needed=needed, retry_after=Millis(worst.resets_at - now))
        payable = [(standing.remaining - request.fixed) // request.choices for standing in limited]
        units = Tokens(min([request.units_wanted, *payable]))
        amount = Tokens(request.fixed + units * request.choices)
        windows = tuple(
            _WindowId(account.id, window.kind, window_bounds(window.kind, now)[0])
            for account in request.accounts
            for window in account.windows
        )
        for window, standing in zip(windows, before, strict=True):
            counter = books.counters.setdefault(window, _Counter(drop_at=standing.resets_at + WINDOW_KEPT))
            counter.held += amount
        grant = Granted(
            hold=request.hold,
            amount=amount,
            units=units,
            tightest=_tightest(_standings(books, request.accounts, now)),
            expires_at=UnixMillis(now + request.ttl),
            policy_conflict=conflict,
        )
        hold = books.holds[request.hold] = _Hold(request=request, grant=grant, windows=windows)
        amounts = {"held": amount}
        if grant.tightest.limit != UNLIMITED:
            amounts["remaining"] = grant.tightest.remaining
        self._append(hold, outbox.HOLD_GRANTED, "granted", now, amounts)
        return grant

    async def settle(
        self,
        org: OrgId,
        hold: HoldId,
        used: Tokens,
        *,
        unknown: bool = False,
        detail: Mapping[str, str] | None = None,
    ) -> Resolved:
        """See BudgetLedger."""
        check_hold(org, hold)
        if not unknown:
            check_amount(used)
        books, now = self._open(org)
        found = self._remembered(books, hold, now)
        if found is None:
            return Resolved(outcome=Outcome.UNKNOWN, first=False, posted=Tokens(0))
        live = found.outcome is Outcome.LIVE
        if not live and (unknown or not found.blind):
            return _outcome(found, first=False)
        held = found.grant.amount
        posted = held if unknown else used
        outcome = Outcome.POSTED if live else Outcome.CORRECTED
        _resolve(books, found, outcome, posted, now, blind=unknown)
        kind = outbox.HOLD_SETTLED if live else outbox.HOLD_CORRECTED
        amounts = {"held": held, "used": posted, "released": Tokens(max(0, held - posted))}
        reason = outbox.UNKNOWN_USAGE if unknown else ""
        self._append(found, kind, outcome.value, now, amounts, reason, detail or {})
        return _outcome(found, first=True)

    async def void(self, org: OrgId, hold: HoldId, *, reason: str) -> Resolved:
        """See BudgetLedger."""
        check_hold(org, hold)
        books, now = self._open(org)
        found = self._remembered(books, hold, now)
        if found is None:
            return Resolved(outcome=Outcome.UNKNOWN, first=False, posted=Tokens(0))
        if found.outcome is not Outcome.LIVE:
            return _outcome(found, first=False)
        held = found.grant.amount
        _resolve(books, found, Outcome.VOIDED, Tokens(0), now, blind=False)
        self._append(found, outbox.HOLD_VOIDED, "voided", now, {"held": held, "released": held}, reason)
        return _outcome(found, first=True)

    async def expire(self, org: OrgId, *, holds_max: int = 100) -> Sequence[HoldId]:
        """See BudgetLedger. Then forgets windows that ended long ago."""
        books, now = self._open(org)
        overdue = sorted(
            (hold.grant.expires_at, hold.grant.hold)
            for hold in books.holds.values()
            if hold.outcome is Outcome.LIVE and hold.grant.expires_at <= now
        )[:holds_max]
        for _, hold_id in overdue:
            hold = books.holds[hold_id]
            held = hold.grant.amount
            _resolve(books, hold, Outcome.EXPIRED, held, now, blind=True)
            self._append(hold, outbox.HOLD_EXPIRED, "expired", now, {"held": held, "used": held})
        for window, counter in list(books.counters.items()):
            if counter.drop_at <= now and counter.held == 0:
                del books.counters[window]
        return [hold_id for _, hold_id in overdue]

    async def note(self, org: OrgId, kind: str, context: Mapping[str, str]) -> None:
        """See BudgetLedger."""
        _, now = self._open(org)
        self.outbox.append(
            _entry(kind, org, now, verdict=outbox.NOTED, request_id=context.get("request_id", ""))
            | outbox.prefixed(outbox.CONTEXT, context)
        )

    async def standing(self, org: OrgId, accounts: Sequence[Account]) -> Sequence[Standing]:
        """See BudgetLedger."""
        books, now = self._open(org)
        return _standings(books, accounts, now)

    async def tick(self, org: OrgId) -> UnixMillis:
        """See BudgetLedger."""
        books, _ = self._open(org)
        seen = min(self._clock.unix_ms(), self._witness.unix_ms() + FORWARD_JUMP_MAX)
        books.confirmed = max(books.confirmed, seen)
        return self._open(org)[1]

    async def orgs(self) -> Sequence[OrgId]:
        """See BudgetLedger."""
        if not self._founded:
            raise LedgerEmptied("The budget ledger is closed until its counters are rebuilt.")
        return sorted(self._orgs)

    def _remembered(self, books: _Books, hold: HoldId, now: UnixMillis) -> _Hold | None:
        found = books.holds.get(hold)
        if found is not None and found.outcome is not Outcome.LIVE and found.forget_at <= now:
            del books.holds[hold]
            return None
        return found

    def _append(
        self,
        hold: _Hold,
        kind: str,
        verdict: str,
        now: UnixMillis,
        amounts: Mapping[str, Tokens],
        reason: str = "",
        detail: Mapping[str, str] | None = None,
    ) -> None:
        request = hold.request
        self.outbox.append(
            _entry(kind, request.org, now, verdict=verdict, reason=reason, request=request)
            | {"accounts": " ".join(map(str, hold.windows))}
            | outbox.prefixed(outbox.AMOUNT, {name: str(amount) for name, amount in amounts.items()})
            | outbox.prefixed(outbox.CONTEXT, request.context)
            | outbox.prefixed(outbox.DETAIL, detail or {})
        )

    def _append_refusal(self, request: HoldRequest, worst: Standing, needed: Tokens, now: UnixMillis) -> None:
        start, _ = window_bounds(worst.kind, now)
        reason = f"{worst.account}|{worst.kind}"
        self.outbox.append(
            _entry(outbox.HOLD_REFUSED, request.org, now, verdict="refused", reason=reason, request=request)
            | {"accounts": f"{reason}|{start}", "a.needed": str(needed), "a.remaining": str(worst.remaining)}
            | outbox.prefixed(outbox.CONTEXT, request.context)
        )


def _entry(
    kind: str,
    org: OrgId,
    now: UnixMillis,
    *,
    verdict: str,
    reason: str = "",
    request_id: str = "",
    request: HoldRequest | None = None,
) -> dict[str, str]:
    return {
        "type": kind,
        "at_ms": str(now),
        "org": org,
        "request_id": request.context.get("request_id", "") if request else request_id,
        "hold": request.hold if request else "",
        "policy_version": str(request.policy_version) if request else "",
        "verdict": verdict,
        "reason": reason,
        "accounts": "",
    }


def _repeated(grant: Granted) -> Granted:
    return Granted(
        hold=grant.hold,
        amount=grant.amount,
        units=grant.units,
        tightest=grant.tightest,
        expires_at=grant.expires_at,
        repeated=True,
        policy_conflict=grant.policy_conflict,
    )


def _take_limits(books: _Books, request: HoldRequest) -> bool:
    """Newer limits replace the ledger's; True when the same version brings another limit."""
    conflict = False
    for account in request.accounts:
        for window in account.windows:
            brought = (request.policy_version, window.limit)
            known = books.limits.setdefault((account.id, window.kind), brought)
            if request.policy_version > known[0]:
                books.limits[account.id, window.kind] = brought
            conflict |= request.policy_version == known[0] and window.limit != known[1]
    return conflict


def _standing(books: _Books, account: AccountId, window: Window, now: UnixMillis) -> Standing:
    start, end = window_bounds(window.kind, now)
    counter = books.counters.get(_WindowId(account, window.kind, start), _Counter())
    _, limit = books.limits.get((account, window.kind), (0, window.limit))
    return Standing(
        account=account,
        kind=window.kind,
        limit=limit,
        used=Tokens(counter.used),
        held=Tokens(counter.held),
        resets_at=end,
    )


def _standings(books: _Books, accounts: Sequence[Account], now: UnixMillis) -> list[Standing]:
    return [_standing(books, account.id, window, now) for account in accounts for window in account.windows]


def _tightest(standings: Sequence[Standing]) -> Standing:
    """Fewest tokens left; of equals the one that resets last; the first where nothing is limited."""
    limited = [standing for standing in standings if standing.limit != UNLIMITED]
    return min(limited, key=lambda standing: (standing.remaining, -standing.resets_at), default=standings[0])


def _resolve(
    books: _Books, hold: _Hold, outcome: Outcome, posted: Tokens, now: UnixMillis, *, blind: bool
) -> None:
    """Move the counters of the reserve's windows from what the hold weighed to what it costs now."""
    for window in hold.windows:
        counter = books.counters.get(window)
        if counter is None:  # dropped long after its end: only a hold of nothing can come so late
            continue
        counter.held -= hold.grant.amount if hold.outcome is Outcome.LIVE else 0
        counter.used += posted - hold.posted
        if blind:
            # A correction may still come: the window must outlive the hold's tombstone.
            counter.drop_at = max(counter.drop_at, now + WINDOW_KEPT)
    hold.outcome = outcome
    hold.posted = posted
    hold.blind = blind
    hold.forget_at = now + TOMBSTONE_TTL


def _outcome(hold: _Hold, *, first: bool) -> Resolved:
    overdraft = Tokens(max(0, hold.posted - hold.grant.amount))
    return Resolved(outcome=hold.outcome, first=first, posted=Tokens(hold.posted), overdraft=overdraft)
