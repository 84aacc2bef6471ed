"""The store on Valkey: what it evicts, loses, is handed by others, and how it fails. All of it is a miss."""

from __future__ import annotations

import asyncio
import hmac
import random
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import redis.asyncio

from ext_proc.cache.entry import Sealer
from ext_proc.cache.local_store import LocalStore
from ext_proc.cache.redis_place import WRITE
from ext_proc.cache.redis_store import RedisStore
from ext_proc.cache.store import BAR_SECONDS, SEEN_S, CachedAnswer, CacheUnavailable, Keys, PurgeRule
from gateway.contract.clock import ManualClock, SystemClock
from gateway.keys.keyed_hash import length_prefixed
from gateway.path import hop
from tests.contract.cache.cases import (
    ACME,
    ANSWER,
    ASKED,
    CANON,
    KEY,
    KEYS,
    LATER,
    LIKE,
    OTHER,
    THIRD,
    body,
    body_of,
    put,
)
from tests.contract.cache.conftest import SEAL_KEY
from tests.harness.valkey import cache_store

Another = Callable[[], RedisStore]
AT = f"tgc:{{acme}}:{KEY}"


async def test_everything_ends_by_itself(on_valkey: RedisStore, raw: redis.asyncio.Redis) -> None:
    await put(on_valkey)
    await on_valkey.alias(ACME, THIRD, KEY, ttl_seconds=30)
    await on_valkey.bar(ACME, ASKED, KEY)
    for name, most in ((KEY, 60), (CANON, 60), (THIRD, 30), (f"{ASKED}:no", BAR_SECONDS)):
        assert most - 5 < await raw.ttl(f"tgc:{{acme}}:{name}") <= most


async def test_answers_are_compressed(on_valkey: RedisStore, raw: redis.asyncio.Redis) -> None:
    await put(on_valkey, answer=CachedAnswer(body=b'{"a": 1}' * 1000, stored_at=ANSWER.stored_at))
    assert await raw.strlen(AT) < 500


async def test_where_an_answer_belongs_is_known_once_seen_and_while_the_store_answers(
    another: Another, clock: ManualClock
) -> None:
    here, elsewhere = another(), another()
    assert here.epoch(ACME) == ""
    await put(here)
    last_seen = here.epoch(ACME)
    assert last_seen
    assert here.epoch(OTHER) == "", "each org's is its own"
    await elsewhere.purge(ACME)
    assert here.epoch(ACME) == last_seen
    await here.put(ACME, KEYS, last_seen, ANSWER, ttl_seconds=60)
    assert await body(elsewhere) is None, "purged before it was seen"
    clock.advance_ms(int(SEEN_S * 1000) + 1)
    assert here.epoch(ACME) == ""
    assert not await here.put(ACME, KEYS, here.epoch(ACME), ANSWER, ttl_seconds=60)


@pytest.mark.parametrize("value", [b"", b"x", b"\x00" * 200, b"\xff" * 200, b'{"choices":[]}'])
async def test_a_foreign_or_damaged_record_is_a_miss(
    on_valkey: RedisStore, raw: redis.asyncio.Redis, value: bytes
) -> None:
    for name in (KEY, CANON, f"{ASKED}:no", "epoch", "bars"):
        await raw.flushall()
        await put(on_valkey)
        await raw.set(f"tgc:{{acme}}:{name}", value)
        harmless = name == "bars" or (name.endswith(":no") and not value)
        assert await body(on_valkey, LIKE) == (ANSWER.body if harmless else None)
        await put(on_valkey)
        assert await body(on_valkey) == ANSWER.body, "and it goes on"


async def test_a_record_of_an_older_process_is_a_miss(
    on_valkey: RedisStore, raw: redis.asyncio.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    epoch = await put(on_valkey)
    for older in (b"tidegate cache record 0", b""):
        with monkeypatch.context() as writes:
            writes.setattr("ext_proc.cache.entry._FORMAT", older)
            await put(on_valkey)
            assert await body(on_valkey) == ANSWER.body
        assert await body(on_valkey) is None
    at = ANSWER.stored_at.to_bytes(8, "big")
    for named in (epoch, epoch[:16]):
        covered = length_prefixed(b"acme", KEY.encode(), named.encode(), at, ANSWER.body)
        await raw.set(AT, hmac.digest(SEAL_KEY, covered, "sha256") + at + ANSWER.body)
        assert await body(on_valkey) is None
    assert not await on_valkey.put(ACME, KEYS, epoch[:16], ANSWER, ttl_seconds=60), "its epoch was shorter"


async def test_a_record_moved_to_another_place_is_a_miss(
    on_valkey: RedisStore, raw: redis.asyncio.Redis
) -> None:
    await put(on_valkey)
    for name in (KEY, CANON, "epoch", "bars"):
        await raw.copy(f"tgc:{{acme}}:{name}", f"tgc:{{other}}:{name}", replace=True)
    await raw.copy(AT, f"tgc:{{acme}}:{THIRD}")
    await raw.copy(f"tgc:{{acme}}:{CANON}", f"tgc:{{acme}}:{ASKED}")
    assert await body(on_valkey, org=OTHER) is await body(on_valkey, LIKE, org=OTHER) is None
    assert await body(on_valkey, Keys(exact=THIRD)) is None
    assert await body(on_valkey, Keys(exact=ASKED)) is None, "an alias of another question"
    await raw.copy(AT, f"tgc:{{acme}}:{CANON}", replace=True)
    assert await body(on_valkey, LIKE) is None, "a value where an alias belongs"


async def test_a_key_of_another_type_is_a_miss_or_an_outage_never_an_answer(
    on_valkey: RedisStore, raw: redis.asyncio.Redis
) -> None:
    await raw.hset(AT, "a", "b")
    assert await body(on_valkey) is None  # MGET shows other types as nothing
    await raw.delete("tgc:marks")
    await raw.hset("tgc:marks", "a", "b")
    with pytest.raises(CacheUnavailable):
        await on_valkey.switched_off()


async def _purged(store: RedisStore) -> None:
    await store.purge(ACME)


async def _purged_by_rule(store: RedisStore) -> None:
    await store.purge_where(PurgeRule(tag="faq"))


async def _wrong(store: RedisStore) -> None:
    await store.bar(ACME, KEY, KEY)


async def _barred(store: RedisStore) -> None:
    await store.alias(ACME, ASKED, KEY, ttl_seconds=60)
    await store.bar(ACME, ASKED, KEY)


@pytest.mark.parametrize("end", [_purged, _purged_by_rule, _wrong, _barred])
async def test_no_eviction_brings_an_answer_back(
    raw: redis.asyncio.Redis, another: Another, end: Callable[[RedisStore], Awaitable[None]]
) -> None:
    evicted: set[bytes] = set()
    while True:
        await raw.flushall()
        first = another()
        before = await put(first)
        await end(first)
        if end is not _barred and end is not _wrong:
            await first.put(ACME, KEYS, before, ANSWER, ttl_seconds=60)  # it was being generated
        present = set(await raw.keys("*"))
        left = sorted(present - evicted)
        if not left:
            break
        evicted.add(left[0])
        await raw.delete(left[0])
        for store in (first, another()):
            asked = (LIKE, Keys(exact=ASKED)) if end is _barred else (LIKE, KEYS)
            assert [await body(store, keys) for keys in asked] == [None, None], left[0]
            assert body_of(await store.fetch(ACME, KEY, asked=ASKED)) is None
    assert len(evicted) >= 4


@pytest.mark.parametrize("name", [KEY, CANON, THIRD, f"{ASKED}:no", "epoch", "bars", "marks"])
async def test_what_is_evicted_is_at_most_a_miss(
    raw: redis.asyncio.Redis, on_valkey: RedisStore, clock: ManualClock, name: str
) -> None:
    await put(on_valkey)
    await on_valkey.alias(ACME, THIRD, KEY, ttl_seconds=60)
    await on_valkey.bar(ACME, ASKED, KEY)
    assert await raw.delete("tgc:marks" if name == "marks" else f"tgc:{{acme}}:{name}") == 1
    clock.advance_ms(int(SEEN_S * 1000) + 1)
    alike = Keys(exact="e" * 64, canonical=CANON)
    found = [await body(on_valkey, keys) for keys in (KEYS, alike, Keys(exact=THIRD), LIKE)]
    lost = {KEY: (0, 1, 2), CANON: (1,), THIRD: (2,), "epoch": (0, 1, 2), "marks": (0, 1, 2)}.get(name, ())
    assert found == [None if at in (*lost, 3) else ANSWER.body for at in range(4)]
    await put(on_valkey)
    assert await body(on_valkey) == ANSWER.body


async def test_under_pressure_an_answer_is_its_own_or_none_and_a_purged_one_is_none(
    on_valkey: RedisStore, raw: redis.asyncio.Redis
) -> None:
    places = [Keys(exact=f"{at:064x}", canonical=f"{at + 1000:064x}") for at in range(100)]
    bodies = [at.to_bytes(2, "big") + random.Random(at).randbytes(512 * 1024) for at in range(100)]
    for at, keys in enumerate(places):
        await put(on_valkey, keys, CachedAnswer(body=bodies[at], stored_at=ANSWER.stored_at))
    assert (await raw.info("stats"))["evicted_keys"] > 0
    found = [await body(on_valkey, keys) for keys in places]
    assert all(one in (None, bodies[at]) for at, one in enumerate(found))
    assert any(found)
    await on_valkey.purge(ACME)
    assert not any([await body(on_valkey, keys) for keys in places])


async def test_a_flushed_store_goes_on_empty(on_valkey: RedisStore, raw: redis.asyncio.Redis) -> None:
    epoch = await put(on_valkey)
    await raw.flushall()
    assert await body(on_valkey) is None
    await on_valkey.put(ACME, KEYS, epoch, ANSWER, ttl_seconds=60)
    assert await body(on_valkey) is None, "looked up before"
    await put(on_valkey)
    assert await body(on_valkey) == ANSWER.body


async def test_others_obey_within_the_time_that_is_said(another: Another, clock: ManualClock) -> None:
    admin, worker = another(), LocalStore(another(), clock)
    for end in (_purged, _purged_by_rule, _wrong):
        await put(worker)
        await worker.get(ACME, KEYS)
        assert worker.peek(ACME, KEYS) is not None
        await end(admin)
        clock.advance_ms(int(SEEN_S * 1000) + 1)
        assert worker.peek(ACME, KEYS) is None
        await worker.get(ACME, Keys(exact=THIRD))  # another question brings the org into sight again
        assert worker.peek(ACME, KEYS) is None
        assert await body(worker) is None
    await put(worker)
    assert await body(worker, LIKE) == ANSWER.body
    await _barred(admin)
    clock.advance_ms(int(SEEN_S * 1000) + 1)
    assert await body(worker, LIKE) is None
    assert await body(worker) == ANSWER.body


async def test_an_org_out_of_sight_is_not_served_from_memory(another: Another, clock: ManualClock) -> None:
    admin, worker = another(), LocalStore(another(), clock)
    await put(worker)
    await worker.get(ACME, KEYS)
    clock.advance_ms(int(SEEN_S * 1000) + 1)
    await worker.get(OTHER, KEYS)  # the purge document is fresh again, the org is not
    await admin.purge(ACME)
    assert worker.peek(ACME, KEYS) is None


async def test_what_was_read_before_a_purge_is_not_seen_after_it(
    another: Another, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    under = another()
    worker = LocalStore(under, clock)
    await put(worker)
    await worker.get(ACME, KEYS)
    read, go, call = asyncio.Event(), asyncio.Event(), under._reading.call

    async def slow(*command: Any) -> Any:
        found = await call(*command)
        read.set()
        await go.wait()
        return found

    monkeypatch.setattr(under._reading, "call", slow)
    reading = asyncio.create_task(under.get(ACME, Keys(exact=THIRD)))
    await read.wait()
    clock.advance_ms(1)
    await worker.purge(ACME)
    go.set()
    await reading
    assert worker.peek(ACME, KEYS) is None
    assert await body(worker) is None


async def test_a_barred_alias_is_gone_and_not_only_hidden(
    on_valkey: RedisStore, raw: redis.asyncio.Redis
) -> None:
    await put(on_valkey)
    await _barred(on_valkey)
    await put(on_valkey, answer=LATER)
    assert await raw.delete(f"tgc:{{acme}}:{ASKED}:no") == 1
    assert await body(on_valkey, Keys(exact=ASKED)) is None


async def test_a_purge_document_of_yesterday_costs_everything_and_brings_nothing_back(
    on_valkey: RedisStore, raw: redis.asyncio.Redis, clock: ManualClock
) -> None:
    await put(on_valkey)
    yesterday = await raw.get("tgc:marks")
    await _purged_by_rule(on_valkey)
    await raw.set("tgc:marks", yesterday)  # a fail-over to a replica that had not heard of it
    clock.advance_ms(int(SEEN_S * 1000) + 1)
    assert await body(on_valkey) is None
    generation = (await raw.get("tgc:marks"), await put(on_valkey))
    await raw.set("tgc:marks", yesterday)
    clock.advance_ms(int(SEEN_S * 1000) + 1)
    assert await body(on_valkey) is None
    assert await raw.get("tgc:marks") not in (yesterday, generation[0])


async def test_many_who_purge_at_once_lose_none(another: Another) -> None:
    stores = [another() for _ in range(4)]
    rules = [PurgeRule(request_id=f"r-{number}") for number in range(4)]
    await asyncio.gather(*(store.purge_where(rule) for store, rule in zip(stores, rules, strict=True)))
    for store in stores:
        assert {made.rule for made in await store.rules()} == set(rules)


async def test_a_frozen_store_is_late_and_late_is_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    with cache_store() as process:
        store = RedisStore.connect(process.url, Sealer(SEAL_KEY), SystemClock())
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
        epoch = "0" * 33
        for call in (
            store.get(ACME, KEYS),
            store.fetch(ACME, KEY, asked=ASKED),
            store.put(ACME, KEYS, epoch, ANSWER, ttl_seconds=1),
            store.alias(ACME, ASKED, KEY, ttl_seconds=1),
            store.bar(ACME, ASKED, KEY),
            store.bar(ACME, KEY, KEY),
            store.purge(ACME),
            store.purge_where(PurgeRule(tag="x")),
            store.switched_off(),
        ):
            with pytest.raises(CacheUnavailable):
                await call
        process.start()
        assert await body(store) is None
        await put(store, answer=LATER)
        assert await body(store) == LATER.body
        await store.aclose()


def test_a_bad_url_is_said_at_once() -> None:
    with pytest.raises(ValueError, match="store URL"):
        RedisStore.connect("http://x", Sealer(SEAL_KEY), SystemClock())
