"""The budget ledger: what a hold is, what can come back, what resolving means.

Two-phase transfers (TigerBeetle's words): ``reserve`` holds an amount on all accounts of a request
or on none; ``settle`` posts the true amount, ``void`` releases it, ``expire`` posts holds nobody
resolved, in full. Idempotent by hold id; integers only.

Invariant after every step, for every account window that has a limit:
``used + held <= limit`` when a hold is granted, ``used = sum(settled) + sum(expired)``,
``held = sum(live holds)``.

Two places where we differ from TigerBeetle, on purpose: a settle above the hold posts in full and
reports the overdraft (the tokens are spent), and a settle with known usage corrects a hold that was
charged in full blindly, by expiry or as ``unknown`` (charging in full never overspends; what is
learnt late makes it exact).

Time of an org: ``now = max(confirmed, min(store time, confirmed + FORWARD_JUMP_MAX))``. Only
``tick`` moves ``confirmed``, and no further than ``witness + FORWARD_JUMP_MAX``, the witness being
the caller's own clock: a store whose clock leaps alone stops rolling windows, it does not open them.

``memory_ledger.py`` is the executable specification; ``redis_ledger.py`` is one Lua call per verb.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, Protocol

from gateway.contract.ids import AccountId, HoldId, OrgId, is_identifier
from gateway.contract.units import TOKENS_MAX, Millis, Tokens, UnixMillis

UNLIMITED: Final = Tokens(-1)
"""A window that is counted and never refuses."""
FORWARD_JUMP_MAX: Final = Millis(60_000)
"""How far the store's clock may run ahead of the last confirmed time before windows stop rolling."""
TOMBSTONE_TTL: Final = Millis(24 * 3600 * 1000)
"""How long a resolved hold is remembered, so that a late or repeated settle finds its outcome."""
WINDOW_KEPT: Final = Millis(2 * TOMBSTONE_TTL)
"""How long a window outlives its end: longer than any hold and its tombstone, so that a settle after
rollover finds the window of its reserve."""
AMOUNT_MAX: Final = Tokens(2**40)
"""Most tokens of one hold or settle; keeps sums of thousands of them exact in a Lua number."""

_ACCOUNT: Final = re.compile(r"[a-z0-9][a-z0-9_./-]{0,159}\Z")
_HOLD: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_./:-]{0,159}\Z")
"""Neither a brace (hash tag), nor a space or pipe (our separators)."""


class WindowKind(StrEnum):
    """Fixed windows in UTC."""

    MINUTE = "minute"
    MONTH = "month"


class Outcome(StrEnum):
    """How a hold ended. The first resolution wins, except that a settle with known usage corrects
    EXPIRED and a POSTED that was ``unknown``."""

    LIVE = "live"
    POSTED = "posted"
    VOIDED = "voided"
    EXPIRED = "expired"
    CORRECTED = "corrected"
    """Charged in full blindly, then settled to the true amount."""
    UNKNOWN = "unknown"
    """No such hold (never reserved, or its tombstone has aged out)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """One limit: ``limit`` tokens in each window of ``kind``; UNLIMITED only counts."""

    kind: WindowKind
    limit: Tokens

    def __post_init__(self) -> None:
        """Raises ValueError."""
        if not UNLIMITED <= self.limit <= TOKENS_MAX:
            raise ValueError(f"limit: must be 0 to {TOKENS_MAX} or UNLIMITED, got {self.limit}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """``org`` or ``key/<id>`` inside the org, with at least one window."""

    id: AccountId
    windows: tuple[Window, ...]

    def __post_init__(self) -> None:
        """Raises ValueError."""
        if not _ACCOUNT.match(self.id):
            raise ValueError(f"account: {self.id!r} must match {_ACCOUNT.pattern}")
        kinds = {window.kind for window in self.windows}
        if not kinds or len(kinds) < len(self.windows):
            raise ValueError(f"account {self.id}: needs windows, each kind once")


def check_hold(org: OrgId, hold: HoldId) -> None:
    """Raises ValueError when one of them could not stand in a ledger key."""
    if not is_identifier(org):
        raise ValueError(f"org: {org!r} is not an identifier")
    if not _HOLD.match(hold):
        raise ValueError(f"hold: must match {_HOLD.pattern}")


def check_amount(amount: Tokens) -> None:
    """Raises ValueError outside 0..AMOUNT_MAX."""
    if not 0 <= amount <= AMOUNT_MAX:
        raise ValueError(f"amount: must be 0 to {AMOUNT_MAX}, got {amount}")


@dataclass(frozen=True, slots=True, kw_only=True)
class HoldRequest:
    """What a request wants to hold: ``fixed + units * choices`` tokens on every account.

    ``fixed`` is the prompt's bound, ``choices`` how many completions, ``units_wanted`` the
    max_tokens of each. The ledger lowers units to what every account can pay (the affordable
    clamp) and refuses below ``units_min`` (or below ``units_wanted`` where that is less).
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
    context: Mapping[str, str] = field(default_factory=dict)
    """Event fields the ledger repeats in the outbox (request_id, key, model, pseudonyms, ...)."""

    def __post_init__(self) -> None:
        """Raises ValueError for anything the ledger could not keep exactly."""
        check_hold(self.org, self.hold)
        if min(self.fixed, self.units_wanted, self.units_min) < 0 or self.choices < 1:
            raise ValueError("hold: fixed and units must not be negative, choices at least 1")
        if not 0 <= self.policy_version <= TOKENS_MAX:
            raise ValueError(f"hold: policy_version must be 0 to {TOKENS_MAX}")
        check_amount(Tokens(self.fixed + self.units_wanted * self.choices))
        if not 0 < self.ttl <= TOMBSTONE_TTL:
            raise ValueError(f"hold: ttl must be 1 to {TOMBSTONE_TTL} ms")
        if not self.accounts or len({account.id for account in self.accounts}) < len(self.accounts):
            raise ValueError("hold: needs accounts, each once")

    @property
    def needed(self) -> Tokens:
        """The smallest amount that can be granted."""
        return Tokens(self.fixed + min(self.units_min, self.units_wanted) * self.choices)


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """One account window after a decision. ``remaining`` is 0 or more, UNLIMITED if it has no limit."""

    account: AccountId
    kind: WindowKind
    limit: Tokens
    used: Tokens
    held: Tokens
    resets_at: UnixMillis

    @property
    def remaining(self) -> Tokens:
        """Tokens left; 0 when a limit was lowered below what is used."""
        if self.limit == UNLIMITED:
            return UNLIMITED
        return Tokens(max(0, self.limit - self.used - self.held))


@dataclass(frozen=True, slots=True, kw_only=True)
class Granted:
    """The hold stands. Reserving the same id again gives the same grant (``repeated``)."""

    hold: HoldId
    amount: Tokens
    units: Tokens
    tightest: Standing
    """The limited window with the fewest tokens left after this hold; an unlimited one if none is limited."""
    expires_at: UnixMillis
    repeated: bool = False
    policy_conflict: bool = False
    """The caller brought other limits under the version the ledger already has; the ledger's count."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """Nothing is held. ``standing`` is the window that cannot pay ``needed``; of several the one that
    resets last, because before that a retry is refused again."""

    standing: Standing
    needed: Tokens
    """The smallest amount that would have been granted (``HoldRequest.needed``)."""
    retry_after: Millis
    """Until the refusing window resets."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolved:
    """What settle or void found or did. ``first`` is True for the call that changed the books."""

    outcome: Outcome
    first: bool
    posted: Tokens
    """Tokens the hold has cost after this call."""
    overdraft: Tokens = Tokens(0)
    """How far ``posted`` lies above what was held."""


class BudgetLedger(Protocol):
    """Raises LedgerUnavailable when it cannot decide in time, LedgerEmptied when its epoch is
    not the one we know; never a driver's error. Every call is one atomic step."""

    async def reserve(self, request: HoldRequest) -> Granted | Refused:
        """Hold on all accounts or on none. A resolved hold's id raises ValueError."""

    async def settle(
        self,
        org: OrgId,
        hold: HoldId,
        used: Tokens,
        *,
        unknown: bool = False,
        detail: Mapping[str, str] | None = None,
    ) -> Resolved:
        """Post ``used`` to the windows of the reserve. ``unknown``: nothing was seen; posts the whole
        hold, flagged, and ``used`` is ignored. ``detail`` goes into the event (usage, finish, flags)."""

    async def void(self, org: OrgId, hold: HoldId, *, reason: str) -> Resolved:
        """Release the hold; nothing was produced."""

    async def expire(self, org: OrgId, *, holds_max: int = 100) -> Sequence[HoldId]:
        """Post overdue holds in full, oldest first, at most ``holds_max``; returns their ids."""

    async def note(self, org: OrgId, kind: str, context: Mapping[str, str]) -> None:
        """Append an event that moves no tokens (cache hit, refusal before the ledger)."""

    async def standing(self, org: OrgId, accounts: Sequence[Account]) -> Sequence[Standing]:
        """Every window of ``accounts`` as it stands now; the ledger's limits win over the caller's."""

    async def tick(self, org: OrgId) -> UnixMillis:
        """Confirm the store's clock (the bookkeeper's heartbeat); returns the org's time."""

    async def orgs(self) -> Sequence[OrgId]:
        """Every org that ever had a hold or a note, sorted."""
