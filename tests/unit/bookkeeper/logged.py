"""Books of a random history: the ledger in memory, its events in segments as the bookkeeper writes them."""

from __future__ import annotations

from pathlib import Path

from gateway.bookkeeper.outbox_events import event_of
from gateway.budget.memory_ledger import MemoryLedger
from gateway.contract.clock import ManualClock
from gateway.contract.ids import OrgId, RegionName
from gateway.events.books import open_books
from gateway.events.chain import Anchor
from gateway.events.reading import Reader
from gateway.events.segment import Limits
from tests.harness.histories import History

LOCAL = RegionName("local")


async def written(directory: Path, *, seed: int = 1, steps: int = 300, events: int = 60) -> MemoryLedger:
    """Segments of ``events`` records each; the last one stays unsealed."""
    clock = ManualClock()
    ledger = MemoryLedger(clock)
    history = History(ledger, clock, clock, seed)
    books = open_books(directory, LOCAL, None, clock=clock, limits=Limits(events=events, age_ms=2**50))
    sent = 0
    for _ in range(steps):
        await history.step()
        fresh = ledger.outbox[sent:]
        books.append(
            [event_of(LOCAL, OrgId(one["org"]), f"{sent + n}-0", one) for n, one in enumerate(fresh)]
        )
        sent += len(fresh)
        books.seal_if_due()
    books.close()
    return ledger


def end_of(directory: Path) -> Anchor:
    """Count and head of the books."""
    reader = Reader(directory, LOCAL)
    for _ in reader:
        pass
    return Anchor(count=reader.mark.seq, head=reader.mark.hash)
