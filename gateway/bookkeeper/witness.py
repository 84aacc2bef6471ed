"""The clock by which the bookkeeper confirms the store's.

Wall time is read once, at the start; from then on the monotonic clock carries it. So a wall clock that is
set while we run, of the store's machine or of ours, cannot open or roll a budget window: windows go on at
the pace of true time, and the next start takes the wall clock's word again.
"""

from __future__ import annotations

from gateway.budget.ledger import FORWARD_JUMP_MAX
from gateway.contract.clock import Clock
from gateway.contract.units import UnixMillis


class Witness:
    """A Clock whose wall time cannot be set."""

    def __init__(self, clock: Clock) -> None:
        """Takes ``clock``'s wall time now."""
        self._clock = clock
        self._began_ms = clock.unix_ms()
        self._began_s = clock.monotonic_s()

    def unix_ms(self) -> UnixMillis:
        """Wall time of the start plus the time that really went by."""
        return UnixMillis(self._began_ms + int((self._clock.monotonic_s() - self._began_s) * 1000))

    def monotonic_s(self) -> float:
        """The clock's own."""
        return self._clock.monotonic_s()


def disagreement(org_time: UnixMillis, witness: UnixMillis) -> str:
    """``ahead`` or ``behind`` when a ledger's time is further from ours than it may be, else empty."""
    if org_time - witness > FORWARD_JUMP_MAX:
        return "ahead"
    if witness - org_time > FORWARD_JUMP_MAX:
        return "behind"
    return ""
