"""Leases, draws, recalls and adjustments on the books in memory: the rules of memory_ledger.py."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from gateway.budget.ledger import (
    LEASE_GRACE,
    OVERRIDES_MAX,
    RECALL_FOR,
    TOMBSTONE_TTL,
    Adjustment,
    AdjustmentKind,
    Leased,
    LeaseRequest,
    LeaseState,
)
from gateway.budget.measure import Amounts, Measure
from gateway.budget.memory_books import Books, Lease, Override, Placed, over, tightest
from gateway.budget.window import UNLIMITED, Account, Enforcement, WindowKind
from gateway.contract.ids import HoldId
from gateway.contract.units import TOKENS_MAX, MicroUsd, Millis, Tokens, UnixMillis

_FIXED: Final = (WindowKind.MINUTE, WindowKind.HOUR, WindowKind.DAY, WindowKind.MONTH)


def bare(account: Account) -> Account:
    """As the ledger has it."""
    return Account(id=account.id, windows=())


def remembered_lease(books: Books, lease: HoldId, now: UnixMillis) -> Lease | None:
    """None for one that never was, or whose tombstone has aged out."""
    found = books.leases.get(lease)
    ended = found is not None and found.state in (LeaseState.RETURNED, LeaseState.EXPIRED)
    if found is not None and ended and found.forget_at <= now:
        del books.leases[lease]
        return None
    return found


def recall(windows: Iterable[Placed], books: Books, now: UnixMillis) -> bool:
    """Mark the windows of which leases hold a part; whether there was one."""
    found = False
    for placed in windows:
        if placed.leased > 0:
            found = True
            books.recalled[placed.name] = now
    return found


def notice_recall(books: Books, lease: Lease) -> None:
    """A live lease is recalled once one of its windows was, since it was made."""
    if lease.state is LeaseState.LIVE and any(
        books.recalled.get(name.rpartition("|")[0], -1) >= lease.granted_at for name in lease.windows
    ):
        lease.state = LeaseState.RECALLED


def no_lease(books: Books, placed: Placed, now: UnixMillis) -> bool:
    """Whether a window forbids leases."""
    recalled_at = books.recalled.get(placed.name)
    return placed.window.measure is Measure.CONCURRENT or (
        recalled_at is not None and recalled_at + RECALL_FOR > now
    )


def share_of(request: LeaseRequest, windows: Sequence[Placed]) -> tuple[Amounts, int]:
    """Of each measure what is wanted, or the share of what the tightest window has left."""

    def most(measure: Measure, wanted: int) -> int:
        left = [
            one.remaining // request.share for one in windows if one.binds and one.window.measure is measure
        ]
        return min([wanted, *left])

    amounts = Amounts(
        tokens=Tokens(most(Measure.TOKENS, request.wanted.tokens)),
        prompt_tokens=Tokens(most(Measure.PROMPT_TOKENS, request.wanted.prompt_tokens)),
        completion_tokens=Tokens(most(Measure.COMPLETION_TOKENS, request.wanted.completion_tokens)),
        micro_usd=MicroUsd(most(Measure.MICRO_USD, request.wanted.micro_usd)),
    )
    return amounts, most(Measure.REQUESTS, request.wanted_requests)


def ends_at(request: LeaseRequest, windows: Sequence[Placed], now: UnixMillis) -> int:
    """The end of the first fixed window, and no later than the time asked for. A rolling window's bucket is
    let run on: a draw that posts to a bucket of a minute ago only leaves the window that much sooner, so
    for those the lease ends with the bucket too."""
    ends: list[int] = [one.resets_at for one in windows if one.window.kind in _FIXED]
    ends += [one.bucket_ends for one in windows if one.window.kind is WindowKind.ROLLING]
    return min([now + request.ttl, *ends])


def leased(books: Books, request: LeaseRequest, lease: Lease, now: UnixMillis, *, conflict: bool) -> Leased:
    """The answer."""
    after = books.placed(request.accounts, now)
    return Leased(
        lease=request.lease,
        amounts=lease.rest,
        requests=lease.requests,
        windows=lease.windows,
        tightest=tightest(after),
        over=tuple(one.standing() for one in over(after, Enforcement.SOFT)),
        expires_at=UnixMillis(lease.expires_at),
        lasts=Millis(max(0, lease.expires_at - now)),
        policy_conflict=conflict,
    )


def take_policy(books: Books, adjustment: Adjustment) -> None:
    """What the policy gives the account, should nobody have used it yet."""
    if adjustment.policy_windows:
        policy = Account(id=adjustment.account.id, windows=adjustment.policy_windows)
        books.take_limits([policy], adjustment.policy_version)


def adjust(books: Books, adjustment: Adjustment, now: UnixMillis) -> None:
    """Raises ValueError for a top-up of a window that is not there or has no limit."""
    account, kind = adjustment.account, adjustment.kind
    if kind is AdjustmentKind.TOP_UP:
        window = account.windows[0]
        found = [one for one in books.windows_of(bare(account)) if one.name == window.name]
        if not found or found[0].limit == UNLIMITED:
            raise ValueError(f"{account.id}: has no limit on {window.measure} per {window.span}")
        counter = books.counter(books.place(account.id, found[0], now))
        counter.credit = min(TOKENS_MAX, counter.credit + window.limit)
        return
    override = books.overrides.setdefault(account.id, Override())
    if kind is AdjustmentKind.SET:
        window = account.windows[0]
        if window.name not in override.windows and len(override.windows) >= OVERRIDES_MAX:
            raise ValueError(
                f"{account.id}: has {OVERRIDES_MAX} windows set by hand; reset one of them first"
            )
        override.windows[window.name] = window
    elif kind is AdjustmentKind.RESET:
        override.windows.pop(account.windows[0].name, None)
    else:
        override.frozen = kind is AdjustmentKind.FREEZE


def overdue_leases(books: Books, now: UnixMillis, leases_max: int) -> list[HoldId]:
    """The oldest that should have been returned by now."""
    overdue = sorted(
        (lease.expires_at, name)
        for name, lease in books.leases.items()
        if lease.state in (LeaseState.LIVE, LeaseState.RECALLED) and lease.expires_at + LEASE_GRACE <= now
    )
    return [name for _, name in overdue[:leases_max]]


def charge_rest(books: Books, lease: Lease, now: UnixMillis) -> None:
    """Nobody returned it: its rest is used, until reconciled."""
    books.hold(lease.windows, lease.rest, lease.requests, sign=-1)
    books.lease_out(lease.windows, lease.rest, lease.requests, sign=-1)
    books.use(lease.windows, lease.rest, lease.requests)
    books.keep(lease.windows, now)
    lease.state, lease.forget_at = LeaseState.EXPIRED, now + TOMBSTONE_TTL


def give_back(books: Books, lease: Lease, now: UnixMillis) -> None:
    """Release its rest, which it still names for the event."""
    if lease.state is LeaseState.EXPIRED:
        books.use(lease.windows, lease.rest, lease.requests, sign=-1)
    else:
        books.hold(lease.windows, lease.rest, lease.requests, sign=-1)
        books.lease_out(lease.windows, lease.rest, lease.requests, sign=-1)
    lease.state, lease.forget_at = LeaseState.RETURNED, now + TOMBSTONE_TTL
