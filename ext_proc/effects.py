"""Carries effects out, decides nothing: the ledger, the cache, the metrics, each within its deadline."""

from __future__ import annotations

import asyncio

from ext_proc.background import OPTIONAL_MAX, Background
from ext_proc.cache.store import CachedAnswer, CacheStore, CacheUnavailable, Keys, Lineage
from ext_proc.measures import Measures
from ext_proc.notes import Notes
from ext_proc.resolver import Resolver, Retries, Unsettled
from ext_proc.vocabulary import (
    AskCache,
    AwaitTurn,
    Behind,
    CacheAnswered,
    Extend,
    HoldAnswered,
    Note,
    ObserveAdmission,
    ObserveAnswer,
    ObserveLookup,
    ObserveWaste,
    Question,
    Reserve,
    Resolution,
    Store,
    TurnCame,
    Unawaited,
)
from ext_proc.waiting_room import WaitingRoom
from gateway.budget.ledger import BudgetLedger, Granted, Refused
from gateway.contract.clock import Clock
from gateway.contract.errors import LedgerUnavailable
from gateway.contract.ids import HoldId
from gateway.telemetry.log import EventLog


class Performer:
    """One for each process; safe for concurrent streams."""

    def __init__(
        self,
        ledger: BudgetLedger,
        cache: CacheStore,
        clock: Clock,
        *,
        background: Background,
        notes: Notes,
        log: EventLog,
        unsettled: Unsettled | None = None,
        room: WaitingRoom | None = None,
    ) -> None:
        """``notes`` must be running. ``unsettled``: takes a settle or void that the ledger did not; tries in
        memory, if none is given."""
        self._ledger = ledger
        self._cache = cache
        self._clock = clock
        self._background = background
        self._notes = notes
        self._log = log
        self._measures = Measures(clock)
        self._room = room or WaitingRoom(clock)
        self._resolver = Resolver(ledger, self._measures, log)
        self._unsettled = unsettled or Retries(self._resolver.carry_out, background, self._measures, log)

    # --- questions ---

    async def ask(self, question: Question) -> CacheAnswered | HoldAnswered:
        """The event that answers ``question``. A broken dependency is an answer too."""
        if isinstance(question, AskCache):
            return await self._look_up(question)
        return await self._reserve(question)

    async def _look_up(self, question: AskCache) -> CacheAnswered:
        try:
            lookup = await self._cache.get(question.org, Keys(exact=question.key))
        except CacheUnavailable as error:
            self._measures.went_on_without("cache")
            self._log.debug("cache.unavailable", reason=str(error))
            return CacheAnswered(lookup=None, at_ms=self._clock.unix_ms())
        return CacheAnswered(lookup=lookup, at_ms=self._clock.unix_ms())

    async def _reserve(self, question: Reserve) -> HoldAnswered:
        answer: Granted | Refused | Behind | LedgerUnavailable
        request, priority = question.request, question.priority
        account = None if priority is None else self._room.ahead(request, priority)
        if account is not None:
            return HoldAnswered(answer=Behind(account=account), at_ms=self._clock.unix_ms())
        try:
            with self._measures.ledger_call("reserve"):
                answer = await self._ledger.reserve(request)
        except LedgerUnavailable as error:
            answer = error
        if isinstance(answer, Granted):
            self._room.leave(request.hold, granted=True)
            if answer.policy_conflict:
                self._measures.policy_conflict()
        return HoldAnswered(answer=answer, at_ms=self._clock.unix_ms())

    async def turn(self, wait: AwaitTurn) -> TurnCame:
        """The event that answers ``wait``. To be cancelled when nobody waits any more; ``waits_no_more``
        follows in any case."""
        return await self._room.turn(wait)

    def waits_no_more(self, hold: HoldId) -> None:
        """The stream of ``hold`` is over: the next one's turn comes."""
        self._room.leave(hold, granted=False)

    # --- deeds ---

    def do(self, deed: Unawaited) -> None:
        """What nobody waits for."""
        match deed:
            case Extend():
                self._background.offer("extend", lambda: self._extend(deed))
            case Store():
                self._background.offer("store", lambda: self._store(deed), most=OPTIONAL_MAX)
            case Note():
                self._notes.add(deed)
            case ObserveAdmission():
                self._measures.admission(deed)
            case ObserveLookup():
                self._measures.lookup(deed)
            case ObserveAnswer():
                self._measures.answer(deed)
            case ObserveWaste():
                self._measures.waste(deed)

    async def resolve(self, deed: Resolution) -> None:
        """Returns when the hold is resolved, or is left to what keeps the unsettled. To be run in Background:
        it goes on when its stream is cancelled."""
        try:
            await self._resolver.carry_out(deed)
        except LedgerUnavailable:
            self._unsettled.add(deed)
        except asyncio.CancelledError:  # the drain's time is over
            self._unsettled.add(deed)
            raise
        else:
            self._room.released(deed.org)

    async def _extend(self, deed: Extend) -> None:
        try:
            with self._measures.ledger_call("extend"):
                await self._ledger.extend(deed.org, deed.hold, deed.ttl)
        except LedgerUnavailable as error:
            # The stream asks again; without it the hold is charged in full, and its settle corrects that.
            self._background.count_dropped("extend")
            self._log.debug("hold.not_extended", hold=deed.hold, reason=error.code)

    async def _store(self, deed: Store) -> None:
        now = self._clock.unix_ms()
        answer = CachedAnswer(body=deed.answer, stored_at=now, lineage=Lineage(admitted_at=now))
        try:
            stored = await self._cache.put(
                deed.org, Keys(exact=deed.key), deed.epoch, answer, ttl_seconds=deed.ttl_seconds
            )
        except CacheUnavailable:
            self._measures.stored("unavailable")
        else:
            self._measures.stored("stored" if stored else "too_large")
