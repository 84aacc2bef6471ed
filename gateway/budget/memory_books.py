"""The books of one org in memory, and the rules that move them. memory_ledger.py has the verbs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from gateway.budget.calendar import HOUR_MS, MINUTE_MS, bucket_ms, window_bounds
from gateway.budget.certainty import Certainty
from gateway.budget.ledger import (
    WINDOW_KEPT,
    Granted,
    HoldRequest,
    LeaseState,
    Outcome,
)
from gateway.budget.measure import PICO_PER_MICRO, Amounts, Measure
from gateway.budget.window import (
    UNLIMITED,
    Account,
    Enforcement,
    Standing,
    Window,
    WindowKind,
    window_id,
)
from gateway.contract.ids import AccountId, HoldId
from gateway.contract.units import TOKENS_MAX, UnixMillis

MICRO_CAP: Final = TOKENS_MAX // PICO_PER_MICRO
"""Micro-USD above which money limits no single request: its pico-USD would not be exact any more."""
FROZEN_SPAN: Final = "lifetime"
"""Of the standing that says an account is frozen."""


@dataclass(slots=True)
class Counter:
    """One window of one account (one bucket of a rolling one)."""

    measure: Measure
    used: int = 0
    held: int = 0
    leased: int = 0
    """Part of ``held`` that is the rest of live leases."""
    credit: int = 0
    drop_at: int = 0
    """0: never."""


@dataclass(slots=True)
class Hold:
    """A hold and, after its end, its tombstone."""

    grant: Granted
    windows: tuple[str, ...]
    version: int
    context: dict[str, str]
    outcome: Outcome = Outcome.LIVE
    posted: Amounts = Amounts()
    expires_at: int = 0
    certainty: Certainty = Certainty.EXACT
    """Of what was posted: a settle that knows more may correct it."""
    forget_at: int = 0


@dataclass(slots=True)
class Lease:
    """Funds held ahead; ``rest`` is what was not drawn."""

    windows: tuple[str, ...]
    rest: Amounts
    requests: int
    granted_at: int
    expires_at: int
    version: int
    context: dict[str, str]
    state: LeaseState = LeaseState.LIVE
    forget_at: int = 0


@dataclass(slots=True)
class Override:
    """What an operator set over the policy of one account."""

    windows: dict[tuple[Measure, str], Window] = field(default_factory=dict)
    frozen: bool = False


@dataclass(slots=True)
class Placed:
    """A window of a request at the present time."""

    account: AccountId
    window: Window
    id: str
    start: int
    bucket_ends: int
    """Of a rolling window: when its newest bucket is full; else 0."""
    resets_at: UnixMillis
    limit: int
    used: int
    held: int
    leased: int

    @property
    def remaining(self) -> int:
        """As Standing's."""
        return UNLIMITED if self.limit == UNLIMITED else max(0, self.limit - self.used - self.held)

    @property
    def binds(self) -> bool:
        """Whether it can refuse."""
        return self.limit != UNLIMITED and self.window.enforcement is Enforcement.HARD

    @property
    def name(self) -> str:
        """``<account>|<span>`` or ``<account>|<measure>|<span>``: the id without its start."""
        return self.id.rpartition("|")[0]

    def standing(self) -> Standing:
        """For the caller."""
        return Standing(
            account=self.account,
            measure=self.window.measure,
            span=self.window.span,
            limit=self.limit,
            used=self.used,
            held=self.held,
            resets_at=self.resets_at,
            enforcement=self.window.enforcement,
        )


@dataclass(slots=True)
class Books:
    """One org's state."""

    confirmed: int
    latest: int = 0
    """The latest second in which anything was decided: no window before it is granted from again, though the
    store's clock leaps and returns between two ticks."""
    limits: dict[AccountId, tuple[int, tuple[Window, ...]]] = field(default_factory=dict)
    overrides: dict[AccountId, Override] = field(default_factory=dict)
    adjusted: dict[HoldId, int] = field(default_factory=dict)
    """Ids of adjustments, and when they are forgotten."""
    counters: dict[str, Counter] = field(default_factory=dict)
    """By window id. What is posted to one that is gone is dropped: it ended too long ago to be read."""
    recalled: dict[str, int] = field(default_factory=dict)
    """When leases on a window were last recalled, by the window's id without its start."""
    holds: dict[HoldId, Hold] = field(default_factory=dict)
    leases: dict[HoldId, Lease] = field(default_factory=dict)

    def take_limits(self, accounts: Iterable[Account], version: int) -> bool:
        """Newer limits replace the ledger's; True when the same version brings other ones."""
        conflict = False
        for account in accounts:
            known = self.limits.setdefault(account.id, (version, account.windows))
            if version > known[0]:
                self.limits[account.id] = (version, account.windows)
            conflict |= version == known[0] and account.windows != known[1]
        return conflict

    def frozen(self, accounts: Iterable[Account]) -> AccountId | None:
        """The first frozen account."""
        return next((one.id for one in accounts if self.overrides.get(one.id, Override()).frozen), None)

    def windows_of(self, account: Account) -> list[Window]:
        """The ledger's list, else the caller's, with what an operator set in place of the same window or
        behind the others."""
        _, windows = self.limits.get(account.id, (0, account.windows))
        over = self.overrides.get(account.id, Override()).windows
        known = {window.name for window in windows}
        return [over.get(window.name, window) for window in windows] + [
            window for name, window in over.items() if name not in known
        ]

    def placed(self, accounts: Iterable[Account], now: UnixMillis) -> list[Placed]:
        """Every window of ``accounts``, in their order."""
        return [
            self.place(account.id, window, now) for account in accounts for window in self.windows_of(account)
        ]

    def place(self, account: AccountId, window: Window, now: UnixMillis) -> Placed:
        """``window`` as it stands now."""
        start, resets_at = window_bounds(window, now)
        counters = self.in_view(account, window, now)
        if window.kind is WindowKind.ROLLING and counters:
            resets_at = _leaves_at(window, min(counters))
        limit = window.limit
        if limit != UNLIMITED:
            limit += sum(counter.credit for counter in counters.values())
            limit += self._carried(account, window, start)
        return Placed(
            account=account,
            window=window,
            id=window_id(account, window.measure, window.span, start),
            start=start,
            bucket_ends=start + bucket_ms(window.seconds) if window.seconds else 0,
            resets_at=resets_at,
            limit=min(limit, TOKENS_MAX),
            used=sum(counter.used for counter in counters.values()),
            held=sum(counter.held for counter in counters.values()),
            leased=sum(counter.leased for counter in counters.values()),
        )

    def in_view(self, account: AccountId, window: Window, now: UnixMillis) -> dict[int, Counter]:
        """The counters that count now, by their start: one, or the buckets of a rolling window that hold
        anything."""
        newest, _ = window_bounds(window, now)
        if window.kind is not WindowKind.ROLLING:
            found = self.counters.get(window_id(account, window.measure, window.span, newest))
            return {} if found is None else {int(newest): found}
        width = bucket_ms(window.seconds)
        buckets: dict[int, Counter] = {}
        start = int(newest)
        while _leaves_at(window, start) > now:
            found = self.counters.get(window_id(account, window.measure, window.span, UnixMillis(start)))
            if found is not None and (found.used or found.held or found.credit):
                buckets[start] = found
            start -= width
        return buckets

    def _carried(self, account: AccountId, window: Window, start: int) -> int:
        """Of ``burst`` what the window before left unspent."""
        if not window.burst:
            return 0
        length = MINUTE_MS if window.kind is WindowKind.MINUTE else HOUR_MS
        before = self.counters.get(
            window_id(account, window.measure, window.span, UnixMillis(start - length))
        )
        spent = before.used + before.held if before else 0
        return min(window.burst, max(0, window.limit - spent))

    def pays_at(self, placed: Placed, needed: int, now: UnixMillis) -> int:
        """When time alone lets the window pay ``needed``; 0 for never. Where it never fits: when it is
        empty."""
        if placed.window.kind is not WindowKind.ROLLING:
            return placed.resets_at
        left = placed.limit - placed.used - placed.held
        buckets = self.in_view(placed.account, placed.window, now)
        moment = 0
        for start in sorted(buckets):
            counter = buckets[start]
            left += counter.used + counter.held - counter.credit
            moment = _leaves_at(placed.window, start)
            if left >= needed:
                break
        return moment

    def counter(self, placed: Placed) -> Counter:
        """The counter that ``placed`` posts to, made where there is none."""
        found = self.counters.get(placed.id)
        if found is None:
            _, ends = window_bounds(placed.window, UnixMillis(placed.start))
            drop_at = ends + (WINDOW_KEPT if ends and not placed.window.seconds else 0)
            found = self.counters[placed.id] = Counter(measure=placed.window.measure, drop_at=drop_at)
        return found

    def hold(self, windows: Sequence[str], amounts: Amounts, requests: int, *, sign: int = 1) -> None:
        """Add to what is held: ``requests`` of so much together, each of them in flight."""
        for counter in self._kept(windows):
            counter.held += sign * amounts.weight(counter.measure, requests, requests)

    def lease_out(self, windows: Sequence[str], amounts: Amounts, requests: int, *, sign: int = 1) -> None:
        """Add to the part of what is held that is the rest of leases."""
        for counter in self._kept(windows):
            counter.leased += sign * amounts.weight(counter.measure, requests, 0)

    def use(self, windows: Sequence[str], amounts: Amounts, requests: int, *, sign: int = 1) -> None:
        """Add to what is used."""
        for counter in self._kept(windows):
            counter.used += sign * amounts.weight(counter.measure, requests, 0)

    def keep(self, windows: Sequence[str], now: UnixMillis) -> None:
        """A correction may still come: these windows outlive a tombstone from now. Not a rolling window's
        bucket: once it has left, nothing can correct what counts."""
        for name in windows:
            counter = self.counters.get(name)
            if counter is not None and counter.drop_at and "|rolling-" not in name:
                counter.drop_at = max(counter.drop_at, now + WINDOW_KEPT)

    def sweep(self, now: UnixMillis) -> None:
        """Forget windows that ended long ago and hold nothing, and adjustments nobody will repeat."""
        for window, counter in list(self.counters.items()):
            if counter.drop_at and counter.drop_at <= now and counter.held == 0:
                del self.counters[window]
        for name, forget_at in list(self.adjusted.items()):
            if forget_at <= now:
                del self.adjusted[name]

    def _kept(self, windows: Sequence[str]) -> list[Counter]:
        return [self.counters[name] for name in windows if name in self.counters]


def _leaves_at(window: Window, start: int) -> UnixMillis:
    return UnixMillis(start + bucket_ms(window.seconds) + window.seconds * 1000)


def payable(request: HoldRequest, placed: Placed) -> int:
    """Most units that ``placed`` can pay, which can pay the fewest."""
    left, choices, price = placed.remaining, request.choices, request.price
    match placed.window.measure:
        case Measure.TOKENS:
            return (left - request.fixed) // choices
        case Measure.COMPLETION_TOKENS:
            return left // choices
        case Measure.MICRO_USD if price.completion and left - price.request <= MICRO_CAP:
            pico = (left - price.request) * PICO_PER_MICRO - request.fixed * price.prompt
            return pico // (price.completion * choices)
    return request.units_wanted


def tightest(placed: Iterable[Placed]) -> dict[Measure, Standing]:
    """Of each measure the binding window with the least left; of equals the one that resets last (never is
    last of all); of those the first."""
    found: dict[Measure, Placed] = {}
    for one in placed:
        best = found.get(one.window.measure)
        if one.binds and (best is None or _tightness(one) < _tightness(best)):
            found[one.window.measure] = one
    return {measure: found[measure].standing() for measure in Measure if measure in found}


def _tightness(placed: Placed) -> tuple[int, int]:
    return placed.remaining, -(placed.resets_at or TOKENS_MAX)


def over(placed: Iterable[Placed], enforcement: Enforcement) -> list[Placed]:
    """The windows of this enforcement that stand above their limit."""
    return [
        one
        for one in placed
        if one.window.enforcement is enforcement
        and one.limit != UNLIMITED
        and one.used + one.held > one.limit
    ]


def standings(books: Books, accounts: Sequence[Account], now: UnixMillis) -> list[Standing]:
    """Every window as it stands."""
    frozen = [one.id for one in accounts if books.overrides.get(one.id, Override()).frozen]
    return [replace(one.standing(), frozen=one.account in frozen) for one in books.placed(accounts, now)]


def frozen_standing(account: AccountId) -> Standing:
    """What a refusal on a frozen account shows."""
    return Standing(
        account=account,
        measure=Measure.TOKENS,
        span=FROZEN_SPAN,
        limit=0,
        used=0,
        held=0,
        resets_at=UnixMillis(0),
        frozen=True,
    )
