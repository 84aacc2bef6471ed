"""Events of what the checks have found, into the ledger's outbox, from where the books take them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Final

from ext_proc.background import Background
from ext_proc.notes import Notes
from ext_proc.recall.verification import Tell
from ext_proc.vocabulary import Note
from gateway.budget.redis_connection import connect
from gateway.budget.redis_ledger import RedisLedger
from gateway.contract.clock import Clock
from gateway.contract.ids import OrgId
from gateway.contract.units import Millis
from gateway.events.event import EventType
from gateway.path import hop
from gateway.telemetry.log import EventLog

CLOSE_S: Final = 2.0
"""For what waits to be written at the end."""
_WRONG: Final = "cache.wrong_hit"


@asynccontextmanager
async def open_telling(ledger_url: str, clock: Clock, log: EventLog) -> AsyncIterator[Tell]:
    """A Tell that never waits. Raises ValueError for a bad URL."""
    deadline = Millis(hop("ledger").deadline)
    ledger = RedisLedger(connect(ledger_url, timeout=deadline), clock=clock, deadline=deadline)
    notes = Notes(ledger, Background(log), log)
    writing = asyncio.create_task(notes.run())

    def tell(org: OrgId, kind: str, context: Mapping[str, str]) -> None:
        known = EventType.CACHE_BARRED if kind == _WRONG else EventType.CACHE_SWITCHED
        notes.add(Note(org=org, kind=known.value, context={**context, "reason": kind}))

    try:
        yield tell
    finally:
        await notes.close()
        await asyncio.wait((writing,), timeout=CLOSE_S)
        writing.cancel()
        await ledger.aclose()
