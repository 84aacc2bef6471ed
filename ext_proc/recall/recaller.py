"""The Recall protocol in this process: embed, search, compare, decide, remember.

Texts are embedded by the embedder's own threads and searched in those of this class; the event loop only
waits. What cannot be done within the deadline is refused (RecallUnavailable), never queued beyond it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Final, TypeVar, TypeVarTuple, Unpack

import numpy as np

from ext_proc.cache.policy import Profile
from ext_proc.cache.question import Question, compare, read_question
from ext_proc.recall.decision import NEIGHBOURS, Decision, Trust, decide
from ext_proc.recall.index import Index
from ext_proc.recall.partition_rows import Row
from ext_proc.recall.pending import Embedding, PendingQuestions
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
from gateway.path import hop
from gateway.telemetry import names
from gateway.telemetry.metrics import child, counter
from inference.embedders.embedder import Embedder, NotEmbedded, Overloaded, TooLong, Vector

T = TypeVar("T")
Ts = TypeVarTuple("Ts")
FINDS_MAX: Final = 64
"""Questions at a time: as two cores embed 300 a second, a longer queue would be late to the last."""
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
        deadline_s: float = hop("recall").deadline / 1000,
    ) -> None:
        """``writer``: where questions are kept on disk too. ``trust``: in buckets, in each
        if None; the other two hand over without waiting, from the event loop."""
        self._embedder, self._index, self._clock, self._writer = embedder, index, clock, writer
        self._trust, self._on_near_miss, self._on_served = trust or Truth(), on_near_miss, on_served
        self._deadline_s = deadline_s
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="recall-search")
        self._embedding: dict[str, Embedding] = {}
        self._pending = PendingQuestions(clock)
        self._read = lru_cache(maxsize=QUESTIONS_READ_MAX)(read_question)
        self._finding = self._remembering = 0
        self._counted = counter(names.RECALL_REMEMBERED, "Questions to remember", ["result"])

    async def find(self, ask: Ask) -> Reply:
        """See Recall."""
        if ask.profile is Profile.OFF:
            return Reply(candidates=(), reason="off")
        if len(ask.text) > TEXT_BYTES_MAX or len(ask.text.encode()) > TEXT_BYTES_MAX:
            return Reply(candidates=(), reason="too_long")
        if self._finding >= FINDS_MAX:
            raise RecallUnavailable("full")
        self._finding += 1
        try:
            async with asyncio.timeout(self._deadline_s):
                return await self._find(ask)
        except TimeoutError:
            raise RecallUnavailable("late") from None
        finally:
            self._finding -= 1

    async def remember(self, remember: Remember) -> None:
        """See Recall."""
        pending = self._pending.take(remember.org, remember.partition, remember.entry)
        if pending is None or self._remembering >= REMEMBERS_MAX:
            child(self._counted, "unknown" if pending is None else "full").inc()
            return
        self._remembering += 1
        try:
            vector = await asyncio.shield(pending.embedding)
            if isinstance(vector, NotEmbedded):
                return
            await self._in_thread(self._put, remember, pending.text, vector)
        finally:
            self._remembering -= 1
        child(self._counted, "remembered").inc()

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

    async def clear(self) -> None:
        """Forget everything."""
        if self._writer is not None:
            await self._writer.drop(lambda org, entry, lineage: True)
        self._index.clear()

    async def aclose(self) -> None:
        """What is under way ends; the embedder, which was given, stays open."""
        for embedding in list(self._embedding.values()):
            embedding.cancel()
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _find(self, ask: Ask) -> Reply:
        question = self._read(ask.text)
        if self._embedder.languages and question.language not in self._embedder.languages:
            return Reply(candidates=(), reason="language")
        embedding = self._embedded(ask.text)
        self._pending.keep(ask, embedding)
        vector = await asyncio.shield(embedding)
        if isinstance(vector, TooLong):
            return Reply(candidates=(), reason="too_long")
        if isinstance(vector, NotEmbedded):
            raise RecallUnavailable("full" if isinstance(vector, Overloaded) else "down")
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

    def _embedded(self, text: str) -> Embedding:
        """One embedding for all who ask the same now; it outlives those who cannot wait for it."""
        under_way = self._embedding.get(text)
        if under_way is None:
            under_way = self._embedding[text] = asyncio.ensure_future(self._embed(text))
            under_way.add_done_callback(lambda _: self._embedding.pop(text, None))
        return under_way

    async def _embed(self, text: str) -> Vector | NotEmbedded:
        try:
            return await self._embedder.embed(text)
        except NotEmbedded as reason:
            return reason

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
