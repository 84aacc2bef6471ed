"""Holds on the books in memory, refused, resolved, overdue or drawn: the rules of memory_ledger.py."""

from __future__ import annotations

from collections.abc import Sequence

from gateway.budget.certainty import Certainty
from gateway.budget.ledger import (
    TOMBSTONE_TTL,
    Draw,
    Granted,
    LeaseState,
    Outcome,
    Refused,
    Resolved,
)
from gateway.budget.measure import Amounts
from gateway.budget.memory_books import Books, Hold, Placed
from gateway.budget.memory_leases import recall, remembered_lease
from gateway.contract.ids import HoldId
from gateway.contract.units import Millis, Tokens, UnixMillis


def refusal_of(
    books: Books, before: Sequence[Placed], needed: Amounts, now: UnixMillis
) -> tuple[Placed, int, Refused] | None:
    """The window that refuses ``needed`` and one request, how much it misses, and the answer."""
    refusing = []
    for one in before:
        least = needed.weight(one.window.measure, 1, 1)
        if one.binds and one.remaining < least:
            refusing.append((one, least, books.pays_at(one, least, now)))
    if not refusing:
        return None
    recalled = recall((one for one, _, _ in refusing), books, now)
    placed, least, moment = max(refusing, key=lambda entry: (entry[2] or float("inf"), -entry[0].remaining))
    retry_after = Millis(moment - now if moment else 0)
    refused = Refused(standing=placed.standing(), needed=least, retry_after=retry_after, recalled=recalled)
    return placed, least, refused


def remembered(books: Books, hold: HoldId, now: UnixMillis) -> Hold | None:
    """None for one that never was, or whose tombstone has aged out."""
    found = books.holds.get(hold)
    if found is not None and found.outcome is not Outcome.LIVE and found.forget_at <= now:
        del books.holds[hold]
        return None
    return found


def resolve(
    books: Books, hold: Hold, outcome: Outcome, posted: Amounts, now: UnixMillis, certainty: Certainty
) -> None:
    """Move the counters of the reserve's windows from what the hold weighed to what it costs now."""
    if hold.outcome is Outcome.LIVE:
        books.hold(hold.windows, hold.grant.amounts, 1, sign=-1)
    else:
        books.use(hold.windows, hold.posted, 1, sign=-1)
    if outcome is not Outcome.VOIDED:
        books.use(hold.windows, posted, 1)
    if certainty < Certainty.EXACT:
        books.keep(hold.windows, now)
    hold.outcome, hold.posted, hold.certainty = outcome, posted, certainty
    # A draw that is told again must find its tombstone for as long as it could be taken for a new one.
    hold.forget_at = max(now, hold.grant.expires_at if hold.grant.lease else now) + TOMBSTONE_TTL


def outcome_of(hold: Hold, *, first: bool) -> Resolved:
    """The answer."""
    overdraft = Tokens(max(0, hold.posted.tokens - hold.grant.amounts.tokens))
    return Resolved(outcome=hold.outcome, first=first, posted=hold.posted, overdraft=overdraft)


def overdue_holds(books: Books, now: UnixMillis, holds_max: int) -> list[HoldId]:
    """The oldest that should have been resolved by now."""
    overdue = sorted(
        (hold.expires_at, name)
        for name, hold in books.holds.items()
        if hold.outcome is Outcome.LIVE and hold.expires_at <= now
    )
    return [name for _, name in overdue[:holds_max]]


def drawn(books: Books, draw: Draw, now: UnixMillis) -> Hold | None:
    """The draw as a hold, funded by its lease where that has so much. None for one so late that it may have
    been resolved and forgotten: its lease was charged in full."""
    if draw.expires_at + TOMBSTONE_TTL <= now:
        return None
    lease = remembered_lease(books, draw.lease, now)
    context = dict(draw.context)
    funded = (
        lease is not None
        and lease.state is not LeaseState.RETURNED
        and lease.rest.covers(draw.amounts)
        and lease.requests > 0
    )
    windows = draw.windows if lease is None else lease.windows
    windows = tuple(name for name in windows if name in books.counters)
    if lease is not None and funded:
        lease.rest = lease.rest.less(draw.amounts)
        lease.requests -= 1
        context["lease"] = draw.lease
        if lease.state is LeaseState.EXPIRED:
            context["lease_state"] = lease.state.value
            books.use(windows, draw.amounts, 1, sign=-1)
            books.hold(windows, draw.amounts, 1)
        else:
            books.lease_out(windows, draw.amounts, 1, sign=-1)
    else:
        books.hold(windows, draw.amounts, 1)
    grant = Granted(
        hold=draw.hold,
        amounts=draw.amounts,
        units=draw.units,
        tightest={},
        expires_at=draw.expires_at,
        lease=draw.lease,
    )
    hold = books.holds[draw.hold] = Hold(
        grant=grant,
        windows=windows,
        version=draw.policy_version,
        context=context,
        expires_at=draw.expires_at,
    )
    return hold
