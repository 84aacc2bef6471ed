"""The ledger's own entries become events, and whatever else stands in an outbox does not get lost."""

from __future__ import annotations

import pytest

from gateway.bookkeeper.outbox_events import ENTRY_BYTES_MAX, event_of
from gateway.budget.ledger import LEASE_GRACE, Adjustment, AdjustmentKind, HoldRequest, LeaseRequest
from gateway.budget.measure import Amounts, Measure, Price
from gateway.budget.memory_ledger import MemoryLedger
from gateway.budget.outbox import LEDGER_TYPES
from gateway.budget.window import UNLIMITED, Account, Window, WindowKind
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


def account(limit: int) -> Account:
    windows = (
        Window(kind=WindowKind.MINUTE, limit=limit),
        Window(kind=WindowKind.DAY, limit=UNLIMITED, measure=Measure.MICRO_USD),
    )
    return Account(id=AccountId("org"), windows=windows)


def want(hold: str, units: int = 100) -> HoldRequest:
    return HoldRequest(
        hold=HoldId(hold),
        org=ORG,
        accounts=(account(1000),),
        fixed=Tokens(10),
        choices=1,
        units_wanted=Tokens(units),
        units_min=Tokens(units),
        ttl=Millis(1000),
        policy_version=4,
        price=Price(prompt=1_000_000, completion=2_000_000),
        context={"request_id": hold, "model": "m", "end_user": "", "policy_version": "4"},
    )


def lease(name: str) -> LeaseRequest:
    return LeaseRequest(
        lease=HoldId(name),
        org=ORG,
        accounts=(account(1000),),
        wanted=Amounts.of(10, 20, micro_usd=50),
        wanted_requests=3,
        least=Amounts(),
        share=2,
        ttl=Millis(1000),
        policy_version=4,
    )


async def test_every_verb_of_the_ledger() -> None:
    clock = ManualClock()
    ledger = MemoryLedger(clock)
    for hold in ("settled", "voided", "late"):
        await ledger.reserve(want(hold))
    await ledger.reserve(want("refused", 5000))
    used = Amounts.of(20, 40, micro_usd=100)
    await ledger.settle(ORG, HoldId("settled"), used, detail={"finish": "stop", "attempt": "2"})
    await ledger.void(ORG, HoldId("voided"), reason="engine")
    await ledger.lease(lease("returned"))
    await ledger.lease(lease("expired"))
    await ledger.return_lease(ORG, HoldId("returned"))
    top_up = Adjustment(
        id=HoldId("a-1"), kind=AdjustmentKind.TOP_UP, account=account_of_one(500), actor="ada", reason="month"
    )
    await ledger.adjust(ORG, top_up)
    clock.advance_ms(2000 + LEASE_GRACE)
    await ledger.tick(ORG)
    await ledger.expire(ORG)
    await ledger.settle(ORG, HoldId("late"), Amounts.of(2, 3))
    await ledger.note(ORG, "cache.hit", {"request_id": "hit", "policy_version": "4"})
    await ledger.note(ORG, "attempt.wasted", {"request_id": "settled", "attempt": "1"})
    events = [read(fields, f"{n}-0") for n, fields in enumerate(ledger.outbox)]
    assert {event.type.value for event in events} == {*LEDGER_TYPES, "cache.hit", "attempt.wasted"}
    by_type = {event.type: event for event in events}
    settled = by_type[EventType.HOLD_SETTLED]
    assert (settled.hold, settled.request_id, settled.attempt) == ("settled", "settled", "2")
    assert settled.amounts == {
        "held": "110",
        "held_prompt_tokens": "10",
        "held_completion_tokens": "100",
        "held_micro_usd": "210",
        "used": "60",
        "used_prompt_tokens": "20",
        "used_completion_tokens": "40",
        "used_micro_usd": "100",
        "released": "50",
    }
    assert settled.context == {"model": "m", "detail.finish": "stop", "detail.attempt": "2"}
    assert settled.accounts[0].startswith("org|minute|")
    assert settled.accounts[1].startswith("org|micro_usd|day|")
    assert settled.policy_version == "4"
    assert by_type[EventType.CACHE_HIT].policy_version == "4"
    assert by_type[EventType.HOLD_VOIDED].reason == "engine"
    assert by_type[EventType.ATTEMPT_WASTED].attempt == "1"
    leased = by_type[EventType.LEASE_EXPIRED].amounts
    assert leased is not None and leased["held_requests"] == "3"


def account_of_one(limit: int) -> Account:
    return Account(id=AccountId("org"), windows=(Window(kind=WindowKind.MINUTE, limit=limit),))


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
