"""Books as they lie in a store."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any, Final

from gateway.bookkeeper.window_ids import forgotten_at
from gateway.budget.rebuilt import RebuiltBooks, RebuiltCounter
from gateway.budget.redis_keys import org_key
from gateway.budget.redis_restore import Restoring
from gateway.budget.redis_route import SingleRoute
from gateway.contract.clock import ManualClock
from tests.contract.budget.history import Count
from tests.contract.budget.subjects import ORG

LATE: Final = 2**42
"""Later than any history: a term never goes back."""


async def comes_back(client: Any) -> None:
    """Read, lost, written back: the same books, but for windows long gone."""
    restoring = Restoring(SingleRoute(client), clock=ManualClock(LATE))
    before = await restoring.snapshot(ORG)
    events = await client.dump(org_key(ORG, "outbox"))
    await client.flushall()
    await restoring.begin()
    await restoring.write(before)
    await restoring.open()
    if events is not None:
        await client.restore(org_key(ORG, "outbox"), 0, events)
    after, before = await restoring.snapshot(ORG), replace(before, counters=still_there(before))
    for part in fields(before):
        found, expected = getattr(after, part.name), getattr(before, part.name)
        assert found == expected, f"{part.name}: restored {found}, was {expected}"
    await restoring.leave()


def still_there(books: RebuiltBooks) -> dict[str, RebuiltCounter]:
    """Those that a restore does not leave out."""
    return {
        window: counter
        for window, counter in books.counters.items()
        if counter.held or not 0 < forgotten_at(window) <= books.clock_ms
    }


async def counters(client: Any) -> dict[str, Count]:
    """Those of the store, by window id."""
    prefix, found = org_key(ORG, "w:"), {}
    for key in await client.keys(prefix.replace("{", "[{]") + "*"):
        window, fields = key.removeprefix(prefix).replace("|tokens|", "|", 1), await client.hgetall(key)
        if "|rolling-" in window:
            for start, text in fields.items():
                used, held, _, credit = map(int, text.split())
                found[f"{window}|{start}"] = Count(used=used, held=held, credit=credit)
        else:
            found[window] = Count(**{name: int(fields.get(name, 0)) for name in ("used", "held", "credit")})
    return found
