"""The Recall protocol in this process: embed, search, compare, decide, remember.

Texts are embedded by the embedder's own threads and searched in those of this class; the event loop only
waits. What cannot be done within the deadline is refused (RecallUnavailable), never queued beyond it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Final, TypeVar, TypeVarTuple, Unpack

import numpy as np

from ext_proc.cache.policy import Profile
from ext_proc.cache.question import Question, compare, read_question
from ext_proc.recall.decision import NEIGHBOURS, Decision, Trust, decide
from ext_proc.recall.index import Index
from ext_proc.recall.partition_rows import Row
from ext_proc.recall.pending import Pending, PendingQuestions
from ext_proc.recall.stored_question import StoredQuestion
from ext_proc.recall.table import Ends
from ext_proc.recall.table_writer import TableWriter
from ext_proc.recall.truth import Truth
from ext_proc.recall.words import (
    TEXT_BYTES_MAX,
    Ask,
    Forget,
    NearMiss,
    RecallUnavailable,
    Remember,
    Reply,
    Served,
)
from gateway.contract.clock import Clock
from gateway.contract.ids import OrgId
from gateway.path import hop
from gateway.telemetry import names
from gateway.telemetry.metrics import child, counter
from inference.embedders.embedder import Embedder, NotEmbedded, Overloaded, TooLong, Vector

T = TypeVar("T")
Ts = TypeVarTuple("Ts")
FINDS_MAX: Final = 64
"""Questions at a time, most of them waiting for the same text."""
EMBEDDINGS_MAX: Final = 8
"""Texts at a time: two threads take 5 ms for each, so that a ninth would wait for 20 ms. The last place is
for an org that has none, so that one org's burst does not refuse all the others."""
EMBEDDINGS_MIN: Final = 3
"""As many as there are threads, and the last place. Each late answer takes a third of what is above it away,
each one in time gives a little back: on a busy machine a few are in time and the others are refused at once,
where a fixed bound would make all of them late."""
DEADLINE_S: Final = 0.8 * hop("recall").deadline / 1000
"""Of the asker's own deadline: what is late is said before the asker has gone."""
REMEMBERS_MAX: Final = 256
"""At a time; each is half a millisecond of one thread."""
QUESTIONS_READ_MAX: Final = 4096
"""Stored questions whose features are kept, as popular ones are compared again and again: 10 MB."""
THREADS: Final = 2
"""That search and compare; more would only wait for each other."""


class Recaller:
    """See Recall. ``aclose`` at the end."""

    def __init__(
        self,
        embedder: Embedder,
        index: Index,
        clock: Clock,
        *,
        writer: TableWriter | None = None,
        trust: Trust | None = None,
        on_near_miss: Callable[[NearMiss], object] = lambda near: None,
        on_served: Callable[[Served], object] = lambda served: None,
        deadline_s: float = DEADLINE_S,
    ) -> None:
        """``writer``: where questions are kept on disk too. ``trust``: in buckets, in each
        if None; the other two hand over without waiting, from the event loop."""
        self._embedder, self._index, self._clock, self._writer = embedder, index, clock, writer
        self._trust, self._on_near_miss, self._on_served = trust or Truth(), on_near_miss, on_served
        self._deadline_s = deadline_s
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="recall-search")
        self._embedding: dict[str, _Flight] = {}
        self._embeddings_max: float = EMBEDDINGS_MAX
        self._pending = PendingQuestions(clock)
        self._read = lru_cache(maxsize=QUESTIONS_READ_MAX)(read_question)
        self._finding = self._remembering = 0
        self._counted = counter(names.RECALL_REMEMBERED, "Questions to remember", ["result"])

    async def find(self, ask: Ask) -> Reply:
        """See Recall."""
        unlike = _unlike(ask)
        if unlike is not None:
            return unlike
        if self._finding >= FINDS_MAX:
            raise RecallUnavailable("full")
        self._finding += 1
        try:
            async with asyncio.timeout(self._deadline_s):
                reply = await self._find(ask)
            self._embeddings_max = min(EMBEDDINGS_MAX, self._embeddings_max + 1 / EMBEDDINGS_MAX)
            return reply
        except TimeoutError:
            above = self._embeddings_max - EMBEDDINGS_MIN
            self._embeddings_max = EMBEDDINGS_MIN + above * 2 / 3
            raise RecallUnavailable("late") from None
        finally:
            self._finding -= 1

    async def expect(self, ask: Ask) -> None:
        """See Recall."""
        if _unlike(ask) is None:
            self._pending.keep(ask)  # it is read when its answer is stored, which is not that of each

    async def remember(self, remember: Remember) -> None:
        """See Recall."""
        pending = self._pending.take(remember.org, remember.partition, remember.entry)
        if pending is None or self._remembering >= REMEMBERS_MAX:
            child(self._counted, "unknown" if pending is None else "full").inc()
            return
        if self._foreign(pending.text):
            child(self._counted, "language").inc()
            return
        self._remembering += 1
        try:
            vector = await self._vector(remember.org, pending)
            await self._in_thread(self._put, remember, pending.text, vector)
        except NotEmbedded:
            child(self._counted, "full").inc()
        else:
            child(self._counted, "remembered").inc()
        finally:
            self._remembering -= 1

    async def forget(self, forget: Forget) -> None:
        """See Recall."""
        await self._in_thread(self._index.remove, forget.org, [forget.entry])
        if self._writer is not None:
            self._writer.forget(forget.org, forget.entry)

    async def served(self, served: Served) -> None:
        """See Recall."""
        self._on_served(served)

    async def drop(self, ends: Ends) -> None:
        """Forget every question of which ``ends`` says so: ``(org, entry, lineage)``. What a lineage is, only
        the table knows; without one everything is forgotten."""
        if self._writer is None:
            self._index.clear()
            return
        for org, entries in (await self._writer.drop(ends)).items():
            await self._in_thread(self._index.remove, org, entries)

    async def aclose(self) -> None:
        """What is under way ends; the embedder, which was given, stays open."""
        for flight in list(self._embedding.values()):
            flight.task.cancel()
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _foreign(self, text: str) -> bool:
        """Whether the text is of a language that the embedder has not learnt."""
        return bool(self._embedder.languages) and self._read(text).language not in self._embedder.languages

    async def _find(self, ask: Ask) -> Reply:
        question = self._read(ask.text)
        if self._foreign(ask.text):
            return Reply(candidates=(), reason="language")
        try:
            vector = await self._vector(ask.org, self._pending.keep(ask))
        except TooLong:
            return Reply(candidates=(), reason="too_long")
        except NotEmbedded as reason:
            raise RecallUnavailable("full" if isinstance(reason, Overloaded) else "down") from None
        decision = await self._in_thread(self._decide, ask, question, vector)
        if decision.near is not None:
            near = decision.near
            self._on_near_miss(
                NearMiss(
                    ask=ask,
                    entry=near.entry,
                    stored_text=near.text,
                    similarity=near.similarity,
                    bucket=near.bucket,
                )
            )
        return decision.reply

    async def _vector(self, org: OrgId, pending: Pending) -> Vector:
        """One embedding for all who ask the same text now; when nobody waits for it any more, it is not
        made. Raises NotEmbedded."""
        if pending.vector is not None:
            return pending.vector
        flight = self._embedding.get(pending.text)
        if flight is None:
            self._refuse_too_many(org)
            flight = self._embedding[pending.text] = _Flight(org, self._embedder.embed(pending.text))
        flight.waiting += 1
        try:
            vector = pending.vector = await asyncio.shield(flight.task)
            return vector
        finally:
            flight.waiting -= 1
            if not flight.waiting:
                flight.task.cancel()
                del self._embedding[pending.text]  # at once: nobody may join what is cancelled

    def _refuse_too_many(self, org: OrgId) -> None:
        free = int(self._embeddings_max) - len(self._embedding)
        if free < 1 or (free == 1 and any(flight.org == org for flight in self._embedding.values())):
            raise Overloaded("as many texts are being embedded as may be")

    def _decide(self, ask: Ask, question: Question, vector: Vector) -> Decision:
        now = self._clock.unix_ms()
        matches = self._index.search(ask.org, ask.partition, vector, NEIGHBOURS, now)
        return decide(ask, matches, lambda text: compare(question, self._read(text)), self._trust)

    def _put(self, remember: Remember, text: str, vector: Vector) -> None:
        row = Row(entry=remember.entry, text=text.encode(), expires_at=remember.expires_at)
        self._index.put(remember.org, remember.partition, row, vector)
        if self._writer is not None:
            self._writer.add(
                StoredQuestion(
                    org=remember.org,
                    partition=remember.partition,
                    entry=remember.entry,
                    text=text,
                    vector=vector.astype(np.float16),
                    expires_at=remember.expires_at,
                    stored_at=self._clock.unix_ms(),
                    lineage=remember.lineage,
                )
            )

    async def _in_thread(self, work: Callable[[Unpack[Ts]], T], *values: *Ts) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work, *values)


def _unlike(ask: Ask) -> Reply | None:
    """What is said to a question that nothing is to be like; None where something may be."""
    if ask.profile is Profile.OFF:
        return Reply(candidates=(), reason="off")
    if len(ask.text) > TEXT_BYTES_MAX or len(ask.text.encode()) > TEXT_BYTES_MAX:
        return Reply(candidates=(), reason="too_long")
    return None


class _Flight:
    """An embedding under way, whose text it was first, and how many wait for it."""

    def __init__(self, org: OrgId, embedding: Coroutine[None, None, Vector]) -> None:
        self.org = org
        self.task = asyncio.ensure_future(embedding)
        self.waiting = 0
