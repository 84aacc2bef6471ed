"""Histories of a ledger whose clocks jump by an hour or a day, and the judge of what it granted.

The judge knows the true time and reads the outbox; it shares no code with the ledger. With ``true`` time,
the ``store``'s clock and the ``witness`` (the bookkeeper's own clock, which confirms the store's), it holds
the ledger to this:

1. Time of the ledger never goes back, but within a second: what was granted last lies in the newest window,
   no window reopens.
2. Of one window of the ledger's time no more than its limit is granted, at any instant; of a rolling one, in
   any so many seconds of the ledger's time.
3. The ledger is ahead of the true time by no more than both clocks ever were, the witness with a grace of two
   minutes: a witness that leaps alone moves nothing, a store that leaps alone moves it by AHEAD_ALONE_MS.
4. So up to any true instant no more was granted than all windows pay that have begun by then, or would have
   in so little time (3). That is what ``overspent`` counts, besides 2.

What is not promised: that a window's limit is spent within that very window. While a clock stands back, time
stands still; what its window has left may be granted late, and the next window's limit after it, together
more than one limit in a true window. ``most_in_a_window`` is the most of that, in limits.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final
from zoneinfo import ZoneInfo

from gateway.budget.ledger import BudgetLedger, Granted, HoldRequest
from gateway.budget.measure import Amounts
from gateway.budget.window import Account, Window, WindowKind
from gateway.contract.clock import ManualClock
from gateway.contract.ids import AccountId, HoldId, OrgId
from gateway.contract.units import Millis, Tokens

ORG: Final = OrgId("acme")
LIMIT: Final = 100
SECOND: Final = 1000
HOUR: Final = 3600 * SECOND
DAY: Final = 24 * HOUR
JUMPS: Final = (HOUR, -HOUR, DAY, -DAY)
AHEAD_ALONE_MS: Final = 120 * SECOND
STEPS: Final = 200
START: Final = int(datetime(2026, 10, 24, 20, tzinfo=UTC).timestamp() * 1000)
"""Some hours before the summer time of Berlin ends, a week before a month does."""
WINDOWS: Final = {
    "minute": Window(kind=WindowKind.MINUTE, limit=LIMIT),
    "minute, burst": Window(kind=WindowKind.MINUTE, limit=LIMIT, burst=LIMIT // 2),
    "hour": Window(kind=WindowKind.HOUR, limit=LIMIT),
    "day": Window(kind=WindowKind.DAY, limit=LIMIT, zone="Europe/Berlin"),
    "month": Window(kind=WindowKind.MONTH, limit=LIMIT, zone="Europe/Berlin"),
    "rolling 600 s": Window(kind=WindowKind.ROLLING, limit=LIMIT, seconds=600),
}
LENGTHS: Final = {
    "minute": 60 * SECOND,
    "minute, burst": 60 * SECOND,
    "hour": HOUR,
    "day": DAY,
    "month": 31 * DAY,
    "rolling 600 s": 600 * SECOND,
}
JUMPING: Final = {
    "store": ("store",),
    "witness": ("witness",),
    "either": ("store", "witness"),
    "together": ("both",),
}
"""Which clocks jump; ``together``: both by the same, as on one machine."""


@dataclass(slots=True)
class Clocks:
    """True time, and two clocks that should show it."""

    true_ms: int
    store: ManualClock
    witness: ManualClock
    store_max: int = 0
    witness_max: int = 0

    @classmethod
    def right(cls, now: int) -> Clocks:
        """Both show the true time."""
        return cls(now, ManualClock(now), ManualClock(now), now, now)

    def go_on(self, millis: int) -> None:
        """Time passes."""
        self.true_ms += millis
        for clock in (self.store, self.witness):
            clock.advance_ms(millis)
        self._remember()

    def jump(self, which: str, millis: int) -> None:
        """``store``, ``witness`` or ``both``; by 0: to the true time."""
        for name, clock in (("store", self.store), ("witness", self.witness)):
            if which in (name, "both"):
                clock.advance_ms(millis or self.true_ms - clock.now_ms)
        self._remember()

    def _remember(self) -> None:
        self.store_max = max(self.store_max, self.store.now_ms)
        self.witness_max = max(self.witness_max, self.witness.now_ms)

    @property
    def ahead_max(self) -> int:
        """How far the ledger may be ahead of the true time now, by rule 3."""
        return max(0, min(self.store_max, self.witness_max + AHEAD_ALONE_MS) - self.true_ms)


@dataclass(slots=True)
class Asked:
    """A reserve at its true time."""

    true_ms: int
    ahead_max: int


@dataclass(slots=True)
class History:
    """One ledger's life: an account with one window, somebody who spends what can be had, and jumps."""

    window: str
    jumping: str
    ledger: BudgetLedger
    clocks: Clocks
    chance: random.Random
    asked: dict[str, Asked] = field(default_factory=dict)
    live: list[Granted] = field(default_factory=list)
    jumps: int = 0

    async def run(self, steps: int = STEPS) -> None:
        """Every step is one call of the ledger, some time, or a jump. The org's books begin while the clocks
        are right."""
        await self.ledger.tick(ORG)
        for number in range(steps):
            chosen = self.chance.random()
            if chosen < 0.45:
                await self._reserve(f"h{number}")
            elif chosen < 0.6:
                await self._resolve()
            elif chosen < 0.64:
                await self.ledger.expire(ORG)
            elif chosen < 0.78:
                await self.ledger.tick(ORG)
            elif chosen < 0.92:
                self.clocks.go_on(self._some_time())
            else:
                self.clocks.jump(self.chance.choice(JUMPING[self.jumping]), self.chance.choice((*JUMPS, 0)))
                self.jumps += 1

    def _some_time(self) -> int:
        length = LENGTHS[self.window]
        return self.chance.choice((1, SECOND, 10 * SECOND, 60 * SECOND, length // 7, length // 2, length))

    async def _reserve(self, name: str) -> None:
        self.asked[name] = Asked(self.clocks.true_ms, self.clocks.ahead_max)
        answer = await self.ledger.reserve(
            HoldRequest(
                hold=HoldId(name),
                org=ORG,
                accounts=(Account(id=AccountId("org"), windows=(WINDOWS[self.window],)),),
                fixed=Tokens(self.chance.choice((0, 1, 7))),
                choices=1,
                units_wanted=Tokens(self.chance.choice((1, 20, LIMIT))),
                units_min=Tokens(1),
                ttl=Millis(self.chance.choice((30 * SECOND, 900 * SECOND))),
                policy_version=1,
            )
        )
        if isinstance(answer, Granted):
            self.live.append(answer)

    async def _resolve(self) -> None:
        if not self.live:
            return
        hold = self.live.pop(self.chance.randrange(len(self.live)))
        if self.chance.random() < 0.1:
            await self.ledger.void(ORG, hold.hold, reason="test")
            return
        used = self.chance.choice(
            (hold.amounts.tokens, hold.amounts.tokens, self.chance.randint(0, hold.amounts.tokens))
        )
        await self.ledger.settle(ORG, hold.hold, Amounts.of(0, used))


@dataclass(slots=True, kw_only=True)
class Verdict:
    """Of one history or, added up, of many."""

    histories: int = 1
    jumps: int = 0
    grants: int = 0
    overspent: int = 0
    """Tokens above what rules 2 and 4 allow."""
    went_back: int = 0
    """Entries with a time before that of another before them, by a second or more (rule 1)."""
    too_early: int = 0
    """Grants further ahead of the true time than rule 3 allows."""
    ahead_ms: int = 0
    """The farthest that a grant was ahead of the true time."""
    most_in_a_window: float = 0.0

    @property
    def good(self) -> bool:
        """Whether every promise was kept."""
        return not (self.overspent or self.went_back or self.too_early)

    def add(self, other: Verdict) -> None:
        """Take in another."""
        for name in ("histories", "jumps", "grants", "overspent", "went_back", "too_early"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.ahead_ms = max(self.ahead_ms, other.ahead_ms)
        self.most_in_a_window = max(self.most_in_a_window, other.most_in_a_window)


def label(window: Window, at_ms: int) -> str:
    """Which fixed window an instant lies in, as a calendar says it."""
    if window.kind is WindowKind.MINUTE:
        return str(at_ms // (60 * SECOND))
    if window.kind is WindowKind.HOUR:
        return str(at_ms // HOUR)
    shown = datetime.fromtimestamp(at_ms / 1000, ZoneInfo(window.zone))
    return shown.strftime("%Y-%m-%d" if window.kind is WindowKind.DAY else "%Y-%m")


def windows_begun(window: Window, length: int, since: int, until: int) -> int:
    """How many windows lie, in part or whole, between two instants; of a rolling one, how many of its length
    are needed to cover the time."""
    if window.kind is WindowKind.ROLLING:
        return (until - since) // length + 1
    if window.kind in (WindowKind.MINUTE, WindowKind.HOUR):
        return until // length - since // length + 1
    first, last = (datetime.fromtimestamp(ms / 1000, ZoneInfo(window.zone)) for ms in (since, until))
    if window.kind is WindowKind.DAY:
        return (last.date() - first.date()).days + 1
    return (last.year - first.year) * 12 + last.month - first.month + 1


@dataclass(slots=True)
class Judge:
    """Reads the outbox in its order, and adds up what each hold costs at that time."""

    history: History
    verdict: Verdict
    cost: dict[str, int] = field(default_factory=dict)
    granted_at: dict[str, int] = field(default_factory=dict)
    """Holds, and the ledger's time of their grant."""
    latest: int = 0

    def read(self, entries: Sequence[Mapping[str, str]]) -> Verdict:
        """The verdict."""
        for entry in entries:
            at_ms, hold = int(entry["at_ms"]), entry.get("hold", "")
            self.verdict.went_back += at_ms // SECOND < self.latest // SECOND
            self.latest = max(self.latest, at_ms)
            match entry["type"]:
                case "hold.granted":
                    self.cost[hold], self.granted_at[hold] = int(entry["a.held"]), at_ms
                    self._judge(hold)
                case "hold.settled" | "hold.corrected":
                    self.cost[hold] = int(entry["a.used"])
                case "hold.voided":
                    self.cost[hold] = 0
                case _:  # an expired hold costs what was held, a refusal nothing
                    pass
        self._judge_true_windows()
        return self.verdict

    def _judge(self, hold: str) -> None:
        asked, at_ms, verdict = self.history.asked[hold], self.granted_at[hold], self.verdict
        window, length = WINDOWS[self.history.window], LENGTHS[self.history.window]
        ahead = at_ms - asked.true_ms
        verdict.grants += 1
        verdict.ahead_ms = max(verdict.ahead_ms, ahead)
        verdict.too_early += ahead > asked.ahead_max
        verdict.overspent += self._above(window, length, at_ms)
        begun = windows_begun(window, length, START, asked.true_ms + asked.ahead_max)
        verdict.overspent += max(0, sum(self.cost.values()) - begun * LIMIT - window.burst)

    def _spent(self, begins: int, ends: int) -> int:
        """Of holds that were granted from one instant of the ledger's time to another."""
        return sum(self.cost[hold] for hold, at_ms in self.granted_at.items() if begins <= at_ms < ends)

    def _above(self, window: Window, length: int, at_ms: int) -> int:
        """Tokens above what the window of ``at_ms`` and, with a burst, the next may grant."""
        if window.kind is WindowKind.ROLLING:
            return max(0, self._spent(at_ms - length + 1, self.latest + 1) - LIMIT)
        if window.kind in (WindowKind.DAY, WindowKind.MONTH):
            here = label(window, at_ms)
            together = [hold for hold, at in self.granted_at.items() if label(window, at) == here]
            return max(0, sum(self.cost[hold] for hold in together) - LIMIT)
        above, begins = 0, at_ms - at_ms % length
        for start in (begins, begins + length) if window.burst else (begins,):
            left_before = max(0, LIMIT - self._spent(start - length, start))
            pays = LIMIT + min(window.burst, left_before)
            above += max(0, self._spent(start, start + length) - pays)
        return above

    def _judge_true_windows(self) -> None:
        window, length = WINDOWS[self.history.window], LENGTHS[self.history.window]
        spent: dict[str, int] = defaultdict(int)
        for hold, cost in self.cost.items():
            true_ms = self.history.asked[hold].true_ms
            rolling = window.kind is WindowKind.ROLLING
            spent[str(true_ms // length) if rolling else label(window, true_ms)] += cost
        self.verdict.most_in_a_window = max(spent.values(), default=0) / LIMIT


def judged(history: History, entries: Sequence[Mapping[str, Any]]) -> Verdict:
    """What a history has to answer for."""
    return Judge(history, Verdict(jumps=history.jumps)).read(entries)
