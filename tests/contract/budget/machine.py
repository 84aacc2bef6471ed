"""Memory ledger and Lua held together: the same steps, the same answers, the same outbox.

Besides, the specification itself is held to the ledger's invariants (I1 to I12 of the design's budgets): no
grant or lease takes a hard window above its limit (I1, I12), each hold is resolved once (I2), the counters
are what the outbox says after every step (I3, I5, I9), nothing stays held once all is expired (I4), who is
refused could not be paid (I6), a repeated call gets the first answer (I7), the org's time never leaves what
the two clocks allow (I10). I8 and I11 are not about random histories: a cache hit is a note, and an emptied
store is shown in test_store_failures.py.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, ClassVar, Final

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from gateway.budget.certainty import Certainty
from gateway.budget.ledger import (
    FORWARD_JUMP_MAX,
    LEASE_GRACE,
    Adjustment,
    Draw,
    Granted,
    Leased,
    LeaseRequest,
    Refused,
)
from gateway.budget.measure import Amounts, Price
from gateway.budget.memory_books import Books
from gateway.budget.memory_ledger import MemoryLedger
from gateway.budget.redis_connection import connect
from gateway.budget.redis_keys import org_key
from gateway.budget.redis_ledger import RedisLedger
from gateway.budget.redis_library import library_text
from gateway.budget.window import UNLIMITED, Account, Enforcement
from gateway.contract.clock import ManualClock
from gateway.contract.ids import HoldId
from gateway.contract.units import Millis, Tokens, UnixMillis
from tests.contract.budget.history import Count, History
from tests.contract.budget.stored import comes_back, counters
from tests.contract.budget.subjects import NOON, ORG, PATIENT, want
from tests.contract.budget.words import (
    BEGINNINGS,
    DAY,
    HOUR,
    MINUTE,
    accounts,
    adjustments,
    amounts,
    draws,
    holds,
    leases,
    moves,
    prices,
    tokens,
)
from tests.harness.valkey import StoreProcess

SHORT: Final = settings(
    max_examples=40,
    stateful_step_count=30,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)
"""For every run of the tests; the same each time."""
LONG: Final = settings(SHORT, max_examples=2_000, stateful_step_count=50, derandomize=False, print_blob=True)
"""Nightly."""


class LedgerMachine(RuleBasedStateMachine):
    """Subclass with a ``client`` of a running store and the ``runner`` of its loop; ``lua`` is the
    source of the functions under test."""

    client: ClassVar[Any]
    runner: ClassVar[asyncio.Runner]
    lua: ClassVar[str]

    def __init__(self) -> None:
        """Both founded and empty."""
        super().__init__()
        self.clock, self.witness = ManualClock(NOON), ManualClock(NOON)
        self.memory = MemoryLedger(self.clock, witness=self.witness)
        self.redis = RedisLedger(
            self.client,
            clock=self.witness,
            deadline=PATIENT,
            test_store_clock=self.clock,
            test_library=self.lua,
        )
        self.history = History()
        self.lent: dict[HoldId, Leased] = {}
        self.grants: dict[HoldId, Granted] = {}
        self.due = NOON
        self.latest = NOON
        self.seen = 0
        self.last = "0-0"
        self.run(self.client.flushall())
        self.run(self.redis.found_epoch(fresh=True))

    def run(self, step: Coroutine[Any, Any, Any]) -> Any:
        """The step's result, or the text of its ValueError."""
        try:
            return self.runner.run(step)
        except ValueError as error:
            return f"ValueError: {error}"

    def both(self, verb: str, *arguments: Any, **named: Any) -> Any:
        """Ask both; they must agree."""
        expected = self.run(getattr(self.memory, verb)(*arguments, **named))
        found = self.run(getattr(self.redis, verb)(*arguments, **named))
        assert found == expected, f"{verb}{arguments}: memory {expected}, store {found}"
        return found

    @property
    def books(self) -> Books:
        """Those of the specification."""
        return self.memory._orgs.get(ORG, Books(confirmed=0))

    def within_limits(self, asked: tuple[Account, ...], weighed: Amounts) -> None:
        """No hard window above its limit by a grant of something."""
        parts = {
            "prompt_tokens": weighed.prompt_tokens,
            "completion_tokens": weighed.completion_tokens,
            "micro_usd": weighed.micro_usd,
            "tokens": weighed.tokens,
        }
        for one in self.run(self.memory.standing(ORG, asked)):
            limited = one.limit != UNLIMITED and one.enforcement is Enforcement.HARD
            if limited and parts.get(one.measure, 1):
                assert one.used + one.held <= one.limit, one

    @initialize(moment=st.sampled_from(BEGINNINGS))
    def begin(self, moment: int) -> None:
        """Somewhen."""
        self.clock.now_ms = self.witness.now_ms = self.due = self.latest = moment

    @rule(
        hold=holds,
        asked=accounts,
        fixed=tokens,
        units=tokens,
        units_min=st.integers(0, 60),
        choices=st.integers(1, 3),
        ttl=st.sampled_from([1, 10_000, 15 * MINUTE, 24 * HOUR]),
        version=st.integers(1, 3),
        price=prices,
    )
    def reserve(self, hold: HoldId, asked: tuple[Account, ...], price: Price, **numbers: Any) -> None:
        """A grant never takes a hard window above its limit; a refusal says what could not be paid."""
        context = {"request_id": f"r-{hold}", "model": "m"}
        answer = self.both("reserve", want(hold, *asked, context=context, price=price, **numbers))
        if isinstance(answer, Refused):
            left = answer.standing.limit - answer.standing.used - answer.standing.held
            assert answer.standing.frozen or max(0, left) < answer.needed
        elif isinstance(answer, Granted) and answer.repeated:
            first = self.grants.get(hold)
            assert first is None or first.expires_at != answer.expires_at or first.amounts == answer.amounts
        elif isinstance(answer, Granted):
            self.grants[hold] = answer
            self.due = answer.expires_at
            self.within_limits(asked, answer.amounts)

    @rule(hold=holds, asked=accounts, off=st.integers(-1, 1))
    def reserve_at_the_edge(self, hold: HoldId, asked: tuple[Account, ...], off: int) -> None:
        """Exactly what is left, a token less, a token more."""
        left = [
            standing.remaining
            for standing in self.run(self.memory.standing(ORG, asked))
            if standing.enforcement is Enforcement.HARD and standing.measure == "tokens"
        ]
        fixed = min((tokens for tokens in left if tokens != UNLIMITED), default=0) + off
        self.both("reserve", want(hold, *asked, fixed=max(0, fixed), units=0, units_min=0))

    def drawing(self, hold: HoldId, lease: HoldId, amount: Amounts, late: int) -> Draw:
        """What a worker that holds ``lease`` would say; one that nobody made has no windows."""
        lent = self.lent.get(lease)
        return Draw(
            lease=lease,
            windows=lent.windows if lent else (),
            hold=hold,
            amounts=amount,
            units=Tokens(amount.completion_tokens),
            expires_at=UnixMillis(self.latest + 10_000 - late),
            policy_version=2,
            context={"request_id": f"r-{hold}"},
        )

    @rule(
        hold=holds,
        used=amounts,
        certainty=st.sampled_from(Certainty),
        detail=st.sampled_from([None, {"finish": "stop", "empty": ""}]),
        lease=st.one_of(st.none(), leases),
        drawn=draws,
    )
    def settle(
        self,
        hold: HoldId,
        used: Amounts,
        certainty: Certainty,
        detail: dict[str, str] | None,
        lease: HoldId | None,
        drawn: Amounts,
    ) -> None:
        """First, repeated, late, correcting, blind, provisional, or before its draw."""
        draw = self.drawing(hold, lease, drawn, 0) if lease else None
        self.both("settle", ORG, hold, used, certainty=certainty, detail=detail, draw=draw)

    @rule(hold=holds, lease=st.one_of(st.none(), leases), drawn=draws)
    def void(self, hold: HoldId, lease: HoldId | None, drawn: Amounts) -> None:
        """First or late."""
        draw = self.drawing(hold, lease, drawn, 0) if lease else None
        self.both("void", ORG, hold, reason="upstream_4xx", draw=draw)

    @rule(hold=holds, ttl=st.sampled_from([1, 30_000, 24 * HOUR]))
    def extend(self, hold: HoldId, ttl: int) -> None:
        """Live or not."""
        self.both("extend", ORG, hold, Millis(ttl))

    @rule(
        lease=leases,
        asked=accounts,
        wanted=amounts,
        requests=st.integers(1, 5),
        least=st.integers(0, 20),
        share=st.integers(1, 3),
        ttl=st.sampled_from([2_000, 10_000, 24 * HOUR]),
        version=st.integers(1, 3),
    )
    def lease(
        self,
        lease: HoldId,
        asked: tuple[Account, ...],
        wanted: Amounts,
        requests: int,
        least: int,
        **how: int,
    ) -> None:
        """Never above a limit either."""
        request = LeaseRequest(
            lease=lease,
            org=ORG,
            accounts=asked,
            wanted=wanted,
            wanted_requests=requests,
            least=Amounts(tokens=Tokens(least)),
            share=how["share"],
            ttl=Millis(how["ttl"]),
            policy_version=how["version"],
            context={"worker": "w"},
        )
        known = lease in self.books.leases
        answer = self.both("lease", request)
        if answer is not None:
            self.lent[lease] = answer
            self.due = answer.expires_at
            if not known:
                self.within_limits(asked, answer.amounts)

    @rule(
        lease=leases,
        drawn=st.lists(st.tuples(holds, draws, st.sampled_from([0, 20_000, 3 * DAY])), max_size=3),
    )
    def draw(self, lease: HoldId, drawn: list[tuple[HoldId, Amounts, int]]) -> None:
        """Of leases that live, were recalled, returned, expired, forgotten or never were."""
        self.both(
            "draw", ORG, lease, [self.drawing(hold, lease, amount, late) for hold, amount, late in drawn]
        )

    @rule(lease=leases, reconciled=st.booleans())
    def return_lease(self, lease: HoldId, reconciled: bool) -> None:
        """In any state."""
        self.both("return_lease", ORG, lease, reconciled=reconciled)

    @rule(adjustment=adjustments())
    def adjust(self, adjustment: Adjustment) -> None:
        """Over the policy."""
        self.both("adjust", ORG, adjustment)

    @rule(holds_max=st.sampled_from([1, 2, 100]))
    def expire(self, holds_max: int) -> None:
        """In the same order."""
        self.both("expire", ORG, holds_max=holds_max)

    @rule()
    def note(self) -> None:
        """Moves nothing."""
        self.both("note", ORG, "cache.hit", {"request_id": "r", "key": "a"})

    @rule(millis=moves)
    def time_passes(self, millis: int) -> None:
        """Store and bookkeeper agree."""
        self.clock.advance_ms(millis)
        self.witness.advance_ms(millis)

    @rule(off=st.integers(-1, 0), grace=st.sampled_from([0, LEASE_GRACE]), swept=st.booleans())
    def the_last_one_is_due(self, off: int, grace: int, swept: bool) -> None:
        """To the very millisecond, or the one before."""
        self.clock.now_ms = self.witness.now_ms = self.due + grace + off
        self.tick()
        if swept:
            self.expire(holds_max=100)

    @rule(millis=moves)
    def the_store_clock_leaps(self, millis: int) -> None:
        """Alone."""
        self.clock.advance_ms(millis)

    @rule()
    def tick(self) -> None:
        """Confirm: never back, and no further than the witness allows (books open at the store's time)."""
        before = self.books.confirmed
        self.latest = self.both("tick", ORG)
        allowed = max(before, self.witness.now_ms + FORWARD_JUMP_MAX) + FORWARD_JUMP_MAX
        assert not before or before <= self.latest <= allowed

    @rule(asked=accounts)
    def standing(self, asked: tuple[Account, ...]) -> None:
        """Every window as it stands."""
        self.both("standing", ORG, asked)
        self.both("accounts", ORG)

    @invariant()
    def outboxes_are_equal(self) -> None:
        """Entry by entry, field by field; and the specification's counters are what they say."""
        entries = self.run(self.client.xrange(org_key(ORG, "outbox"), min=f"({self.last}"))
        found, expected = [fields for _, fields in entries], self.memory.outbox[self.seen :]
        assert found == expected, f"outbox: memory {expected}, store {found}"
        self.seen += len(entries)
        self.last = entries[-1][0] if entries else self.last
        for _, fields in entries:
            self.history.add(fields)
        for window, counter in self.books.counters.items():
            count = self.history.counts.get(window, Count())
            counted = Count(used=counter.used, held=counter.held, credit=counter.credit)
            assert counted == count, f"{window}: {counted}, the outbox says {count}"
            assert 0 <= counter.leased <= counter.held, window
            assert counter.used >= 0, window

    def teardown(self) -> None:
        """Counters in the store are what the outbox says. Then all expires: nothing stays held."""
        try:
            self.ends_well()
        finally:
            self.run(self.redis.leave())  # thousands of ledgers share the client's pool

    def ends_well(self) -> None:
        """See teardown."""
        stored = self.run(counters(self.client))
        for window, count in stored.items():
            assert count == self.history.counts.get(window, Count()), window
        for window, counter in self.books.counters.items():
            empty = (counter.used, counter.held, counter.credit) == (0, 0, 0)
            assert window in stored or empty, window
        if self.run(self.redis.orgs()):
            self.run(comes_back(self.client))
            self.run(self.client.hset(org_key(ORG, "meta"), "clock_ms", self.books.confirmed))
            self.redis._session.forget_books()
        self.clock.now_ms = self.witness.now_ms = max(self.latest, self.clock.now_ms) + 4 * DAY
        self.tick()
        self.expire(100)
        self.outboxes_are_equal()
        assert all(count.held == 0 for count in self.run(counters(self.client)).values())


def run_machine(store: StoreProcess, profile: settings, lua: str | None = None) -> None:
    """Random histories against the functions of ``lua`` in a running store. Raises AssertionError where they
    differ."""
    with asyncio.Runner() as runner:
        client = connect(store.url, timeout=PATIENT)
        bound = {"client": client, "runner": runner, "lua": lua or library_text()}
        try:
            run_state_machine_as_test(type("BoundLedgerMachine", (LedgerMachine,), bound), settings=profile)
        finally:
            runner.run(client.aclose())
