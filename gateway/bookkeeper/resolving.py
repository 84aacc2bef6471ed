"""Resolves the holds of requests that ended without the tap: what the access log decided, told the ledger
until it has heard it."""

from __future__ import annotations

import asyncio
from typing import Final

from gateway.bookkeeper.access import VOID_REASON, Resolution, Void
from gateway.bookkeeper.condition import Condition, wait
from gateway.budget.certainty import Certainty
from gateway.budget.ledger import BudgetLedger
from gateway.budget.measure import Amounts
from gateway.contract.errors import LedgerUnavailable
from gateway.telemetry import names
from gateway.telemetry.log import EventLog
from gateway.telemetry.metrics import counter

QUEUE_MAX: Final = 20_000
"""Failed requests waiting for a ledger that is away. What does not fit is charged in full at expiry."""
WORKERS: Final = 4
"""Calls at once: a storm of failed requests must not queue behind one round trip each."""
TRIES_MAX: Final = 180
"""With pauses of up to 5 s about HOLD_TTL: the sweep has charged the hold by then."""


class Resolving:
    """``offer`` from the access log; ``run`` in a task."""

    def __init__(self, ledger: BudgetLedger, log: EventLog, *, queue_max: int = QUEUE_MAX) -> None:
        """Does nothing until ``run``."""
        self._ledger = ledger
        self._log = log
        self._condition = Condition("resolving", log)
        self._queue: asyncio.Queue[Resolution] = asyncio.Queue(queue_max)
        self._resolved = counter(names.HOLDS_RESOLVED, "Holds that ended", ["outcome", "by"])
        self._dropped = counter(names.EFFECTS_DROPPED, "Effects a full queue dropped", ["effect"])

    def offer(self, resolution: Resolution) -> bool:
        """Resolve soon; False (and counted) when too many wait already."""
        try:
            self._queue.put_nowait(resolution)
        except asyncio.QueueFull:
            self._dropped.labels(effect="resolution").inc()
            return False
        return True

    async def run(self, stop: asyncio.Event) -> None:
        """Until ``stop`` and the queue is empty, or the ledger does not answer any more then."""
        workers = [asyncio.create_task(self._work(stop)) for _ in range(WORKERS)]
        try:
            await stop.wait()
            finished = asyncio.create_task(self._queue.join())
            await asyncio.wait({finished, *workers}, return_when=asyncio.FIRST_COMPLETED)
            finished.cancel()
        finally:
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)

    async def _work(self, stop: asyncio.Event) -> None:
        while True:
            resolution = await self._queue.get()
            for _ in range(TRIES_MAX):
                if await self._tried(resolution):
                    break
                if stop.is_set():
                    return  # the queue's holds are left to expiry
                await wait(stop, self._condition.pause_s())
            else:
                self._dropped.labels(effect="resolution").inc()
            self._queue.task_done()

    async def _tried(self, resolution: Resolution) -> bool:
        """Whether ``resolution`` is done with."""
        try:
            await self._resolve(resolution)
        except LedgerUnavailable as error:
            self._condition.fails(error.code)
            return False
        except ValueError as error:  # no name for a hold or an org: nothing of ours
            self._log.warning("resolving.refused", error=error)
            return True
        self._condition.works()
        return True

    async def _resolve(self, resolution: Resolution) -> None:
        if isinstance(resolution, Void):
            done = await self._ledger.void(
                resolution.org, resolution.hold, reason=VOID_REASON, draw=resolution.draw
            )
            outcome = "voided"
        else:
            done = await self._ledger.settle(
                resolution.org,
                resolution.hold,
                Amounts(),
                certainty=Certainty.UNKNOWN,
                detail={"by": VOID_REASON},
                draw=resolution.draw,
            )
            outcome = "unknown"
        if done.first:
            self._resolved.labels(outcome=outcome, by="bookkeeper").inc()
