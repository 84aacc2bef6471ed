"""Reconciling what the tap charged without having seen all of it, or by estimate: the engine's record counts
where all of the answer was delivered, and nothing that was not seen to pass where it was not."""

from __future__ import annotations

import pytest

from gateway.bookkeeper.reconcile_decision import SETTLING
from gateway.bookkeeper.reconcile_run import Report
from gateway.budget.certainty import Certainty
from gateway.budget.measure import Amounts
from gateway.contract.ids import HoldId
from gateway.contract.units import MicroUsd
from gateway.events.event import Event
from gateway.models.catalogue import Prices
from tests.unit.bookkeeper.reconciling import ORG, World, access, attempt

POD = "10.0.0.7:30000"
H = HoldId("r")
SEEN = Amounts.of(8, 28, micro_usd=4)
WHOLE = access("r", upstream=POD)
PRICES = Prices(prompt=MicroUsd(20_000), cached=MicroUsd(10_000), completion=MicroUsd(80_000))
EARLY = [
    access("r", upstream=POD, flags="DC"),
    access("r", upstream=POD, flags="UC"),
    access("r", upstream=POD, flags="DT,UMSDR"),
    access("r", upstream=POD, code=503),
    access("r", code=200),
]
"""Entries of answers that did not reach their client whole, or of which nobody says so."""


async def guessed(ended: str, used: Amounts = SEEN) -> World:
    """A hold of 10 prompt and 90 completion tokens, charged provisionally."""
    world = World()
    await world.hold("r")
    detail = {"ended": ended}
    await world.ledger.settle(ORG, H, used, certainty=Certainty.PROVISIONAL, detail=detail)
    return world


async def twice(world: World) -> Report:
    """The first of two runs; the second changes nothing and tells the same waste."""
    first = await world.reconcile(idle=True)
    entries, standing = len(world.ledger.outbox), await world.used_and_held()
    second = await world.reconcile(idle=True)
    assert (second.changed, len(world.ledger.outbox)) == (0, entries)
    assert await world.used_and_held() == standing
    assert (second.waste, second.provisional) == (first.waste, first.provisional)
    assert (first.unknown, first.differing, second.differing) == ([], [], [])
    return first


async def test_an_answer_that_went_on_without_its_tap_costs_what_the_engine_says() -> None:
    world = await guessed("cut")
    world.log, world.engine.records = [WHOLE], [attempt("r", 8, 30)]
    world.prices = {("m", "1"): PRICES}
    early = await world.reconcile()
    assert (early.open, early.changed) == (1, 0)
    world.time.advance_ms(SETTLING)
    report = await twice(world)
    assert (report.corrected, report.provisional, report.waste) == (1, 0, [])
    assert await world.used_and_held() == (38, 0)
    entry = world.ledger.outbox[-1]
    assert (entry["type"], entry["reason"], entry["a.was"]) == ("hold.corrected", "", "36")
    assert entry["a.used_micro_usd"] == "3"


@pytest.mark.parametrize("entry", [None, *EARLY])
async def test_what_was_not_seen_to_pass_is_waste_where_the_answer_was_not_whole(entry: Event | None) -> None:
    world = await guessed("cut")
    world.log, world.engine.records = [entry] if entry else [], [attempt("r", 8, 30)]
    report = await twice(world)
    assert (report.changed, report.provisional, await world.used_and_held()) == (0, 1, (36, 0))
    assert [(one["tokens"], one["why"]) for one in report.waste] == [(2, "tail")]


async def test_an_engine_that_finished_tells_where_the_access_entry_was_lost() -> None:
    world = await guessed("cut")
    world.engine.records = [attempt("r", 8, 30, finished=True)]
    report = await twice(world)
    assert (report.corrected, await world.used_and_held()) == (1, (38, 0))


async def test_an_engine_that_finished_does_not_outvote_the_access_log() -> None:
    """The client left while the last of it was on its way."""
    world = await guessed("cut")
    world.log = [access("r", upstream=POD, flags="DC")]
    world.engine.records = [attempt("r", 8, 30, finished=True)]
    report = await twice(world)
    assert (report.changed, report.provisional, report.waste_tokens) == (0, 1, 2)


@pytest.mark.parametrize("ended", ["stopped", "error", "limit"])
async def test_an_end_that_the_tap_made_is_no_whole_answer(ended: str) -> None:
    """Its access entry looks like one: the client got an error, or an end in the place of what followed."""
    world = await guessed(ended)
    world.log, world.engine.records = [WHOLE], [attempt("r", 8, 30)]
    report = await twice(world)
    assert (report.changed, report.provisional, report.waste_tokens) == (0, 1, 2)


@pytest.mark.parametrize("entry", [None, WHOLE, *EARLY])
@pytest.mark.parametrize(("completion", "used"), [(20, 28), (60, 68)])
async def test_an_estimate_of_an_answer_that_was_seen_to_its_end_becomes_exact(
    entry: Event | None, completion: int, used: int
) -> None:
    world = await guessed("complete")
    world.log, world.engine.records = [entry] if entry else [], [attempt("r", 8, completion)]
    report = await twice(world)
    assert (report.corrected, await world.used_and_held()) == (1, (used, 0))


async def test_of_an_estimate_what_lies_above_the_record_is_taken_back_though_the_client_left() -> None:
    """The prompt by its bound, the completion by what was shown: neither can be more than the engine had."""
    world = await guessed("cut", Amounts.of(10, 28, micro_usd=4))
    world.log, world.engine.records = [access("r", upstream=POD, flags="DC")], [attempt("r", 8, 30)]
    world.prices = {("m", "1"): PRICES}
    report = await twice(world)
    assert (report.corrected, await world.used_and_held()) == (1, (36, 0))
    assert world.ledger.outbox[-1]["a.used_micro_usd"] == "3"
    assert [(one["tokens"], one["why"]) for one in report.waste] == [(2, "tail")]


@pytest.mark.parametrize("ended", ["cut", "complete"])
async def test_no_record_makes_a_charge_larger_than_its_hold(ended: str) -> None:
    world = await guessed(ended)
    world.log, world.engine.records = [WHOLE], [attempt("r", 12, 300)]
    report = await twice(world)
    assert (report.corrected, await world.used_and_held()) == (1, (100, 0))
    assert report.waste_tokens == 212


async def test_a_record_that_says_the_same_makes_it_final() -> None:
    world = await guessed("cut")
    world.log, world.engine.records = [WHOLE], [attempt("r", 8, 28)]
    report = await twice(world)
    assert (report.corrected, await world.used_and_held()) == (1, (36, 0))
    assert not (await world.ledger.settle(ORG, H, Amounts.of(1, 1))).first


async def test_without_an_engines_record_nothing_is_concluded() -> None:
    for complete in (True, False):
        world = await guessed("cut")
        world.log, world.engine.complete = [WHOLE], complete
        report = await twice(world)
        assert (report.changed, report.provisional, await world.used_and_held()) == (0, 1, (36, 0))


async def test_an_attempt_under_way_is_left_alone() -> None:
    world = await guessed("cut")
    world.log, world.engine.records = [WHOLE], [attempt("r", 8, 30, over=False)]
    report = await world.reconcile(idle=True)
    assert (report.open, report.changed, report.provisional) == (1, 0, 0)
