"""Work that outlives its stream: bounded, logged when it fails, awaited when the process drains.

A stream's task is cancelled when its peer goes; what it owes then (a settle, a void) must not be.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Final, TypeVar

from gateway.telemetry import names
from gateway.telemetry.log import EventLog
from gateway.telemetry.metrics import counter

R = TypeVar("R")
TASKS_MAX: Final = 20_000
"""More than the streams a process serves (sidecar server: RPCS_MAX), so that each may leave one."""
OPTIONAL_MAX: Final = 256
"""Work nobody needs, such as storing an answer: dropped beyond this."""


class Background:
    """Tasks of one process."""

    def __init__(self, log: EventLog) -> None:
        """No tasks yet."""
        self._log = log
        self._tasks: set[asyncio.Task[Any]] = set()
        self._dropped = counter(names.EFFECTS_DROPPED, "Effects off the path that were dropped", ["effect"])

    def __len__(self) -> int:
        """Tasks under way."""
        return len(self._tasks)

    def start(self, name: str, work: Coroutine[Any, Any, R]) -> asyncio.Task[R]:
        """Run ``work`` whatever happens to the caller."""
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def offer(
        self, name: str, work: Callable[[], Coroutine[Any, Any, object]], *, most: int = TASKS_MAX
    ) -> bool:
        """Start ``work`` unless ``most`` tasks are under way; a dropped one is counted."""
        if len(self._tasks) >= most:
            self.count_dropped(name)
            return False
        self.start(name, work())
        return True

    def count_dropped(self, effect: str) -> None:
        """One more of ``effect`` was not carried out."""
        self._dropped.labels(effect=effect).inc()

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._log.error("background.failed", task=task.get_name(), kind=type(error).__name__)

    async def drain(self, within_s: float) -> int:
        """Wait for what is under way, also for what it starts meanwhile; cancel the rest after
        ``within_s`` seconds. Returns how many were cancelled."""
        try:
            async with asyncio.timeout(within_s):
                while self._tasks:
                    await asyncio.wait(self._tasks)
        except TimeoutError:
            left = tuple(self._tasks)
            for task in left:
                task.cancel()
            await asyncio.gather(*left, return_exceptions=True)
            return len(left)
        return 0
