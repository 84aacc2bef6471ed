"""What every cache store must keep, on the memory store and on a real Valkey; how the real one fails."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest
import redis.asyncio

from ext_proc.cache.entry import Sealer
from ext_proc.cache.memory_store import MemoryStore
from ext_proc.cache.redis_store import WRITE, RedisStore
from ext_proc.cache.store import ENTRY_BYTES_MAX, CachedAnswer, CacheStore, CacheUnavailable, HitKind, Keys
from gateway.contract.clock import SystemClock
from gateway.contract.ids import OrgId
from gateway.contract.units import Millis, UnixMillis
from gateway.path import hop
from tests.harness.valkey import StoreProcess, cache_store

ACME, OTHER = OrgId("acme"), OrgId("other")
KEY = "a" * 64
KEYS = Keys(exact=KEY)
ANSWER = CachedAnswer(body=b'{"choices":[]}', stored_at=UnixMillis(1_700_000_000_000))
SEALER = Sealer(b"k" * 32)


PATIENT = Millis(5000)
"""A look-up's own deadline, 25 ms, is not what these tests are about, but for that of a frozen store."""


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ext_proc.cache.redis_store.LOOKUP", PATIENT)


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


@pytest.fixture(params=["memory", "valkey"])
async def store(
    request: pytest.FixtureRequest, valkey: StoreProcess, raw: redis.asyncio.Redis
) -> AsyncIterator[CacheStore]:
    if request.param == "memory":
        yield MemoryStore(SystemClock())
        return
    made = RedisStore.connect(valkey.url, SEALER)
    yield made
    await made.aclose()


@pytest.fixture
async def on_valkey(valkey: StoreProcess, raw: redis.asyncio.Redis) -> AsyncIterator[RedisStore]:
    made = RedisStore.connect(valkey.url, SEALER)
    yield made
    await made.aclose()


async def test_what_was_put_is_found_in_its_org_only(store: CacheStore) -> None:
    epoch = (await store.get(ACME, KEYS)).epoch
    assert await store.put(ACME, KEYS, epoch, ANSWER, ttl_seconds=60)
    found = await store.get(ACME, KEYS)
    assert found.answer is not None
    assert (found.answer.body, found.kind, found.epoch) == (ANSWER.body, HitKind.EXACT, epoch)
    assert (await store.get(OTHER, KEYS)).answer is None
    assert (await store.get(ACME, Keys(exact="b" * 64))).answer is None


async def test_the_epoch_stays_until_a_purge(store: CacheStore) -> None:
    first = (await store.get(ACME, KEYS)).epoch
    assert (await store.get(ACME, KEYS)).epoch == first
    await store.purge(ACME)
    assert (await store.get(ACME, KEYS)).epoch != first


async def test_a_purge_takes_what_is_stored_and_what_is_being_generated(store: CacheStore) -> None:
    before = (await store.get(ACME, KEYS)).epoch
    elsewhere = (await store.get(OTHER, KEYS)).epoch
    await store.put(ACME, KEYS, before, ANSWER, ttl_seconds=60)
    await store.put(OTHER, KEYS, elsewhere, ANSWER, ttl_seconds=60)
    await store.purge(ACME)
    assert (await store.get(ACME, KEYS)).answer is None
    await store.put(ACME, KEYS, before, ANSWER, ttl_seconds=60)
    assert (await store.get(ACME, KEYS)).answer is None, "generated before the purge"
    assert (await store.get(OTHER, KEYS)).answer.body == ANSWER.body  # type: ignore[union-attr]


async def test_a_later_answer_takes_the_place(store: CacheStore) -> None:
    epoch = (await store.get(ACME, KEYS)).epoch
    later = CachedAnswer(body=b"{}", stored_at=UnixMillis(ANSWER.stored_at + 1))
    await store.put(ACME, KEYS, epoch, ANSWER, ttl_seconds=60)
    await store.put(ACME, KEYS, epoch, later, ttl_seconds=60)
    assert (await store.get(ACME, KEYS)).answer.body == later.body  # type: ignore[union-attr]


async def test_size_is_bounded(store: CacheStore) -> None:
    epoch = (await store.get(ACME, KEYS)).epoch
    largest = CachedAnswer(body=b"x" * ENTRY_BYTES_MAX, stored_at=ANSWER.stored_at)
    larger = CachedAnswer(body=b"x" * (ENTRY_BYTES_MAX + 1), stored_at=ANSWER.stored_at)
    assert not await store.put(ACME, KEYS, epoch, larger, ttl_seconds=60)
    assert (await store.get(ACME, KEYS)).answer is None
    assert await store.put(ACME, KEYS, epoch, largest, ttl_seconds=60)
    assert (await store.get(ACME, KEYS)).answer.body == largest.body  # type: ignore[union-attr]


async def test_entries_end(on_valkey: RedisStore, raw: redis.asyncio.Redis) -> None:
    epoch = (await on_valkey.get(ACME, KEYS)).epoch
    await on_valkey.put(ACME, KEYS, epoch, ANSWER, ttl_seconds=60)
    assert 0 < await raw.ttl(f"tgc:{{acme}}:{KEY}") <= 60


@pytest.mark.parametrize("value", [b"", b"x", b"\x00" * 200, b'{"choices":[]}'])
async def test_a_foreign_or_damaged_entry_is_a_miss(
    on_valkey: RedisStore, raw: redis.asyncio.Redis, value: bytes
) -> None:
    await raw.set(f"tgc:{{acme}}:{KEY}", value)
    assert (await on_valkey.get(ACME, KEYS)).answer is None


async def test_an_entry_copied_to_another_tenant_is_a_miss(
    on_valkey: RedisStore, raw: redis.asyncio.Redis
) -> None:
    epoch = (await on_valkey.get(ACME, KEYS)).epoch
    await on_valkey.put(ACME, KEYS, epoch, ANSWER, ttl_seconds=60)
    await raw.copy(f"tgc:{{acme}}:{KEY}", f"tgc:{{other}}:{KEY}")
    await raw.copy("tgc:{acme}:epoch", "tgc:{other}:epoch")
    assert (await on_valkey.get(OTHER, KEYS)).answer is None


async def test_an_evicted_epoch_brings_nothing_back(on_valkey: RedisStore, raw: redis.asyncio.Redis) -> None:
    epoch = (await on_valkey.get(ACME, KEYS)).epoch
    await on_valkey.put(ACME, KEYS, epoch, ANSWER, ttl_seconds=60)
    await on_valkey.purge(ACME)
    await raw.delete("tgc:{acme}:epoch")
    assert (await on_valkey.get(ACME, KEYS)).answer is None


async def test_a_key_of_another_type_is_a_miss_or_an_outage_never_an_answer(
    on_valkey: RedisStore, raw: redis.asyncio.Redis
) -> None:
    await raw.hset(f"tgc:{{acme}}:{KEY}", "a", "b")
    assert (await on_valkey.get(ACME, KEYS)).answer is None  # MGET shows other types as nothing


async def test_a_frozen_store_is_late_and_late_is_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    with cache_store() as process:
        store = RedisStore.connect(process.url, SEALER)
        await store.get(ACME, KEYS)
        process.freeze()
        with monkeypatch.context() as impatient:
            impatient.setattr("ext_proc.cache.redis_store.LOOKUP", hop("cache").deadline)
            started = asyncio.get_running_loop().time()
            with pytest.raises(CacheUnavailable):
                await store.get(ACME, KEYS)
            assert asyncio.get_running_loop().time() - started < WRITE / 1000, (
                "not as long as a write may take"
            )
        process.thaw()
        process.kill()
        with pytest.raises(CacheUnavailable):
            await store.get(ACME, KEYS)
        with pytest.raises(CacheUnavailable):
            await store.put(ACME, KEYS, "e", ANSWER, ttl_seconds=1)
        process.start()
        assert (await store.get(ACME, KEYS)).answer is None
        await store.aclose()


def test_a_bad_url_is_said_at_once() -> None:
    with pytest.raises(ValueError, match="store URL"):
        RedisStore.connect("http://x", SEALER)
