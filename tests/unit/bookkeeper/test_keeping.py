"""Read, write, anchor, drop: whatever fails in between, nothing is lost and nothing stands twice."""

from __future__ import annotations

import asyncio
import errno
import os
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.bookkeeper.access_queue import AccessQueue
from gateway.bookkeeper.access_spool import AccessSpool
from gateway.bookkeeper.inbox import Inbox
from gateway.bookkeeper.keeping import READ_COUNT, Keeping
from gateway.contract.clock import ManualClock
from gateway.contract.ids import OrgId
from gateway.events.chain import Anchor, read_line
from gateway.events.recovery import OWN_TYPES
from gateway.events.segment import Limits, segments_of
from gateway.events.verify import verify
from tests.unit.bookkeeper.stand_ins import KeptLog, MemoryOutbox
from tests.unit.events.written import REGION, event


class Bench:
    """A Keeping whose rounds are turned by hand."""

    def __init__(self, directory: Path, outbox: MemoryOutbox) -> None:
        self.directory, self.outbox, self.log, self.inbox = directory, outbox, KeptLog(), Inbox(3)
        self.keeping = self.made()

    def made(self) -> Keeping:
        spool = AccessSpool(self.directory.with_name("spool"), REGION)
        return Keeping(
            self.outbox,
            self.outbox,
            lambda: [OrgId(org) for org in ("acme", "bolt")],
            AccessQueue(self.inbox, spool, ManualClock(), self.log),
            directory=self.directory,
            region=REGION,
            clock=ManualClock(),
            log=self.log,
            limits=Limits(events=8),
            idle_s=0.01,
        )

    async def round(self) -> bool:
        return await self.keeping._guarded_round()

    async def crash(self) -> None:
        """Another process takes over: nothing but files and the store is left."""
        await self.keeping._close()
        self.keeping = self.made()

    def ids(self) -> list[str]:
        lines = [
            line for _, path in segments_of(self.directory) for line in path.read_bytes().splitlines(True)
        ]
        events = [read_line(line).event for line in lines]
        return [item.id for item in events if item.type not in OWN_TYPES]

    def clean(self) -> bool:
        found = self.outbox.anchored
        anchor = Anchor(count=int(found["count"]), head=found["head"]) if found else None
        return verify(self.directory, REGION, anchor).clean


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    made = Bench(tmp_path / "books", MemoryOutbox())
    yield made
    await made.keeping._close()


async def test_outboxes_into_the_books(bench: Bench) -> None:
    bench.outbox.add("acme", 1, 2)
    bench.outbox.add("bolt", 1)
    assert not await bench.round()
    assert sorted(bench.ids()) == ["acme/1-0", "acme/2-0", "bolt/1-0"]
    assert not any(bench.outbox.entries.values()) and bench.clean()
    assert bench.outbox.calls.index("set_anchor") < bench.outbox.calls.index("drop")
    assert bench.outbox.epoch and await bench.keeping.answers()


@pytest.mark.parametrize("verb", ["read", "set_anchor", "drop"])
async def test_a_ledger_that_goes_away_at_any_point(bench: Bench, verb: str) -> None:
    await bench.round()
    bench.outbox.add("acme", *range(1, 6))
    bench.outbox.away = {verb}
    for _ in range(3):
        await bench.round()
    await bench.crash()
    bench.outbox.add("acme", 6)
    await bench.round()
    bench.outbox.away = set()
    await bench.round()
    assert Counter(bench.ids()) == Counter(f"acme/{n}-0" for n in range(1, 7))
    assert not any(bench.outbox.entries.values()) and bench.clean()
    failing = [name for name in bench.log.names if name.startswith("outbox.")]
    assert failing == ["outbox.failing"] * 2 + ["outbox.recovered"], "once a change, in each process"


async def test_access_entries_are_written_while_the_ledger_is_away(bench: Bench) -> None:
    await bench.round()
    bench.outbox.away = {"read", "set_anchor", "drop"}
    bench.inbox.offer(event(1))
    await bench.round()
    assert bench.ids() == [event(1).id] and len(bench.inbox) == 0
    assert await bench.keeping.answers()


async def test_a_full_disk_keeps_the_outbox(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.outbox.add("acme", 1)
    await bench.round()
    bench.outbox.add("acme", 2, 3)
    real = os.write

    def full(handle: int, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    offered = [bench.inbox.offer(event(number)) for number in range(10, 15)]
    assert offered == [True, True, True, False, False], "access entries have only memory"
    for _ in range(3):
        await bench.round()
    assert len(bench.outbox.entries[OrgId("acme")]) == 2 and not await bench.keeping.answers()
    monkeypatch.setattr(os, "write", real)
    await bench.round()
    assert bench.ids() == ["acme/1-0", "acme/2-0", "acme/3-0", *(event(n).id for n in (10, 11, 12))]
    assert bench.log.names.count("books.failing") == bench.log.names.count("books.recovered") == 1
    assert bench.clean()


async def test_a_new_pair_is_founded_and_an_emptied_ledger_stays_closed(bench: Bench) -> None:
    bench.outbox.away = {"epoch"}
    await bench.round()
    assert not bench.keeping.founded.is_set()
    bench.outbox.away = set()
    bench.outbox.add("acme", 1)
    await bench.round()
    assert bench.keeping.founded.is_set()
    await bench.crash()
    bench.outbox.epoch = bench.outbox.anchored = None
    for _ in range(3):
        await bench.round()
    assert not bench.keeping.founded.is_set() and not await bench.keeping.answers()
    assert bench.log.names.count("books.ledger_emptied") == 1
    assert "books directory" in str(bench.log.lines[-1][1]["mend"])
    assert bench.ids() == ["acme/1-0"], "and nothing was written"


async def test_damaged_books_are_not_built_on(bench: Bench) -> None:
    bench.outbox.add("acme", 1, 2)
    await bench.round()
    await bench.crash()
    [(_, path)] = segments_of(bench.directory)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:-1]))
    bench.outbox.add("acme", 3)
    for _ in range(2):
        await bench.round()
    assert bench.keeping.founded.is_set(), "holds must still be swept"
    assert bench.log.names.count("books.damaged") == 1 and len(bench.outbox.entries[OrgId("acme")]) == 1
    path.write_bytes(b"".join(lines))
    await bench.round()
    assert bench.ids() == ["acme/1-0", "acme/2-0", "acme/3-0"] and bench.clean()


async def test_two_bookkeepers_do_not_write(bench: Bench, tmp_path: Path) -> None:
    await bench.round()
    other = Bench(bench.directory, bench.outbox)
    await other.round()
    assert other.log.names == ["books.failing"] and not await other.keeping.answers()


async def test_a_bug_does_not_end_the_process(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.outbox.anchored = {"count": "none"}
    await bench.round()
    assert bench.log.names == ["books.failed"]
    bench.outbox.anchored = None
    await bench.round()
    assert await bench.keeping.answers()


async def test_orgs_take_turns_and_a_backlog_is_read_at_once(bench: Bench) -> None:
    bench.outbox.add("acme", *range(1, 2 * READ_COUNT))
    bench.outbox.add("bolt", 1)
    assert await bench.round(), "more is waiting"
    assert "bolt/1-0" in bench.ids()
    assert not await bench.round()
    assert len(set(bench.ids())) == len(bench.ids()) == 2 * READ_COUNT


async def test_run_writes_what_came_before_the_stop(bench: Bench) -> None:
    stop = asyncio.Event()
    running = asyncio.create_task(bench.keeping.run(stop))
    await asyncio.wait_for(bench.keeping.founded.wait(), 5)
    bench.outbox.add("acme", 1)
    bench.inbox.offer(event(1))
    stop.set()
    await asyncio.wait_for(running, 5)
    assert bench.ids() == ["acme/1-0", event(1).id] and bench.clean()
