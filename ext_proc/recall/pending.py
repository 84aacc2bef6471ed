"""Questions that were asked and whose answer may come to be stored: the process that stores it sees no
prompt, so text and vector wait here."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

from ext_proc.recall.words import Ask
from gateway.contract.clock import Clock
from gateway.contract.ids import OrgId
from inference.embedders.embedder import Vector

PENDING_MAX: Final = 8192
"""The longest unasked-for ones go: at 100 questions a second that is after 80 s; 15 MB together."""
KEEP_S_MAX: Final = 900
"""No answer takes longer than a hold lives (gateway/path.py)."""


@dataclass(slots=True)
class Pending:
    """``vector`` is None until it is known: a late question is embedded when its answer is stored."""

    partition: str
    text: str
    until_s: float
    vector: Vector | None = None


class PendingQuestions:
    """By org and exact key; for one event loop."""

    def __init__(self, clock: Clock, *, pending_max: int = PENDING_MAX) -> None:
        """Empty."""
        self._clock, self._max = clock, pending_max
        self._kept: OrderedDict[tuple[OrgId, str], Pending] = OrderedDict()

    def __len__(self) -> int:
        """Questions that wait."""
        return len(self._kept)

    def keep(self, ask: Ask) -> Pending:
        """Until ``ask.keep_s`` have passed or too many newer ones came."""
        place = (ask.org, ask.asked)
        until_s = self._clock.monotonic_s() + min(ask.keep_s, KEEP_S_MAX)
        known = self._kept.get(place)
        vector = known.vector if known is not None and known.text == ask.text else None
        pending = self._kept[place] = Pending(ask.partition, ask.text, until_s, vector)
        self._kept.move_to_end(place)
        while len(self._kept) > self._max:
            self._kept.popitem(last=False)
        return pending

    def take(self, org: OrgId, partition: str, asked: str) -> Pending | None:
        """The question, which waits no more; None for one that is unknown or was of another partition."""
        pending = self._kept.pop((org, asked), None)
        if pending is None or pending.partition != partition or self._clock.monotonic_s() > pending.until_s:
            return None
        return pending
