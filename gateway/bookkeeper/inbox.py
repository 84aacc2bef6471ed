"""Events on their way to the books that only memory holds: bounded, and what does not fit is counted."""

from __future__ import annotations

import itertools
from collections import deque
from typing import Final

from gateway.events.event import Event
from gateway.telemetry import names
from gateway.telemetry.metrics import counter

EVENTS_MAX: Final = 20_000
"""About ten seconds of 2,000 requests a second, 30 MB: longer than a bookkeeper's disk stalls in service.
What the books do not take goes to the spool (access_spool.py) long before; this bound is met where that
cannot be written either, or is full. The ledger's events are never lost so: they wait in the outbox."""


class Inbox:
    """First in, first out. ``first`` looks, ``pass_on`` takes: what was not written stays."""

    def __init__(self, events_max: int = EVENTS_MAX) -> None:
        """Empty."""
        self._events: deque[Event] = deque()
        self._max = events_max
        self.passed = 0
        """How many went on from here; the oldest that waits is number ``passed``, counted from 0."""
        self.lost = 0
        """How many found no room."""
        self._dropped = counter(names.EFFECTS_DROPPED, "Effects a full queue dropped", ["effect"])
        self._fail_open = counter(names.FAIL_OPEN, "Requests that went on without a hop", ["hop"])

    def offer(self, event: Event) -> bool:
        """Keep ``event`` if there is room; else count it as lost."""
        if len(self._events) >= self._max:
            self._lose(1)
            return False
        self._events.append(event)
        return True

    def first(self, count: int) -> list[Event]:
        """The oldest, at most ``count``; they stay."""
        return list(itertools.islice(self._events, count))

    def pass_on(self, until: int) -> None:
        """Forget those before number ``until``: they are written. Some may have gone before."""
        while self.passed < until and self._events:
            self._events.popleft()
            self.passed += 1

    def lose_all(self) -> None:
        """Count what still waits as lost: nobody will write it."""
        self._lose(len(self._events))
        self.pass_on(self.passed + len(self._events))

    def _lose(self, count: int) -> None:
        self.lost += count
        self._dropped.labels(effect="access").inc(count)
        self._fail_open.labels(hop="events").inc(count)

    def __len__(self) -> int:
        """How many wait."""
        return len(self._events)
