"""Access entries on their way to the books: in memory while the books take them, else in a spool on disk."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from gateway.bookkeeper.access_spool import FILE_EVENTS, AccessSpool, Left
from gateway.bookkeeper.condition import Condition, wait
from gateway.bookkeeper.inbox import Inbox
from gateway.contract.clock import Clock
from gateway.events.event import Event
from gateway.telemetry.log import EventLog

KEEP_EVERY_S: Final = 0.2
"""While the books are away a kill loses what came within this time; each costs the spool's disk a sync."""
MEMORY_MAX: Final = 2 * FILE_EVENTS
"""Two rounds of keeping, or two seconds of 2,000 requests a second. More wait only where the books' disk
hangs without an error, and then they too are better on another one."""
LOST_SAID_EVERY_S: Final = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """The oldest entries, of the spool (``left``) or of memory (those before number ``until``)."""

    events: Sequence[Event] = ()
    left: Left | None = None
    until: int = 0


class _Side:
    """Reading the spool, or adding to it: whether it works, and when to try again."""

    def __init__(self, name: str, clock: Clock, log: EventLog) -> None:
        self._condition = Condition(name, log)
        self._clock = clock
        self._again_at_s = 0.0

    def due(self) -> bool:
        return self._clock.monotonic_s() >= self._again_at_s

    def at_once(self) -> None:
        self._again_at_s = 0.0

    def works(self) -> None:
        self._condition.works()

    def fails(self, error: OSError) -> None:
        self._condition.fails(f"{type(error).__name__}: {error.strerror}")
        self._again_at_s = self._clock.monotonic_s() + self._condition.pause_s()


class AccessQueue:
    """``first`` and ``written`` by whoever writes the books, who says by ``away`` whether they take entries;
    ``run`` in a task, at last ``close``.

    What is spooled is older than what is in memory. An entry may be in both, or in the books as well, when
    something failed in between: the books know its id.
    """

    def __init__(
        self,
        inbox: Inbox,
        spool: AccessSpool,
        clock: Clock,
        log: EventLog,
        *,
        found: Callable[[Event], None] = lambda event: None,
    ) -> None:
        """``found`` hears, once each and soon after the start, the entries that an earlier process spooled:
        what they mean for their holds may have died with it."""
        self._inbox, self._spool, self._found = inbox, spool, found
        self._clock, self._log = clock, log
        self._adding = _Side("access_spool", clock, log)
        self._reading = _Side("access_spool_reading", clock, log)
        self._disk = asyncio.Lock()
        self._opened = False
        self._lost_said, self._lost_said_at_s = 0, 0.0
        self.away = False
        """Whether the books refused the last entries, or could not be asked."""

    @property
    def waiting(self) -> bool:
        """Whether any entry is there."""
        return len(self._inbox) > 0 or self._spool.waiting

    async def first(self, count: int) -> Batch:
        """At most ``count`` of the oldest (a file of the spool comes whole); they stay. Nothing while the
        spool's disk is at work and the books are: the ledger's events need not wait for it."""
        if self._disk.locked() and not self.away:  # else an empty round would look as if they took entries
            return Batch()
        if self._reading.due():
            try:
                async with self._disk:
                    await self._open()
                    left = await asyncio.to_thread(self._spool.oldest) if self._spool.waiting else None
                self._reading.works()
                if left is not None:
                    return Batch(events=left.events, left=left)
            except OSError as error:  # later; what is in memory must not wait for that
                self._reading.fails(error)
        events = self._inbox.first(count)
        return Batch(events=events, until=self._inbox.passed + len(events))

    async def written(self, batch: Batch) -> None:
        """They stand in the books."""
        if batch.left is None:
            self._inbox.pass_on(batch.until)
            return
        try:
            async with self._disk:
                await asyncio.to_thread(self._spool.delivered, batch.left)
        except OSError as error:
            self._reading.fails(error)
            return
        if batch.left.foreign or batch.left.torn:
            file, torn, foreign = batch.left.path.name, batch.left.torn, batch.left.foreign
            self._log.error("access_spool.unreadable", file=file, torn=torn, foreign=foreign)
        if not self._spool.waiting:
            self._log.info("access_spool.delivered")

    async def run(self, stop: asyncio.Event) -> None:
        """Spool what the books do not take, until ``stop``."""
        while not stop.is_set():
            await self.keep()
            await wait(stop, KEEP_EVERY_S)

    async def keep(self, *, all_of_it: bool = False) -> None:
        """Spool what the books do not take; ``all_of_it``: whatever is in memory, for nobody will ask."""
        self._say_lost()
        spared = 0 if self.away or all_of_it else MEMORY_MAX
        until = self._inbox.passed + len(self._inbox) - spared
        if not self._adding.due() or (self._opened and self._inbox.passed >= until):
            return
        try:
            async with self._disk:
                await self._open()
                while (passed := self._inbox.passed) < until:
                    oldest = self._inbox.first(min(FILE_EVENTS, until - passed))
                    taken = await asyncio.to_thread(self._spool.add, oldest)
                    self._inbox.pass_on(passed + taken)
                    await self._hear()
            self._adding.works()
        except OSError as error:
            self._adding.fails(error)

    async def close(self) -> None:
        """The books were asked for the last time: what they did not take stays for the next process."""
        self._adding.at_once()
        await self.keep(all_of_it=True)
        self._inbox.lose_all()
        self._lost_said_at_s = 0.0
        self._say_lost()
        await asyncio.to_thread(self._spool.close)

    async def _open(self) -> None:
        if not self._opened:
            await asyncio.to_thread(self._spool.open)
            self._opened = True
            await self._hear()

    async def _hear(self) -> None:
        """Tell what is in files that we did not write."""
        for path in self._spool.found():
            try:
                left = await asyncio.to_thread(self._spool.read, path)
            except OSError as error:  # expiry then ends its holds
                self._log.error("access_spool.not_taken_over", file=path.name, reason=error.strerror)
                continue
            self._log.info("access_spool.taken_over", file=path.name, entries=len(left.events))
            for event in left.events:
                self._found(event)

    def _say_lost(self) -> None:
        lost, now_s = self._inbox.lost - self._lost_said, self._clock.monotonic_s()
        if lost and now_s >= self._lost_said_at_s:
            self._log.error("access.lost", entries=lost)
            self._lost_said += lost
            self._lost_said_at_s = now_s + LOST_SAID_EVERY_S
