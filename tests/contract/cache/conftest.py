"""Stores of every kind, over one Valkey for each module and one clock for each test."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator

import pytest
import redis.asyncio

from ext_proc.cache.entry import Sealer
from ext_proc.cache.local_store import LocalStore
from ext_proc.cache.memory_store import MemoryStore
from ext_proc.cache.redis_store import RedisStore
from ext_proc.cache.store import CacheStore
from gateway.contract.clock import ManualClock
from gateway.contract.units import Millis
from tests.harness.valkey import StoreProcess, cache_store

SEAL_KEY = b"k" * 32
PATIENT = Millis(5000)
"""A look-up's own deadline, 25 ms, is not what these tests are about, but for that of a frozen store."""


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ext_proc.cache.redis_store.LOOKUP", PATIENT)
    monkeypatch.setattr("ext_proc.cache.redis_place.LOOKUP", PATIENT)


@pytest.fixture(scope="module")
def valkey() -> Iterator[StoreProcess]:
    with cache_store() as process:
        yield process


@pytest.fixture
async def raw(valkey: StoreProcess) -> AsyncIterator[redis.asyncio.Redis]:
    client = redis.asyncio.from_url(valkey.url)
    await client.flushall()
    yield client
    await client.aclose()


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def another(
    valkey: StoreProcess, raw: redis.asyncio.Redis, clock: ManualClock
) -> AsyncIterator[Callable[[], RedisStore]]:
    """Makes stores over the same Valkey, each as a worker has it."""
    made: list[RedisStore] = []

    def make() -> RedisStore:
        made.append(RedisStore.connect(valkey.url, Sealer(SEAL_KEY), clock))
        return made[-1]

    yield make
    for store in made:
        await store.aclose()


@pytest.fixture
def on_valkey(another: Callable[[], RedisStore]) -> RedisStore:
    return another()


@pytest.fixture(params=["memory", "valkey", "local over memory", "local over valkey"])
def store(request: pytest.FixtureRequest, on_valkey: RedisStore, clock: ManualClock) -> CacheStore:
    under: CacheStore = on_valkey if request.param.endswith("valkey") else MemoryStore(clock)
    return LocalStore(under, clock) if request.param.startswith("local") else under
