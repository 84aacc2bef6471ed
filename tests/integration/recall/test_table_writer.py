"""The table's writer: what waits is written in batches; what fails costs the disk's copy, not the service."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from ext_proc.recall import table_writer
from ext_proc.recall.stored_question import StoredQuestion
from ext_proc.recall.table import REMOTE_FAILURES_MAX, Table, TableDamaged
from ext_proc.recall.table_writer import TableWriter
from gateway.contract.ids import OrgId
from gateway.telemetry.log import logger
from tests.integration.recall.test_table import loaded, question, table_in

START_S = 30.0
LOG = logger("test")


@asynccontextmanager
async def running(table: Table, taken: list[StoredQuestion] | None = None) -> AsyncIterator[TableWriter]:
    """A writer that has read its table, or found that it cannot."""
    writer = TableWriter(table, (taken if taken is not None else []).append, LOG, flush_s=0.01, again_s=0.01)
    task = asyncio.create_task(writer.run())
    try:
        async with asyncio.timeout(START_S):
            await writer.loaded.wait()
        yield writer
    finally:
        task.cancel()
        await asyncio.wait([task])
        await writer.aclose()


def on_disk(directory: Path) -> set[str]:
    table = table_in(directory)
    table.open()
    try:
        return {row.text for row in loaded(table).values()}
    finally:
        table.close()


async def test_what_was_added_is_read_at_the_next_start(tmp_path: Path) -> None:
    async with running(table_in(tmp_path)) as writer:
        for number in range(5):
            writer.add(question(number))
        await writer.flush()
        writer.forget(OrgId("acme"), question(2).entry)
    taken: list[StoredQuestion] = []
    async with running(table_in(tmp_path), taken):
        assert {row.text for row in taken} == {f"Question number {number}?" for number in (0, 1, 3, 4)}


async def test_a_lineage_is_dropped_from_what_is_written_and_what_waits(tmp_path: Path) -> None:
    async with running(table_in(tmp_path)) as writer:
        writer.add(question(1))
        writer.add(question(2))
        await writer.flush()
        writer.add(question(3))
        dropped = await writer.drop(lambda org, entry, lineage: lineage.request_id in ("r1", "r3"))
        assert {org: sorted(entries) for org, entries in dropped.items()} == {
            "acme": [question(1).entry, question(3).entry]
        }
    assert on_disk(tmp_path) == {"Question number 2?"}


async def test_a_table_damaged_at_the_start_is_put_aside(tmp_path: Path) -> None:
    async with running(table_in(tmp_path)) as writer:
        writer.add(question(1))
    for file in tmp_path.glob("*.lance/data/*"):
        file.unlink()
    async with running(table_in(tmp_path)) as writer:
        writer.add(question(2))
    assert on_disk(tmp_path) == {"Question number 2?"}
    assert len(list((tmp_path / "quarantine").iterdir())) == 1


async def test_a_table_damaged_while_it_is_written_is_put_aside(tmp_path: Path) -> None:
    async with running(table_in(tmp_path)) as writer:
        writer.add(question(1))
        await writer.flush()
        for file in tmp_path.glob("*.lance/data/*"):
            file.unlink()
        await writer.drop(lambda org, entry, lineage: True)
        writer.add(question(2))
    assert on_disk(tmp_path) == {"Question number 2?"}


class FullDisk(Table):
    """Writes nothing; reads well."""

    def append(self, questions: Sequence[StoredQuestion]) -> None:
        raise TableDamaged("RuntimeError")


async def test_a_full_disk_costs_no_table(tmp_path: Path) -> None:
    async with running(table_in(tmp_path)) as writer:
        writer.add(question(1))
    full = table_in(tmp_path)
    full.__class__ = FullDisk
    async with running(full) as writer:
        writer.add(question(2))
        await writer.flush()
    assert on_disk(tmp_path) == {"Question number 1?"}
    assert not (tmp_path / "quarantine").exists()


async def test_a_second_writer_waits_for_the_first_to_end(tmp_path: Path) -> None:
    taken: list[StoredQuestion] = []
    async with AsyncExitStack() as first_ends, AsyncExitStack() as second_ends:
        first = await first_ends.enter_async_context(running(table_in(tmp_path)))
        first.add(question(1))
        second = await second_ends.enter_async_context(running(table_in(tmp_path), taken))
        assert taken == []
        second.add(question(2))
        await first_ends.aclose()
        async with asyncio.timeout(START_S):
            while not taken:
                await second.flush()
    assert on_disk(tmp_path) == {"Question number 1?", "Question number 2?"}


async def test_no_more_wait_than_may(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table_writer, "QUEUED_MAX", 3)
    table = table_in(tmp_path)
    writer = TableWriter(table, lambda row: None, LOG)
    for number in range(5):
        writer.add(question(number))
    task = asyncio.create_task(writer.run())
    await writer.loaded.wait()
    task.cancel()
    await asyncio.wait([task])
    await writer.aclose()
    assert on_disk(tmp_path) == {f"Question number {number}?" for number in range(3)}


async def test_an_end_while_the_table_is_read_waits_for_a_batch_and_not_for_all(tmp_path: Path) -> None:
    many = 2000
    async with running(table_in(tmp_path)) as writer:
        for number in range(many):
            writer.add(question(number))
    reading, ending, taken = threading.Event(), threading.Event(), list[StoredQuestion]()

    def take(row: StoredQuestion) -> None:
        taken.append(row)
        reading.set()
        assert ending.wait(START_S)

    writer = TableWriter(table_in(tmp_path), take, LOG)
    task = asyncio.create_task(writer.run())
    await asyncio.to_thread(reading.wait, START_S)
    writer.add(question(many))
    task.cancel()
    await asyncio.wait([task])
    ended = asyncio.create_task(writer.aclose())
    await asyncio.sleep(0)
    ending.set()
    await ended
    assert 0 < len(taken) < many
    assert len(on_disk(tmp_path)) == many + 1


class OutOfReach(Table):
    """In an object store, with a network that is away for as many tries as ``away``."""

    away = 0

    @property
    def failures_max(self) -> int:
        return REMOTE_FAILURES_MAX

    def load(self) -> Iterator[list[StoredQuestion]]:
        self.away -= 1
        if self.away >= 0:
            raise TableDamaged("RuntimeError")
        return super().load()


@pytest.mark.parametrize("away", [REMOTE_FAILURES_MAX - 1, REMOTE_FAILURES_MAX])
async def test_a_network_that_is_away_for_a_moment_costs_no_table(tmp_path: Path, away: int) -> None:
    async with running(table_in(tmp_path)) as writer:
        writer.add(question(1))
    table = table_in(tmp_path)
    table.__class__, table.__dict__["away"] = OutOfReach, away
    async with running(table) as writer:
        writer.add(question(2))
        async with asyncio.timeout(START_S):
            while table.__dict__["away"] >= 0 and not (tmp_path / "quarantine").exists():
                await writer.flush()
    lost = away == REMOTE_FAILURES_MAX
    assert on_disk(tmp_path) == {"Question number 2?"} | (set() if lost else {"Question number 1?"})
