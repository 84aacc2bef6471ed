"""One run of reconciling: facts, what follows, and the ledger told of it. The ledger has the last word: each
action is one idempotent call, so that a run may be repeated or cut short."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from gateway.bookkeeper.reconcile_cases import cases_of
from gateway.bookkeeper.reconcile_decision import (
    Action,
    Decisions,
    PriceTable,
    Release,
    ReturnLease,
    SettleTo,
    decisions_on,
)
from gateway.bookkeeper.reconcile_engines import EngineRecords, joined
from gateway.budget.ledger import BudgetLedger, LeaseState, Outcome
from gateway.budget.measure import Amounts
from gateway.contract.clock import Clock
from gateway.events.event import Event

REASON: Final = "reconciled"
"""Of the events that this writes: the reason of a void, ``detail.resolver`` of a settle."""


@dataclass(slots=True, kw_only=True)
class Report:
    """What a run did. Counts are of calls that changed the books; ``tokens`` of them how far."""

    released: int = 0
    """Holds without an upstream attempt."""
    settled: int = 0
    """Live holds charged by an engine's record."""
    corrected: int = 0
    """Blind and provisional charges made exact."""
    leases_returned: int = 0
    already: int = 0
    """What the ledger had resolved meanwhile."""
    open: int = 0
    """Holds and leases whose time has not come."""
    provisional: int = 0
    """Charges of what was seen, or estimated, that stay: nobody knows of more that was delivered."""
    unknown_tokens: int = 0
    waste_tokens: int = 0
    waste: list[dict[str, Any]] = field(default_factory=list)
    unknown: list[dict[str, Any]] = field(default_factory=list)
    differing: list[str] = field(default_factory=list)
    """Requests charged with another amount than their engine tells, though the answer was complete."""

    @property
    def changed(self) -> int:
        """How many calls moved tokens."""
        return self.released + self.settled + self.corrected + self.leases_returned


async def reconcile(
    ledger: BudgetLedger,
    events: Iterable[Event],
    engines: Sequence[EngineRecords],
    clock: Clock,
    *,
    idle: bool,
    prices: PriceTable,
) -> Report:
    """One run. Raises LedgerUnavailable, LedgerEmptied, EngineSilent and what ``events`` raises."""
    cases = await asyncio.to_thread(cases_of, events)
    # After the books: an attempt that a hold names has begun before, so none of theirs is missed.
    view = joined([await engine.read() for engine in engines])
    decided = decisions_on(cases, view, now=clock.unix_ms(), idle=idle, prices=prices)
    report = _told(decided)
    for action in decided.actions:
        await _carry_out(ledger, action, report)
    return report


def _told(decided: Decisions) -> Report:
    return Report(
        open=decided.open,
        provisional=decided.provisional,
        unknown=[asdict(one) for one in decided.unknown],
        unknown_tokens=sum(one.tokens for one in decided.unknown),
        waste=[asdict(one) for one in decided.waste],
        waste_tokens=sum(one.tokens for one in decided.waste),
        differing=decided.differing,
    )


async def _carry_out(ledger: BudgetLedger, action: Action, report: Report) -> None:
    match action:
        case ReturnLease(org=org, lease=lease):
            # A lease that this returned before answers the same: only the books' next look knows.
            state = await ledger.return_lease(org, lease, reconciled=True)
            report.leases_returned += state is LeaseState.RETURNED
        case Release(live=True):
            resolved = await ledger.void(action.org, action.hold, reason=REASON, draw=action.draw)
            report.released += resolved.first
            report.already += not resolved.first
        case Release():
            resolved = await ledger.settle(
                action.org, action.hold, Amounts(), detail={"resolver": REASON}, draw=action.draw
            )
            report.released += resolved.first
            report.already += not resolved.first
        case SettleTo():
            detail = {
                "resolver": REASON,
                "prompt": str(action.used.prompt_tokens),
                "completion": str(action.used.completion_tokens),
                "attempts": str(action.attempts),
            }
            resolved = await ledger.settle(
                action.org, action.hold, action.used, detail=detail, draw=action.draw
            )
            corrected = resolved.first and resolved.outcome is Outcome.CORRECTED
            report.corrected += corrected
            report.settled += resolved.first and not corrected
            report.already += not resolved.first


def as_json(report: Report) -> Mapping[str, Any]:
    """Every figure, with ``changed``."""
    return {**asdict(report), "changed": report.changed}
