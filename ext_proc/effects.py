"""Carries effects out, decides nothing: the ledger, the cache, the metrics, each within its deadline."""

from __future__ import annotations

import asyncio
from typing import Final

from ext_proc.background import OPTIONAL_MAX, Background
from ext_proc.cache.store import CachedAnswer, CacheStore, CacheUnavailable
from ext_proc.measures import Measures
from ext_proc.notes import Notes
from ext_proc.phases.settlement import ENGINE_REFUSED
from ext_proc.vocabulary import (
    AskCache,
    CacheAnswered,
    HoldAnswered,
    Note,
    ObserveAdmission,
    ObserveAnswer,
    ObserveLookup,
    Question,
    Reserve,
    Resolution,
    Settle,
    Store,
    Unawaited,
)
from gateway.budget.ledger import BudgetLedger, Granted, Refused, Resolved
from gateway.contract.clock import Clock
from gateway.contract.errors import LedgerUnavailable
from gateway.telemetry.log import EventLog

RETRY_AFTER_S: Final = (0.25, 0.5, 1.0, 2.0, 4.0)
"""When a settle or void is tried again: a ledger that restarts is back by then. Later, the sweep charges
the hold in full and says so."""


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
    ) -> None:
        """``notes`` must be running."""
        self._ledger = ledger
        self._cache = cache
        self._clock = clock
        self._background = background
        self._notes = notes
        self._log = log
        self._measures = Measures(clock)

    # --- questions ---

    async def ask(self, question: Question) -> CacheAnswered | HoldAnswered:
        """The event that answers ``question``. A broken dependency is an answer too."""
        if isinstance(question, AskCache):
            return await self._look_up(question)
        return await self._reserve(question)

    async def _look_up(self, question: AskCache) -> CacheAnswered:
        try:
            lookup = await self._cache.get(question.org, question.key)
        except CacheUnavailable as error:
            self._measures.went_on_without("cache")
            self._log.debug("cache.unavailable", reason=str(error))
            return CacheAnswered(lookup=None, at_ms=self._clock.unix_ms())
        return CacheAnswered(lookup=lookup, at_ms=self._clock.unix_ms())

    async def _reserve(self, question: Reserve) -> HoldAnswered:
        answer: Granted | Refused | LedgerUnavailable
        try:
            with self._measures.ledger_call("reserve"):
                answer = await self._ledger.reserve(question.request)
        except LedgerUnavailable as error:
            answer = error
        if isinstance(answer, Granted) and answer.policy_conflict:
            self._measures.policy_conflict()
        return HoldAnswered(answer=answer, at_ms=self._clock.unix_ms())

    # --- deeds ---

    def do(self, deed: Unawaited) -> None:
        """What nobody waits for."""
        match deed:
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

    async def resolve(self, deed: Resolution) -> None:
        """Returns when the hold is resolved, or the first try has failed and others will follow. To be
        run in Background: it goes on when its stream is cancelled."""
        try:
            await self._resolve_once(deed)
        except LedgerUnavailable:
            self._background.offer(type(deed).__name__.lower(), lambda: self._resolve_later(deed))

    async def _resolve_later(self, deed: Resolution) -> None:
        for wait_s in RETRY_AFTER_S:
            await asyncio.sleep(wait_s)
            try:
                await self._resolve_once(deed)
            except LedgerUnavailable:
                continue
            return
        self._measures.went_on_without("tap")
        self._background.count_dropped(type(deed).__name__.lower())
        self._log.error("hold.unresolved", org=deed.org, hold=deed.hold, verb=type(deed).__name__.lower())

    async def _resolve_once(self, deed: Resolution) -> None:
        """Raises LedgerUnavailable."""
        resolved: Resolved
        if isinstance(deed, Settle):
            with self._measures.ledger_call("settle"):
                resolved = await self._ledger.settle(
                    deed.org, deed.hold, deed.used, unknown=deed.unknown, detail=deed.detail
                )
        else:
            with self._measures.ledger_call("void"):
                resolved = await self._ledger.void(deed.org, deed.hold, reason=deed.reason)
        if resolved.first:
            by_tap = isinstance(deed, Settle) or deed.reason == ENGINE_REFUSED
            self._measures.resolved(resolved.outcome.value, by="tap" if by_tap else "admit")
        if resolved.overdraft:
            self._log.warning("hold.overdraft", org=deed.org, hold=deed.hold, tokens=resolved.overdraft)

    async def _store(self, deed: Store) -> None:
        answer = CachedAnswer(body=deed.answer, stored_at=self._clock.unix_ms())
        try:
            stored = await self._cache.put(
                deed.org, deed.key, deed.epoch, answer, ttl_seconds=deed.ttl_seconds
            )
        except CacheUnavailable:
            self._measures.stored("unavailable")
        else:
            self._measures.stored("stored" if stored else "too_large")
