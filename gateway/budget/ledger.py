"""The budget ledger: what a hold is, what can come back, what resolving means.

Two-phase transfers (TigerBeetle's words): ``reserve`` holds an amount on all accounts of a request
or on none; ``settle`` posts the true amount, ``void`` releases it, ``expire`` posts holds nobody
resolved, in full. Idempotent by hold id; integers only.

Invariant after every step, for every account window that has a limit:
``used + held <= limit`` when a hold is granted, ``used = sum(settled) + sum(expired)``,
``held = sum(live holds)``.

Two places where we differ from TigerBeetle, on purpose: a settle above the hold posts in full and
reports the overdraft (the tokens are spent), and a settle after expiry corrects what expiry posted
(charge-on-expiry never overspends; a late settle makes it exact).

``memory_ledger.py`` is the executable specification; ``redis_ledger.py`` is one Lua call per verb.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, Protocol

from gateway.contract.ids import AccountId, HoldId, OrgId
from gateway.contract.units import Millis, Tokens, UnixMillis

UNLIMITED: Final = Tokens(-1)
"""A window that is counted and never refuses."""
FORWARD_JUMP_MAX: Final = Millis(60_000)
"""How far the store's clock may run ahead of the last confirmed time before windows stop rolling."""
TOMBSTONE_TTL: Final = Millis(24 * 3600 * 1000)
"""How long a resolved hold is remembered, so that a late or repeated settle finds its outcome."""


class WindowKind(StrEnum):
    """Fixed windows in UTC."""

    MINUTE = "minute"
    MONTH = "month"


class Outcome(StrEnum):
    """How a hold ended. The first resolution wins, except that settle corrects EXPIRED."""

    LIVE = "live"
    POSTED = "posted"
    VOIDED = "voided"
    EXPIRED = "expired"
    CORRECTED = "corrected"
    """Expired in full, then settled to the true amount."""
    UNKNOWN = "unknown"
    """No such hold (never reserved, or its tombstone has aged out)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """One limit: ``limit`` tokens in each window of ``kind``; UNLIMITED only counts."""

    kind: WindowKind
    limit: Tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """``org`` or ``key/<id>`` inside the org, with at least one window."""

    id: AccountId
    windows: tuple[Window, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class HoldRequest:
    """What a request wants to hold: ``fixed + units * choices`` tokens on every account.

    ``fixed`` is the prompt's bound, ``choices`` how many completions, ``units_wanted`` the
    max_tokens of each. The ledger lowers units to what every account can pay (the affordable
    clamp) and refuses below ``units_min``.
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
    """Event fields the ledger repeats in the outbox (request id, key, model, pseudonyms, ...)."""


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
    """Nothing is held. ``standing`` is the tightest window, which cannot pay ``needed``."""

    standing: Standing
    needed: Tokens
    """The smallest amount that would have been granted: fixed + units_min x choices."""
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
        """Every org that ever had a hold or a note."""
