"""What the books say of each hold and each lease: the first half of reconciling, pure.

Facts only, from events in the books' order. reconcile_decision.py says what follows from them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from gateway.budget.ledger import Draw
from gateway.budget.measure import Amounts, Measure
from gateway.budget.outbox import UNKNOWN_USAGE
from gateway.contract.ids import HoldId, OrgId
from gateway.contract.units import MicroUsd, Tokens, UnixMillis
from gateway.events.event import Event, EventType

CUT: Final = frozenset({"cut", "error", "limit"})
"""``detail.ended`` of an answer that was not taken to its end: the engine may have gone on a little."""


class Standing(Enum):
    """Where a hold stands, by its last event."""

    LIVE = "live"
    BLIND = "blind"
    """Charged in full by expiry or as ``unknown``: what is learnt may still correct it."""
    FINAL = "final"
    ABSENT = "absent"
    """The books have no hold of this id: only the access log speaks of it."""


@dataclass(slots=True, kw_only=True)
class Access:
    """What Envoy said when the request was over."""

    at_ms: UnixMillis
    reached: bool
    """An engine had it."""
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


def amounts_in(event: Event, name: str) -> Amounts:
    """``held*`` or ``used*`` of an event (gateway/budget/outbox.py)."""
    amounts = event.amounts or {}
    return Amounts(
        tokens=Tokens(int(amounts.get(name, "0"))),
        prompt_tokens=Tokens(int(amounts.get(f"{name}_{Measure.PROMPT_TOKENS}", "0"))),
        completion_tokens=Tokens(int(amounts.get(f"{name}_{Measure.COMPLETION_TOKENS}", "0"))),
        micro_usd=MicroUsd(int(amounts.get(f"{name}_{Measure.MICRO_USD}", "0"))),
    )


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
    case.held = amounts_in(event, "held")
    case.lease = HoldId(context.get("lease", ""))
    case.windows = event.accounts
    case.model, case.revision = context.get("model", ""), context.get("revision", "")
    if (lease := found.leases.get((case.org, case.lease))) is not None:
        lease.rest = Tokens(lease.rest - case.held.tokens)


def _resolved(found: Cases, event: Event) -> None:
    case, context = _hold(found, event), event.context or {}
    blind = event.type is EventType.HOLD_EXPIRED or event.reason == UNKNOWN_USAGE
    case.standing = Standing.BLIND if blind else Standing.FINAL
    case.held = amounts_in(event, "held")
    case.charged = amounts_in(event, "used")
    case.windows = case.windows or event.accounts
    case.cut = context.get("detail.ended", "") in CUT
    case.voided = event.type is EventType.HOLD_VOIDED


def _lease(found: Cases, event: Event) -> None:
    key = OrgId(event.org), HoldId(event.hold)
    lease = found.leases.setdefault(
        key, LeaseCase(org=key[0], lease=key[1], granted_at=UnixMillis(event.at_ms))
    )
    lease.rest = amounts_in(event, "held").tokens
    lease.windows = lease.windows or event.accounts
    if event.type is EventType.LEASE_EXPIRED:
        lease.expired_at = UnixMillis(event.at_ms)
    lease.returned = lease.returned or event.type is EventType.LEASE_RETURNED


def _access(event: Event) -> Access:
    context = event.context or {}
    return Access(
        at_ms=UnixMillis(event.at_ms),
        reached=bool(context.get("upstream")) and bool(event.attempt),
        draw=_draw(event, context),
    )


def _draw(event: Event, context: Mapping[str, str]) -> Draw | None:
    """None without a lease, and where the entry does not say enough."""
    held = context.get("held", "").split(",")
    if not context.get("lease") or len(held) != 4:
        return None
    tokens, prompt, completion, micro_usd = (int(text) for text in held)
    return Draw(
        lease=HoldId(context["lease"]),
        windows=tuple(context.get("lease_windows", "").split()),
        hold=HoldId(event.hold),
        amounts=Amounts(
            tokens=Tokens(tokens),
            prompt_tokens=Tokens(prompt),
            completion_tokens=Tokens(completion),
            micro_usd=MicroUsd(micro_usd),
        ),
        units=Tokens(int(context.get("units", "0"))),
        expires_at=UnixMillis(int(context.get("hold_expires_at", "0"))),
        policy_version=int(event.policy_version or "0"),
        context={
            name: text for name in ("request_id", "key", "model", "revision") if (text := context.get(name))
        },
    )
