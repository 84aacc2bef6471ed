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
A disk that is full longer loses access entries, never the ledger's events: those wait in the outbox."""


class Inbox:
    """First in, first out. ``first`` looks, ``drop`` takes: what was not written stays."""

    def __init__(self, events_max: int = EVENTS_MAX) -> None:
        """Empty."""
        self._events: deque[Event] = deque()
        self._max = events_max
        self._dropped = counter(names.EFFECTS_DROPPED, "Effects a full queue dropped", ["effect"])
        self._fail_open = counter(names.FAIL_OPEN, "Requests that went on without a hop", ["hop"])

    def offer(self, event: Event) -> bool:
        """Keep ``event`` if there is room; else count it as lost."""
        if len(self._events) >= self._max:
            self._dropped.labels(effect="access").inc()
            self._fail_open.labels(hop="events").inc()
            return False
        self._events.append(event)
        return True

    def first(self, count: int) -> list[Event]:
        """The oldest, at most ``count``; they stay."""
        return list(itertools.islice(self._events, count))

    def drop(self, count: int) -> None:
        """Forget the oldest ``count``: they are written."""
        for _ in range(count):
            self._events.popleft()

    def __len__(self) -> int:
        """How many wait."""
        return len(self._events)
