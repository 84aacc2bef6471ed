"""Time is a parameter. This file is the only reader of real time."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Protocol

from gateway.contract.units import UnixMillis


class Clock(Protocol):
    """Wall time for stamps, monotonic time for durations."""

    def unix_ms(self) -> UnixMillis:
        """Milliseconds since 1970-01-01 UTC."""

    def monotonic_s(self) -> float:
        """Seconds since an arbitrary start; never goes back."""


class SystemClock:
    """The machine's clock."""

    def unix_ms(self) -> UnixMillis:
        """Milliseconds since 1970-01-01 UTC."""
        return UnixMillis(time.time_ns() // 1_000_000)

    def monotonic_s(self) -> float:
        """Seconds since an arbitrary start; never goes back."""
        return time.monotonic()


@dataclass(slots=True)
class ManualClock:
    """A clock that moves only when told; for tests and simulations."""

    now_ms: int = 1_800_000_000_000

    def unix_ms(self) -> UnixMillis:
        """Milliseconds since 1970-01-01 UTC."""
        return UnixMillis(self.now_ms)

    def monotonic_s(self) -> float:
        """The same instant in seconds."""
        return self.now_ms / 1000

    def advance_ms(self, millis: int) -> None:
        """Move by ``millis``, also backwards."""
        self.now_ms += millis
