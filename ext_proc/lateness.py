"""How far behind this worker's event loop has been: what was not answered in time, Envoy went on without.

Envoy ends a tap's stream both when the client has left and when the tap has let it wait (gateway/path.py, hop
``tap``), and does not say which. In the second case the answer goes on unseen.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final

from gateway.contract.clock import Clock

TICK_S: Final = 0.05
WORTH_S: Final = 0.1
"""Less is a loop at work."""
KEPT: Final = 1024
"""Of the last delays: nearly two minutes of a loop that is always late."""


class Lateness:
    """One for each process; ``run`` in a task."""

    def __init__(self, clock: Clock) -> None:
        """Never late so far."""
        self._clock = clock
        self._delays: deque[tuple[float, float]] = deque(maxlen=KEPT)
        """(when it was over, how long)."""
        self._ticked_s: float | None = None

    async def run(self) -> None:
        """Watch until cancelled."""
        try:
            while True:
                self._ticked_s = self._clock.monotonic_s()
                await asyncio.sleep(TICK_S)
                late = self._running_s()
                if late > WORTH_S:
                    self._delays.append((self._clock.monotonic_s(), late))
        finally:
            self._ticked_s = None

    def _running_s(self) -> float:
        """Of a delay that is not over; 0 while nobody watches."""
        return 0.0 if self._ticked_s is None else self._clock.monotonic_s() - self._ticked_s - TICK_S

    def worst_since(self, at_s: float) -> float:
        """Seconds of the longest delay that ended at or after ``at_s``, or is not over."""
        return max([0.0, self._running_s(), *(late for over_s, late in self._delays if over_s >= at_s)])
