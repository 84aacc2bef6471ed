"""The drills there are, as data. What one performs is imported when it runs."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from gateway.contract.clock import SystemClock
from mesh.drill.drill import CANARIES, Criterion, Drill, Figures, Setup

KILLS_SHARE: Final = 20
"""One kill for so many requests: 500 of 10,000."""
STORE_KILLS, STORE_STALLS = 4, 8
STALL_S: Final = (0.3, 2.0)
"""Beyond the ledger's deadline: calls fail that are carried out afterwards."""
STUCK_S: Final = 45.0
"""No request ends for so long: the gateway is gone, and figures would say nothing."""


async def _perform(setup: Setup) -> Figures:
    from mesh.drill.budget_crash import BudgetCrash

    return await BudgetCrash(setup, SystemClock()).perform()


def _zero(figure: str, text: str) -> Criterion:
    return Criterion(figure=figure, text=text, holds=lambda figures: figures[figure] == 0)


BUDGET_CRASH: Final = Drill(
    name="budget-crash",
    question="Filters, bookkeeper and ledger die under load: is a token lost, double or beyond a limit?",
    steady_state="keys of every kind of budget are answered through the gateway",
    faults=(
        "SIGKILL of filter workers before and after reserve, at the first byte, at each usage, before and "
        "after settle",
        "SIGKILL of the bookkeeper before and after it appends events",
        f"the ledger: {STORE_KILLS} SIGKILLs, {STORE_STALLS} stalls of {STALL_S[0]} to {STALL_S[1]} s",
        "clients that leave while they wait and in mid-stream; settles told twice; budgets that run out",
    ),
    measures={
        "overspent": "tokens produced for answers beyond the limit of an account",
        "drift": "used - produced - unknown, summed without sign over every account, after reconciling",
        "unknown": "tokens that stay charged because no witness knows what was produced",
        "unknown_most": "what the holds of answers held whose tap was killed; with an untold draw, also what "
        "killed workers left in their leases",
        "unexplained": "unknown tokens that stand neither in such a hold nor in such a lease",
        "leaked_holds": "holds and leases that nobody resolved",
        "drawn": "holds that a worker granted out of a lease",
        "untold": "requests drawn from a lease of which worker and access log died before anybody heard",
        "waste": "tokens produced for no answer: repeated attempts, clients that had gone, errors",
        "lost": "admitted and not answered whole, or an error that no rule asks for",
        "refused_closed": "refused because the filters or the ledger were away",
        "changed_again": "what a second reconcile changed",
        "replay_differs": "counters, holds and leases that the books' events do not give",
    },
    criteria=(
        Criterion(
            figure="answered",
            text="clients were answered, have left, and were refused for want of budget",
            holds=lambda figures: min(figures[name] for name in ("answered", "left", "refused_budget")) > 0,
        ),
        Criterion(
            figure="store_kills",
            text="the ledger was killed and stalled",
            holds=lambda figures: min(figures["store_kills"], figures["store_stalls"]) > 0,
        ),
        Criterion(
            figure="drawn",
            text="where workers hold leases, holds were granted out of them",
            holds=lambda figures: figures["drawn"] > 0 or not figures["leases_on"],
        ),
        _zero("overspent", "overspent is 0"),
        _zero("drift", "drift is 0"),
        _zero("leaked_holds", "no hold is leaked"),
        Criterion(
            figure="unknown",
            text="unknown is at most what holds of lost taps held, and lost leases where a draw is untold",
            holds=lambda figures: figures["unknown"] <= figures["unknown_most"],
        ),
        _zero("unexplained", "what is unknown stands in such holds and leases"),
        _zero("changed_again", "a second reconcile changes nothing"),
        Criterion(
            figure="kills",
            text=f"at least one filter was killed for {KILLS_SHARE} requests",
            holds=lambda figures: figures["kills"] >= figures["requests_asked"] // KILLS_SHARE,
        ),
        Criterion(
            figure="kills_by_label",
            text="every label has killed",
            holds=lambda figures: min(figures["kills_by_label"].values()) > 0,
        ),
        _zero("replay_differs", "the books replay to the ledger's counters, bit for bit"),
        Criterion(figure="books_clean", text="verify is clean", holds=lambda figures: figures["books_clean"]),
    ),
    abort=f"no request ends for {STUCK_S:.0f} s, or the time bound is over",
    requests=10_000,
    # A minute of it is for the leases of workers that died, which are charged so long after their end.
    seconds_max=lambda requests: 240 + 0.12 * requests,
    perform=_perform,
    canaries=CANARIES,
)

DRILLS: Final[Mapping[str, Drill]] = MappingProxyType({drill.name: drill for drill in (BUDGET_CRASH,)})
"""By name."""
