"""One tenant asks 100,000 different questions: what it can take from another tenant is bounded."""

from __future__ import annotations

import asyncio
import random
import re
from typing import Final
from unittest.mock import patch

import pytest

from ext_proc.cache import redis_place, redis_store
from ext_proc.cache.entry import Sealer
from ext_proc.cache.policy import Profile
from ext_proc.cache.redis_store import RedisStore
from ext_proc.cache.store import CachedAnswer, Keys, Lineage
from ext_proc.recall.index import Index
from ext_proc.recall.pending import PENDING_MAX
from ext_proc.recall.recaller import Recaller
from ext_proc.recall.words import Ask, Remember
from gateway.contract.clock import SystemClock
from gateway.contract.ids import ModelName, OrgId
from gateway.contract.units import Millis, UnixMillis
from tests.harness.caching import CollidingEmbedder
from tests.harness.valkey import StoreProcess, cache_store

FLOOD: Final = 100_000
LOUD, QUIET = OrgId("loud"), OrgId("quiet")
OWN: Final = 200
"""Answers of the other tenant."""
ASKED_EVERY: Final = 500
"""After so many of the flood the other tenant asks one tenth of its own again."""
AT_A_TIME: Final = 16
EMBEDDED_AT_A_TIME: Final = 2
PATIENT: Final = Millis(10_000)
HOUR_MS: Final = 3_600_000


def key(number: int) -> Keys:
    return Keys(exact=f"{number:064x}")


def memory(valkey: StoreProcess) -> tuple[int, int]:
    """Bytes used, and the most that may be."""
    told = valkey.ask(b"INFO memory").decode()
    used, most = (re.search(rf"^{name}:(\d+)", told, re.MULTILINE) for name in ("used_memory", "maxmemory"))
    assert used is not None and most is not None
    return int(used[1]), int(most[1])


async def stored(store: RedisStore, org: OrgId, numbers: range) -> None:
    """Answers of 1 KiB that no packing makes smaller."""
    epoch = (await store.get(org, key(0))).epoch
    for number in numbers:
        body = random.Random(number).randbytes(1024)
        answer = CachedAnswer(body=body, stored_at=UnixMillis(number), lineage=Lineage())
        assert await store.put(org, key(number), epoch, answer, ttl_seconds=3600)


async def found(store: RedisStore, numbers: range) -> int:
    return sum([(await store.get(QUIET, key(number))).answer is not None for number in numbers])


async def test_a_flood_leaves_others_what_they_ask_for(capsys: pytest.CaptureFixture[str]) -> None:
    """The store evicts what is asked for least, whoever it belongs to."""
    with (
        cache_store() as valkey,
        patch.object(redis_store, "LOOKUP", PATIENT),
        patch.object(redis_place, "LOOKUP", PATIENT),
    ):
        store = RedisStore.connect(valkey.url, Sealer(b"k" * 32), SystemClock())
        await stored(store, QUIET, range(OWN))
        for _ in range(5):
            assert await found(store, range(OWN)) == OWN
        for begin in range(0, FLOOD, ASKED_EVERY):
            step = ASKED_EVERY // 10
            parts = [range(begin + step * part, begin + step * (part + 1)) for part in range(10)]
            await asyncio.gather(*(stored(store, LOUD, part) for part in parts))
            first = begin // ASKED_EVERY % 10 * (OWN // 10)
            await found(store, range(first, first + OWN // 10))
        used, most = memory(valkey)
        left = await found(store, range(OWN))
        await store.aclose()
    with capsys.disabled():
        print(f"\n{left} of {OWN} answers left after {FLOOD} of another tenant; {used} of {most} bytes")
    assert used <= most * 1.05
    assert left >= OWN // 2


async def test_a_flood_takes_no_stored_question_from_others(capsys: pytest.CaptureFixture[str]) -> None:
    """The index takes from who has most; of questions that wait, the newest stay, whoever asked them."""
    embedder, most = CollidingEmbedder(), FLOOD // 10
    index = Index(embedder.dimensions, entries_max=most, partition_entries_max=most)
    recaller = Recaller(embedder, index, SystemClock(), deadline_s=PATIENT / 1000)
    try:
        for number in range(OWN):
            await remembered(recaller, QUIET, number)
        numbers = iter(range(FLOOD))

        async def work() -> None:
            for number in numbers:
                await recaller.find(ask(LOUD, number))
                if number % 5 == 0:
                    await recaller.remember(remember(LOUD, number))

        await asyncio.gather(*(work() for _ in range(EMBEDDED_AT_A_TIME)))
        rows = len(index)
        kept = [await recaller.find(ask(QUIET, OWN + number, of=number)) for number in range(OWN)]
    finally:
        await recaller.aclose()
    assert len(index) <= most
    assert len(recaller._pending) <= PENDING_MAX
    mine = index.remove(QUIET, [key(number).exact for number in range(OWN)])
    with capsys.disabled():
        print(f"\n{mine} of {OWN} questions left, {rows} rows in all")
    assert mine == OWN
    assert all(reply.reason != "no_candidate" for reply in kept)


def ask(org: OrgId, number: int, *, of: int | None = None) -> Ask:
    return Ask(
        org=org,
        model=ModelName("chat"),
        partition="a" * 64,
        asked=key(number).exact,
        text=f"Where is house {number if of is None else of}?",
        profile=Profile.STRICT,
        keep_s=600,
    )


def remember(org: OrgId, number: int) -> Remember:
    expires_at = UnixMillis(SystemClock().unix_ms() + HOUR_MS)
    return Remember(
        org=org, partition="a" * 64, entry=key(number).exact, expires_at=expires_at, lineage=Lineage()
    )


async def remembered(recaller: Recaller, org: OrgId, number: int) -> None:
    await recaller.find(ask(org, number))
    await recaller.remember(remember(org, number))
