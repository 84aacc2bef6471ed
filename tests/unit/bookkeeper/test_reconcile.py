"""Reconciling against the ledger in memory: what each witness changes, what stays, and that it ends."""

from __future__ import annotations

import pytest

from gateway.bookkeeper.reconcile_decision import LEASE_WAIT, SETTLING
from gateway.budget.certainty import Certainty
from gateway.budget.ledger import Draw
from gateway.budget.measure import Amounts
from gateway.contract.ids import HoldId
from gateway.contract.units import MicroUsd, Tokens, UnixMillis
from gateway.events.event import Event
from gateway.models.catalogue import Prices
from tests.unit.bookkeeper.reconciling import NOW, ORG, World, access, attempt

POD = "10.0.0.7:30000"


def drawn(world: World, *, lasts_ms: int) -> Event:
    """The access entry of a request that was granted out of the lease that was made last."""
    return access(
        "r",
        upstream=POD,
        lease="lease/dead/1",
        lease_windows=world.ledger.outbox[-1]["accounts"],
        held="100,10,90,7",
        units="90",
        hold_expires_at=str(NOW + lasts_ms),
    )


async def test_a_hold_that_no_engine_had_is_released_with_the_reason() -> None:
    world = World()
    await world.hold("r")
    report = await world.reconcile(idle=True)
    assert (report.released, await world.used_and_held()) == (1, (0, 0))
    assert [entry["reason"] for entry in world.ledger.outbox] == ["", "reconciled"]


async def test_a_charge_by_expiry_that_no_engine_had_is_taken_back() -> None:
    world = World()
    await world.hold("r")
    await world.expire_all()
    assert await world.used_and_held() == (100, 0)
    report = await world.reconcile()
    assert (report.released, await world.used_and_held()) == (1, (0, 0))
    assert world.ledger.outbox[-1]["d.resolver"] == "reconciled"


async def test_a_blind_charge_becomes_what_the_engine_says_in_tokens_and_money() -> None:
    world = World()
    await world.hold("r")
    await world.ledger.settle(ORG, HoldId("r"), Amounts(), certainty=Certainty.UNKNOWN)
    world.log = [access("r", upstream=POD)]
    world.prices = {
        ("m", "1"): Prices(prompt=MicroUsd(20_000), cached=MicroUsd(10_000), completion=MicroUsd(80_000))
    }
    world.engine.records = [attempt("r", 8, 30)]
    world.time.advance_ms(SETTLING + 1)
    report = await world.reconcile()
    assert (report.corrected, await world.used_and_held()) == (1, (38, 0))
    entry = world.ledger.outbox[-1]
    assert (entry["type"], entry["a.used_micro_usd"]) == ("hold.corrected", "3")


async def test_an_engine_that_went_past_what_was_held_overdraws_nothing() -> None:
    world = World()
    granted = await world.hold("r")
    await world.ledger.settle(ORG, HoldId("r"), Amounts(), certainty=Certainty.UNKNOWN)
    world.prices = {
        ("m", "1"): Prices(prompt=MicroUsd(20_000), cached=MicroUsd(10_000), completion=MicroUsd(80_000))
    }
    world.engine.records = [attempt("r", 8, 5_000)]
    report = await world.reconcile(idle=True)
    assert (report.corrected, await world.used_and_held()) == (1, (98, 0))
    assert int(world.ledger.outbox[-1]["a.used_micro_usd"]) <= granted.amounts.micro_usd
    assert [(one["tokens"], one["why"]) for one in report.waste] == [(4_910, "tail")]


async def test_without_a_price_the_money_stays_as_it_was_charged() -> None:
    world = World()
    granted = await world.hold("r")
    await world.expire_all()
    world.engine.records = [attempt("r", 8, 30)]
    await world.reconcile()
    assert world.ledger.outbox[-1]["a.used_micro_usd"] == str(granted.amounts.micro_usd)


async def test_a_live_hold_of_a_lost_tap_is_settled_once_the_request_is_long_over() -> None:
    world = World()
    await world.hold("r")
    world.log = [access("r", upstream=POD)]
    world.engine.records = [attempt("r", 8, 30)]
    early = await world.reconcile()
    assert (early.open, early.changed, await world.used_and_held()) == (1, 0, (0, 100))
    world.time.advance_ms(SETTLING)
    report = await world.reconcile()
    assert (report.settled, await world.used_and_held()) == (1, (38, 0))


async def test_an_attempt_under_way_is_left_alone() -> None:
    world = World()
    await world.hold("r")
    world.engine.records = [attempt("r", 8, 3, over=False)]
    report = await world.reconcile(idle=True)
    assert (report.open, report.changed, await world.used_and_held()) == (1, 0, (0, 100))


async def test_what_nobody_knows_stays_charged_and_is_listed() -> None:
    world = World()
    await world.hold("r")
    await world.expire_all()
    world.log = [access("r", upstream=POD)]
    world.engine.complete = False
    report = await world.reconcile()
    assert (report.changed, report.unknown_tokens, await world.used_and_held()) == (0, 100, (100, 0))
    assert [one["id"] for one in report.unknown] == ["r"]


async def test_the_access_log_alone_releases_what_never_reached_an_engine() -> None:
    world = World()
    await world.hold("r")
    world.log = [access("r", code=503)]
    world.engine.complete = False
    report = await world.reconcile(idle=True)
    assert (report.released, await world.used_and_held()) == (1, (0, 0))


async def test_the_last_attempt_is_charged_and_those_before_are_waste() -> None:
    world = World()
    await world.hold("r")
    await world.expire_all()
    world.engine.records = [attempt("r", 8, 5), attempt("r", 8, 30, at=NOW + 5)]
    report = await world.reconcile()
    assert await world.used_and_held() == (38, 0)
    assert [(one["tokens"], one["why"]) for one in report.waste] == [(13, "repeated")]


@pytest.mark.parametrize(("ended", "waste", "differing"), [("cut", [2], []), ("complete", [], ["r"])])
async def test_tokens_after_the_last_usage_are_waste_only_where_the_answer_was_cut(
    ended: str, waste: list[int], differing: list[str]
) -> None:
    world = World()
    await world.hold("r")
    await world.ledger.settle(ORG, HoldId("r"), Amounts.of(8, 28), detail={"ended": ended})
    world.engine.records = [attempt("r", 8, 30)]
    report = await world.reconcile(idle=True)
    assert [one["tokens"] for one in report.waste] == waste
    assert (report.differing, report.changed, await world.used_and_held()) == (differing, 0, (36, 0))


async def test_what_was_produced_for_an_error_is_waste() -> None:
    world = World()
    await world.hold("r")
    await world.ledger.void(ORG, HoldId("r"), reason="access_log")
    world.engine.records = [attempt("r", 8, 30)]
    report = await world.reconcile(idle=True)
    assert [(one["tokens"], one["why"]) for one in report.waste] == [(38, "unanswered")]
    assert report.differing == []


async def test_a_second_run_changes_nothing() -> None:
    world = World()
    for name in ("had", "not", "lost"):
        await world.hold(name)
    await world.lease("lease/dead/1", 500)
    await world.expire_all()
    world.engine.records = [attempt("had", 8, 30)]
    world.time.advance_ms(LEASE_WAIT)
    first = await world.reconcile()
    assert (first.corrected, first.released, first.leases_returned) == (1, 2, 1)
    entries, standing = len(world.ledger.outbox), await world.used_and_held()
    second = await world.reconcile()
    assert (second.changed, len(world.ledger.outbox)) == (0, entries)
    assert await world.used_and_held() == standing == (38, 0)


async def test_a_lease_is_returned_only_when_its_requests_must_be_over() -> None:
    world = World()
    await world.lease("lease/dead/1", 500)
    await world.expire_all()
    early = await world.reconcile()
    assert (early.open, early.leases_returned, await world.used_and_held()) == (1, 0, (500, 0))
    world.time.advance_ms(LEASE_WAIT)
    assert (await world.reconcile()).leases_returned == 1
    assert await world.used_and_held() == (0, 0)


async def test_a_request_out_of_a_dead_workers_memory_is_charged_by_the_access_log() -> None:
    """Its worker died before it told the ledger; the tap died too."""
    world = World()
    await world.lease("lease/dead/1", 500)
    world.log = [drawn(world, lasts_ms=900_000)]
    world.engine.records = [attempt("r", 8, 30)]
    report = await world.reconcile(idle=True)
    assert (report.settled, report.leases_returned) == (1, 1)
    assert await world.used_and_held() == (38, 0)


async def test_a_lease_stays_while_a_hold_out_of_it_is_open() -> None:
    world = World()
    await world.lease("lease/dead/1", 500)
    windows = tuple(world.ledger.outbox[-1]["accounts"].split())
    draw = Draw(
        lease=HoldId("lease/dead/1"),
        windows=windows,
        hold=HoldId("r"),
        amounts=Amounts.of(10, 90),
        units=Tokens(90),
        expires_at=UnixMillis(NOW + 900_000),
        policy_version=1,
        context={"request_id": "r"},
    )
    await world.ledger.draw(ORG, HoldId("lease/dead/1"), [draw])
    world.engine.records = [attempt("r", 8, 3, over=False)]
    report = await world.reconcile(idle=True)
    assert (report.open, report.leases_returned, await world.used_and_held()) == (2, 0, (0, 500))


async def test_a_lease_stays_charged_where_an_attempt_belongs_to_nobody() -> None:
    world = World()
    await world.lease("lease/dead/1", 500)
    world.engine.records = [attempt("whose", 8, 30)]
    report = await world.reconcile(idle=True)
    assert (report.leases_returned, report.unknown_tokens) == (0, 500)


async def test_what_stays_charged_with_a_lease_is_without_what_was_drawn_after_its_end() -> None:
    world = World()
    await world.lease("lease/dead/1", 500)
    world.log = [drawn(world, lasts_ms=7_200_000)]
    await world.expire_all()
    world.engine.records = [attempt("r", 8, 30), attempt("whose", 8, 30)]
    await world.reconcile(idle=True)
    report = await world.reconcile(idle=True)
    assert (report.changed, report.unknown_tokens) == (0, 400)
    assert await world.used_and_held() == (400 + 38, 0)
