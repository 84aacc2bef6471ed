"""The store is deleted and rebuilt from the books: a drained log gives every counter back, bit for bit; the
tail of an undrained one is charged in full, until somebody knows better."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import orjson
import pytest

from gateway.bookkeeper import copying, replaying, verify
from gateway.bookkeeper.access_queue import AccessQueue
from gateway.bookkeeper.access_spool import AccessSpool
from gateway.bookkeeper.inbox import Inbox
from gateway.bookkeeper.keeping import Keeping
from gateway.bookkeeper.rebuilding import replay_books
from gateway.bookkeeper.replay_compare import differences
from gateway.budget.ledger import LEASE_GRACE, Outcome
from gateway.budget.measure import Amounts
from gateway.budget.rebuilt import RebuiltBooks
from gateway.budget.redis_connection import connect
from gateway.budget.redis_ledger import RedisLedger
from gateway.budget.redis_outbox import RedisOutbox
from gateway.budget.redis_restore import Restoring
from gateway.contract.clock import ManualClock, SystemClock
from gateway.contract.errors import LedgerEmptied
from gateway.contract.ids import OrgId, RegionName
from gateway.events.segment import Limits
from gateway.telemetry.log import logger
from tests.harness.histories import ORGS, History
from tests.harness.valkey import StoreProcess
from tests.integration.bookkeeper.process import PATIENT

LOCAL = RegionName("local")


class Kept:
    """A ledger under a random history, and the books that are kept of it."""

    def __init__(self, store: StoreProcess, directory: Path, seed: int) -> None:
        self.url, self.books = store.url, directory / "books"
        self.clock = ManualClock(SystemClock().unix_ms())
        self.client = connect(store.url, timeout=PATIENT)
        self.ledger = RedisLedger(
            self.client, clock=self.clock, deadline=PATIENT, test_store_clock=self.clock
        )
        self.outbox, self.store = RedisOutbox.connect(store.url), Restoring.connect(store.url)
        self.history = History(self.ledger, self.clock, ManualClock(), seed)
        spool = AccessSpool(directory / "spool", LOCAL)
        self._keeping = Keeping(
            self.ledger,
            self.outbox,
            lambda: ORGS,
            AccessQueue(Inbox(), spool, self.clock, logger("test")),
            directory=self.books,
            region=LOCAL,
            clock=self.clock,
            log=logger("test"),
            limits=Limits(events=150, age_ms=2**50),
            idle_s=0.0,
        )

    async def keep(self) -> None:
        """Until all that waits is in the books."""
        stop = asyncio.Event()
        stop.set()
        while True:  # a stopped keeping does one round
            await self._keeping.run(stop)
            if not any([await self.outbox.outbox_length(org) for org in ORGS]):
                return

    async def run(self, steps: int) -> None:
        await self.keep()
        await self.history.run(steps)

    async def state(self) -> list[RebuiltBooks]:
        return [await self.store.snapshot(org) for org in sorted(ORGS)]

    async def replay(self, *options: str) -> int:
        words = ["--books", str(self.books), "--ledger", self.url, *options]
        return await asyncio.to_thread(replaying.main, words)

    async def aclose(self) -> None:
        for one in (self.ledger, self.outbox, self.store):
            await one.aclose()


@pytest.fixture
async def kept(store: StoreProcess, directory: Path) -> AsyncIterator[Kept]:
    made = Kept(store, directory, seed=11)
    yield made
    await made.aclose()


def counters(books: list[RebuiltBooks]) -> dict[tuple[OrgId, str], tuple[int, int, int, int]]:
    return {
        (one.org, name): (counter.used, counter.held, counter.leased, counter.credit)
        for one in books
        for name, counter in one.counters.items()
        if counter.used or counter.held or counter.credit
    }


async def test_a_deleted_store_comes_back_bit_for_bit(kept: Kept, capsys: pytest.CaptureFixture[str]) -> None:
    await kept.run(100)
    await kept.keep()
    await kept.history.run(400)
    assert await kept.replay() == replaying.DONE, "undrained: what waits is taken from the outboxes"
    assert "events from outboxes" in capsys.readouterr().out
    await kept.keep()
    assert await kept.replay("--json") == replaying.DONE
    report = orjson.loads(capsys.readouterr().out.splitlines()[-1])
    assert report["good"] and report["waiting"] == report["unreadable"] == report["irregular"] == 0
    assert await kept.replay("--apply") == replaying.FAILED, "it is not empty"
    before = await kept.state()
    await kept.client.flushall()
    assert await kept.replay() == replaying.FAILED, "closed"
    replay, _ = replay_books(kept.books, LOCAL)
    store = Restoring.connect(kept.url)
    await store.begin()
    for one in replay.books():
        await store.write(one)
    after = await kept.state()
    for ours, theirs in zip(after, before, strict=True):
        assert differences(ours, theirs) == []
    assert counters(after).items() <= counters(before).items(), "but for windows that are over"
    with pytest.raises(LedgerEmptied):
        await kept.ledger.tick(ORGS[0])
    await store.aclose()


async def test_an_applied_ledger_goes_on(kept: Kept, capsys: pytest.CaptureFixture[str]) -> None:
    await kept.run(300)
    await kept.keep()
    books = {one.org: one for one in replay_books(kept.books, LOCAL)[0].books()}
    live = [
        (org, name, hold)
        for org, one in books.items()
        for name, hold in one.holds.items()
        if hold.outcome is Outcome.LIVE
    ]
    assert live
    await kept.history.run(40)  # the tail that is lost
    await kept.client.flushall()
    assert await kept.replay("--apply") == replaying.DONE
    assert f"{len(live)} holds" in capsys.readouterr().out
    assert await asyncio.to_thread(verify.main, ["--books", str(kept.books), "--ledger", kept.url]) == 0
    for books_now in await kept.state():
        assert not any(hold.outcome is Outcome.LIVE for hold in books_now.holds.values())
    kept.clock.advance_ms(2_000)  # a process looks for another epoch once a second
    org, name, _ = live[0]
    done = await kept.ledger.settle(org, name, Amounts.of(1, 2, micro_usd=3))
    assert done.outcome is Outcome.CORRECTED and done.posted.tokens == 3
    kept.clock.advance_ms(LEASE_GRACE + 60_000)
    await kept.ledger.tick(org)
    await kept.ledger.expire(org)
    assert not (await kept.store.snapshot(org)).leases or all(
        lease.state == "expired" for lease in (await kept.store.snapshot(org)).leases.values()
    )
    await kept.history.run(100)
    await kept.keep()
    assert await kept.replay() == replaying.DONE, "the books go on and still explain every counter"


async def test_a_backup_gives_the_same_counters(
    kept: Kept, directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    await kept.run(200)
    await kept.keep()
    before = counters(replay_books(kept.books, LOCAL)[0].books())
    url = (directory / "backup").as_uri()
    assert copying.main(["backup", "--books", str(kept.books), "--to", url]) == copying.DONE
    await kept.client.flushall()
    restored = directory / "restored"
    assert copying.main(["restore", "--books", str(restored), "--from", url]) == copying.DONE
    assert "replay --apply" in capsys.readouterr().out
    kept.books = restored
    assert counters(replay_books(restored, LOCAL)[0].books()) == before
    assert await kept.replay("--apply") == replaying.DONE
    assert await kept.replay() == replaying.DONE
    assert await asyncio.to_thread(verify.main, ["--books", str(restored), "--ledger", kept.url]) == 0
