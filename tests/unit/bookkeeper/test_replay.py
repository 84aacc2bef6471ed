"""The state that replay makes of a ledger's own events is that ledger's state."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import orjson
import pytest

from gateway.bookkeeper.outbox_events import event_of
from gateway.bookkeeper.replay import Replay
from gateway.bookkeeper.replay_compare import differences
from gateway.budget.certainty import Certainty
from gateway.budget.ledger import LeaseState, Outcome
from gateway.budget.measure import Amounts
from gateway.budget.memory_books import Books, Override
from gateway.budget.memory_ledger import MemoryLedger
from gateway.budget.rebuilt import (
    RebuiltBooks,
    RebuiltCounter,
    RebuiltHold,
    RebuiltLease,
    RebuiltOverride,
)
from gateway.contract.clock import ManualClock
from gateway.contract.ids import AccountId, OrgId, RegionName
from gateway.contract.units import UnixMillis
from gateway.events.event import Event, EventType
from gateway.events.reading import Reader
from tests.harness.histories import History

LOCAL = RegionName("local")
KEPT = Path(__file__).resolve().parents[1] / "events" / "kept"


def events_of(ledger: MemoryLedger) -> list[Event]:
    return [event_of(LOCAL, OrgId(fields["org"]), f"{n}-0", fields) for n, fields in enumerate(ledger.outbox)]


def replayed(events: list[Event]) -> Replay:
    replay = Replay()
    for event in events:
        replay.add(event)
    return replay


def state_of(org: OrgId, books: Books, now: int) -> RebuiltBooks:
    """What the ledger in memory has, as values."""
    standing = (LeaseState.LIVE, LeaseState.RECALLED, LeaseState.EXPIRED)
    return RebuiltBooks(
        org=org,
        clock_ms=UnixMillis(now),
        counters={
            name: RebuiltCounter(used=one.used, held=one.held, leased=one.leased, credit=one.credit)
            for name, one in books.counters.items()
        },
        holds={
            name: RebuiltHold(
                windows=one.windows,
                amounts=one.grant.amounts,
                version=one.version,
                context=one.context,
                outcome=one.outcome,
                posted=one.posted,
                certainty=one.certainty,
                ends_at=UnixMillis(one.forget_at or one.expires_at),
            )
            for name, one in books.holds.items()
        },
        leases={
            name: RebuiltLease(
                windows=one.windows,
                rest=one.rest,
                requests=one.requests,
                version=one.version,
                context=one.context,
                state=one.state,
                ends_at=UnixMillis(one.forget_at or one.expires_at),
            )
            for name, one in books.leases.items()
            if one.state in standing
        },
        overrides={
            name: RebuiltOverride(windows=tuple(one.windows.values()), frozen=one.frozen)
            for name, one in books.overrides.items()
        },
    )


@pytest.mark.parametrize("seed", range(12))
async def test_random_histories_come_out_as_the_ledger_has_them(seed: int) -> None:
    clock, witness = ManualClock(), ManualClock()
    ledger = MemoryLedger(clock, witness=witness)
    history = History(ledger, clock, witness, seed)
    await history.run(600)
    replay = replayed(events_of(ledger))
    assert replay.irregular_total == replay.unreadable == 0
    assert len(replay.books()) == 2
    for rebuilt in replay.books():
        books = ledger._orgs[rebuilt.org]
        assert differences(rebuilt, state_of(rebuilt.org, books, clock.now_ms)) == []
        assert any(one.used for one in rebuilt.counters.values())
        for name, hold in rebuilt.holds.items():
            assert hold.context.items() <= books.holds[name].context.items()


async def test_every_difference_is_named() -> None:
    clock = ManualClock()
    ledger = MemoryLedger(clock)
    await History(ledger, clock, clock, 2).run(200)
    rebuilt, _ = replayed(events_of(ledger)).books()
    books = ledger._orgs[rebuilt.org]
    books.counters[next(iter(rebuilt.counters))].used += 1
    forgotten = next(
        name
        for name, one in rebuilt.holds.items()
        if one.certainty < Certainty.EXACT or one.outcome is Outcome.LIVE
    )
    del books.holds[forgotten]
    books.overrides.setdefault(AccountId("key/k2"), Override()).frozen = True
    found = differences(rebuilt, state_of(rebuilt.org, books, clock.now_ms))
    assert [(one.kind, one.name) for one in found] == [
        ("counter", next(iter(rebuilt.counters))),
        ("hold", forgotten),
        ("override", "key/k2"),
    ]
    assert found[1].ledger == "" and found[1].replay.startswith(rebuilt.holds[forgotten].outcome)


def test_books_of_version_1_come_out_as_their_ledger_had_them() -> None:
    expected = orjson.loads((KEPT / "version-1.json").read_bytes())
    replay = Replay()
    for record in Reader(KEPT / "version-1", LOCAL):
        replay.add(record.event)
    for rebuilt in replay.books():
        counters = {name: [one.used, one.held] for name, one in rebuilt.counters.items()}
        assert counters == expected["counters"][rebuilt.org]
        live = sorted(name for name, one in rebuilt.holds.items() if one.outcome is Outcome.LIVE)
        assert live == expected["live"][rebuilt.org]


async def test_a_replayed_guess_may_still_be_corrected() -> None:
    clock = ManualClock()
    ledger = MemoryLedger(clock)
    history = History(ledger, clock, clock, 1)
    while not history.live:
        await history.run(1)
    org, name = history.live[0]
    await ledger.settle(org, name, Amounts.of(1, 2), certainty=Certainty.PROVISIONAL)
    hold = next(one for one in replayed(events_of(ledger)).books() if one.org == org).holds[name]
    assert (hold.certainty, hold.posted) == (Certainty.PROVISIONAL, Amounts.of(1, 2))
    await ledger.settle(org, name, Amounts.of(1, 3))
    replay = replayed(events_of(ledger))
    hold = next(one for one in replay.books() if one.org == org).holds[name]
    assert (hold.certainty, hold.posted) == (Certainty.EXACT, Amounts.of(1, 3))
    assert replay.irregular_total == 0


async def test_what_the_log_cannot_explain_is_said() -> None:
    clock = ManualClock()
    ledger = MemoryLedger(clock)
    await History(ledger, clock, clock, 1).run(200)
    events = events_of(ledger)
    ended = {event.hold for event in events if event.type is EventType.HOLD_SETTLED}
    granted = next(event for event in events if event.type is EventType.HOLD_GRANTED and event.hold in ended)
    settled = next(
        event for event in events if event.type is EventType.HOLD_SETTLED and event.hold == granted.hold
    )
    without = replayed([event for event in events if event is not granted])
    assert settled.id in without.irregular and without.irregular_total >= 1
    raw = dataclasses.replace(granted, type=EventType.EVENT_UNREADABLE)
    assert replayed([raw if event is granted else event for event in events]).unreadable == 1
