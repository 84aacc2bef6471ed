"""Near misses, judged off the path: a yes makes an alias, a no bars the pair, anything else does nothing."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

from ext_proc.cache.store import CacheUnavailable
from ext_proc.recall.check_queue import AGAIN_S, CheckQueue
from ext_proc.recall.judged_pairs import JudgedPairs
from ext_proc.recall.judging import Verdict
from ext_proc.recall.kept_state import load_state, save_state
from ext_proc.recall.operator_client import CouldNotAsk
from ext_proc.recall.verifier import Verifier
from ext_proc.recall.words import NearMiss
from gateway.contract.clock import Clock
from gateway.contract.ids import OrgId
from gateway.telemetry import names
from gateway.telemetry.log import EventLog
from gateway.telemetry.metrics import counter

QUEUE_MAX: Final = 1000
"""Near misses that wait, of at most 4 KB each; ten minutes' work."""
PER_MINUTE_MAX: Final = 120
"""Of all orgs together, each at most two calls: what is judged must stay a small part of what is asked."""
SAVE_S: Final = 60.0
"""Between two saves: so much may be judged again after a crash."""

Promote = Callable[[OrgId, str, str], Awaitable[bool]]
"""``(org, asked, entry)``: CacheStore.alias, for the time left to the entry. Raises CacheUnavailable."""
Bar = Callable[[OrgId, str, str], Awaitable[None]]
"""``(org, asked, entry)``: CacheStore.bar. Raises CacheUnavailable."""


class Judge:
    """``offer`` from the search; ``run`` in a task; ``close`` at the end."""

    def __init__(
        self,
        verifier: Verifier,
        clock: Clock,
        log: EventLog,
        *,
        promote: Promote,
        bar: Bar,
        file: Path | None = None,
        again_s: float = AGAIN_S,
        queue_max: int = QUEUE_MAX,
    ) -> None:
        """``file`` keeps what was judged; None: nothing is kept."""
        self._verifier = verifier
        self._clock = clock
        self._log = log
        self._promote = promote
        self._bar = bar
        self._file = file
        self._judged = load_state(file, JudgedPairs.from_json, JudgedPairs, log)
        self._changed = False
        self._queue: CheckQueue[NearMiss] = CheckQueue("judge", queue_max, log, again_s=again_s)
        self._waiting: set[tuple[OrgId, str, str]] = set()
        self._minute = -1
        self._taken: dict[OrgId, int] = {}
        self._stop = asyncio.Event()
        self._results = counter(names.CACHE_JUDGED, "Near misses", ["result"])

    def offer(self, near: NearMiss) -> bool:
        """Judge it soon; False (and counted) when it is known, or more than may be judged this minute."""
        pair = _pair(near)
        known = self._judged.verdict(*pair)
        if pair in self._waiting or known in (Verdict.NO, Verdict.UNSURE):
            self._results.labels(result="known").inc()
            return False
        if not self._take_turn(near):
            self._results.labels(result="limited").inc()
            return False
        self._waiting.add(pair)
        dropped = self._queue.put(near)
        if dropped is not None:
            self._waiting.discard(_pair(dropped))
        return True

    def _take_turn(self, near: NearMiss) -> bool:
        minute = self._clock.unix_ms() // 60_000
        if minute != self._minute:
            self._minute, self._taken = minute, {}
        org, taken = near.ask.org, self._taken.get(near.ask.org, 0)
        if taken >= near.ask.judge_per_minute or sum(self._taken.values()) >= PER_MINUTE_MAX:
            return False
        self._taken[org] = taken + 1
        return True

    async def run(self) -> None:
        """Until ``close``."""
        work = asyncio.create_task(self._queue.run(self._check, self._given_up))
        try:
            while not self._stop.is_set():
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._stop.wait(), SAVE_S)
                self._save()
        finally:
            await self._queue.close(work)
            self._save()

    async def close(self) -> None:
        """End ``run``; what waits is forgotten, because it comes again."""
        self._stop.set()

    async def _check(self, near: NearMiss) -> None:
        org, asked, entry = pair = _pair(near)
        verdict = self._judged.verdict(*pair)
        if verdict is None:
            verdict = await self._verifier.same_question(near.ask.model, near.ask.text, near.stored_text)
        try:
            if verdict is Verdict.YES:
                await self._promote(org, asked, entry)
            elif verdict is Verdict.NO:
                await self._bar(org, asked, entry)
        except CacheUnavailable:
            raise CouldNotAsk("store", again=True) from None
        finally:  # a verdict that cost two calls is not asked for again because the store was away
            self._judged.add(org, asked, entry, verdict)
            self._changed = True
        self._waiting.discard(pair)
        told = {Verdict.YES: "same", Verdict.NO: "different", Verdict.UNSURE: "unsure"}
        self._results.labels(result=told[verdict]).inc()

    def _given_up(self, near: NearMiss, code: str) -> None:
        self._waiting.discard(_pair(near))
        self._results.labels(result="unfit" if code == "unfit" else "unasked").inc()

    def _save(self) -> None:
        if self._changed:
            self._changed = not save_state(self._file, self._judged.to_json(), self._log)


def _pair(near: NearMiss) -> tuple[OrgId, str, str]:
    return near.ask.org, near.ask.asked, near.entry
