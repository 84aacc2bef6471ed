"""Events that move no tokens, written to the ledger's outbox in batches behind the requests' backs."""

from __future__ import annotations

import asyncio
from typing import Final

from ext_proc.background import Background
from ext_proc.vocabulary import Note
from gateway.budget.ledger import BudgetLedger
from gateway.contract.errors import LedgerUnavailable
from gateway.telemetry import names
from gateway.telemetry.log import EventLog
from gateway.telemetry.metrics import counter

QUEUE_MAX: Final = 10_000
"""Notes waiting; about 10 MiB. A ledger that is gone for longer loses some, which is counted."""
BATCH_MAX: Final = 32
"""Notes on their way at a time: half of the ledger's connections stay free for requests."""


class Notes:
    """One for each process; ``run`` until ``close``."""

    def __init__(self, ledger: BudgetLedger, background: Background, log: EventLog) -> None:
        """Nothing waits."""
        self._ledger = ledger
        self._background = background
        self._log = log
        self._queue: asyncio.Queue[Note | None] = asyncio.Queue(QUEUE_MAX)
        self._open = counter(names.FAIL_OPEN, "Requests that went on without a hop that fails open", ["hop"])

    def add(self, note: Note) -> None:
        """Never waits; a full queue drops the note."""
        try:
            self._queue.put_nowait(note)
        except asyncio.QueueFull:
            self._background.count_dropped("note")

    async def run(self) -> None:
        """Write until ``close``."""
        while (note := await self._queue.get()) is not None:
            batch = [note]
            ends = False
            while len(batch) < BATCH_MAX and not self._queue.empty():
                following = self._queue.get_nowait()
                if following is None:
                    ends = True
                    break
                batch.append(following)
            await asyncio.gather(*map(self._write, batch))
            if ends:
                return

    async def close(self) -> None:
        """What waits is written, then ``run`` returns."""
        await self._queue.put(None)

    async def _write(self, note: Note) -> None:
        try:
            await self._ledger.note(note.org, note.kind, note.context)
        except LedgerUnavailable as error:
            self._open.labels(hop="events").inc()
            self._background.count_dropped("note")
            self._log.debug("note.dropped", kind=note.kind, reason=error.code)
