"""The ledger's own entries become events, and whatever else stands in an outbox does not get lost."""

from __future__ import annotations

import pytest

from gateway.bookkeeper.outbox_events import ENTRY_BYTES_MAX, event_of
from gateway.budget.ledger import Account, HoldRequest, Window, WindowKind
from gateway.budget.memory_ledger import MemoryLedger
from gateway.budget.outbox import LEDGER_TYPES
from gateway.contract.clock import ManualClock
from gateway.contract.ids import AccountId, HoldId, OrgId, RegionName
from gateway.contract.units import Millis, Tokens
from gateway.events.codec import decode, encode
from gateway.events.event import Event, EventType

LOCAL, ORG = RegionName("local"), OrgId("acme")
NOTE = {"type": "cache.hit", "at_ms": "1800000000000", "org": "acme", "verdict": "noted", "c.model": "m"}


def read(fields: dict[str, str], entry: str = "1800000000001-0") -> Event:
    event = event_of(LOCAL, ORG, entry, fields)
    assert decode(encode(event)) == event
    return event


async def test_every_verb_of_the_ledger() -> None:
    clock = ManualClock()
    ledger = MemoryLedger(clock)
    account = Account(id=AccountId("org"), windows=(Window(kind=WindowKind.MINUTE, limit=Tokens(1000)),))

    def want(hold: str, units: int = 100) -> HoldRequest:
        return HoldRequest(
            hold=HoldId(hold),
            org=ORG,
            accounts=(account,),
            fixed=Tokens(10),
            choices=1,
            units_wanted=Tokens(units),
            units_min=Tokens(units),
            ttl=Millis(1000),
            policy_version=4,
            context={"request_id": hold, "model": "m", "end_user": "", "policy_version": "4"},
        )

    for hold in ("settled", "voided", "late"):
        await ledger.reserve(want(hold))
    await ledger.reserve(want("refused", 5000))
    await ledger.settle(ORG, HoldId("settled"), Tokens(60), detail={"finish": "stop", "attempt": "2"})
    await ledger.void(ORG, HoldId("voided"), reason="engine")
    clock.advance_ms(2000)
    await ledger.expire(ORG)
    await ledger.settle(ORG, HoldId("late"), Tokens(5))
    await ledger.note(ORG, "cache.hit", {"request_id": "hit", "policy_version": "4"})
    events = [read(fields, f"{n}-0") for n, fields in enumerate(ledger.outbox)]
    assert {event.type.value for event in events} == {*LEDGER_TYPES, "cache.hit"}
    by_type = {event.type: event for event in events}
    settled = by_type[EventType.HOLD_SETTLED]
    assert (settled.hold, settled.request_id, settled.attempt) == ("settled", "settled", "2")
    assert settled.amounts == {"held": "110", "used": "60", "released": "50"}
    assert settled.context == {"model": "m", "detail.finish": "stop", "detail.attempt": "2"}
    assert settled.accounts and settled.accounts[0].startswith("org|minute|")
    assert settled.policy_version == "4"
    assert by_type[EventType.CACHE_HIT].policy_version == "4"
    assert by_type[EventType.HOLD_VOIDED].reason == "engine"


def test_fields_of_a_newer_ledger_are_kept() -> None:
    event = read({**NOTE, "trace": "abc", "c.new": "x"})
    assert event.type is EventType.CACHE_HIT
    assert event.context == {"model": "m", "new": "x", "field.trace": "abc"}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"type": "hold.stolen"}, "type"),
        ({"type": "access"}, "type"),
        ({"type": "books.sealed"}, "type"),
        ({"org": "other"}, "org"),
        ({"at_ms": "soon"}, "at_ms"),
        ({"at_ms": "1" * 18}, "at_ms"),
        ({"a.used": "1.5"}, "amounts"),
    ],
)
def test_what_is_no_event_is_kept_raw(changes: dict[str, str], reason: str) -> None:
    event = read({**NOTE, **changes})
    assert event.type is EventType.EVENT_UNREADABLE and event.reason.startswith(reason)
    assert (event.org, event.at_ms) == ("acme", 1_800_000_000_001)
    assert event.context == {f"field.{name}": value for name, value in {**NOTE, **changes}.items()}


def test_an_empty_and_a_huge_entry() -> None:
    assert read({}).type is EventType.EVENT_UNREADABLE
    huge = read({**NOTE, "c.answer": "x" * ENTRY_BYTES_MAX})
    assert huge.type is EventType.EVENT_UNREADABLE
    assert huge.context is not None and set(huge.context) == {"bytes", "sha256"}
