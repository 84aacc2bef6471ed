"""Each second, for each org: expire overdue holds; each few seconds: confirm the store's clock."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final, Protocol

from gateway.bookkeeper.condition import Condition, wait
from gateway.bookkeeper.witness import disagreement
from gateway.budget.ledger import BudgetLedger
from gateway.contract.clock import Clock
from gateway.contract.errors import LedgerEmptied, LedgerUnavailable
from gateway.contract.ids import OrgId
from gateway.telemetry import names
from gateway.telemetry.log import EventLog
from gateway.telemetry.metrics import counter, gauge

BEAT_S: Final = 1.0
"""A hold is at most this much overdue when its tokens are posted."""
TICK_EVERY: Final = 5
"""Beats between two confirmations; the ledger trusts the store's clock for 60 s after each."""
EXPIRE_AT_ONCE: Final = 100
"""Holds in one atomic step: under two milliseconds of the store."""
EXPIRE_ROUNDS: Final = 20
"""Steps for one org in one beat, so that a large org does not make the others wait."""
EMPTIED_MEND: Final = (
    "the ledger has lost its counters, the books still stand: rebuild them with 'tidegate ledger replay "
    "--apply'; to start again from zero instead, move the books directory away and restart the bookkeeper"
)


class OutboxLengths(Protocol):
    """What the gauge needs of gateway.budget.redis_outbox."""

    async def outbox_length(self, org: OrgId) -> int:
        """Entries that wait. Raises LedgerUnavailable."""


class Heartbeat:
    """``run`` in a task; ``orgs`` is what it saw last."""

    def __init__(
        self,
        ledger: BudgetLedger,
        outbox: OutboxLengths,
        witness: Clock,
        log: EventLog,
        *,
        beat_s: float = BEAT_S,
    ) -> None:
        """``witness`` is the clock that ``ledger`` confirms by."""
        self._ledger = ledger
        self._outbox = outbox
        self._witness = witness
        self._beat_s = beat_s
        self._log = log
        self._condition = Condition("ledger", log)
        self._clock_condition = Condition("store_clock", log)
        self._beats = 0
        self.orgs: Sequence[OrgId] = ()
        self._resolved = counter(names.HOLDS_RESOLVED, "Holds that ended", ["outcome", "by"])
        self._waiting = gauge(names.EVENTS_OUTBOX, "Events waiting in outboxes")

    async def answers(self) -> bool:
        """Whether the last beat reached the ledger; a health probe."""
        return not self._condition.failing

    async def run(self, founded: asyncio.Event, stop: asyncio.Event) -> None:
        """Beat from ``founded`` (the ledger has an epoch) until ``stop``."""
        waits = [asyncio.create_task(event.wait()) for event in (founded, stop)]
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for task in waits:
            task.cancel()
        while not stop.is_set():
            await self.beat()
            await wait(stop, self._condition.pause_s() if self._condition.failing else self._beat_s)

    async def beat(self) -> None:
        """One beat, whatever happens in it. A ledger that is away is said once."""
        try:
            self.orgs = await self._ledger.orgs()
            swept = [org for org in self.orgs if await self._sweep(org)]
            if self._beats % TICK_EVERY == 0:
                await self._confirm(swept)
            if len(swept) < len(self.orgs):
                raise LedgerEmptied(f"The books of {len(self.orgs) - len(swept)} orgs are closed.")
        except LedgerEmptied as error:
            self._condition.fails(error.code, event="books.ledger_emptied", mend=EMPTIED_MEND)
        except LedgerUnavailable as error:
            self._condition.fails(error.code)
        except Exception as error:  # noqa: BLE001  # a bug of ours must not end the books beside it
            self._condition.fails(type(error).__name__, event="ledger.failed", error=error)
        else:
            self._condition.works()
        self._beats += 1

    async def _sweep(self, org: OrgId) -> bool:
        """False when the org's books are closed; the others' must still be swept."""
        for _ in range(EXPIRE_ROUNDS):
            try:
                expired = await self._ledger.expire(org, holds_max=EXPIRE_AT_ONCE)
            except LedgerEmptied:
                return False
            if expired:
                self._resolved.labels(outcome="expired", by="bookkeeper").inc(len(expired))
                # Each of these is a filter that died or an access entry that was lost.
                self._log.warning("holds.expired", org=org, holds=len(expired), first=expired[0])
            if len(expired) < EXPIRE_AT_ONCE:
                break
        return True

    async def _confirm(self, orgs: Sequence[OrgId]) -> None:
        waiting, apart = 0, ""
        for org in orgs:
            now = await self._ledger.tick(org)
            apart = apart or disagreement(now, self._witness.unix_ms())
            waiting += await self._outbox.outbox_length(org)
        self._waiting.set(waiting)
        if apart:
            mend = "budget windows keep to true time; set the clocks right, then restart the bookkeeper"
            self._clock_condition.fails(f"more than a minute {apart}", mend=mend)
        else:
            self._clock_condition.works()
