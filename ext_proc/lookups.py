"""Carries out what a search asks and what an answer leaves: the store, recall, those who wait together.

Everything here fails open: what is late or broken is a miss, counted under the hop that was missing.
"""

from __future__ import annotations

from ext_proc.cache.store import CachedAnswer, CacheStore, CacheUnavailable, Flights
from ext_proc.measures import Measures
from ext_proc.recall.words import Ask, Recall, RecallUnavailable, Remember
from ext_proc.vocabulary import (
    AskCache,
    AskRecall,
    AwaitLanding,
    Bar,
    CacheAnswered,
    Expect,
    FlightJoined,
    JoinFlight,
    Land,
    Landed,
    RecallAnswered,
    Store,
    Verify,
)
from gateway.contract.clock import Clock
from gateway.contract.units import UnixMillis
from gateway.telemetry.log import EventLog


class Lookups:
    """One for each process; safe for concurrent streams."""

    def __init__(
        self,
        store: CacheStore,
        flights: Flights,
        recall: Recall | None,
        clock: Clock,
        measures: Measures,
        log: EventLog,
    ) -> None:
        """``recall`` None: no question is answered by another one's answer."""
        self._store = store
        self._flights = flights
        self._recall = recall
        self._clock = clock
        self._measures = measures
        self._log = log

    # --- questions ---

    def at_once(self, question: AskCache) -> CacheAnswered | None:
        """The event that answers ``question``, where it can be told without waiting."""
        lookup = self._store.peek(question.org, question.keys)
        return None if lookup is None else CacheAnswered(lookup=lookup, at_ms=self._clock.unix_ms())

    async def ask(
        self, question: AskCache | AskRecall | JoinFlight
    ) -> CacheAnswered | RecallAnswered | FlightJoined:
        """The event that answers ``question``."""
        match question:
            case AskCache():
                return await self._look_up(question)
            case AskRecall(ask=ask):
                return await self._recall_answer(ask)
            case JoinFlight(org=org, key=key):
                leads = await self._flights.join(org, key)
                return FlightJoined(leads=leads, at_ms=self._clock.unix_ms())

    async def landing(self, wait: AwaitLanding) -> Landed:
        """The event that answers ``wait``. To be cancelled when nobody waits any more."""
        try:
            lookup = await self._flights.landed(wait.org, wait.keys, wait.at_most)
        except CacheUnavailable as error:
            self._missing("cache", error)
            return Landed(lookup=None, at_ms=self._clock.unix_ms())
        return Landed(lookup=lookup, at_ms=self._clock.unix_ms())

    async def _look_up(self, question: AskCache) -> CacheAnswered:
        # Before the wait: a purge during it ends what is stored there.
        epoch = self._store.epoch(question.org)
        try:
            lookup = await self._store.get(question.org, question.keys)
        except CacheUnavailable as error:
            self._missing("cache", error)
            return CacheAnswered(lookup=None, at_ms=self._clock.unix_ms(), epoch=epoch)
        return CacheAnswered(lookup=lookup, at_ms=self._clock.unix_ms())

    async def _recall_answer(self, ask: Ask) -> RecallAnswered:
        if self._recall is None:
            return self._without("recall_off", ())
        try:
            reply = await self._recall.find(ask)
        except RecallUnavailable as error:
            self._missing("recall", error)
            return self._without("recall_unavailable", ())
        for candidate in reply.candidates:
            try:
                lookup = await self._store.fetch(ask.org, candidate.entry, asked=ask.asked)
            except CacheUnavailable as error:
                self._missing("cache", error)
                return self._without("unavailable", reply.steps)
            if lookup.answer is not None:
                return RecallAnswered(
                    lookup=lookup,
                    candidate=candidate,
                    reason="",
                    steps=reply.steps,
                    at_ms=self._clock.unix_ms(),
                )
        reason = "gone" if reply.candidates else reply.reason
        return self._without(reason, reply.steps)

    def _without(self, reason: str, steps: tuple[str, ...]) -> RecallAnswered:
        return RecallAnswered(
            lookup=None, candidate=None, reason=reason, steps=steps, at_ms=self._clock.unix_ms()
        )

    # --- deeds ---

    async def keep(self, deed: Store) -> None:
        """Store an answer; recall learns of it once it is stored."""
        place = deed.place
        now = self._clock.unix_ms()
        answer = CachedAnswer(body=deed.answer, stored_at=now, lineage=deed.lineage)
        try:
            stored = await self._store.put(
                deed.org, place.keys, place.epoch, answer, ttl_seconds=place.ttl_seconds
            )
        except CacheUnavailable:
            self._measures.stored("unavailable")
            if place.flight:
                await self._flights.land(deed.org, place.keys.exact)
            return
        self._measures.stored("stored" if stored else "too_large")
        if stored and place.partition and self._recall is not None:
            try:
                await self._recall.remember(
                    Remember(
                        org=deed.org,
                        partition=place.partition,
                        entry=place.keys.exact,
                        expires_at=UnixMillis(now + place.ttl_seconds * 1000),
                        lineage=deed.lineage,
                    )
                )
            except RecallUnavailable as error:
                self._missing("recall", error)

    async def land(self, deed: Land) -> None:
        """Let those go on who wait for an answer that will not come."""
        await self._flights.land(deed.org, deed.key)

    async def bar(self, deed: Bar) -> None:
        """Tombstone a pair."""
        try:
            await self._store.bar(deed.org, deed.asked, deed.entry)
        except CacheUnavailable as error:
            self._missing("cache", error)

    async def expect(self, deed: Expect) -> None:
        """Tell recall of a question that it was not asked."""
        if self._recall is None:
            return
        try:
            await self._recall.expect(deed.ask)
        except RecallUnavailable as error:
            self._missing("recall", error)

    async def verify(self, deed: Verify) -> None:
        """Hand a drawn hit to who verifies it."""
        if self._recall is None:
            return
        try:
            await self._recall.served(deed.served)
        except RecallUnavailable as error:
            self._missing("recall", error)

    def _missing(self, hop: str, error: Exception) -> None:
        self._measures.went_on_without(hop)
        self._log.debug(f"{hop}.unavailable", reason=str(error))
