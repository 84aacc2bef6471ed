"""kill -9 at random points loses nothing and doubles nothing."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from pathlib import Path

from gateway.contract.errors import LedgerUnavailable
from gateway.events.segment import segments_of
from tests.harness.valkey import StoreProcess
from tests.integration.bookkeeper.process import ORG, Bookkeeper, until

KILLS = 10
PROGRAM = "tests.integration.bookkeeper.small_books"


async def _note_until(stop: asyncio.Event, bookkeeper: Bookkeeper) -> set[str]:
    """Write events as fast as the store takes them; the numbers of those it has certainly taken."""
    taken: set[str] = set()
    number = 0
    while not stop.is_set():
        number += 1
        try:
            await bookkeeper.ledger.note(ORG, "cache.hit", {"request_id": f"r-{number}"})
        except LedgerUnavailable:
            await asyncio.sleep(0.01)  # the store is being started anew; this number may stand or not
            continue
        taken.add(f"r-{number}")
        await asyncio.sleep(0.001)
    return taken


async def test_ten_kills_and_a_dead_store(store: StoreProcess, directory: Path) -> None:
    chance = random.Random(11)
    bookkeeper = Bookkeeper(directory, store, program=PROGRAM)
    store.write_first()
    bookkeeper.start()
    await until(lambda: _founded(bookkeeper), "epoch")
    stop = asyncio.Event()
    writing = asyncio.create_task(_note_until(stop, bookkeeper))
    for kill in range(KILLS):
        await bookkeeper.has(len(bookkeeper.events()) + 1)  # it is at work
        await asyncio.sleep(chance.uniform(0, 0.08))
        bookkeeper.kill()
        if kill == KILLS // 2:
            store.kill()
            store.start()
        bookkeeper.start()
    stop.set()
    taken = await writing
    await bookkeeper.has(len(taken))
    await until(lambda: _empty(bookkeeper), "outbox empty")
    bookkeeper.kill()
    await until(lambda: _anchored(bookkeeper), "anchor")
    found = bookkeeper.events()
    assert [name for name, times in Counter(event.id for event in found).items() if times > 1] == []
    assert taken - {event.request_id for event in found} == set(), "lost"
    assert len(segments_of(bookkeeper.books)) > KILLS, "kills fell into changes of segment too"
    await bookkeeper.close()


async def _founded(bookkeeper: Bookkeeper) -> bool:
    try:
        return bool(await bookkeeper.ledger.found_epoch(fresh=False))
    except LedgerUnavailable:
        return False


async def _empty(bookkeeper: Bookkeeper) -> bool:
    return not await bookkeeper.client.xlen(f"tg:{{{ORG}}}:outbox")


async def _anchored(bookkeeper: Bookkeeper) -> bool:
    return await bookkeeper.verified() == 0
