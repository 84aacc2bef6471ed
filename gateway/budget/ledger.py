"""The budget ledger: what a hold is, what can come back, what resolving means.

Two-phase transfers (TigerBeetle's words): ``reserve`` holds amounts on all accounts of a request or on
none; ``settle`` posts the true amounts, ``void`` releases them, ``expire`` posts holds nobody resolved, in
full. Idempotent by hold id; integers only. A settle posts to the windows of its reserve.

Invariant after every step, for every hard account window: ``used + held <= limit`` when a hold is granted
(``limit`` with credit and burst), ``used = sum(settled) + sum(expired)``, ``held = sum(live holds) +
sum(rest of live leases)``.

Two places where we differ from TigerBeetle, on purpose: a settle above the hold posts in full and reports
the overdraft (the tokens are spent), and a settle that knows more than the last charge of a hold corrects
it (certainty.py): charging in full blindly never overspends, and what is learnt late makes it exact.

**Limits live in the ledger.** An account's whole list of windows is stamped with its policy version: a
caller with a newer version replaces the list, one with an older version is judged by the ledger's, and a
window that the newer list leaves out is gone. A limit that is lowered below what is used refuses until the
window ends and takes nothing back; a window that is added counts from then on; one that is removed and
comes back finds its counter of the same window. Over the policy lies what an operator adjusts: a limit set
in its place, credit for the current window, a frozen account.

**Leases.** A worker may hold funds ahead (``lease``) and decide requests in memory; ``draw`` turns a batch
of them into holds, funded by the lease, and ``settle`` does so itself when it comes before its draw. When
somebody is refused or clamped while leases stand on the account, these are recalled.

Time of an org: ``now = max(confirmed, min(store time, confirmed + FORWARD_JUMP_MAX))``. Only ``tick``
moves ``confirmed``, and no further than ``witness + FORWARD_JUMP_MAX``, the witness being the caller's own
clock: a store whose clock leaps alone stops rolling windows, it does not open them.

``memory_ledger.py`` is the executable specification; ``redis_ledger.py`` is one Lua call per verb.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, Protocol

from gateway.budget.certainty import Certainty
from gateway.budget.measure import AMOUNT_MAX, FREE, Amounts, Measure, Price
from gateway.budget.window import Account, Standing, Window
from gateway.contract.ids import AccountId, HoldId, OrgId, is_identifier
from gateway.contract.units import TOKENS_MAX, Millis, Tokens, UnixMillis

FORWARD_JUMP_MAX: Final = Millis(60_000)
"""How far the store's clock may run ahead of the last confirmed time before windows stop rolling."""
TOMBSTONE_TTL: Final = Millis(24 * 3600 * 1000)
"""How long a resolved hold is remembered, so that a late or repeated settle finds its outcome."""
WINDOW_KEPT: Final = Millis(2 * TOMBSTONE_TTL)
"""How long a window outlives its end: longer than any hold and its tombstone, so that a settle after
rollover finds the window of its reserve."""
ACCOUNTS_MAX: Final = 8
"""Of one hold: org, team, user, key, model, workflow and two to come."""
WINDOWS_MAX: Final = 32
"""Of one hold, over all accounts: bounds the work of one call in the store."""
DRAWS_MAX: Final = 64
"""Of one ``draw``: bounds the work of one call in the store."""
OVERRIDES_MAX: Final = 16
"""Windows of one account that an operator has set: they come on top of WINDOWS_MAX."""
LEASE_GRACE: Final = Millis(60_000)
"""How long after its end a lease may still be returned before it is charged in full."""
RECALL_FOR: Final = Millis(2_000)
"""How long after a recall no new lease is made on the window."""

_HOLD: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_./:-]{0,159}\Z")
"""Neither a brace (hash tag), nor a space or pipe (our separators)."""


class Outcome(StrEnum):
    """How a hold ended. The first resolution wins, but for corrections."""

    LIVE = "live"
    POSTED = "posted"
    VOIDED = "voided"
    EXPIRED = "expired"
    CORRECTED = "corrected"
    """Charged with less certainty, then settled by who knew more."""
    UNKNOWN = "unknown"
    """No such hold (never reserved, or its tombstone has aged out)."""


def check_hold(org: OrgId, hold: HoldId) -> None:
    """Raises ValueError when one of them could not stand in a ledger key."""
    if not is_identifier(org):
        raise ValueError(f"org: {org!r} is not an identifier")
    if not _HOLD.match(hold):
        raise ValueError(f"hold: must match {_HOLD.pattern}")


def check_accounts(accounts: Sequence[Account]) -> None:
    """Raises ValueError."""
    if not 0 < len({account.id for account in accounts}) == len(accounts) <= ACCOUNTS_MAX:
        raise ValueError(f"hold: needs 1 to {ACCOUNTS_MAX} accounts, each once")
    if sum(len(account.windows) for account in accounts) > WINDOWS_MAX:
        raise ValueError(f"hold: more than {WINDOWS_MAX} windows")


def check_ttl(ttl: Millis) -> None:
    """Raises ValueError."""
    if not 0 < ttl <= TOMBSTONE_TTL:
        raise ValueError(f"ttl: must be 1 to {TOMBSTONE_TTL} ms")


def check_version(version: int) -> None:
    """Raises ValueError."""
    if not 0 <= version <= TOKENS_MAX:
        raise ValueError(f"policy_version: must be 0 to {TOKENS_MAX}")


def check_draws(lease: HoldId, draws: Sequence[Draw]) -> None:
    """Raises ValueError."""
    if len(draws) > DRAWS_MAX:
        raise ValueError(f"draw: more than {DRAWS_MAX} at once")
    if any(draw.lease != lease for draw in draws):
        raise ValueError("draw: of another lease")


@dataclass(frozen=True, slots=True, kw_only=True)
class HoldRequest:
    """What a request wants to hold on every account: ``fixed`` prompt tokens and ``units * choices``
    completion tokens, their price, and one request.

    ``fixed`` is the prompt's bound, ``choices`` how many completions, ``units_wanted`` the max_tokens of
    each. The ledger lowers units to what every hard window can pay (the affordable clamp) and refuses below
    ``units_min`` (or below ``units_wanted`` where that is less).
    """

    hold: HoldId
    org: OrgId
    accounts: tuple[Account, ...]
    fixed: Tokens
    choices: int
    units_wanted: Tokens
    units_min: Tokens
    ttl: Millis
    policy_version: int
    """Stamps the limits: a newer version replaces the ledger's limits, an older one does not."""
    price: Price = FREE
    context: Mapping[str, str] = field(default_factory=dict)
    """Event fields the ledger repeats in the outbox (request_id, key, model, pseudonyms, ...)."""

    def __post_init__(self) -> None:
        """Raises ValueError for anything the ledger could not keep exactly."""
        check_hold(self.org, self.hold)
        check_accounts(self.accounts)
        check_ttl(self.ttl)
        check_version(self.policy_version)
        if min(self.fixed, self.units_wanted, self.units_min) < 0 or self.choices < 1:
            raise ValueError("hold: fixed and units must not be negative, choices at least 1")
        self.amounts(self.units_wanted)

    @property
    def units_needed(self) -> Tokens:
        """The fewest units that can be granted."""
        return min(self.units_min, self.units_wanted)

    def amounts(self, units: Tokens) -> Amounts:
        """What is held with ``units`` for each choice. Raises ValueError for more than can be counted."""
        completion = units * self.choices
        cost = self.price.cost(prompt=self.fixed, completion=completion)
        return Amounts.of(self.fixed, completion, micro_usd=cost)


@dataclass(frozen=True, slots=True, kw_only=True)
class Granted:
    """The hold stands. Reserving the same id again gives the same grant (``repeated``)."""

    hold: HoldId
    amounts: Amounts
    units: Tokens
    tightest: Mapping[Measure, Standing]
    """For each measure that is limited by a hard window: the one with the least left after this hold (of
    equals the one that resets last)."""
    expires_at: UnixMillis
    over: tuple[Standing, ...] = ()
    """Soft windows that stand above their limit after this hold."""
    lease: HoldId = HoldId("")
    """The lease that funds it, where the decision was made in memory."""
    repeated: bool = False
    policy_conflict: bool = False
    """The caller brought other limits under the version the ledger already has; the ledger's count."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """Nothing is held. ``standing`` is the hard window that cannot pay ``needed``; of several the one that
    resets last (never is last of all), because before that a retry is refused again."""

    standing: Standing
    needed: int
    """The smallest amount of ``standing.measure`` that would have been granted."""
    retry_after: Millis
    """Until the refusing window could pay, by time alone; 0 when it never will (lifetime, concurrent,
    frozen)."""
    recalled: bool = False
    """Leases stand on the account and have been recalled: another try soon may find more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolved:
    """What settle, void or extend found or did. ``first`` is True for the call that changed the books."""

    outcome: Outcome
    first: bool
    posted: Amounts
    """What the hold has cost after this call."""
    overdraft: Tokens = Tokens(0)
    """How far the posted tokens lie above what was held."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseRequest:
    """Funds a worker wants to hold ahead, for requests on exactly these accounts.

    Granted is, of each measure, ``wanted`` or the ``share``-th part of what the tightest hard window has
    left, whichever is less: a lease shrinks as the rest shrinks. None on an account that counts requests in
    flight, is frozen, or had leases recalled within RECALL_FOR.
    """

    lease: HoldId
    org: OrgId
    accounts: tuple[Account, ...]
    wanted: Amounts
    wanted_requests: int
    least: Amounts
    """A lease of less, in any measure, is not made."""
    share: int
    ttl: Millis
    policy_version: int
    context: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raises ValueError."""
        check_hold(self.org, self.lease)
        check_accounts(self.accounts)
        check_ttl(self.ttl)
        check_version(self.policy_version)
        if not 1 <= self.share <= 1000 or not 1 <= self.wanted_requests <= AMOUNT_MAX:
            raise ValueError("lease: share must be 1 to 1000, wanted_requests at least 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Leased:
    """A lease stands: so much may be handed out for ``lasts``, which ends no later than the first of its
    windows (draws post to the windows of the lease). Its rest is held until it is returned; LEASE_GRACE
    after ``expires_at`` it is charged in full, until reconciled."""

    lease: HoldId
    amounts: Amounts
    requests: int
    windows: tuple[str, ...]
    """Their ids (window.window_id), for its draws."""
    tightest: Mapping[Measure, Standing]
    """As in Granted, after the lease."""
    over: tuple[Standing, ...]
    expires_at: UnixMillis
    """In the store's time."""
    lasts: Millis
    """From the decision to ``expires_at``: to be counted from before the question was sent."""
    policy_conflict: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Draw:
    """A hold that was granted in memory out of a lease: what ``draw`` or its settle tells the ledger."""

    lease: HoldId
    windows: tuple[str, ...]
    """Of the lease: where the amounts are posted, should the ledger know it no more."""
    hold: HoldId
    amounts: Amounts
    units: Tokens
    expires_at: UnixMillis
    """Of the hold, in the store's time."""
    policy_version: int
    context: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raises ValueError."""
        check_version(self.policy_version)
        if not _HOLD.match(self.lease) or not _HOLD.match(self.hold):
            raise ValueError(f"draw: ids must match {_HOLD.pattern}")
        if len(self.windows) > WINDOWS_MAX + ACCOUNTS_MAX * OVERRIDES_MAX:
            raise ValueError("draw: more windows than a lease can have")


class LeaseState(StrEnum):
    """What became of a lease."""

    LIVE = "live"
    RECALLED = "recalled"
    """Still good for what was drawn; nothing more may be handed out, and its rest is to be returned."""
    RETURNED = "returned"
    EXPIRED = "expired"
    UNKNOWN = "unknown"


class AdjustmentKind(StrEnum):
    """What an operator does to an account, over the policy."""

    SET = "set"
    """A limit in place of the policy's for one window (a window the policy has not is added)."""
    TOP_UP = "top_up"
    """So much more in the current window only."""
    RESET = "reset"
    """The policy's limit counts again."""
    FREEZE = "freeze"
    UNFREEZE = "unfreeze"


@dataclass(frozen=True, slots=True, kw_only=True)
class Adjustment:
    """One change of a budget. ``account`` holds the one window it is about (its ``limit`` the new limit, or
    the amount of a top-up); none for freeze and unfreeze."""

    id: HoldId
    """The same id again changes nothing."""
    kind: AdjustmentKind
    account: Account
    actor: str
    reason: str
    policy_windows: tuple[Window, ...] = ()
    """All windows the policy gives the account, and its version: so that the ledger knows them even if
    nobody has used the account yet."""
    policy_version: int = 0

    def __post_init__(self) -> None:
        """Raises ValueError."""
        bare = self.kind in (AdjustmentKind.FREEZE, AdjustmentKind.UNFREEZE)
        if len(self.account.windows) != (0 if bare else 1):
            raise ValueError(f"{self.kind}: needs {'no window' if bare else 'one window'}")
        if self.kind is AdjustmentKind.TOP_UP and self.account.windows[0].limit < 0:
            raise ValueError("top_up: the amount must not be negative")
        if not self.actor or not self.reason or len(self.actor) > 200 or len(self.reason) > 500:
            raise ValueError("adjustment: needs an actor and a reason, of at most 200 and 500 characters")


class BudgetLedger(Protocol):
    """Raises LedgerUnavailable when it cannot decide in time, LedgerEmptied when its epoch is
    not the one we know; never a driver's error. Every call is one atomic step."""

    async def reserve(self, request: HoldRequest) -> Granted | Refused:
        """Hold on all accounts or on none. A resolved hold's id raises ValueError."""

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
        """Post ``used`` to the windows of the reserve; with UNKNOWN the whole hold. Changes a resolved hold
        only with more certainty than it was last charged (EXPIRED: UNKNOWN). ``detail`` goes into the event.
        ``draw``: what was granted out of a lease, should the ledger not have heard of it yet."""

    async def void(self, org: OrgId, hold: HoldId, *, reason: str, draw: Draw | None = None) -> Resolved:
        """Release the hold; nothing was produced."""

    async def extend(self, org: OrgId, hold: HoldId, ttl: Millis) -> Resolved:
        """Let a live hold expire no sooner than ``ttl`` from now; never sooner than before."""

    async def expire(self, org: OrgId, *, holds_max: int = 100) -> Sequence[HoldId]:
        """Post overdue holds and leases in full, oldest first, at most ``holds_max``; returns their ids."""

    async def note(self, org: OrgId, kind: str, context: Mapping[str, str]) -> None:
        """Append an event that moves no tokens (cache hit, refusal before the ledger)."""

    async def lease(self, request: LeaseRequest) -> Leased | None:
        """Hold funds ahead; None when a window cannot spare ``least``. The same id gives the same lease."""

    async def draw(self, org: OrgId, lease: HoldId, draws: Sequence[Draw]) -> LeaseState:
        """Turn at most DRAWS_MAX draws into holds of their own, each once; those the ledger knows already
        are left. A draw on a lease that is gone is held all the same: its tokens are being spent, be it
        above a limit; but not TOMBSTONE_TTL after its end, when it might have been resolved and forgotten.
        Raises ValueError for too many, or for one of another lease."""

    async def return_lease(self, org: OrgId, lease: HoldId, *, reconciled: bool = False) -> LeaseState:
        """Release what is left of a lease. ``reconciled``: also of one that expired and was charged."""

    async def adjust(self, org: OrgId, adjustment: Adjustment) -> Sequence[Standing]:
        """Change a budget, recall its leases, write the audit event; the account's standings after it."""

    async def standing(self, org: OrgId, accounts: Sequence[Account]) -> Sequence[Standing]:
        """Every window of ``accounts`` as it stands now; the ledger's limits win over the caller's where it
        has any."""

    async def accounts(self, org: OrgId) -> Sequence[AccountId]:
        """Every account the ledger has limits of, sorted."""

    async def tick(self, org: OrgId) -> UnixMillis:
        """Confirm the store's clock (the bookkeeper's heartbeat); returns the org's time."""

    async def orgs(self) -> Sequence[OrgId]:
        """Every org that ever had a hold or a note, sorted."""
