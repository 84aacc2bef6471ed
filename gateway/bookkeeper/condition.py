"""Say once that something fails, and once that it works again; wait longer the longer it fails."""

from __future__ import annotations

import asyncio
from typing import Final

from gateway.telemetry.log import EventLog

PAUSE_S: Final = 0.1
PAUSE_S_MAX: Final = 5.0
"""A dependency that is back is used within this time."""


class Condition:
    """Whether one thing works. Logs ``<name>.failing`` at each new reason and ``<name>.recovered``."""

    def __init__(self, name: str, log: EventLog) -> None:
        """Works until told otherwise."""
        self._name = name
        self._log = log
        self._reason = ""
        self._failures = 0

    @property
    def failing(self) -> bool:
        """What ``fails`` said last, until ``works``."""
        return bool(self._reason)

    def works(self) -> None:
        """It does."""
        if self._reason:
            self._log.info(f"{self._name}.recovered")
        self._reason = ""
        self._failures = 0

    def fails(self, reason: str, *, event: str = "", **fields: object) -> None:
        """It does not, for ``reason``. ``event``: log this as an error that wants somebody's hand."""
        self._failures += 1
        if reason == self._reason:
            return
        self._reason = reason
        if event:
            self._log.error(event, reason=reason, **fields)
        else:
            self._log.warning(f"{self._name}.failing", reason=reason, **fields)

    def pause_s(self) -> float:
        """How long to wait before the next try."""
        return min(PAUSE_S_MAX, PAUSE_S * 2.0 ** min(max(0, self._failures - 1), 16))


async def wait(event: asyncio.Event, seconds: float) -> bool:
    """Whether ``event`` came within ``seconds``."""
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return False
    return True
