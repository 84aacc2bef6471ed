"""A worker's ledger: the store, behind a breaker, behind leases."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from gateway.budget.breaker import BreakingLedger
from gateway.budget.leasing_ledger import LeasingLedger
from gateway.budget.policy import LeasePolicy
from gateway.budget.redis_ledger import RedisLedger
from gateway.budget.redis_route import route_to
from gateway.contract.clock import Clock
from gateway.contract.units import Millis
from gateway.telemetry import names
from gateway.telemetry.log import EventLog
from gateway.telemetry.metrics import child, counter

EXCHANGE: Final = Millis(1_000)
"""How long one batch may take on the store's connection before that is given up. A call's own bound is
shorter, and counts the store's time only; this one counts ours too (a loop held up must not break it)."""
LEAVE_S: Final = 2.0
"""At the end, for telling draws and returning leases. A ledger that is away then charges them in full after
their end, until they are reconciled."""


class WorkerLedger:
    """``top`` is what requests go through; ``run`` while it is used, then ``leave``."""

    def __init__(
        self, url: str, clock: Clock, leases: Callable[[], LeasePolicy], log: EventLog, *, replicas: int = 0
    ) -> None:
        """Does no I/O. Raises ValueError for a bad URL."""
        self._log = log
        self._changes = counter(names.LEDGER_BREAKER, "Changes of the ledger's circuit breaker", ["change"])
        self._leased = counter(names.LEASED, "Decisions and leases of a worker", ["what"])
        route = route_to(url, timeout=EXCHANGE, replicas=replicas)
        self._store = RedisLedger(None, clock=clock, route=route)
        self._breaker = BreakingLedger(self._store, clock, on_change=self._changed)
        self.top = LeasingLedger(self._breaker, clock, leases, count=self._count)

    def _changed(self, opened: bool) -> None:
        child(self._changes, "opened" if opened else "closed").inc()
        if opened:
            self._log.error("ledger.breaker_opened")
        else:
            self._log.info("ledger.breaker_closed")

    def _count(self, what: str) -> None:
        child(self._leased, what).inc()

    async def run(self) -> None:
        """Until cancelled."""
        await self.top.run()

    async def leave(self) -> None:
        """Tell what was drawn, return what was leased; the connections stay open."""
        try:
            async with asyncio.timeout(LEAVE_S):
                await self.top.leave()
        except TimeoutError:
            self._log.warning("ledger.leases_not_returned")

    async def aclose(self) -> None:
        """Close the connections."""
        await self._breaker.leave()
        await self._store.aclose()
