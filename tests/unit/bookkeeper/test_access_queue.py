"""Access entries while the books take them, while they do not, and after a crash anywhere in between."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.bookkeeper import access_queue
from gateway.bookkeeper.access_queue import AccessQueue
from gateway.bookkeeper.access_spool import AccessSpool, line_of
from gateway.bookkeeper.inbox import Inbox
from gateway.bookkeeper.keeping import Keeping
from gateway.contract.clock import ManualClock
from gateway.events.chain import Anchor, read_line
from gateway.events.recovery import OWN_TYPES
from gateway.events.segment import SUFFIX, segments_of
from gateway.events.verify import verify
from tests.unit.bookkeeper.entries import access
from tests.unit.bookkeeper.stand_ins import KeptLog, MemoryOutbox
from tests.unit.events.written import REGION


class Crash(BaseException):
    """The process is gone at this point."""


class Disk:
    """The system calls that change a disk. Counts them; ``crash_at`` is the number of the last one, which a
    write does by half. ``full`` names suffixes of files that cannot be written."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls, self.crash_at = 0, -1
        self.full: set[str] = set()
        self.real = {name: getattr(os, name) for name in ("write", "fsync", "ftruncate", "unlink", "mkdir")}
        for name in self.real:
            monkeypatch.setattr(os, name, self._counted(name))

    def _counted(self, name: str) -> Any:
        def call(*arguments: Any, **more: Any) -> Any:
            self.calls += 1
            if self.calls == self.crash_at:
                if name == "write":
                    self.real[name](arguments[0], arguments[1][: len(arguments[1]) // 2])
                raise Crash
            if name == "write" and self._of(arguments[0]) in self.full:
                raise OSError(errno.ENOSPC, "No space left on device")
            return self.real[name](*arguments, **more)

        return call

    def _of(self, handle: int) -> str:
        return Path(f"/proc/self/fd/{handle}").readlink().suffix


class Process:
    """A bookkeeper's keeping and queue, turned by hand; ``crashed`` leaves only files and the store."""

    def __init__(self, directory: Path, outbox: MemoryOutbox, *, inbox: int = 100, **spool: Any) -> None:
        self.books, self.inbox, self.log, self.clock = (
            directory / "books",
            Inbox(inbox),
            KeptLog(),
            ManualClock(),
        )
        self.spool = AccessSpool(directory / "spool", REGION, **spool)
        self.found: list[str] = []
        self.queue = AccessQueue(
            self.inbox,
            self.spool,
            self.clock,
            self.log,
            found=lambda event: self.found.append(event.request_id),
        )
        self.outbox = outbox
        self.keeping = Keeping(
            outbox,
            outbox,
            list,
            self.queue,
            directory=self.books,
            region=REGION,
            clock=self.clock,
            log=self.log,
        )

    async def round(self) -> bool:
        return await self.keeping._guarded_round()

    async def crashed(self) -> None:
        await self.keeping._close()
        self.spool.close()

    async def drained(self) -> None:
        while self.queue.waiting:
            await self.round()

    def ids(self) -> list[str]:
        lines = [line for _, path in segments_of(self.books) for line in path.read_bytes().splitlines(True)]
        events = [read_line(line).event for line in lines if line.endswith(b"\n")]
        return [item.request_id for item in events if item.type not in OWN_TYPES]

    def clean(self) -> bool:
        found = self.outbox.anchored
        anchor = Anchor(count=int(found["count"]), head=found["head"]) if found else None
        return verify(self.books, REGION, anchor).clean


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    yield Disk(monkeypatch)


def ids(*numbers: int) -> list[str]:
    return [f"r-{number}" for number in numbers]


async def test_while_the_books_work_the_spool_is_not_touched(tmp_path: Path, disk: Disk) -> None:
    process = Process(tmp_path, MemoryOutbox())
    for number in range(4):
        process.inbox.offer(access(number))
        await process.queue.keep()
        await process.round()
        if number == 0:
            disk.calls = 0
    assert process.ids() == ids(0, 1, 2, 3) and not (tmp_path / "spool").exists()
    assert disk.calls == 2 * 3, "a write and a sync of the books each"
    await process.crashed()


async def test_what_a_full_disk_refuses_is_on_the_other_one_after_a_kill(tmp_path: Path, disk: Disk) -> None:
    outbox = MemoryOutbox()
    first = Process(tmp_path, outbox, file_events=3)
    first.inbox.offer(access(0))
    await first.round()
    disk.full = {SUFFIX}
    for number in range(1, 9):
        first.inbox.offer(access(number))
        await first.round()
        await first.queue.keep()
        assert len(first.inbox) == 0
    await first.crashed()
    second = Process(tmp_path, outbox, file_events=3)
    await second.round()
    second.inbox.offer(access(9))
    await second.queue.keep()
    assert second.found == ids(*range(1, 9)) and second.ids() == ids(0)
    disk.full = set()
    await second.drained()
    assert second.ids() == ids(*range(10)) and second.clean()
    assert second.found == ids(*range(1, 9)), "each is told once"
    assert list((tmp_path / "spool").glob("0*")) == []
    await second.crashed()


async def _outage(process: Process, disk: Disk, numbers: range) -> list[str]:
    """The books are away for some entries and come back; which were surely kept until a crash ended it."""
    kept: list[str] = []
    try:
        await process.queue.keep()
        disk.full = {SUFFIX}
        for number in numbers:
            process.inbox.offer(access(number))
            await process.round()
            await process.queue.keep()
            kept += [] if len(process.inbox) else ids(number)
        disk.full = set()
        await process.drained()
    except Crash:
        disk.crash_at, disk.full = -1, set()
    await process.crashed()
    return kept


async def test_a_crash_at_any_point_doubles_nothing_and_loses_nothing_that_was_kept(
    tmp_path: Path, disk: Disk
) -> None:
    """Every system call of an outage is a point; a second outage begins with what the first one left."""
    crashes, whole = 0, False
    for point in range(1, 1000):
        outbox, directory = MemoryOutbox(), tmp_path / str(point)
        kept: list[str] = []
        for numbers, crash_at in ((range(3), point), (range(3, 5), 11 * point % 31 + 1)):
            disk.calls, disk.crash_at = 0, crash_at
            kept += await _outage(Process(directory, outbox, file_events=2), disk, numbers)
            crashes += disk.crash_at < 0
            whole = whole or (numbers.start == 0 and disk.crash_at > 0)
            disk.crash_at = -1
        last = Process(directory, outbox)
        await last.round()
        await last.drained()
        found = last.ids()
        assert len(set(found)) == len(found), point
        assert set(kept) <= set(found), point
        assert found == sorted(found), point
        assert last.clean() and list((directory / "spool").glob("0*")) == []
        await last.crashed()
        if whole:
            break
    assert crashes > 40, "there were points"


async def test_a_spool_that_fails_too_leaves_memory_alone(tmp_path: Path, disk: Disk) -> None:
    process = Process(tmp_path, MemoryOutbox(), inbox=3)
    await process.round()
    disk.full = {SUFFIX, ".access"}
    for number in range(5):
        process.inbox.offer(access(number))
    for _ in range(3):
        await process.round()
        await process.queue.keep()
        process.clock.advance_ms(60_000)
    assert (len(process.inbox), process.inbox.lost) == (3, 2)
    assert process.log.names.count("access_spool.failing") == process.log.names.count("access.lost") == 1
    disk.full = set()
    await process.drained()
    assert process.ids() == ids(0, 1, 2) and process.clean()
    await process.crashed()


async def test_a_full_spool_is_filled_again_in_order_and_said_once(tmp_path: Path, disk: Disk) -> None:
    process = Process(tmp_path, MemoryOutbox(), bytes_max=3 * len(line_of(access(0))), file_events=2)
    await process.round()
    disk.full = {SUFFIX}
    for number in range(8):
        process.inbox.offer(access(number))
        await process.round()
        await process.queue.keep()
        process.clock.advance_ms(60_000)
    assert len(process.inbox) == 5
    assert process.log.names.count("access_spool.failing") == 1
    disk.full = set()
    await process.drained()
    assert process.ids() == ids(*range(8))
    assert process.log.names.count("access_spool.delivered") == 1
    await process.crashed()


async def test_a_spool_that_cannot_be_read_does_not_stop_the_books(
    tmp_path: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = Process(tmp_path, MemoryOutbox())
    await process.round()
    disk.full = {SUFFIX}
    process.inbox.offer(access(0))
    await process.round()
    await process.queue.keep()
    disk.full = set()

    def broken(path: Path) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr(process.spool, "read", broken)
        process.inbox.offer(access(1))
        await process.round()
    assert process.ids() == ids(1) and process.log.names[-1] != "books.failing"
    process.clock.advance_ms(60_000)
    await process.round()
    assert process.ids() == ids(1, 0)
    assert "access_spool_reading.recovered" in process.log.names
    await process.crashed()


async def test_books_that_hang_without_an_error_are_spooled_past(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(access_queue, "MEMORY_MAX", 2)
    process = Process(tmp_path, MemoryOutbox())
    for number in range(4):
        process.inbox.offer(access(number))
    held = await process.queue.first(3)
    for number in range(4, 7):
        process.inbox.offer(access(number))
    await process.queue.keep()
    assert len(process.inbox) == 2, "the oldest five are on disk"
    await process.queue.written(held)
    assert len(process.inbox) == 2, "and not forgotten twice"
    await process.drained()
    assert process.ids() == ids(*range(7))
    await process.crashed()


async def test_a_busy_spool_is_waited_for_only_while_the_books_are_away(tmp_path: Path) -> None:
    process = Process(tmp_path, MemoryOutbox())
    process.inbox.offer(access(0))
    async with process.queue._disk:
        assert (await process.queue.first(9)).events == ()
        process.queue.away = True
        asked = asyncio.create_task(process.queue.first(9))
        await asyncio.sleep(0)
        assert not asked.done()
    assert [event.request_id for event in (await asked).events] == ids(0)
    await process.crashed()


async def test_the_last_round_leaves_nothing_in_memory(tmp_path: Path, disk: Disk) -> None:
    outbox = MemoryOutbox()
    process = Process(tmp_path, outbox)
    running = asyncio.create_task(process.queue.run(stop := asyncio.Event()))
    await process.round()
    disk.full = {SUFFIX}
    stop.set()
    await running
    process.inbox.offer(access(0))
    await process.round()
    await process.queue.close()
    disk.full = set()
    after = Process(tmp_path, outbox)
    await after.round()
    assert after.ids() == ids(0) and len(process.inbox) == 0
    await process.crashed()
    await after.crashed()


async def test_what_nobody_takes_at_the_end_is_counted(tmp_path: Path, disk: Disk) -> None:
    process = Process(tmp_path, MemoryOutbox())
    disk.full = {SUFFIX, ".access"}
    process.inbox.offer(access(0))
    await process.round()
    await process.queue.close()
    assert process.inbox.lost == 1 and ("access.lost", {"entries": 1}) in process.log.lines
    await process.crashed()
