"""Carries effects out, decides nothing: the ledger, the cache, the metrics, each within its deadline."""

from __future__ import annotations

import asyncio
from typing import TypeAlias

from ext_proc.background import OPTIONAL_MAX, Background
from ext_proc.lookups import Lookups
from ext_proc.measures import Measures
from ext_proc.notes import Notes
from ext_proc.observations import ObserveAdmission, ObserveAnswer, ObserveLookup, ObserveWaste
from ext_proc.resolver import Resolver, Retries, Unsettled
from ext_proc.vocabulary import (
    AskCache,
    AwaitLanding,
    Bar,
    Behind,
    CacheAnswered,
    Expect,
    Extend,
    FlightJoined,
    HoldAnswered,
    Land,
    Landed,
    Note,
    Question,
    RecallAnswered,
    Reserve,
    Resolution,
    Store,
    TurnCame,
    Unawaited,
    Verify,
    Wait,
)
from ext_proc.waiting_room import WaitingRoom
from gateway.budget.ledger import BudgetLedger, Granted, Refused
from gateway.contract.clock import Clock
from gateway.contract.errors import LedgerUnavailable
from gateway.contract.ids import HoldId
from gateway.telemetry.log import EventLog

Answer: TypeAlias = CacheAnswered | RecallAnswered | FlightJoined | HoldAnswered


class Performer:
    """One for each process; safe for concurrent streams."""

    def __init__(
        self,
        ledger: BudgetLedger,
        lookups: Lookups,
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
        self._lookups = lookups
        self._clock = clock
        self._background = background
        self._notes = notes
        self._log = log
        self._measures = Measures(clock)
        self._room = room or WaitingRoom(clock)
        self._resolver = Resolver(ledger, self._measures, log)
        self._unsettled = unsettled or Retries(self._resolver.carry_out, background, self._measures, log)

    # --- questions ---

    def at_once(self, question: Question) -> CacheAnswered | None:
        """The event that answers ``question``, where it can be told without waiting."""
        return self._lookups.at_once(question) if isinstance(question, AskCache) else None

    async def ask(self, question: Question) -> Answer:
        """The event that answers ``question``. A broken dependency is an answer too."""
        if isinstance(question, Reserve):
            return await self._reserve(question)
        return await self._lookups.ask(question)

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

    async def wait(self, wait: Wait) -> TurnCame | Landed:
        """The event that answers ``wait``. To be cancelled when nobody waits any more; ``waits_no_more``
        follows in any case."""
        if isinstance(wait, AwaitLanding):
            return await self._lookups.landing(wait)
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
                if not self._background.offer("store", lambda: self._lookups.keep(deed), most=OPTIONAL_MAX):
                    self.do(Land(org=deed.org, key=deed.place.keys.exact))
            case Land():
                self._background.offer("land", lambda: self._lookups.land(deed))
            case Bar():
                self._background.offer("bar", lambda: self._lookups.bar(deed))
            case Expect():
                self._background.offer("expect", lambda: self._lookups.expect(deed), most=OPTIONAL_MAX)
            case Verify():
                self._background.offer("verify", lambda: self._lookups.verify(deed), most=OPTIONAL_MAX)
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
