"""The bookkeeper's side: events are read, sealed, then dropped; the anchor of the books."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from gateway.budget.redis_outbox import START, RedisOutbox
from gateway.contract.ids import OrgId, RegionName
from tests.contract.budget.subjects import ORG, Subject
from tests.harness.valkey import StoreProcess


@pytest.fixture
async def outbox(store: StoreProcess, stored: Subject) -> AsyncIterator[RedisOutbox]:
    opened = RedisOutbox.connect(store.url)
    yield opened
    await opened.aclose()


async def test_entries_are_read_in_order_and_stay_until_dropped(stored: Subject, outbox: RedisOutbox) -> None:
    assert await outbox.read_outbox(ORG, START, 10) == []
    for n in range(5):
        await stored.ledger.note(ORG, "cache.hit", {"n": str(n)})
    first = await outbox.read_outbox(ORG, START, 3)
    rest = await outbox.read_outbox(ORG, first[-1][0], 3, block_ms=1000)
    assert [fields["c.n"] for _, fields in (*first, *rest)] == list("01234")
    assert await outbox.outbox_length(ORG) == 5
    await outbox.drop_outbox(ORG, [entry for entry, _ in first])
    await outbox.drop_outbox(ORG, [])
    assert await outbox.outbox_length(ORG) == 2
    assert await outbox.read_outbox(ORG, START, 10) == rest


async def test_a_blocking_read_wakes_with_the_event(stored: Subject, outbox: RedisOutbox) -> None:
    reading = asyncio.create_task(outbox.read_outbox(ORG, START, 10, block_ms=2000))
    while not (await stored.client.info("clients"))["blocked_clients"]:
        pass  # each round asks the store
    await stored.ledger.note(ORG, "cache.hit", {})
    assert len(await reading) == 1


async def test_a_blocking_read_ends_empty(outbox: RedisOutbox) -> None:
    assert await outbox.read_outbox(OrgId("nobody"), START, 10, block_ms=1) == []
    with pytest.raises(ValueError, match="block_ms"):
        await outbox.read_outbox(ORG, START, 10, block_ms=60_000)


async def test_the_anchor_is_set_as_one(stored: Subject, outbox: RedisOutbox) -> None:
    here, there = RegionName("local"), RegionName("eu")
    assert await outbox.anchor(here) is None
    await outbox.set_anchor(here, 12, "ab" * 32)
    await outbox.set_anchor(here, 13, "cd" * 32)
    assert await outbox.anchor(here) == {"count": "13", "head": "cd" * 32}
    assert await outbox.anchor(there) is None
