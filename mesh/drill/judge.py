"""The judge of the books: the engine's own truth log against ledger, events and what clients saw. Pure.

*Produced* for an answer is what the engine generated for its request, by the truth log, less what reconciling
told as waste and the truth log bears out: attempts that another one took the place of, tokens after a client
had gone (but not what it had by then), answers that ended in an error. *Overspent* is produced beyond the
limit of an account; *drift* is used - produced - unknown, summed without sign over every account. Tokens of a
request that no event names are drift, unless a killed worker had granted it out of a lease, and leases stay
charged for it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from gateway.events.event import Event, EventType
from inference.twin.truth import Attempt
from mesh.drill.crash import Toll

NOT_PRODUCED: Final = frozenset({"refused", "rejected", "scripted"})
"""Outcomes of attempts that were answered without a generation."""
UNHEARD: Final = frozenset({"client_gone", "abort", "cut", "evicted"})
"""Outcomes of attempts whose end nobody heard: they may have gone on after the last usage seen."""
CLOSED_CODES: Final = frozenset(
    {"identity_unavailable", "admission_unavailable", "budget_unavailable", "budget_closed"}
)
"""Refusals because a rule closes: not lost, counted apart."""


class Ending(Enum):
    """What a client saw of one request."""

    ANSWERED = "answered"
    LEFT = "left"
    """It went away by plan."""
    OVER_BUDGET = "over_budget"
    CLOSED = "closed"
    LOST = "lost"
    """Admitted and not answered whole, or an error that no rule asks for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """``rid`` is the ``x-request-id`` of the answer, empty where none came."""

    ending: Ending
    rid: str = ""
    code: str = ""
    received: int = 0
    """Tokens of the answer that the client had when it left, at least: a chunk of a stream carries one."""


def ending_of(status: int, code: str, *, whole: bool) -> Ending:
    """``status`` 0: no answer began. ``whole``: it came to its end (``[DONE]``, all of the JSON)."""
    if status == 200:
        return Ending.ANSWERED if whole else Ending.LOST
    if status == 429:
        return Ending.OVER_BUDGET
    return Ending.CLOSED if code in CLOSED_CODES else Ending.LOST


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountBooks:
    """One account of one org as the ledger has it at the end."""

    org: str
    account: str
    limit: int
    """-1: none."""
    used: int
    held: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Reconciled:
    """What reconciling left: tokens by hold or lease, and waste by request."""

    unknown: Mapping[str, int] = field(default_factory=dict)
    unknown_windows: Mapping[str, tuple[str, tuple[str, ...]]] = field(default_factory=dict)
    """Org and window ids of each."""
    waste: Mapping[str, int] = field(default_factory=dict)


@dataclass(slots=True, kw_only=True)
class _Request:
    org: str
    accounts: frozenset[str]
    held: int
    drawn: bool
    live: bool = True


@dataclass(slots=True, kw_only=True)
class _Lease:
    rest: int = 0
    """What was charged when it expired, or had been before it was returned."""
    live: bool = True
    returned: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class BookFigures:
    """Tokens, but for ``leaked_holds`` and ``holds``."""

    produced: int
    used: int
    overspent: int
    drift: int
    unknown: int
    unknown_most: int
    """What the holds of the requests held whose tap was killed; and, where a draw is untold, what killed
    workers left in their leases: nobody can say which of these it was drawn from."""
    unexplained: int
    """Of the unknown ones, those that are neither such a hold nor such a lease."""
    waste: int
    leaked_holds: int
    holds: int
    leases: int
    drawn: int
    """Holds that were granted out of a lease."""
    untold: int
    """Beside these, requests that were granted out of a lease and of which only the engine knows: the worker
    died before it told the ledger, and the access log's entry died too."""


def book_figures(
    attempts: Sequence[Attempt],
    events: Iterable[Event],
    accounts: Sequence[AccountBooks],
    reconciled: Reconciled,
    seen: Sequence[Seen],
    toll: Toll,
) -> BookFigures:
    """``attempts`` of the truth log; ``toll``: what killed processes were about."""
    requests, leases = _requests(events)
    produced, waste = _produced(attempts, reconciled, seen)
    overspent = drift = 0
    for books in accounts:
        name = books.org, books.account
        here = [rid for rid, request in requests.items() if _touches(request, name)]
        answers = sum(produced.get(rid, 0) for rid in here)
        known = sum(produced.get(rid, 0) for rid in here if rid not in reconciled.unknown)
        unknown = sum(
            tokens
            for hold, tokens in reconciled.unknown.items()
            if _stands_in(reconciled.unknown_windows.get(hold, ("", ())), name)
        )
        if books.limit >= 0:
            overspent += max(0, answers - books.limit)
        drift += abs(books.used - known - unknown)
    nameless = {rid: tokens for rid, tokens in produced.items() if tokens and rid not in requests}
    untold = nameless.keys() & toll.drawn
    paid = sum(tokens for hold, tokens in reconciled.unknown.items() if hold in leases)
    drift += sum(nameless[rid] for rid in nameless.keys() - untold)
    drift += max(0, sum(nameless[rid] for rid in untold) - paid)
    lost = {rid: requests[rid].held for rid in toll.lost_taps if rid in requests}
    lost |= _left_in_leases(leases, toll.workers) if untold else {}
    live = sum(request.live for request in requests.values()) + sum(lease.live for lease in leases.values())
    return BookFigures(
        produced=sum(produced.values()),
        used=sum(books.used for books in accounts if books.account == "org"),
        overspent=overspent,
        drift=drift,
        unknown=sum(reconciled.unknown.values()),
        unknown_most=sum(lost.values()),
        unexplained=sum(max(0, tokens - lost.get(name, 0)) for name, tokens in reconciled.unknown.items()),
        waste=waste,
        leaked_holds=live or sum(books.held != 0 for books in accounts),
        holds=len(requests),
        leases=len(leases),
        drawn=sum(request.drawn for request in requests.values()),
        untold=len(untold),
    )


def _left_in_leases(leases: Mapping[str, _Lease], workers: frozenset[str]) -> dict[str, int]:
    """By lease of those workers: what was charged with it, and stays so. An id is lease/WORKER/NUMBER."""
    return {
        name: lease.rest
        for name, lease in leases.items()
        if not lease.returned and name.split("/")[1] in workers
    }


def _requests(events: Iterable[Event]) -> tuple[dict[str, _Request], dict[str, _Lease]]:
    """By request id; and the leases."""
    found: dict[str, _Request] = {}
    leases: dict[str, _Lease] = {}
    ends = {EventType.HOLD_SETTLED, EventType.HOLD_VOIDED, EventType.HOLD_EXPIRED, EventType.HOLD_CORRECTED}
    for event in events:
        if event.type is EventType.HOLD_GRANTED:
            held = int((event.amounts or {}).get("held", "0"))
            accounts = frozenset(window.split("|")[0] for window in event.accounts)
            drawn = "lease" in (event.context or {})
            request = _Request(org=event.org, accounts=accounts, held=held, drawn=drawn)
            found.setdefault(event.hold, request)
        elif event.type in ends and event.hold in found:
            found[event.hold].live = False
        elif event.type is EventType.LEASE_GRANTED:
            leases.setdefault(event.hold, _Lease())
        elif event.type in (EventType.LEASE_RETURNED, EventType.LEASE_EXPIRED):
            lease = leases.setdefault(event.hold, _Lease())
            lease.live, lease.returned = False, event.type is EventType.LEASE_RETURNED
            lease.rest = int((event.amounts or {}).get("held", "0"))
    return found, leases


def _touches(request: _Request, name: tuple[str, str]) -> bool:
    return request.org == name[0] and name[1] in request.accounts


def _stands_in(windows: tuple[str, tuple[str, ...]], name: tuple[str, str]) -> bool:
    return windows[0] == name[0] and name[1] in {window.split("|")[0] for window in windows[1]}


def _produced(
    attempts: Sequence[Attempt], reconciled: Reconciled, seen: Sequence[Seen]
) -> tuple[dict[str, int], int]:
    """Tokens for answers by request, and how much waste was borne out."""
    answered = {one.rid for one in seen if one.ending is Ending.ANSWERED}
    total, last, count = Counter[str](), dict[str, Attempt](), Counter[str]()
    for attempt in attempts:
        if attempt.outcome not in NOT_PRODUCED:
            total[attempt.rid] += attempt.prompt_tokens + attempt.completion_tokens
            count[attempt.rid] += 1
        last[attempt.rid] = attempt
    received = {one.rid: one.received for one in seen if one.received}
    borne_out = 0
    for rid, tokens in reconciled.waste.items():
        if count[rid] > 1 or (rid in last and (last[rid].outcome in UNHEARD or rid not in answered)):
            # What the client had is no waste.
            least = last[rid].prompt_tokens + received[rid] if rid in received else 0
            wasted = min(tokens, max(0, total[rid] - least))
            total[rid] -= wasted
            borne_out += wasted
    return dict(total), borne_out
