"""The thread that keeps the table: reads it at the start, writes in batches, tends it on a schedule.

Nobody waits for it. When disk or table fail, questions live in memory only, which is counted; nothing that is
served depends on it.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Final, TypeVar, TypeVarTuple, Unpack

from ext_proc.recall.stored_question import StoredQuestion
from ext_proc.recall.table import Ends, Table, TableBusy, TableDamaged
from gateway.contract.ids import OrgId
from gateway.telemetry import names
from gateway.telemetry.log import EventLog
from gateway.telemetry.metrics import child, counter

FLUSH_S: Final = 1.0
"""What a kill can cost; each flush is a version of the table and one file."""
FLUSH_ROWS: Final = 500
QUEUED_MAX: Final = 5000
"""Questions that wait for a slow disk: 10 MB. More are kept in memory only."""
AGAIN_S: Final = 5.0
"""Between two tries to open a table that is another's, out of reach or beyond help: each one is logged."""
TEND_S: Final = 300.0
"""Between two rounds of deleting and compacting: 300 small files at most."""

T = TypeVar("T")
Ts = TypeVarTuple("Ts")
Take = Callable[[StoredQuestion], None]


class TableWriter:
    """``run`` as a task; the other methods from the event loop, ``add`` and ``forget`` from any thread."""

    def __init__(
        self,
        table: Table,
        take: Take,
        log: EventLog,
        *,
        flush_s: float = FLUSH_S,
        again_s: float = AGAIN_S,
    ) -> None:
        """``take`` gets each question that the table holds, in the writer's thread, while it is read."""
        self._table, self._take, self._log = table, take, log
        self._flush_s, self._again_s = flush_s, again_s
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="recall-table")
        self._lock = threading.Lock()
        self._added: list[StoredQuestion] = []
        self._forgotten: list[tuple[OrgId, str]] = []
        self._wake = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._open = False
        self._failures = 0
        """In a row."""
        self._ending = threading.Event()
        self.loaded = asyncio.Event()
        """The table was read, or there is nothing to read."""
        self._counted = counter(names.RECALL_TABLE, "Rows of the table of stored questions", ["result"])

    def add(self, question: StoredQuestion) -> None:
        """Write it soon. Too many at once: it is not written."""
        with self._lock:
            room = len(self._added) < QUEUED_MAX
            if room:
                self._added.append(question)
            full = len(self._added) >= FLUSH_ROWS
        if not room:
            child(self._counted, "dropped").inc()
        elif full:
            self._loop.call_soon_threadsafe(self._wake.set)

    def forget(self, org: OrgId, entry: str) -> None:
        """Delete it soon. Too many at once: it goes when its time is over; nothing of it can be served."""
        with self._lock:
            if len(self._forgotten) < QUEUED_MAX:
                self._forgotten.append((org, entry))

    async def drop(self, ends: Ends) -> dict[OrgId, list[str]]:
        """Delete every question of which ``ends`` says so, and say which they were."""
        dropped: dict[OrgId, list[str]] = {}
        for org, entry in await self._in_thread(self._drop, ends):
            dropped.setdefault(org, []).append(entry)
        return dropped

    async def flush(self) -> None:
        """Write what waits, now."""
        await self._in_thread(self._flush)

    async def run(self) -> None:
        """Open and read the table, then write until cancelled."""
        tended_at, tried_at = self._loop.time(), float("-inf")
        while True:
            if not self._open and self._loop.time() - tried_at >= self._again_s:
                await self._in_thread(self._read)
                self.loaded.set()
                tried_at = self._loop.time()
            with suppress(TimeoutError):  # nothing hurries
                async with asyncio.timeout(self._flush_s):
                    await self._wake.wait()
            self._wake.clear()
            await self._in_thread(self._flush)
            if self._open and self._loop.time() - tended_at >= TEND_S:
                tended_at = self._loop.time()
                await self._in_thread(self._tend)

    async def aclose(self) -> None:
        """After ``run`` was cancelled: write what waits, and let another process write. A table that is still
        being read is read no further: 100,000 rows take longer than an end may."""
        self._ending.set()
        await self._in_thread(self._flush)
        await self._in_thread(self._table.close)
        self._thread.shutdown()

    def _read(self) -> None:
        """Open and read the table; a damaged one is put aside. Busy or out of reach: tried again."""
        loaded = 0
        try:
            self._table.open()
            for batch in self._table.load():
                for question in batch:
                    self._take(question)
                loaded += len(batch)
                if self._ending.is_set():
                    break
        except TableBusy:
            return
        except TableDamaged as damage:
            # What was read until then was sealed by us, row by row: it stays.
            self._failed(damage)
        except OSError as error:
            self._log.warning("recall.table_unreachable", kind=type(error).__name__)
            return
        else:
            self._open, self._failures = True, 0
        child(self._counted, "loaded").inc(loaded)
        self._log.info("recall.table_read", rows=loaded)

    def _failed(self, damage: TableDamaged) -> None:
        """Put the table aside, unless it may only be out of reach for a moment: then it is opened again."""
        self._open = False
        self._failures += 1
        if self._failures < self._table.failures_max:
            self._log.warning("recall.table_unreachable", kind=str(damage))
            return
        self._failures = 0
        self._put_aside(damage)

    def _put_aside(self, damage: TableDamaged) -> None:
        child(self._counted, "quarantined").inc()
        self._log.error("recall.table_quarantined", kind=str(damage))
        try:
            self._table.quarantine()
        except (TableDamaged, TableBusy, OSError) as error:
            self._log.error("recall.table_unusable", kind=type(error).__name__)
            return
        self._open = True

    def _flush(self) -> None:
        with self._lock:
            added, forgotten = self._added, self._forgotten
            if self._open:
                self._added, self._forgotten = [], []
        if not self._open or not (added or forgotten):
            return
        if self._tried(lambda: self._write(added, forgotten)):
            child(self._counted, "written").inc(len(added))
        else:
            child(self._counted, "failed").inc(len(added))

    def _write(self, added: list[StoredQuestion], forgotten: list[tuple[OrgId, str]]) -> None:
        if added:
            self._table.append(added)
        self._table.delete(forgotten)

    def _tend(self) -> None:
        self._tried(self._table.tend)

    def _tried(self, work: Callable[[], object]) -> bool:
        """Whether it went well; a table that cannot even be read is put aside."""
        try:
            work()
        except TableDamaged as damage:
            if self._table.readable():
                self._log.warning("recall.table_not_written", kind=str(damage))
            else:
                self._failed(damage)
            return False
        return True

    def _drop(self, ends: Ends) -> list[tuple[OrgId, str]]:
        with self._lock:
            ended = [
                (question.org, question.entry)
                for question in self._added
                if ends(question.org, question.entry, question.lineage)
            ]
            gone = set(ended)
            self._added = [question for question in self._added if (question.org, question.entry) not in gone]

        def delete() -> None:
            found = self._table.ended(ends)
            self._table.delete(found)
            ended.extend(found)

        if self._open:
            self._tried(delete)
        return ended

    async def _in_thread(self, work: Callable[[Unpack[Ts]], T], *values: *Ts) -> T:
        return await self._loop.run_in_executor(self._thread, work, *values)
