"""The books of one org as values: what replay makes of the event log, and what a store can be asked for.

``redis_restore.restore`` writes them into an empty store, ``redis_restore.snapshot`` reads them back; two of
them that are equal hold the same counters, holds, leases and overrides.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from gateway.budget.certainty import Certainty
from gateway.budget.ledger import LeaseState, Outcome
from gateway.budget.measure import Amounts
from gateway.budget.window import Window
from gateway.contract.ids import AccountId, HoldId, OrgId
from gateway.contract.units import UnixMillis


@dataclass(frozen=True, slots=True, kw_only=True)
class RebuiltCounter:
    """One window of one account; one bucket of a rolling one."""

    used: int = 0
    held: int = 0
    leased: int = 0
    """Part of ``held`` that is the rest of live leases."""
    credit: int = 0
    """What was topped up, at most TOKENS_MAX."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RebuiltHold:
    """A hold that is live, or that was resolved within TOMBSTONE_TTL. Without windows and context once
    nothing can correct it any more."""

    windows: tuple[str, ...]
    """Window ids (window.window_id)."""
    amounts: Amounts
    version: int
    context: Mapping[str, str]
    """As in the event; with ``lease`` for one that a lease funded."""
    outcome: Outcome = Outcome.LIVE
    posted: Amounts = Amounts()
    certainty: Certainty = Certainty.EXACT
    """Of ``posted``: a settle that knows more may still correct it."""
    ends_at: UnixMillis = field(default=UnixMillis(0), compare=False)
    """When a live one expires, or a resolved one is forgotten. Not in the events of a live one: any time is
    safe that leaves its tap a chance to settle, as ``clock_ms`` plus the time a request may take."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RebuiltLease:
    """A lease that is not returned: LIVE, RECALLED or EXPIRED."""

    windows: tuple[str, ...]
    rest: Amounts
    requests: int
    version: int
    context: Mapping[str, str]
    state: LeaseState = LeaseState.LIVE
    granted_at: UnixMillis = field(default=UnixMillis(0), compare=False)
    ends_at: UnixMillis = field(default=UnixMillis(0), compare=False)
    """When a live one ends (``clock_ms`` will do: it may be returned for LEASE_GRACE after that), or an
    expired one is forgotten."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RebuiltOverride:
    """What an operator set over the policy of one account, in the order in which it was first set."""

    windows: tuple[Window, ...] = ()
    frozen: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RebuiltBooks:
    """One org. Counters of windows that ended more than WINDOW_KEPT before ``clock_ms`` and hold nothing
    (rolling: of buckets that have left) may be there or not: ``restore`` leaves them out."""

    org: OrgId
    clock_ms: UnixMillis
    """The confirmed time: the latest ``at_ms`` of the log."""
    counters: Mapping[str, RebuiltCounter]
    """By window id."""
    holds: Mapping[HoldId, RebuiltHold]
    leases: Mapping[HoldId, RebuiltLease]
    overrides: Mapping[AccountId, RebuiltOverride] = field(default_factory=dict)
    limits: Mapping[AccountId, tuple[int, tuple[Window, ...]]] = field(default_factory=dict)
    """Policy version and windows. Not in the log: without them the next caller's policy is taken."""
    adjusted: Mapping[HoldId, UnixMillis] = field(default_factory=dict)
    """Adjustments that were made, and when they are forgotten (their ``at_ms`` plus TOMBSTONE_TTL)."""
