"""Outbox entries to events. An entry that is none becomes ``event.unreadable`` with its raw fields: the
outbox goes on, and what a newer version wrote is still in the books."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Final

from gateway.budget.outbox import AMOUNT, CONTEXT, DETAIL, unprefixed
from gateway.contract.ids import OrgId, RegionName
from gateway.events.codec import is_amount
from gateway.events.event import Event, EventType

ENTRY_BYTES_MAX: Final = 64 * 1024
"""An entry of ours has under 2 KiB. A far larger one is kept as size and digest: a line of the books must
stay readable."""
_DETAIL: Final = "detail."
_FIELD: Final = "field."
_DIRECT: Final = ("request_id", "hold", "policy_version", "verdict", "reason")
_KNOWN: Final = frozenset((*_DIRECT, "type", "at_ms", "org", "accounts"))
_LEDGER_ONLY: Final = frozenset(EventType) - {
    EventType.ACCESS,
    EventType.BOOKS_OPENED,
    EventType.BOOKS_SEALED,
    EventType.EVENT_UNREADABLE,
}
"""What may come out of an outbox."""


class Unreadable(ValueError):
    """The entry is no event of our schema. The text names the field, never its value."""


def event_of(region: RegionName, org: OrgId, entry: str, fields: Mapping[str, str]) -> Event:
    """The event of outbox ``entry`` (``<ms>-<n>``) of ``org``. Never raises."""
    try:
        return _read(region, org, entry, fields)
    except Unreadable as error:
        return _unreadable(region, org, entry, fields, str(error))


def _read(region: RegionName, org: OrgId, entry: str, fields: Mapping[str, str]) -> Event:
    size = sum(len(name.encode()) + len(value.encode()) for name, value in fields.items())
    if size > ENTRY_BYTES_MAX:
        raise Unreadable(f"larger than {ENTRY_BYTES_MAX} bytes")
    try:
        kind = EventType(fields.get("type", ""))
    except ValueError:
        raise Unreadable("type: unknown") from None
    if kind not in _LEDGER_ONLY:
        raise Unreadable("type: not the ledger's")
    if fields.get("org") != org:
        raise Unreadable("org: not the outbox's")
    at_ms = fields.get("at_ms", "")
    if not is_amount(at_ms) or len(at_ms) > 15:
        raise Unreadable("at_ms: must be a whole number")
    amounts = unprefixed(AMOUNT, fields)
    if not all(map(is_amount, amounts.values())):
        raise Unreadable("amounts: must be whole numbers")
    context, detail = unprefixed(CONTEXT, fields), unprefixed(DETAIL, fields)
    direct = {name: fields.get(name, "") or context.get(name, "") for name in _DIRECT}
    kept = {name: text for name, text in context.items() if text and text != direct.get(name)}
    kept |= {_DETAIL + name: text for name, text in detail.items() if text}
    kept |= {
        _FIELD + name: text
        for name, text in fields.items()
        if name not in _KNOWN and not name.startswith((AMOUNT, CONTEXT, DETAIL))
    }
    return Event(
        id=f"{org}/{entry}",
        type=kind,
        at_ms=int(at_ms),
        region=region,
        org=org,
        request_id=direct["request_id"],
        hold=direct["hold"],
        policy_version=direct["policy_version"],
        verdict=direct["verdict"],
        reason=direct["reason"],
        attempt=detail.get("attempt", "") or context.get("attempt", ""),
        amounts=amounts or None,
        accounts=tuple(fields.get("accounts", "").split()),
        context=kept or None,
    )


def _unreadable(region: RegionName, org: OrgId, entry: str, fields: Mapping[str, str], why: str) -> Event:
    raw = "\0".join(f"{name}\0{value}" for name, value in fields.items()).encode()
    if len(raw) > ENTRY_BYTES_MAX:
        context = {"bytes": str(len(raw)), "sha256": hashlib.sha256(raw).hexdigest()}
    else:
        context = {_FIELD + name: value for name, value in fields.items()}
    made_ms = entry.partition("-")[0]
    return Event(
        id=f"{org}/{entry}",
        type=EventType.EVENT_UNREADABLE,
        at_ms=int(made_ms) if is_amount(made_ms) and len(made_ms) <= 15 else 0,
        region=region,
        org=org,
        request_id="",
        reason=why,
        context=context or None,
    )
