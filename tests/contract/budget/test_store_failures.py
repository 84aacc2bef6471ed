"""A store that is emptied, frozen, killed, full or new: closed, in time, and well again afterwards."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import Any

import pytest

from gateway.budget.ledger import Granted, Outcome
from gateway.budget.redis_connection import CONNECTIONS_MAX, connect
from gateway.budget.redis_keys import EPOCH_KEY, ORGS_KEY, org_key
from gateway.budget.redis_ledger import DEADLINE, RedisLedger
from gateway.contract.clock import SystemClock
from gateway.contract.errors import LedgerEmptied, LedgerUnavailable
from gateway.contract.ids import HoldId, OrgId
from tests.contract.budget.conftest import binary_of
from tests.contract.budget.subjects import ORG, PATIENT, Subject, account, used, want
from tests.harness.valkey import StoreProcess, ledger_store

H = HoldId("h")
THOUSAND = account(minute=1000, month=1000)


def every_verb(ledger: RedisLedger) -> list[Callable[[], Coroutine[Any, Any, object]]]:
    return [
        lambda: ledger.reserve(want("h2")),
        lambda: ledger.settle(ORG, H, used(1)),
        lambda: ledger.void(ORG, H, reason="x"),
        lambda: ledger.expire(ORG),
        lambda: ledger.note(ORG, "cache.hit", {}),
        lambda: ledger.standing(ORG, (account(),)),
        lambda: ledger.tick(ORG),
        ledger.orgs,
    ]


def patient(client: Any) -> RedisLedger:
    """Another process's ledger in the same store."""
    return RedisLedger(client, deadline=PATIENT)


@pytest.fixture(params=["valkey", "redis"])
def own_store(request: pytest.FixtureRequest) -> Iterator[StoreProcess]:
    """A store that the test may kill."""
    with ledger_store(binary_of(request.param)) as process:
        yield process


@pytest.fixture
async def ledger(own_store: StoreProcess) -> AsyncIterator[RedisLedger]:
    """In real time, founded."""
    made = patient(connect(own_store.url, timeout=PATIENT))
    await made.found_epoch(fresh=True)
    yield made
    await made.aclose()


async def test_an_emptied_store_is_closed_for_every_verb(stored: Subject) -> None:
    assert isinstance(stored.ledger, RedisLedger)
    await stored.reserve(want("h"))
    await stored.client.flushall()
    for verb in every_verb(stored.ledger):
        with pytest.raises(LedgerEmptied):
            await verb()
    with pytest.raises(LedgerEmptied):
        await stored.ledger.found_epoch(fresh=False)
    assert await stored.client.keys("*") == []


async def test_a_new_process_meets_an_emptied_store_closed(stored: Subject) -> None:
    await stored.client.flushall()
    for verb in every_verb(patient(stored.client)):
        with pytest.raises(LedgerEmptied):
            await verb()


async def test_an_org_that_lost_its_books_is_closed_and_the_others_are_not(stored: Subject) -> None:
    other = OrgId("beta")
    await stored.reserve(want("h"))
    await stored.reserve(want("h", org=other))
    await stored.client.delete(org_key(ORG, "meta"))
    for ledger in (stored.ledger, patient(stored.client)):
        with pytest.raises(LedgerEmptied):
            await ledger.reserve(want("i"))
    stored.witness.advance_ms(1000)
    await stored.reserve(want("i", org=other))


async def test_an_opener_that_died_half_way_closes_nobody(stored: Subject) -> None:
    await stored.reserve(want("h"))
    await stored.client.srem(ORGS_KEY, ORG)
    late = patient(stored.client)
    assert isinstance(await late.reserve(want("i")), Granted)
    assert await late.orgs() == [ORG]


async def test_a_store_founded_anew_is_taken_up_within_a_second(stored: Subject) -> None:
    await stored.reserve(want("h"))
    await stored.client.flushall()
    with pytest.raises(LedgerEmptied):
        await stored.ledger.reserve(want("i"))
    await patient(stored.client).found_epoch(fresh=True)
    before = (await stored.client.info("commandstats"))["cmdstat_get"]["calls"]
    for _ in range(20):
        with pytest.raises(LedgerEmptied):
            await stored.ledger.reserve(want("i"))
    assert (await stored.client.info("commandstats"))["cmdstat_get"]["calls"] == before
    stored.witness.advance_ms(1000)
    await stored.reserve(want("i"))


async def test_books_of_another_epoch_stay_closed(stored: Subject) -> None:
    await stored.reserve(want("h"))
    await stored.client.set(EPOCH_KEY, "another")
    with pytest.raises(LedgerEmptied):
        await patient(stored.client).reserve(want("i"))


async def test_founding_twice_changes_nothing(stored: Subject) -> None:
    assert isinstance(stored.ledger, RedisLedger)
    first = await stored.ledger.found_epoch(fresh=True)
    assert await patient(stored.client).found_epoch(fresh=True) == first
    assert await patient(stored.client).found_epoch(fresh=False) == first


async def test_a_store_without_the_functions_gets_them(stored: Subject) -> None:
    await stored.reserve(want("h"))
    await stored.client.function_flush()
    assert (await stored.ledger.settle(ORG, H, used(3))).outcome is Outcome.POSTED


async def test_a_full_store_refuses_to_hold_and_still_settles(stored: Subject) -> None:
    await stored.reserve(want("h"))
    await stored.client.config_set("maxmemory", 1)
    try:
        with pytest.raises(LedgerUnavailable):
            await stored.ledger.reserve(want("i"))
        assert (await stored.ledger.settle(ORG, H, used(3))).outcome is Outcome.POSTED
    finally:
        await stored.client.config_set("maxmemory", 0)


async def test_windows_long_ended_and_settled_are_dropped(stored: Subject) -> None:
    await stored.reserve(want("h"))
    await stored.ledger.settle(ORG, H, used(1))
    await stored.pass_time(40 * 24 * 3_600_000)
    await stored.ledger.expire(ORG)
    assert await stored.client.keys(org_key(ORG, "w:*").replace("{", "[{]")) == []
    assert await stored.client.zcard(org_key(ORG, "windows")) == 0


async def test_a_frozen_store_is_unavailable_within_the_deadline_and_well_afterwards(
    own_store: StoreProcess, ledger: RedisLedger
) -> None:
    loop = asyncio.get_running_loop()
    await ledger.reserve(want("h", THOUSAND, units=1))
    hasty = RedisLedger.connect(own_store.url)
    await hasty.standing(ORG, (THOUSAND,))
    own_store.freeze()
    for verb in every_verb(hasty):
        started = loop.time()
        with pytest.raises(LedgerUnavailable):
            await verb()
        assert DEADLINE / 1000 * 0.9 < loop.time() - started < DEADLINE / 1000 + 0.75
    started = loop.time()
    crowd = await asyncio.gather(
        *(hasty.standing(ORG, (THOUSAND,)) for _ in range(2 * CONNECTIONS_MAX)), return_exceptions=True
    )
    assert {type(found) for found in crowd} == {LedgerUnavailable}
    assert loop.time() - started < DEADLINE / 1000 + 1.5
    own_store.thaw()
    await ledger.orgs()
    # No connection may hand the answer of a call that was given up to the next caller.
    for n in range(CONNECTIONS_MAX + 1):
        answer = await hasty.reserve(want(f"n{n}", THOUSAND, units=n % 7 + 1))
        assert isinstance(answer, Granted)
        assert answer.units == n % 7 + 1
    await hasty.aclose()


async def test_a_killed_store_comes_back_with_its_books(own_store: StoreProcess, ledger: RedisLedger) -> None:
    own_store.write_first()
    first = await ledger.reserve(want("h", THOUSAND, units=300))
    await ledger.reserve(want("i", THOUSAND, units=200))
    await ledger.settle(ORG, HoldId("i"), used(150))
    own_store.kill()
    for verb in every_verb(ledger):
        with pytest.raises(LedgerUnavailable):
            await verb()
    own_store.start()
    again = await ledger.reserve(want("h", THOUSAND, units=300))
    assert isinstance(first, Granted)
    assert isinstance(again, Granted)
    assert (again.repeated, again.amounts.tokens, again.tightest) == (True, 300, first.tightest)
    month = (await ledger.standing(ORG, (THOUSAND,)))[1]
    assert (month.used, month.held) == (150, 300)
    assert not (await ledger.settle(ORG, HoldId("i"), used(9))).first


async def test_real_time_is_the_stores(ledger: RedisLedger) -> None:
    assert isinstance(await ledger.reserve(want("h", ttl=1)), Granted)
    assert abs(await ledger.tick(ORG) - SystemClock().unix_ms()) < 10_000
    while not await ledger.expire(ORG):
        pass  # each round asks the store
    assert (await ledger.settle(ORG, H, used(1))).outcome is Outcome.CORRECTED


@pytest.mark.parametrize("url", ["", "ledger.sock", "http://x", "unix:relative.sock"])
def test_a_bad_url_is_named(url: str) -> None:
    with pytest.raises(ValueError, match="store URL"):
        RedisLedger.connect(url)


async def test_nobody_there(tmp_path: Any) -> None:
    nobody = RedisLedger(connect(f"unix://{tmp_path}/no.sock", timeout=DEADLINE))
    with pytest.raises(LedgerUnavailable):
        await nobody.found_epoch(fresh=True)
