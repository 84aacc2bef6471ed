"""Keeps the projection in step with the books, every few seconds, beside everything else."""

from __future__ import annotations

import asyncio
from typing import Final

from gateway.bookkeeper.condition import Condition, wait
from gateway.bookkeeper.projection import Projection, ProjectionBusy
from gateway.events.base import BadBase
from gateway.events.recovery import BooksDamaged
from gateway.telemetry.log import EventLog

EVERY_S: Final = 5.0
"""Usage is at most this much behind the books; also keeps LanceDB out of a process that ends before."""


class Projecting:
    """``run`` in a task. A table that cannot be continued is made anew; books that cannot be read are not
    this one's to mend, and what was projected of them stays."""

    def __init__(self, projection: Projection, log: EventLog, *, every_s: float = EVERY_S) -> None:
        """Touches nothing yet."""
        self._projection, self._log, self._every_s = projection, log, every_s
        self._condition = Condition("projection", log)
        self._anew = False

    async def run(self, stop: asyncio.Event) -> None:
        """Until ``stop``; what is missing then is projected after the next start."""
        while not await wait(stop, self._every_s):
            await self.turn(stop)

    async def turn(self, stop: asyncio.Event) -> None:
        """One look, whatever happens in it. ``stop`` ends it between two batches."""
        advance = self._projection.rebuild if self._anew else self._projection.advance
        try:
            rows = await asyncio.to_thread(advance, stop.is_set)
            if self._anew:
                self._log.info("projection.rebuilt", rows=rows)
            self._anew = False
        except (BooksDamaged, BadBase) as error:
            self._condition.fails(str(error), event="projection.books_damaged")
        except ProjectionBusy as error:
            self._condition.fails(str(error))
        except Exception as error:  # noqa: BLE001  # LanceDB's errors are many, and the books must go on
            self._condition.fails(type(error).__name__)
            self._anew = await self._is_damaged()
        else:
            self._condition.works()

    async def _is_damaged(self) -> bool:
        try:
            return not await asyncio.to_thread(self._projection.whole)
        except Exception:  # noqa: BLE001  # a look that fails says nothing of the table; the next turn looks again
            return False
