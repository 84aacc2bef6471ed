"""Checks that wait for the engine: bounded, the oldest dropped, tried again later when nobody could be
asked."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final, Generic, TypeVar

from ext_proc.recall.operator_client import CouldNotAsk
from gateway.telemetry import names
from gateway.telemetry.log import EventLog
from gateway.telemetry.metrics import counter

T = TypeVar("T")
WORKERS: Final = 4
"""Checks at once; the client's own bound."""
TRIES_MAX: Final = 4
"""A gateway that is restarted or an org whose minute is over is back by then; a longer outage drops them."""
CLOSE_S: Final = 2.0
"""An engine's answer to a short question; the rest of a process's drain is for those who wait."""
AGAIN_S: Final = 15.0
"""Before the second try; then twice as long each time: the fourth is 105 s after the first."""


class CheckQueue(Generic[T]):
    """``put`` from anywhere on the loop; ``run`` in a task, with what checks one item."""

    def __init__(self, effect: str, most: int, log: EventLog, *, again_s: float = AGAIN_S) -> None:
        """At most ``most`` items, waiting or to be tried again; ``effect`` names a dropped one."""
        self._effect = effect
        self._most = most
        self._log = log
        self._again_s = again_s
        self._ready: deque[tuple[T, int]] = deque()
        self._later: deque[tuple[asyncio.TimerHandle, tuple[T, int]]] = deque()
        self._came = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._under_way = 0
        self._closing = False
        self._dropped = counter(names.EFFECTS_DROPPED, "Effects a full queue dropped", ["effect"])

    def __len__(self) -> int:
        """Items that wait, also those for another try."""
        return len(self._ready) + len(self._later)

    def put(self, item: T) -> T | None:
        """Returns what had to go for it, counted: the oldest, because the newest tells how things are now."""
        dropped = self._make_room()
        self._now((item, 1))
        return dropped

    def _now(self, entry: tuple[T, int]) -> None:
        self._ready.append(entry)
        self._idle.clear()
        self._came.set()

    def _make_room(self) -> T | None:
        if len(self) < self._most:
            return None
        self._dropped.labels(effect=self._effect).inc()
        if self._later:  # those are the oldest
            timer, (item, _) = self._later.popleft()
            timer.cancel()
            return item
        return self._ready.popleft()[0]

    async def run(self, check: Callable[[T], Awaitable[None]], given_up: Callable[[T, str], None]) -> None:
        """Until cancelled. ``check`` raises CouldNotAsk; ``given_up`` is told its code when TRIES_MAX tries
        were in vain or another is of no use."""
        async with asyncio.TaskGroup() as tasks:
            for _ in range(WORKERS):
                tasks.create_task(self._work(check, given_up))

    async def _work(self, check: Callable[[T], Awaitable[None]], given_up: Callable[[T, str], None]) -> None:
        while True:
            item, tries = await self._next()
            self._under_way += 1
            try:
                await check(item)
            except CouldNotAsk as error:
                if error.again and tries < TRIES_MAX and len(self) < self._most and not self._closing:
                    self._put_later(item, tries)
                else:
                    given_up(item, error.code)
            except Exception as error:  # noqa: BLE001  # one check that fails unforeseen must not end all others
                self._log.error("recall.check_failed", effect=self._effect, kind=type(error).__name__)
                given_up(item, "failed")
            finally:
                self._under_way -= 1
                if not self._under_way and not self._ready:
                    self._idle.set()

    async def _next(self) -> tuple[T, int]:
        while not self._ready:
            self._came.clear()
            await self._came.wait()
        return self._ready.popleft()

    def _put_later(self, item: T, tries: int) -> None:
        entry = (item, tries + 1)

        def due() -> None:
            self._later.remove(waiting)
            self._now(entry)

        delay_s = self._again_s * 2 ** (tries - 1)
        waiting = (asyncio.get_running_loop().call_later(delay_s, due), entry)
        self._later.append(waiting)

    async def idle(self) -> None:
        """Until nothing waits to be checked now, and nothing is under way."""
        await self._idle.wait()

    async def close(self, run: asyncio.Task[None]) -> None:
        """Forget what waits; end ``run``, but give what is under way, and paid for, CLOSE_S to be learnt
        from."""
        self._closing = True
        for timer, _ in self._later:
            timer.cancel()
        self._later.clear()
        self._ready.clear()
        if self._under_way:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._idle.wait(), CLOSE_S)
        run.cancel()
        await asyncio.gather(run, return_exceptions=True)
