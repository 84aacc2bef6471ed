"""The loop around the lines of waiting.py: clocks, wake-ups and metrics, one for each worker."""

from __future__ import annotations

import asyncio

from ext_proc.vocabulary import AwaitTurn, TurnCame
from ext_proc.waiting import Lines
from gateway.budget.ledger import HoldRequest
from gateway.contract.clock import Clock
from gateway.contract.ids import AccountId, HoldId, OrgId
from gateway.contract.units import Seconds
from gateway.telemetry import names
from gateway.telemetry.metrics import child, counter, gauge, histogram

NO_TURN = TurnCame(left=Seconds(0))


class _Place:
    """Of one waiting request. ``called``: to try again now."""

    def __init__(self, since_s: float, until_s: float) -> None:
        self.since_s = since_s
        self.until_s = until_s
        self.called = asyncio.Event()


class WaitingRoom:
    """Not shared between processes: what another worker releases is found by trying (waiting.POLL)."""

    def __init__(self, clock: Clock, lines: Lines | None = None) -> None:
        """``lines``: empty ones, for other bounds than the usual."""
        self._clock = clock
        self._lines = Lines() if lines is None else lines
        self._places: dict[HoldId, _Place] = {}
        self._waits = counter(names.ADMIT_WAITS, "Requests that waited for their turn", ["result"])
        self._wait_s = histogram(names.ADMIT_WAIT, "How long requests waited for their turn")
        self._waiting = gauge(names.ADMIT_WAITING, "Requests that wait for their turn")

    def ahead(self, request: HoldRequest, priority: int) -> AccountId | None:
        """An account of ``request`` for which somebody waits who goes before it."""
        accounts = [account.id for account in request.accounts]
        return self._lines.ahead(request.hold, request.org, accounts, priority)

    async def turn(self, wait: AwaitTurn) -> TurnCame:
        """Returns when the request is to try again, or can wait no more. Whoever asks must ``leave`` in the
        end, also when this is cancelled."""
        place = self._place(wait)
        if place is None:
            child(self._waits, "full").inc()
            return NO_TURN
        try_at_s = self._clock.monotonic_s() + wait.pause
        while True:
            first = self._lines.is_first(wait.hold)
            left_s = place.until_s - self._clock.monotonic_s()
            pause_s = min(left_s, try_at_s - self._clock.monotonic_s()) if first else left_s
            if left_s <= 0:
                return NO_TURN
            if first and (pause_s <= 0 or place.called.is_set()):
                place.called.clear()
                return TurnCame(left=Seconds(left_s))
            place.called.clear()
            try:
                async with asyncio.timeout(pause_s):
                    await place.called.wait()
            except TimeoutError:
                continue
            place.called.set()  # seen by the next round, which decides

    def released(self, org: OrgId) -> None:
        """Something that ``org`` held is free again."""
        for hold in self._lines.firsts(org):
            self._call(hold)

    def leave(self, hold: HoldId, *, granted: bool) -> None:
        """Its waiting is over, if it ever waited; the next one's turn comes."""
        place = self._places.pop(hold, None)
        if place is None:
            return
        self._call(self._lines.leave(hold))
        child(self._waits, "granted" if granted else "ended").inc()
        self._wait_s.observe(self._clock.monotonic_s() - place.since_s)
        self._waiting.dec()

    def _place(self, wait: AwaitTurn) -> _Place | None:
        """The request's place, or None when none is left."""
        place = self._places.get(wait.hold)
        if place is not None:
            self._call(self._lines.move(wait.hold, wait.account))
        elif self._lines.join(wait):
            now_s = self._clock.monotonic_s()
            place = self._places[wait.hold] = _Place(now_s, now_s + wait.at_most)
            self._waiting.inc()
        return place

    def _call(self, hold: HoldId | None) -> None:
        place = self._places.get(hold) if hold is not None else None
        if place is not None:
            place.called.set()
