"""Single flight: in memory and on a real Valkey, over several processes' worth of stores, and while it
fails."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
import redis.asyncio

from ext_proc.cache.entry import Sealer
from ext_proc.cache.flights import FLIGHTS_MAX, SharedFlights
from ext_proc.cache.local_store import LocalStore
from ext_proc.cache.memory_store import MemoryStore
from ext_proc.cache.redis_store import RedisStore
from ext_proc.cache.store import FLIGHT_MILLIS, CacheStore, CacheUnavailable, Flights, Keys
from gateway.contract.clock import ManualClock, SystemClock
from gateway.contract.ids import OrgId
from tests.contract.cache.cases import ACME, ANSWER, ASKED, KEY, KEYS, OTHER, body_of, put
from tests.contract.cache.conftest import SEAL_KEY
from tests.harness.valkey import cache_store

Another = Callable[[], RedisStore]
LONG_S = 20.0
"""Nobody waits so long; a follower is woken."""


@pytest.fixture(params=["memory", "valkey"])
def pair(
    request: pytest.FixtureRequest, on_valkey: RedisStore, clock: ManualClock
) -> tuple[CacheStore, Flights]:
    if request.param == "memory":
        memory = MemoryStore(clock)
        return memory, memory
    local = LocalStore(on_valkey, clock)
    return local, SharedFlights(on_valkey.flights, local)


async def test_one_leads_until_its_answer_is_there(pair: tuple[CacheStore, Flights]) -> None:
    store, flights = pair
    assert await flights.join(ACME, KEY)
    assert not await flights.join(ACME, KEY)
    assert await flights.join(ACME, ASKED)
    assert await flights.join(OTHER, KEY)
    following = asyncio.create_task(flights.landed(ACME, KEYS, LONG_S))
    await put(store)
    async with asyncio.timeout(LONG_S / 2):
        assert body_of(await following) == ANSWER.body
    assert not await flights.join(OTHER, KEY), "another org's flight goes on"
    assert await flights.join(ACME, KEY)


async def test_a_flight_that_landed_without_an_answer_sends_its_followers_on(
    pair: tuple[CacheStore, Flights],
) -> None:
    _, flights = pair
    assert await flights.join(ACME, KEY)
    following = [asyncio.create_task(flights.landed(ACME, KEYS, LONG_S)) for _ in range(20)]
    await flights.land(ACME, KEY)
    async with asyncio.timeout(LONG_S / 2):
        assert [body_of(found) for found in await asyncio.gather(*following)] == [None] * 20


async def test_an_answer_that_is_not_stored_ends_its_flight(pair: tuple[CacheStore, Flights]) -> None:
    store, flights = pair
    assert await flights.join(ACME, KEY)
    assert not await store.put(ACME, KEYS, (await store.get(ACME, KEYS)).epoch, ANSWER, ttl_seconds=0)
    assert await flights.join(ACME, KEY)


async def test_nobody_waits_longer_than_he_says_and_sees_what_is_there_then(
    pair: tuple[CacheStore, Flights],
) -> None:
    _, flights = pair
    assert await flights.join(ACME, KEY)
    assert body_of(await flights.landed(ACME, KEYS, 0.01)) is None
    assert body_of(await flights.landed(ACME, Keys(exact=ASKED), LONG_S)) is None, "nobody flies"
    assert not await flights.join(ACME, KEY)


async def test_of_two_hundred_in_two_processes_one_leads_and_all_have_its_answer(another: Another) -> None:
    stores = [another(), another()]
    processes = [SharedFlights(store.flights, store) for store in stores]
    joined = await asyncio.gather(*(processes[at % 2].join(ACME, KEY) for at in range(200)))
    assert sum(joined) == 1
    following = [
        asyncio.create_task(processes[at % 2].landed(ACME, KEYS, LONG_S))
        for at in range(200)
        if not joined[at]
    ]
    await put(another())
    async with asyncio.timeout(LONG_S / 2):
        found = await asyncio.gather(*following)
    assert {body_of(one) for one in found} == {ANSWER.body}


async def test_after_a_dead_leader_another_one_leads(
    another: Another, raw: redis.asyncio.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = another()
    flights = SharedFlights(store.flights, store)
    assert await flights.join(ACME, KEY)
    assert 0 < await raw.pttl(f"tgc:{{acme}}:{KEY}:flight") <= FLIGHT_MILLIS
    await raw.delete(f"tgc:{{acme}}:{KEY}:flight")
    monkeypatch.setattr("ext_proc.cache.redis_place.FLIGHT_MILLIS", 30)
    assert await flights.join(ACME, KEY), "and dies"
    async with asyncio.timeout(LONG_S / 2):
        assert body_of(await flights.landed(ACME, KEYS, LONG_S)) is None
    joined = await asyncio.gather(*(flights.join(ACME, KEY) for _ in range(20)))
    assert sum(joined) == 1


async def test_an_evicted_flight_is_one_that_landed(another: Another, raw: redis.asyncio.Redis) -> None:
    store = another()
    flights = SharedFlights(store.flights, store)
    assert await flights.join(ACME, KEY)
    following = asyncio.create_task(flights.landed(ACME, KEYS, LONG_S))
    await raw.flushall()
    async with asyncio.timeout(LONG_S / 2):
        assert body_of(await following) is None
    assert await flights.join(ACME, KEY)


async def test_a_broken_store_lets_everybody_lead_and_nobody_wait() -> None:
    with cache_store() as process:
        store = RedisStore.connect(process.url, Sealer(SEAL_KEY), SystemClock())
        flights = SharedFlights(store.flights, store)
        assert await flights.join(ACME, KEY)
        following = asyncio.create_task(flights.landed(ACME, KEYS, LONG_S))
        process.kill()
        assert await asyncio.gather(*(flights.join(ACME, KEY) for _ in range(5))) == [True] * 5
        async with asyncio.timeout(LONG_S / 2):
            with pytest.raises(CacheUnavailable):
                await following
        await flights.land(ACME, KEY)
        process.start()
        assert await flights.join(ACME, KEY)
        await store.aclose()


class Counted:
    """A place that counts, and grants when it is told to."""

    def __init__(self) -> None:
        self.begun = self.ended = self.looks = 0
        self.grant = asyncio.Event()
        self.over = asyncio.Event()
        self.asked = asyncio.Event()

    async def begin(self, org: OrgId, key: str) -> bool:
        self.begun += 1
        self.asked.set()
        await self.grant.wait()
        return True

    async def end(self, org: OrgId, key: str) -> None:
        self.ended += 1
        self.over.set()

    async def under_way(self, org: OrgId, key: str) -> bool:
        self.looks += 1
        return not self.over.is_set()


@pytest.fixture
def counted(clock: ManualClock) -> tuple[Counted, SharedFlights]:
    place = Counted()
    return place, SharedFlights(place, MemoryStore(clock))


async def test_a_process_asks_once_for_all_who_come_together(counted: tuple[Counted, SharedFlights]) -> None:
    place, flights = counted
    joining = [asyncio.create_task(flights.join(ACME, KEY)) for _ in range(50)]
    await place.asked.wait()
    place.grant.set()
    assert sum(await asyncio.gather(*joining)) == 1
    assert place.begun == 1


async def test_a_leader_who_left_before_he_knew_leads_nobody_on(
    counted: tuple[Counted, SharedFlights],
) -> None:
    place, flights = counted
    joining = asyncio.create_task(flights.join(ACME, KEY))
    await place.asked.wait()
    joining.cancel()
    await asyncio.wait((joining,))
    assert joining.cancelled()
    place.grant.set()
    async with asyncio.timeout(LONG_S / 2):
        await place.over.wait()
    assert place.ended == 1


async def test_followers_share_one_look_and_the_last_one_ends_it(
    counted: tuple[Counted, SharedFlights], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ext_proc.cache.flights.FIRST_LOOK_S", LONG_S)
    place, flights = counted
    following = [asyncio.create_task(flights.landed(ACME, KEYS, LONG_S)) for _ in range(20)]
    while place.looks == 0:  # noqa: ASYNC110  # the look is another task's
        await asyncio.sleep(0)
    for task in following:
        task.cancel()
    await asyncio.wait(following)
    assert place.looks == 1
    assert not [
        task for task in asyncio.all_tasks() if task is not asyncio.current_task() and not task.cancelling()
    ]
    place.over.set()
    async with asyncio.timeout(LONG_S / 2):
        assert body_of(await flights.landed(ACME, KEYS, LONG_S)) is None, "a new look"
    assert place.looks == 2


async def test_beyond_a_number_of_flights_nobody_waits(counted: tuple[Counted, SharedFlights]) -> None:
    place, flights = counted
    following = [
        asyncio.create_task(flights.landed(ACME, Keys(exact=f"{at:064x}"), LONG_S))
        for at in range(FLIGHTS_MAX)
    ]
    await asyncio.sleep(0)
    async with asyncio.timeout(LONG_S / 2):
        assert body_of(await flights.landed(ACME, KEYS, LONG_S)) is None
    place.over.set()
    await asyncio.gather(*following)
