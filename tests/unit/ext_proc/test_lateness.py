"""How late a loop was is known, while it is and afterwards."""

from __future__ import annotations

import asyncio
import time

from ext_proc.lateness import TICK_S, Lateness
from gateway.contract.clock import SystemClock

BLOCKED_S = 0.3


async def test_a_blocked_loop_is_seen_for_what_came_after_it_began() -> None:
    clock = SystemClock()
    lateness = Lateness(clock)
    begun_s = clock.monotonic_s()
    assert lateness.worst_since(begun_s) == 0, "nobody watches yet"
    watching = asyncio.create_task(lateness.run())
    await asyncio.sleep(0)
    time.sleep(BLOCKED_S)  # noqa: ASYNC251  # the loop is to be late
    assert lateness.worst_since(begun_s) >= BLOCKED_S - TICK_S, "before the watch itself could tick"
    for _ in range(3):  # the tick, overdue, and the watch that it wakes
        await asyncio.sleep(0)
    assert lateness.worst_since(begun_s) >= BLOCKED_S - TICK_S
    later_s = clock.monotonic_s()
    assert not any(over_s >= later_s for over_s, _ in lateness._delays)
    watching.cancel()
    await asyncio.wait((watching,))
    assert lateness.worst_since(later_s) == 0
