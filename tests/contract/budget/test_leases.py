"""Funds held ahead: shares, draws, recalls, returns, and leases that nobody gives back."""

from __future__ import annotations

import pytest

from gateway.budget.ledger import (
    LEASE_GRACE,
    RECALL_FOR,
    WINDOWS_MAX,
    Adjustment,
    AdjustmentKind,
    LeaseState,
    Outcome,
)
from gateway.budget.measure import Measure
from gateway.budget.window import Enforcement, Window, WindowKind
from gateway.contract.ids import HoldId
from tests.contract.budget.subjects import NOON, ORG, Subject, account, draw_of, lend, of, used, want

L, H = HoldId("l"), HoldId("h")
THOUSAND = account(minute=1000)


async def counted(subject: Subject) -> tuple[int, int]:
    """Used and held of the minute."""
    standing = await subject.minute(THOUSAND)
    return standing.used, standing.held


async def test_a_lease_holds_its_share_and_shrinks_as_the_rest_shrinks(subject: Subject) -> None:
    lent = [await subject.leased(lend(f"l{n}", share=4)) for n in range(3)]
    assert [one.amounts.tokens for one in lent] == [250, 187, 140]
    assert (lent[0].windows[0], lent[0].requests) == (f"org|minute|{NOON - NOON % 60_000}", 10)
    assert lent[0].tightest[Measure.TOKENS].remaining == 750
    assert await counted(subject) == (0, 577)
    assert await subject.ledger.lease(lend("l9", least=200, share=4)) is None


async def test_a_lease_ends_with_its_first_window(subject: Subject) -> None:
    lent = await subject.leased(lend("l", ttl=600_000))
    assert (lent.expires_at, lent.lasts) == (NOON + 44_750, 44_750)
    short = await subject.leased(lend("s", ttl=5_000))
    assert short.lasts == 5_000
    rolling = of("key/r", Window(kind=WindowKind.ROLLING, limit=100, seconds=3600))
    assert (await subject.leased(lend("r", rolling, ttl=600_000))).expires_at == NOON - NOON % 60_000 + 60_000


async def test_the_same_id_is_the_same_lease(subject: Subject) -> None:
    first = await subject.leased(lend("l"))
    again = await subject.leased(lend("l", wanted=7))
    assert (again.amounts, again.windows) == (first.amounts, first.windows)
    assert await counted(subject) == (0, 400)


async def test_a_window_that_an_operator_added_may_be_one_more_than_a_policy_can_have(
    subject: Subject,
) -> None:
    rolling = [Window(kind=WindowKind.ROLLING, limit=1000, seconds=60 + n) for n in range(WINDOWS_MAX + 1)]
    added = Adjustment(
        id=HoldId("a"), kind=AdjustmentKind.SET, account=of("org", rolling.pop()), actor="root", reason="test"
    )
    await subject.ledger.adjust(ORG, added)
    lent = await subject.leased(lend("l", of("org", *rolling)))
    assert len(lent.windows) == WINDOWS_MAX + 1
    assert await subject.ledger.draw(ORG, L, [draw_of(lent, "h")]) is LeaseState.LIVE
    assert (await subject.ledger.settle(ORG, H, used(30))).posted == used(30)


async def test_a_leases_event_says_what_stands_above_soft_and_shadow_limits(subject: Subject) -> None:
    soft = Window(kind=WindowKind.HOUR, limit=300, enforcement=Enforcement.SOFT)
    shadow = Window(kind=WindowKind.DAY, limit=500, enforcement=Enforcement.SHADOW)
    limited = of("org", Window(kind=WindowKind.MINUTE, limit=1000), soft, shadow)
    first, second = [await subject.leased(lend(f"l{n}", limited, wanted=300)) for n in range(2)]
    assert ([one.span for one in first.over], [one.span for one in second.over]) == ([], ["hour"])
    entries = await subject.outbox()
    assert [entry.get("d.soft_over") for entry in entries] == [None, "org|hour"]
    assert [entry.get("d.shadow_over") for entry in entries] == [None, "org|day"]


async def test_draws_become_holds_each_once(subject: Subject) -> None:
    lent = await subject.leased(lend("l"))
    draws = [draw_of(lent, "a", 100), draw_of(lent, "b", 50)]
    for _ in range(2):
        assert await subject.ledger.draw(ORG, L, draws) is LeaseState.LIVE
    assert await counted(subject) == (0, 400)
    assert (await subject.ledger.settle(ORG, HoldId("a"), used(30))).outcome is Outcome.POSTED
    assert await counted(subject) == (30, 300)
    assert await subject.ledger.return_lease(ORG, L) is LeaseState.RETURNED
    assert await counted(subject) == (30, 50)
    granted = [entry for entry in await subject.outbox() if entry["type"] == "hold.granted"]
    assert [(entry["hold"], entry["c.lease"]) for entry in granted] == [("a", "l"), ("b", "l")]


async def test_a_settle_may_come_before_its_draw(subject: Subject) -> None:
    lent = await subject.leased(lend("l"))
    draw = draw_of(lent, "h", 100)
    assert (await subject.ledger.settle(ORG, H, used(30), draw=draw)).first
    assert await subject.ledger.draw(ORG, L, [draw]) is LeaseState.LIVE
    assert not (await subject.ledger.settle(ORG, H, used(31), draw=draw)).first
    assert await counted(subject) == (30, 300)
    voided = await subject.ledger.void(ORG, HoldId("v"), reason="x", draw=draw_of(lent, "v", 60))
    assert (voided.outcome, await counted(subject)) == (Outcome.VOIDED, (30, 240))


async def test_who_is_refused_recalls_what_others_hold_ahead(subject: Subject) -> None:
    lent = await subject.leased(lend("l", wanted=900))
    refusal = await subject.refused(want("h", units=500, units_min=500))
    assert refusal.recalled
    assert await subject.ledger.lease(lend("m")) is None
    assert await subject.ledger.draw(ORG, L, [draw_of(lent, "a", 300)]) is LeaseState.RECALLED
    await subject.ledger.return_lease(ORG, L)
    assert (await subject.reserve(want("h", units=500, units_min=500))).units == 500
    await subject.pass_time(RECALL_FOR)
    assert await subject.ledger.lease(lend("m")) is not None


async def test_who_is_clamped_recalls_too(subject: Subject) -> None:
    await subject.leased(lend("l", wanted=900))
    assert (await subject.reserve(want("h", units=500))).units == 100
    assert await subject.ledger.draw(ORG, L, []) is LeaseState.RECALLED


async def test_a_lease_that_nobody_returns_is_charged_until_somebody_knows(subject: Subject) -> None:
    lent = await subject.leased(lend("l", wanted=400, ttl=1_000))
    subject.advance(1_000 + LEASE_GRACE - 1)
    assert list(await subject.ledger.expire(ORG)) == []
    await subject.pass_time(1)
    assert list(await subject.ledger.expire(ORG)) == [L]
    assert await subject.ledger.return_lease(ORG, L) is LeaseState.EXPIRED
    # What was drawn before its end and is told only now comes out of what was charged.
    late = draw_of(lent, "h", 100)
    assert (await subject.ledger.settle(ORG, H, used(20), draw=late)).first
    assert await subject.ledger.return_lease(ORG, L, reconciled=True) is LeaseState.RETURNED
    entries = await subject.outbox()
    granted = next(entry for entry in entries if entry["type"] == "hold.granted")
    assert granted["c.lease_state"] == "expired"
    assert (entries[-1]["type"], entries[-1]["reason"]) == ("lease.returned", "reconciled")
    month = (await subject.ledger.standing(ORG, (THOUSAND,)))[1]
    assert (month.used, month.held) == (20, 0)


async def test_tokens_of_a_lease_that_is_gone_are_held_all_the_same(subject: Subject) -> None:
    lent = await subject.leased(lend("l", wanted=400))
    await subject.ledger.return_lease(ORG, L)
    await subject.reserve(want("h", units=1000))
    assert await subject.ledger.draw(ORG, L, [draw_of(lent, "a", 100)]) is LeaseState.RETURNED
    assert await counted(subject) == (0, 1100)
    assert await subject.ledger.draw(ORG, HoldId("never"), []) is LeaseState.UNKNOWN


async def test_no_lease_where_requests_in_flight_count_or_nothing_is_granted(subject: Subject) -> None:
    flights = of("org", Window(kind=WindowKind.LIFETIME, limit=5, measure=Measure.CONCURRENT))
    assert await subject.ledger.lease(lend("l", flights)) is None
    assert await subject.ledger.lease(lend("m", account("key/z", minute=0))) is None
    assert await subject.outbox() == []


async def test_a_draw_is_of_the_lease_it_names(subject: Subject) -> None:
    lent = await subject.leased(lend("l"))
    with pytest.raises(ValueError, match="another lease"):
        await subject.ledger.draw(ORG, HoldId("m"), [draw_of(lent, "a")])
    with pytest.raises(ValueError, match="another hold"):
        await subject.ledger.settle(ORG, HoldId("b"), used(1), draw=draw_of(lent, "a"))
    assert await counted(subject) == (0, 400)


async def test_a_draw_a_day_late_might_be_a_second_one_and_is_none(subject: Subject) -> None:
    lent = await subject.leased(lend("l"))
    draw = draw_of(lent, "h", 100)
    await subject.ledger.settle(ORG, H, used(30), draw=draw)
    await subject.ledger.return_lease(ORG, L)
    await subject.pass_time(24 * 3_600_000 + 15 * 60_000 - 1)
    assert (await subject.ledger.settle(ORG, H, used(30), draw=draw)).outcome is Outcome.POSTED
    await subject.pass_time(1)
    assert (await subject.ledger.settle(ORG, H, used(30), draw=draw)).outcome is Outcome.UNKNOWN
