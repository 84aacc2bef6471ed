"""The ledger's state out of the events: what gateway/budget/outbox.py says of each, applied in order.

Pure. Of a log that has everything the ledger appended, the counters are the ledger's own, to the bit. What
the log's end does not tell, it does not tell as finished: a hold without an end is live here, and whoever
restores it lets it expire, charged in full until somebody knows better.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from gateway.bookkeeper.window_ids import ends_at, measure_of
from gateway.budget import outbox
from gateway.budget.certainty import Certainty, certainty_of
from gateway.budget.ledger import TOMBSTONE_TTL, WINDOW_KEPT, AdjustmentKind, LeaseState, Outcome
from gateway.budget.measure import Amounts, Measure
from gateway.budget.rebuilt import (
    RebuiltBooks,
    RebuiltCounter,
    RebuiltHold,
    RebuiltLease,
    RebuiltOverride,
)
from gateway.budget.window import Window
from gateway.contract.ids import AccountId, HoldId, OrgId
from gateway.contract.units import TOKENS_MAX, UnixMillis
from gateway.events.event import Event, EventType

FORGET_EVERY: Final = 50_000
"""Events between two looks for what is too old: bounds memory to what the ledger itself would keep."""
FORGET_AFTER: Final = 2 * WINDOW_KEPT
"""How long after its end a window is kept here: longer than in the ledger, so that what still moves it there
finds it here."""
IRREGULAR_KEPT: Final = 20
"""Beyond this many the list says nothing new; they are still counted."""
_RESOLVED: Final = {
    EventType.HOLD_SETTLED: Outcome.POSTED,
    EventType.HOLD_VOIDED: Outcome.VOIDED,
    EventType.HOLD_EXPIRED: Outcome.EXPIRED,
    EventType.HOLD_CORRECTED: Outcome.CORRECTED,
}
_LEASES: Final = (EventType.LEASE_GRANTED, EventType.LEASE_RETURNED, EventType.LEASE_EXPIRED)
RECONCILED: Final = "reconciled"
"""Reason of the return of a lease that had been charged."""


@dataclass(slots=True)
class CounterState:
    """One window on the way."""

    used: int = 0
    held: int = 0
    leased: int = 0
    credit: int = 0
    drop_at: int = 0
    """When it is forgotten, if nothing is held; 0 for never."""


@dataclass(slots=True)
class OrgState:
    """One org on the way. Its values are those of gateway/budget/rebuilt.py, in the making."""

    clock_ms: int = 0
    counters: dict[str, CounterState] = field(default_factory=dict)
    holds: dict[HoldId, RebuiltHold] = field(default_factory=dict)
    leases: dict[HoldId, RebuiltLease] = field(default_factory=dict)
    overrides: dict[AccountId, RebuiltOverride] = field(default_factory=dict)
    adjusted: dict[HoldId, UnixMillis] = field(default_factory=dict)

    def counter(self, window: str) -> CounterState:
        """Made where there is none. Raises ValueError for what is no window's id."""
        found = self.counters.get(window)
        if found is None:
            end = ends_at(window)
            found = self.counters[window] = CounterState(drop_at=end + FORGET_AFTER if end else 0)
        return found

    def move(
        self, windows: Iterable[str], amounts: Amounts, requests: int, *, held: int = 0, used: int = 0
    ) -> None:
        """Add ``held`` and ``used`` times the amounts; each is -1, 0 or 1."""
        for name in windows:
            counter, measure = self.counter(name), measure_of(name)
            counter.held += held * amounts.weight(measure, requests, requests)
            counter.used += used * amounts.weight(measure, requests, 0)

    def lease_out(self, windows: Iterable[str], amounts: Amounts, requests: int, sign: int) -> None:
        """The part of what is held that leases have not handed out."""
        for name in windows:
            if (measure := measure_of(name)) is not Measure.CONCURRENT:
                self.counter(name).leased += sign * amounts.weight(measure, requests, 0)

    def keep(self, windows: Iterable[str], at_ms: int) -> None:
        """A correction may still come: these windows outlive a tombstone from ``at_ms``."""
        for name in windows:
            counter = self.counter(name)
            if counter.drop_at:
                counter.drop_at = max(counter.drop_at, at_ms + FORGET_AFTER)

    def forget(self) -> None:
        """Tombstones and windows whose time is over."""
        for name in [one for one, hold in self.holds.items() if _over(hold, self.clock_ms)]:
            del self.holds[name]
        for name in [one for one, until in self.adjusted.items() if until <= self.clock_ms]:
            del self.adjusted[name]
        for name in [
            one
            for one, lease in self.leases.items()
            if lease.state is LeaseState.EXPIRED and lease.ends_at <= self.clock_ms
        ]:
            del self.leases[name]
        for window in [
            one
            for one, counter in self.counters.items()
            if counter.drop_at and counter.drop_at <= self.clock_ms and not counter.held
        ]:
            del self.counters[window]


class Replay:
    """``add`` every event of the books in order, then ``books``."""

    def __init__(self, orgs: Mapping[OrgId, OrgState] | None = None) -> None:
        """``orgs``: of a checkpoint (gateway/bookkeeper/checkpoint.py)."""
        self.orgs: dict[OrgId, OrgState] = dict(orgs or {})
        self.events = 0
        """Applied, of whatever type."""
        self.unreadable = 0
        """Entries that no schema of ours explains: what they moved is not in the counters."""
        self.irregular: list[str] = []
        """Ids of the first events that end or correct a hold or lease that the log does not know."""
        self.irregular_total = 0
        self._last: dict[str, tuple[int, int]] = {}

    def knows(self, org: OrgId, entry: str) -> bool:
        """Whether outbox entry ``entry`` (``<ms>-<n>``) was added: ids of an outbox ascend."""
        return _place(entry) <= self._last.get(org, (0, 0))

    def add(self, event: Event) -> None:
        """Raises ValueError for amounts or a window that the ledger cannot have written."""
        self.events += 1
        owner, _, entry = event.id.partition("/")
        if owner == event.org and event.type is not EventType.ACCESS:
            self._last[event.org] = _place(entry)
        if event.type is EventType.EVENT_UNREADABLE:
            self.unreadable += 1
        elif event.type is EventType.HOLD_GRANTED:
            _granted(self._org(event), event)
        elif event.type in _RESOLVED:
            self._note(event, known=_resolved(self._org(event), event, _RESOLVED[event.type]))
        elif event.type in _LEASES:
            self._note(event, known=_leased(self._org(event), event))
        elif event.type is EventType.BUDGET_ADJUSTED:
            _adjusted(self._org(event), event)
        elif event.verdict == outbox.NOTED or event.type is EventType.HOLD_REFUSED:
            self._org(event)  # opens the org's books and moves its clock
        if self.events % FORGET_EVERY == 0:
            for org in self.orgs.values():
                org.forget()

    def books(self) -> list[RebuiltBooks]:
        """Every org's, sorted. Live holds end at the log's end: restored they expire at once."""
        return [_frozen(name, self.orgs[name]) for name in sorted(self.orgs)]

    def _org(self, event: Event) -> OrgState:
        found = self.orgs.setdefault(OrgId(event.org), OrgState())
        found.clock_ms = max(found.clock_ms, event.at_ms)
        return found

    def _note(self, event: Event, *, known: bool) -> None:
        if not known:
            self.irregular_total += 1
            if len(self.irregular) < IRREGULAR_KEPT:
                self.irregular.append(event.id)


def _granted(org: OrgState, event: Event) -> None:
    amounts, context = outbox.amounts_of("held", event.amounts), _context(event)
    lease = org.leases.get(HoldId(context.get("lease", "")))
    if "lease" not in context:
        org.move(event.accounts, amounts, 1, held=1)
    elif context.get("lease_state") == LeaseState.EXPIRED.value:
        org.move(event.accounts, amounts, 1, held=1, used=-1)
    else:
        org.lease_out(event.accounts, amounts, 1, -1)
    if lease is not None:
        org.leases[HoldId(context["lease"])] = replace(
            lease, rest=lease.rest.less(amounts), requests=lease.requests - 1
        )
    org.holds[HoldId(event.hold)] = RebuiltHold(
        windows=event.accounts, amounts=amounts, version=_version(event), context=context
    )


def _resolved(org: OrgState, event: Event, outcome: Outcome) -> bool:
    """Whether the log knew the hold as one that could end so."""
    held, used = outbox.amounts_of("held", event.amounts), outbox.amounts_of("used", event.amounts)
    hold = org.holds.get(HoldId(event.hold))
    certainty = certainty_of(event.type, event.reason)
    if outcome is Outcome.CORRECTED:
        was = outbox.amounts_of("was", event.amounts) if "was" in (event.amounts or {}) else held
        org.move(event.accounts, was, 1, used=-1)
        org.move(event.accounts, used, 1, used=1)
        known = hold is not None and hold.outcome is not Outcome.LIVE and hold.certainty < certainty
    else:
        org.move(event.accounts, held, 1, held=-1)
        if outcome is not Outcome.VOIDED:
            org.move(event.accounts, used, 1, used=1)
        known = hold is not None and hold.outcome is Outcome.LIVE
    if certainty < Certainty.EXACT:
        org.keep(event.accounts, event.at_ms)
    context = _context(event) if hold is None else hold.context
    final = certainty is Certainty.EXACT  # nothing moves again: a day of these must fit in memory
    org.holds[HoldId(event.hold)] = RebuiltHold(
        windows=() if final else event.accounts,
        amounts=held,
        version=_version(event),
        context={} if final else context,
        outcome=outcome,
        posted=used,
        certainty=certainty,
        ends_at=UnixMillis(event.at_ms + TOMBSTONE_TTL),
    )
    return known


def _leased(org: OrgState, event: Event) -> bool:
    """Whether the log knew the lease."""
    name, windows = HoldId(event.hold), event.accounts
    amounts = outbox.amounts_of("held", event.amounts)
    requests = int((event.amounts or {}).get("held_requests", "0"))
    known = org.leases.pop(name, None)
    if event.type is EventType.LEASE_GRANTED:
        org.move(windows, amounts, requests, held=1)
        org.lease_out(windows, amounts, requests, 1)
    elif event.reason == RECONCILED:
        org.move(windows, amounts, requests, used=-1)
        return known is not None
    else:
        charged = event.type is EventType.LEASE_EXPIRED
        org.move(windows, amounts, requests, held=-1, used=int(charged))
        org.lease_out(windows, amounts, requests, -1)
        if not charged:
            return known is not None
        org.keep(windows, event.at_ms)
    granted = event.type is EventType.LEASE_GRANTED
    org.leases[name] = RebuiltLease(
        windows=windows,
        rest=amounts,
        requests=requests,
        version=_version(event),
        context=_context(event),
        state=LeaseState.LIVE if granted else LeaseState.EXPIRED,
        granted_at=UnixMillis(event.at_ms if known is None else known.granted_at),
        ends_at=UnixMillis(event.at_ms + (0 if granted else TOMBSTONE_TTL)),
    )
    return granted or known is not None


def _adjusted(org: OrgState, event: Event) -> None:
    context, kind = event.context or {}, AdjustmentKind(event.verdict)
    account = AccountId(context.get("account", ""))
    org.adjusted[HoldId(event.hold)] = UnixMillis(event.at_ms + TOMBSTONE_TTL)
    over = org.overrides.get(account, RebuiltOverride())
    if kind in (AdjustmentKind.FREEZE, AdjustmentKind.UNFREEZE):
        org.overrides[account] = replace(over, frozen=kind is AdjustmentKind.FREEZE)
        return
    window = outbox.window_of(context.get("window", ""))
    if kind is AdjustmentKind.TOP_UP:
        for name in event.accounts:
            counter = org.counter(name)
            counter.credit = min(TOKENS_MAX, counter.credit + window.limit)
    elif kind is AdjustmentKind.SET:
        org.overrides[account] = replace(over, windows=_with(over.windows, window))
    else:
        kept = tuple(one for one in over.windows if one.name != window.name)
        org.overrides[account] = replace(over, windows=kept)


def _with(windows: Sequence[Window], window: Window) -> tuple[Window, ...]:
    """In the place of the one with its name, else behind the others."""
    if all(one.name != window.name for one in windows):
        return (*windows, window)
    return tuple(window if one.name == window.name else one for one in windows)


def _place(entry: str) -> tuple[int, int]:
    milliseconds, _, number = entry.partition("-")
    return int(milliseconds), int(number)


def _version(event: Event) -> int:
    return int(event.policy_version or "0")


def _context(event: Event) -> dict[str, str]:
    """What the ledger repeats in the hold's next events: the books keep some of it in places of its own."""
    kept = {
        name: text
        for name, text in (event.context or {}).items()
        if not name.startswith(("detail.", "field."))
    }
    return kept | ({"request_id": event.request_id} if event.request_id else {})


def _over(hold: RebuiltHold, now: int) -> bool:
    return hold.outcome is not Outcome.LIVE and hold.ends_at <= now


def _frozen(name: OrgId, state: OrgState) -> RebuiltBooks:
    state.forget()
    clock = UnixMillis(state.clock_ms)
    return RebuiltBooks(
        org=name,
        clock_ms=clock,
        counters={
            window: RebuiltCounter(used=one.used, held=one.held, leased=one.leased, credit=one.credit)
            for window, one in state.counters.items()
        },
        holds={
            hold: replace(one, ends_at=clock) if one.outcome is Outcome.LIVE else one
            for hold, one in state.holds.items()
        },
        leases={
            lease: replace(one, ends_at=clock) if one.state is LeaseState.LIVE else one
            for lease, one in state.leases.items()
        },
        overrides={account: over for account, over in state.overrides.items() if over.windows or over.frozen},
        adjusted=dict(state.adjusted),
    )
