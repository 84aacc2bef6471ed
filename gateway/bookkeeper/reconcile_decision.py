"""What is to be done about holds that nobody resolved, or that were charged without certainty: pure.

A hold is judged by the last attempt of its request: that one answered, or would have. What an engine did
beyond what was charged (attempts that Envoy repeated, tokens for a client that had gone) is waste: nobody's
account, and told.

A provisional charge is what the tap saw, or an estimate. Where all of the answer was delivered (the tap saw
its end, or Envoy sent on all of it after it had given the tap up) the engine's record is what it cost, within
what was held. Elsewhere nobody knows how much of the record was delivered, but the tap saw all that it
charged pass: the charge stays, and only what an estimate has above the record is taken back.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from gateway.bookkeeper.reconcile_cases import COMPLETE, SEEN_CUT, Cases, HoldCase, LeaseCase, Standing
from gateway.bookkeeper.reconcile_engines import EngineRecord, EngineView
from gateway.budget.ledger import Draw
from gateway.budget.measure import Amounts
from gateway.contract.ids import HoldId, OrgId
from gateway.contract.units import MicroUsd, Millis, Tokens, UnixMillis
from gateway.models.catalogue import Prices
from gateway.path import HOLD_TTL

PriceTable = Mapping[tuple[str, str], Prices]
"""By name in the catalogue and revision."""

SETTLING: Final = Millis(60_000)
"""After a request is over the tap may still be settling (it tries for about ten seconds, its spool for
longer): only then is anything concluded from its silence."""
LEASE_WAIT: Final = HOLD_TTL
"""After a lease was charged: any request that was granted out of it is over by then and in the access log,
because no answer streams for longer than a hold lives."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """No engine ever had it: it costs nothing."""

    org: OrgId
    hold: HoldId
    live: bool
    draw: Draw | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SettleTo:
    """An engine's record says what it cost."""

    org: OrgId
    hold: HoldId
    used: Amounts
    attempts: int
    draw: Draw | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ReturnLease:
    """Nothing is owed out of it any more."""

    org: OrgId
    lease: HoldId


Action = Release | SettleTo | ReturnLease


@dataclass(frozen=True, slots=True, kw_only=True)
class Unknown:
    """What stays charged in full, and why. ``tokens`` is what is charged or held for it."""

    org: OrgId
    id: HoldId
    """Of the hold or lease."""
    tokens: Tokens
    windows: tuple[str, ...]
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Waste:
    """Tokens an engine produced for ``request`` that no account pays for."""

    request: str
    tokens: Tokens
    why: str
    """``repeated``: an attempt that another one took the place of. ``tail``: after the last usage that was
    seen of an answer that was cut, or beyond what was held."""


@dataclass(slots=True, kw_only=True)
class Decisions:
    """``open``: holds and leases whose time has not come. ``differing``: requests whose complete answer was
    charged with another amount than the engine tells. ``provisional``: charges that stay so."""

    actions: list[Action] = field(default_factory=list)
    unknown: list[Unknown] = field(default_factory=list)
    waste: list[Waste] = field(default_factory=list)
    differing: list[str] = field(default_factory=list)
    open: int = 0
    provisional: int = 0


def decisions_on(
    cases: Cases, engines: EngineView, *, now: UnixMillis, idle: bool, prices: PriceTable
) -> Decisions:
    """``prices``: without one the money stays as it was charged. ``idle``: no filter worker runs and no
    request is under way, so that nothing needs to be waited for."""
    decided = Decisions()
    unsettled: set[tuple[OrgId, HoldId]] = set()
    for case in cases.holds.values():
        decided.waste.extend(_waste(case, engines))
        if case.standing is Standing.FINAL:
            _compare(case, engines, decided)
        elif not _ripe(case, now=now, idle=idle) or _runs(case, engines):
            decided.open += 1
            unsettled.add((case.org, _lease_of(case)))
        elif case.standing is Standing.PROVISIONAL:
            _judge_provisional(case, engines, decided, prices)
        else:
            _judge(case, engines, decided, prices)
    orphans = _orphans(cases, engines)
    for lease in cases.leases.values():
        if not lease.returned:
            _judge_lease(lease, orphans, decided, now=now, idle=idle, unsettled=unsettled)
    return decided


def used_of(record: EngineRecord, prices: Prices | None, otherwise: MicroUsd) -> Amounts:
    """What one attempt cost; ``otherwise`` in money where no price is known."""
    prompt, completion = record.prompt_tokens, record.completion_tokens
    if prices is None:
        cost = otherwise
    elif record.tokens:
        cost = prices.cost(prompt=prompt, cached=min(prompt, record.cached_tokens), completion=completion)
    else:
        cost = MicroUsd(0)
    return Amounts.of(prompt, completion, micro_usd=cost)


def within(record: EngineRecord, most: Amounts) -> EngineRecord:
    """``record`` with no more tokens than ``most``, in each part; a hold of version 1 has no parts."""
    parts = bool(most.prompt_tokens or most.completion_tokens)
    prompt = min(record.prompt_tokens, most.prompt_tokens if parts else most.tokens)
    completion = min(record.completion_tokens, most.completion_tokens if parts else most.tokens - prompt)
    return replace(record, prompt_tokens=Tokens(prompt), completion_tokens=Tokens(completion))


def _ripe(case: HoldCase, *, now: UnixMillis, idle: bool) -> bool:
    if idle:
        return True
    if case.access is not None:
        return case.access.at_ms + SETTLING <= now
    # Charged by expiry: longer ago than any answer lasts. Live: the sweep has not come to it yet.
    return case.standing is Standing.BLIND or case.granted_at + HOLD_TTL + SETTLING <= now


def _runs(case: HoldCase, engines: EngineView) -> bool:
    attempts = engines.attempts.get(case.request_id, ())
    return bool(attempts) and not attempts[-1].over


def _judge(case: HoldCase, engines: EngineView, decided: Decisions, prices: PriceTable) -> None:
    attempts = engines.attempts.get(case.request_id, ())
    access = case.access
    draw = access.draw if access else None
    if case.standing is Standing.ABSENT and draw is None:
        return  # what the access log names and the ledger never held: nothing moved
    if attempts:
        held = draw.amounts if draw else case.held
        record = within(attempts[-1], held)
        decided.waste.extend(_tail(case, attempts[-1].tokens - record.tokens))
        used = used_of(record, prices.get((case.model, case.revision)), held.micro_usd)
        used = replace(used, micro_usd=min(used.micro_usd, held.micro_usd))
        decided.actions.append(
            SettleTo(org=case.org, hold=case.hold, used=used, attempts=len(attempts), draw=draw)
        )
    elif engines.complete or (access is not None and not access.reached):
        live = case.standing is not Standing.BLIND
        decided.actions.append(Release(org=case.org, hold=case.hold, live=live, draw=draw))
    else:
        why = "no engine has a record of it"
        decided.unknown.append(
            Unknown(org=case.org, id=case.hold, tokens=case.held.tokens, windows=case.windows, why=why)
        )


def _sent_on(case: HoldCase, record: EngineRecord) -> bool:
    """Whether all of an answer went on that its tap did not see to its end. Where the access entry was lost
    the engine tells: one whose client leaves does not finish."""
    return case.access.whole if case.access is not None else record.finished


def _judge_provisional(case: HoldCase, engines: EngineView, decided: Decisions, prices: PriceTable) -> None:
    attempts = engines.attempts.get(case.request_id, ())
    if not attempts:
        decided.provisional += 1
        return
    whole = case.ended == COMPLETE or (case.ended == SEEN_CUT and _sent_on(case, attempts[-1]))
    most = case.held if whole else case.charged
    record = within(attempts[-1], most)
    decided.waste.extend(_tail(case, attempts[-1].tokens - record.tokens))
    if not whole and record.tokens == case.charged.tokens:
        decided.provisional += 1
        return
    used = used_of(record, prices.get((case.model, case.revision)), case.charged.micro_usd)
    used = replace(used, micro_usd=min(used.micro_usd, most.micro_usd))
    draw = case.access.draw if case.access else None
    decided.actions.append(
        SettleTo(org=case.org, hold=case.hold, used=used, attempts=len(attempts), draw=draw)
    )


def _lease_of(case: HoldCase) -> HoldId:
    if case.lease or case.access is None or case.access.draw is None:
        return case.lease
    return case.access.draw.lease


def _tail(case: HoldCase, tokens: int) -> Iterator[Waste]:
    if tokens > 0:
        yield Waste(request=case.request_id, tokens=Tokens(tokens), why="tail")


def _waste(case: HoldCase, engines: EngineView) -> Iterator[Waste]:
    attempts = engines.attempts.get(case.request_id, ())
    repeated = sum(record.tokens for record in attempts[:-1])
    if repeated:
        yield Waste(request=case.request_id, tokens=Tokens(repeated), why="repeated")
    if attempts and case.standing is Standing.FINAL and _ends_early(case, attempts[-1]):
        left = attempts[-1].tokens - case.charged.tokens
        if left > 0:
            yield Waste(
                request=case.request_id, tokens=Tokens(left), why="unanswered" if case.voided else "tail"
            )


def _ends_early(case: HoldCase, record: EngineRecord) -> bool:
    """Whether the charge may be less than the record: no whole answer, or all that was held for it."""
    return case.cut or case.voided or case.charged.tokens == within(record, case.held).tokens


def _compare(case: HoldCase, engines: EngineView, decided: Decisions) -> None:
    attempts = engines.attempts.get(case.request_id, ())
    if not attempts or not attempts[-1].over:
        return
    produced, charged = attempts[-1].tokens, case.charged.tokens
    if charged > produced or (charged < produced and not _ends_early(case, attempts[-1])):
        decided.differing.append(case.request_id)


def _orphans(cases: Cases, engines: EngineView) -> Sequence[int]:
    """When attempts began that no hold accounts for: they may have been paid out of a lease that died with
    its worker, and nobody can say out of which."""
    known = {
        case.request_id
        for case in cases.holds.values()
        if case.standing is not Standing.ABSENT or (case.access is not None and case.access.draw is not None)
    }
    return [
        record.started_ms
        for rid, records in engines.attempts.items()
        if rid not in known
        for record in records
        if record.tokens
    ]


def _judge_lease(
    lease: LeaseCase,
    orphans: Sequence[int],
    decided: Decisions,
    *,
    now: UnixMillis,
    idle: bool,
    unsettled: set[tuple[OrgId, HoldId]],
) -> None:
    charged = lease.expired_at > 0
    early = not idle and (not charged or lease.expired_at + LEASE_WAIT > now)
    if early or (lease.org, lease.lease) in unsettled:
        decided.open += 1
    elif any(_in_life(lease, began) for began in orphans):
        decided.unknown.append(
            Unknown(
                org=lease.org,
                id=lease.lease,
                tokens=lease.rest,
                windows=lease.windows,
                why="an engine had a request in its time that no hold accounts for",
            )
        )
    else:
        decided.actions.append(ReturnLease(org=lease.org, lease=lease.lease))


def _in_life(lease: LeaseCase, began: int) -> bool:
    ends = lease.expired_at or began
    return began == 0 or lease.granted_at - SETTLING <= began <= ends + SETTLING
