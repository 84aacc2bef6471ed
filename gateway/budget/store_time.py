"""A bound on the time a store has to answer, which our own event loop's delays do not use up.

A plain timer counts wall time: on a busy machine it fires while the answer already waits in the socket, and
the store is blamed for our own slowness. Here the time is counted in steps: a step that comes late, because
the loop was busy, counts as one step, and after the last one the loop goes round a few times more, so that
what was readable has been read before the wait ends.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from gateway.contract.units import Millis

STEPS: Final = 10
"""Of one bound: a loop that is held up once takes no more than a tenth of it away."""
ROUNDS: Final = 8
"""Of the loop, from the socket becoming readable to the caller: the transport's read, the reader's wake-up,
the lane's parsing and the caller's wake-up are a round each; twice as many, for what stands between."""


class _Countdown:
    """Ends ``bound`` once the store has had ``seconds``."""

    def __init__(self, bound: asyncio.Timeout, seconds: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._bound = bound
        self._step_s = seconds / STEPS
        self._left_s = seconds
        self._armed_at = self._loop.time()
        self._rounds = ROUNDS
        self._handle: asyncio.Handle = self._loop.call_later(self._step_s, self._stepped)

    def _stepped(self) -> None:
        now = self._loop.time()
        self._left_s -= min(now - self._armed_at, self._step_s)
        if self._left_s > self._step_s / 2:
            self._armed_at = now
            self._handle = self._loop.call_later(self._step_s, self._stepped)
        else:
            self._handle = self._loop.call_soon(self._went_round)

    def _went_round(self) -> None:
        self._rounds -= 1
        if self._rounds > 0:
            self._handle = self._loop.call_soon(self._went_round)
        else:
            self._bound.reschedule(self._loop.time())

    def cancel(self) -> None:
        self._handle.cancel()


@asynccontextmanager
async def store_time(bound: Millis) -> AsyncIterator[None]:
    """What stands in it waits for a store, at most ``bound`` of time in which the store could be heard.
    Raises TimeoutError."""
    async with asyncio.timeout(None) as timeout:
        countdown = _Countdown(timeout, bound / 1000)
        try:
            yield
        finally:
            countdown.cancel()
