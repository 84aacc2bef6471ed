"""How much is known of what a hold has cost, and how events say it."""

from __future__ import annotations

from enum import IntEnum
from typing import Final

from gateway.budget.outbox import HOLD_CORRECTED, HOLD_EXPIRED, HOLD_SETTLED, PROVISIONAL_USAGE, UNKNOWN_USAGE


class Certainty(IntEnum):
    """Ordered: a settle changes a resolved hold only when it knows more than the last charge did.

    The value stands in the calls and in the records of ledger.lua. Version 1 of that library writes 0 for
    EXACT and corrects only what stands at 1, so that it leaves a PROVISIONAL hold as it is.
    """

    UNKNOWN = 1
    """Nothing was seen: the whole hold is charged. An expiry too."""
    PROVISIONAL = 2
    """Charged is what was seen, or an estimate of it; there may have been more."""
    EXACT = 3

    @classmethod
    def stored(cls, text: str | None) -> Certainty:
        """Of field ``blind`` of a hold's record."""
        return cls.UNKNOWN if text == "1" else cls.PROVISIONAL if text == "2" else cls.EXACT


REASONS: Final = {
    Certainty.UNKNOWN: UNKNOWN_USAGE,
    Certainty.PROVISIONAL: PROVISIONAL_USAGE,
    Certainty.EXACT: "",
}
"""Of hold.settled and hold.corrected."""
_BY_REASON: Final = {reason: certainty for certainty, reason in REASONS.items()}


def certainty_of(kind: str, reason: str) -> Certainty:
    """Of the charge that an event of this type and reason tells; a void is exact."""
    if kind == HOLD_EXPIRED:
        return Certainty.UNKNOWN
    if kind not in (HOLD_SETTLED, HOLD_CORRECTED):
        return Certainty.EXACT
    return _BY_REASON.get(reason, Certainty.EXACT)
