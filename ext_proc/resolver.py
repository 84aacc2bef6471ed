"""Resolves holds at the ledger, and sees to a settle or void that the ledger did not take."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, Protocol

from ext_proc.background import Background
from ext_proc.measures import Measures
from ext_proc.phases.settlement import ENGINE_REFUSED
from ext_proc.vocabulary import Resolution, Settle
from gateway.budget.ledger import BudgetLedger, Outcome
from gateway.contract.errors import LedgerUnavailable
from gateway.telemetry.log import EventLog

RETRY_AFTER_S: Final = (0.25, 0.5, 1.0, 2.0, 4.0)
"""When a settle or void is tried again: a ledger that restarts is back by then. Later, the sweep charges
the hold in full and says so."""


class Unsettled(Protocol):
    """Keeps what could not be resolved, and sees to it."""

    def add(self, deed: Resolution) -> None:
        """Never waits and never fails; the deed has been tried once."""


class Resolver:
    """One for each process; safe for concurrent streams."""

    def __init__(self, ledger: BudgetLedger, measures: Measures, log: EventLog) -> None:
        """Nothing is done yet."""
        self._ledger = ledger
        self._measures = measures
        self._log = log

    async def carry_out(self, deed: Resolution) -> None:
        """One try. Raises LedgerUnavailable."""
        if isinstance(deed, Settle):
            with self._measures.ledger_call("settle"):
                resolved = await self._ledger.settle(
                    deed.org,
                    deed.hold,
                    deed.used,
                    certainty=deed.certainty,
                    detail=deed.detail,
                    draw=deed.draw,
                )
        else:
            with self._measures.ledger_call("void"):
                resolved = await self._ledger.void(deed.org, deed.hold, reason=deed.reason, draw=deed.draw)
        if resolved.first:
            by_tap = isinstance(deed, Settle) or deed.reason == ENGINE_REFUSED
            self._measures.resolved(resolved.outcome.value, by="tap" if by_tap else "admit")
        if resolved.outcome is Outcome.UNKNOWN and isinstance(deed, Settle):
            # Its books were lost or rebuilt without it, or it comes a day late: no account has these tokens.
            self._log.warning("hold.not_known", org=deed.org, hold=deed.hold, tokens=deed.used.tokens)
        if resolved.overdraft:
            self._log.warning("hold.overdraft", org=deed.org, hold=deed.hold, tokens=resolved.overdraft)


class Retries:
    """Unsettled in memory: some tries in the next seconds, lost with the process. The sweep then charges the
    hold in full."""

    def __init__(
        self,
        carry_out: Callable[[Resolution], Awaitable[None]],
        background: Background,
        measures: Measures,
        log: EventLog,
    ) -> None:
        """``carry_out`` raises LedgerUnavailable."""
        self._carry_out = carry_out
        self._background = background
        self._measures = measures
        self._log = log

    def add(self, deed: Resolution) -> None:
        """See Unsettled."""
        self._background.offer(_verb(deed), lambda: self._later(deed))

    async def _later(self, deed: Resolution) -> None:
        for wait_s in RETRY_AFTER_S:
            await asyncio.sleep(wait_s)
            try:
                await self._carry_out(deed)
            except LedgerUnavailable:
                continue
            return
        self._measures.went_on_without("tap")
        self._background.count_dropped(_verb(deed))
        self._log.error("hold.unresolved", org=deed.org, hold=deed.hold, verb=_verb(deed))


def _verb(deed: Resolution) -> str:
    return type(deed).__name__.lower()
