"""Drawn hits, held against the engine off the path: what is learnt closes and opens buckets.

A served answer counts as wrong only when two fresh answers both disagree with it and not with each other: an
engine that contradicts itself says nothing about the cache.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Final

from ext_proc.cache.store import CacheUnavailable
from ext_proc.recall.agreement import Answer, Verdict, agreement, read_answer
from ext_proc.recall.check_queue import AGAIN_S, CheckQueue
from ext_proc.recall.check_request import CheckRequest, check_request
from ext_proc.recall.judging import Verdict as Judged
from ext_proc.recall.kept_state import load_state, save_state
from ext_proc.recall.operator_client import CouldNotAsk
from ext_proc.recall.truth import Change, State, Truth
from ext_proc.recall.verifier import Asks, Verifier
from ext_proc.recall.words import SERVED_BYTES_MAX, Served
from gateway.contract.clock import Clock
from gateway.contract.ids import OrgId
from gateway.telemetry import names
from gateway.telemetry.log import EventLog
from gateway.telemetry.metrics import counter, gauge

QUEUE_MAX: Final = 64
"""Hits that wait, of at most SERVED_BYTES_MAX for request and answer each: 32 MiB."""
TICK_S: Final = 5.0
"""How late a pause may end, and a switch that the store did not take is told again."""
SAVE_TICKS: Final = 12
"""Between two saves: a crash forgets at most a minute's samples. A change of state is saved at once."""

Switch = Callable[[str, bool], Awaitable[None]]
"""``(bucket, off)``: CacheStore.switch_off or switch_on. Raises CacheUnavailable."""
SwitchedOff = Callable[[], Awaitable[frozenset[str]]]
"""CacheStore.switched_off. Raises CacheUnavailable."""
Bar = Callable[[OrgId, str, str], Awaitable[None]]
"""``(org, asked, entry)``: CacheStore.bar. Raises CacheUnavailable."""
Tell = Callable[[OrgId, str, Mapping[str, str]], None]
"""``(org, kind, context)`` of an event (``cache.wrong_hit``, ``cache.bucket_<state>``): codes and numbers."""


class Verification:
    """``served`` from the filters; ``truth`` for the search; ``run`` in a task; ``close`` at the end."""

    def __init__(
        self,
        client: Asks,
        clock: Clock,
        log: EventLog,
        *,
        switch: Switch,
        switched_off: SwitchedOff,
        bar: Bar,
        tell: Tell,
        judge: Verifier | None = None,
        file: Path | None = None,
        again_s: float = AGAIN_S,
        tick_s: float = TICK_S,
        queue_max: int = QUEUE_MAX,
    ) -> None:
        """``judge`` is asked where the answers alone leave it open; None: that counts as nothing. ``file``
        keeps what is known; None: nothing is kept."""
        self.truth: Final = load_state(file, Truth.from_json, Truth, log)
        self._client, self._judge = client, judge
        self._clock, self._log = clock, log
        self._switch, self._switched_off = switch, switched_off
        self._bar, self._tell = bar, tell
        self._file, self._tick_s = file, tick_s
        self._queue: CheckQueue[Served] = CheckQueue("verify", queue_max, log, again_s=again_s)
        self._told: frozenset[str] | None = None
        """Buckets that the store knew to be closed when it was asked last; None: not asked yet."""
        self._telling = asyncio.Lock()
        self._changed = False
        self._stop = asyncio.Event()
        self._results = counter(names.CACHE_VERIFIED, "Served hits held against the engine", ["result"])
        self._changes = counter(names.CACHE_BUCKET_CHANGES, "Buckets that changed their state", ["state"])
        self._buckets = gauge(names.CACHE_BUCKETS, "Buckets whose false hits are counted", ["state"])

    def served(self, served: Served) -> None:
        """Verify it soon; the oldest goes when too many wait."""
        if max(len(served.request), len(served.answer)) > SERVED_BYTES_MAX:
            self._results.labels(result="unread").inc()
        else:
            self._queue.put(served)

    async def run(self) -> None:
        """Until ``close``. What the store and the file know to be closed is brought together first."""
        work = asyncio.create_task(self._queue.run(self._check, self._given_up))
        try:
            ticks = 0
            while not self._stop.is_set():
                await self.tick()
                ticks += 1
                if ticks % SAVE_TICKS == 0:
                    self._save()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._stop.wait(), self._tick_s)
        finally:
            await self._queue.close(work)
            self._save()

    async def close(self) -> None:
        """End ``run``, which saves what is known; what waits is forgotten."""
        self._stop.set()

    async def tick(self) -> None:
        """End the pauses that are over; tell the store again what it has not taken."""
        for change in self.truth.tick(self._clock.unix_ms()):
            self._report(change)
        await self._tell_store()
        counts = dict.fromkeys(State, 0)
        for state in self.truth.states():
            counts[state] += 1
        for state, count in counts.items():
            self._buckets.labels(state=state.value).set(count)

    async def _check(self, served: Served) -> None:
        if self.truth.state(served.bucket, served.slo) is State.OFF:
            self._results.labels(result="gone").inc()
            return
        request, given = check_request(served.request), read_answer(served.answer)
        if request is None or given is None:
            self._results.labels(result="unread").inc()
            return
        result = await self._compared(served, request, given)
        if result == "wrong":
            await self._bar_wrong(served)
        self._results.labels(result=result).inc()
        if result in ("agreed", "wrong"):
            await self._learn(served, agreed=result == "agreed")

    async def _compared(self, served: Served, request: CheckRequest, given: Answer) -> str:
        fresh = read_answer(await self._client.ask(request.path, request.body))
        if fresh is None:
            return "unread"
        same = await self._same(served, request, given, fresh)
        if same is None:
            return "unsure"
        if same:
            return "agreed"
        second = read_answer(await self._client.ask(request.path, request.body))
        if second is None:
            return "unread"
        if await self._same(served, request, given, second) is not False:
            return "unstable"
        return "unstable" if await self._same(served, request, fresh, second) is False else "wrong"

    async def _same(
        self, served: Served, request: CheckRequest, first: Answer, second: Answer
    ) -> bool | None:
        """Whether two answers say the same; None: it cannot be told."""
        found = agreement(first, second)
        if found.verdict is not Verdict.UNSURE:
            return found.verdict is Verdict.AGREE
        comparable = first.whole and second.whole and not (first.calls or second.calls)
        if self._judge is None or not comparable or not request.question:
            return None
        try:
            said = await self._judge.same_answer(served.model, request.question, first.text, second.text)
        except CouldNotAsk as error:
            if error.again:
                raise
            return None  # the judge is not to be believed, or was not to be had: then it stays open
        return None if said is Judged.UNSURE else said is Judged.YES

    async def _bar_wrong(self, served: Served) -> None:
        try:
            await self._bar(served.org, served.asked, served.entry)
        except CacheUnavailable:
            raise CouldNotAsk("store", again=True) from None
        state = self.truth.state(served.bucket, served.slo)  # in probation it was not served
        context = {"bucket": served.bucket, "entry": served.entry, "state": state.value}
        self._tell(served.org, "cache.wrong_hit", context)

    def _given_up(self, served: Served, code: str) -> None:
        self._results.labels(result="unasked").inc()

    async def _learn(self, served: Served, *, agreed: bool) -> None:
        now = self._clock.unix_ms()
        change = self.truth.observe(served.bucket, served.slo, agreed=agreed, now=now)
        self._changed = True
        if change is not None:
            self._report(change)
            await self._tell_store()
            self._save()

    def _report(self, change: Change) -> None:
        self._changed = True
        standing = change.standing
        self._changes.labels(state=standing.state.value).inc()
        context = {
            "bucket": change.bucket,
            "before": change.before.value,
            "slo": f"{change.slo:g}",
            "bound": f"{standing.bound:.4f}",
            "right": f"{standing.right:.1f}",
            "wrong": f"{standing.wrong:.1f}",
        }
        kind = f"cache.bucket_{standing.state.value}"
        self._log.warning(kind, **context)
        self._tell(OrgId(change.bucket.partition("/")[0]), kind, context)

    async def _tell_store(self) -> None:
        """Switch in the store what differs from what it was told; what it does not take comes again."""
        async with self._telling:
            with contextlib.suppress(CacheUnavailable):  # the next tick tells it again
                off = await self._switched_off()  # each time: a store that was emptied has forgotten it
                self._adopt(off - (self._told or frozenset()) - self.truth.closed())
                self._told = off
                closed = self.truth.closed()
                for bucket in sorted(closed ^ self._told):
                    await self._switch(bucket, bucket in closed)
                    self._told ^= {bucket}

    def _adopt(self, unknown: frozenset[str]) -> None:
        for bucket in sorted(unknown):
            self.truth.adopt(bucket, self._clock.unix_ms())
            self._changed = True

    def _save(self) -> None:
        if self._changed:
            self._changed = not save_state(self._file, self.truth.to_json(), self._log)
