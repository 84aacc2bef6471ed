"""Bugs of the ledger that a drill plants in its own copy of the functions: it must fail with each of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final

from gateway.budget.redis_library import library_text
from mesh.local.refusal import Refusal

PLANTED: Final[Mapping[str, tuple[tuple[str, str], ...]]] = MappingProxyType(
    {
        # What an answer cost is posted a second time.
        "settle-twice": (
            (
                "  resolve(books, keys[2], hold, live and 'posted' or 'corrected', cost, certainty)\n",
                "  resolve(books, keys[2], hold, live and 'posted' or 'corrected', cost, certainty)\n"
                "  move(books, hold.windows, nil, nil, cost)\n",
            ),
        ),
        # A hold that nobody resolved costs nothing, though its tokens may have been produced.
        "refund-on-expiry": (
            (
                "resolve(books, key, hold, 'expired', spent(hold.held), UNSEEN)",
                "resolve(books, key, hold, 'expired', NOTHING, UNSEEN)",
            ),
        ),
        # A settle that is told twice is posted twice: nothing is remembered by id.
        "no-dedupe": (
            ("if not live and certainty <= before then", "if false then"),
            (
                "move(books, hold.windows, nil, nil, minus(cost, hold.cost))",
                "move(books, hold.windows, nil, nil, cost)",
            ),
            ("redis.call('DEL', key) -- nothing can change", "local _ = key -- nothing can change"),
        ),
        # What others hold is not looked at: each request alone fits.
        "check-then-charge": (
            (
                "return math.max(0, placed.limit - placed.used - placed.held)",
                "return math.max(0, placed.limit - placed.used)",
            ),
        ),
    }
)
"""Each as replacements in the library's text, in order."""


def planted_library(canary: str, work: Path) -> Path:
    """A copy of the library with the bug, under ``work``. Raises Refusal for an unknown bug, and for one that
    no longer fits the source."""
    if canary not in PLANTED:
        raise Refusal(f"no bug is called {canary!r}", f"known are {', '.join(PLANTED)}")
    text = library_text()
    for before, after in PLANTED[canary]:
        if text.count(before) != 1:
            raise Refusal(
                f"the bug {canary} no longer fits the ledger's functions", "see mesh/drill/planted.py"
            )
        text = text.replace(before, after)
    file = work / f"{canary}.lua"
    file.write_text(text, encoding="utf-8")
    return file
