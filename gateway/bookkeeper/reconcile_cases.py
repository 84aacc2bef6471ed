"""What the books say of each hold and each lease: the first half of reconciling, pure.

Facts only, from events in the books' order. reconcile_decision.py says what follows from them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from gateway.budget.certainty import Certainty, certainty_of
from gateway.budget.ledger import Draw
from gateway.budget.measure import Amounts
from gateway.budget.outbox import amounts_of
from gateway.contract.ids import HoldId, OrgId
from gateway.contract.units import Tokens, UnixMillis
from gateway.events.event import Event, EventType

CUT: Final = frozenset({"cut", "error", "limit", "stopped"})
"""``detail.ended`` of an answer that was not taken to its end: the engine may have gone on a little."""
COMPLETE: Final = "complete"
"""``detail.ended`` of an answer whose end the tap saw."""
SEEN_CUT: Final = "cut"
"""The same where the tap's own stream ended first: the client left, or Envoy went on without the tap."""


class Standing(Enum):
    """Where a hold stands, by its last event."""

    LIVE = "live"
    BLIND = "blind"
    """Charged in full by expiry or as ``unknown``: what is learnt may still correct it."""
    PROVISIONAL = "provisional"
    """Charged what the tap saw, or estimated: likewise."""
    FINAL = "final"
    ABSENT = "absent"
    """The books have no hold of this id: only the access log speaks of it."""


_STANDINGS: Final = {
    Certainty.UNKNOWN: Standing.BLIND,
    Certainty.PROVISIONAL: Standing.PROVISIONAL,
    Certainty.EXACT: Standing.FINAL,
}


@dataclass(slots=True, kw_only=True)
class Access:
    """What Envoy said when the request was over."""

    at_ms: UnixMillis
    reached: bool
    """An engine had it."""
    whole: bool
    """The client got an engine's answer to its end: a 2xx, and no flag says that anybody ended it early."""
    draw: Draw | None
    """Of a hold that was granted out of a lease."""


@dataclass(slots=True, kw_only=True)
class HoldCase:
    """One hold. ``charged`` is what it has cost so far, ``held`` what it holds or held."""

    org: OrgId
    hold: HoldId
    request_id: str
    standing: Standing = Standing.ABSENT
    granted_at: UnixMillis = UnixMillis(0)
    held: Amounts = Amounts()
    charged: Amounts = Amounts()
    lease: HoldId = HoldId("")
    windows: tuple[str, ...] = ()
    model: str = ""
    revision: str = ""
    cut: bool = False
    """It was settled for an answer that was not taken to its end."""
    ended: str = ""
    """How the answer ended, as its tap saw it (``detail.ended``)."""
    voided: bool = False
    """There was no answer."""
    access: Access | None = None


@dataclass(slots=True, kw_only=True)
class LeaseCase:
    """One lease; ``rest`` as its last event has it, less what was drawn from it since."""

    org: OrgId
    lease: HoldId
    granted_at: UnixMillis
    expired_at: UnixMillis = UnixMillis(0)
    """0 while it has not been charged."""
    returned: bool = False
    rest: Tokens = Tokens(0)
    windows: tuple[str, ...] = ()


@dataclass(slots=True, kw_only=True)
class Cases:
    """All that the events named."""

    holds: dict[tuple[OrgId, HoldId], HoldCase] = field(default_factory=dict)
    leases: dict[tuple[OrgId, HoldId], LeaseCase] = field(default_factory=dict)


def cases_of(events: Iterable[Event]) -> Cases:
    """The state after ``events``. What stands twice changes nothing."""
    found = Cases()
    for event in events:
        match event.type:
            case EventType.HOLD_GRANTED:
                _granted(found, event)
            case (
                EventType.HOLD_SETTLED
                | EventType.HOLD_VOIDED
                | EventType.HOLD_EXPIRED
                | EventType.HOLD_CORRECTED
            ):
                _resolved(found, event)
            case EventType.LEASE_GRANTED | EventType.LEASE_EXPIRED | EventType.LEASE_RETURNED:
                _lease(found, event)
            case EventType.ACCESS if event.org and event.hold:
                case, context = _hold(found, event), event.context or {}
                case.access = _access(event)
                case.model = case.model or context.get("model", "")
                case.revision = case.revision or context.get("revision", "")
    return found


def _hold(found: Cases, event: Event) -> HoldCase:
    key = OrgId(event.org), HoldId(event.hold)
    if key not in found.holds:
        found.holds[key] = HoldCase(org=key[0], hold=key[1], request_id=event.request_id or event.hold)
    return found.holds[key]


def _granted(found: Cases, event: Event) -> None:
    case, context = _hold(found, event), event.context or {}
    if case.standing is not Standing.ABSENT:
        return
    case.standing = Standing.LIVE
    case.granted_at = UnixMillis(event.at_ms)
    case.held = amounts_of("held", event.amounts)
    case.lease = HoldId(context.get("lease", ""))
    case.windows = event.accounts
    case.model, case.revision = context.get("model", ""), context.get("revision", "")
    if (lease := found.leases.get((case.org, case.lease))) is not None:
        lease.rest = Tokens(lease.rest - case.held.tokens)


def _resolved(found: Cases, event: Event) -> None:
    case, context = _hold(found, event), event.context or {}
    case.standing = _STANDINGS[certainty_of(event.type, event.reason)]
    case.held = amounts_of("held", event.amounts)
    case.charged = amounts_of("used", event.amounts)
    case.windows = case.windows or event.accounts
    case.ended = context.get("detail.ended", case.ended)  # a correction by this command does not say
    case.cut = case.ended in CUT
    case.voided = event.type is EventType.HOLD_VOIDED


def _lease(found: Cases, event: Event) -> None:
    key = OrgId(event.org), HoldId(event.hold)
    lease = found.leases.setdefault(
        key, LeaseCase(org=key[0], lease=key[1], granted_at=UnixMillis(event.at_ms))
    )
    lease.rest = amounts_of("held", event.amounts).tokens
    lease.windows = lease.windows or event.accounts
    if event.type is EventType.LEASE_EXPIRED:
        lease.expired_at = UnixMillis(event.at_ms)
    lease.returned = lease.returned or event.type is EventType.LEASE_RETURNED


def _access(event: Event) -> Access:
    context = event.context or {}
    reached = bool(context.get("upstream")) and bool(event.attempt)
    return Access(
        at_ms=UnixMillis(event.at_ms),
        reached=reached,
        whole=reached and event.verdict.startswith("2") and not context.get("flags"),
        draw=draw_in(event),
    )


def draw_in(event: Event) -> Draw | None:
    """What an access entry says of a hold out of a lease; None without a lease, and where it does not say
    enough. Raises ValueError for what admit cannot have written."""
    context = event.context or {}
    held = context.get("held", "")
    if not context.get("lease") or held.count(",") != 3:
        return None
    return Draw(
        lease=HoldId(context["lease"]),
        windows=tuple(context.get("lease_windows", "").split()),
        hold=HoldId(event.hold),
        amounts=Amounts.of_text(held),
        units=Tokens(int(context.get("units", "0"))),
        expires_at=UnixMillis(int(context.get("hold_expires_at", "0"))),
        policy_version=int(event.policy_version or "0"),
        context={
            name: text for name in ("request_id", "key", "model", "revision") if (text := context.get(name))
        },
    )
