"""Memory ledger and Lua held together: the same steps, the same answers, the same outbox.

Besides, the specification itself is held to the ledger's invariant (a grant never takes a limited
window above its limit), and the counters must be replayable from the outbox alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, ClassVar, Final

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from gateway.budget.ledger import UNLIMITED, Account, Granted
from gateway.budget.memory_ledger import MemoryLedger
from gateway.budget.redis_connection import connect
from gateway.budget.redis_ledger import RedisLedger, org_key
from gateway.contract.clock import ManualClock
from gateway.contract.ids import HoldId
from gateway.contract.units import Tokens
from tests.contract.budget.subjects import NOON, ORG, PATIENT, account, want
from tests.harness.valkey import StoreProcess

MINUTE: Final = 60_000
HOUR: Final = 60 * MINUTE
LIBRARY: Final = Path(__file__).resolve().parents[3] / "gateway" / "budget" / "ledger.lua"

SHORT: Final = settings(
    max_examples=40,
    stateful_step_count=30,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)
"""For every run of the tests; the same each time."""
LONG: Final = settings(SHORT, max_examples=600, stateful_step_count=50, derandomize=False, print_blob=True)
"""Nightly."""

holds = st.sampled_from([HoldId(f"h{n}") for n in range(6)])
tokens = st.one_of(st.integers(0, 40), st.integers(0, 1200))
limits = st.sampled_from([UNLIMITED, UNLIMITED, 0, 7, 100, 1000])
accounts = st.tuples(
    st.builds(lambda minute, month: account("org", minute=minute, month=month), limits, limits),
    st.builds(lambda name, minute: account(name, minute=minute), st.sampled_from(["key/a", "key/b"]), limits),
)
moves = st.sampled_from([1, 999, 20_000, MINUTE, 16 * MINUTE, HOUR, 25 * HOUR, 31 * 24 * HOUR, -5 * MINUTE])


class LedgerMachine(RuleBasedStateMachine):
    """Subclass with a ``client`` of a running store and the ``runner`` of its loop; ``library`` is the
    Lua under test."""

    client: ClassVar[Any]
    runner: ClassVar[asyncio.Runner]
    library: ClassVar[Path] = LIBRARY

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
            test_library=self.library,
        )
        self.due = NOON
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

    @rule(
        hold=holds,
        asked=accounts,
        fixed=tokens,
        units=tokens,
        units_min=st.integers(0, 60),
        choices=st.integers(1, 3),
        ttl=st.sampled_from([1, 10_000, 15 * MINUTE, 24 * HOUR]),
        version=st.integers(1, 3),
    )
    def reserve(self, hold: HoldId, asked: tuple[Account, ...], **amounts: Any) -> None:
        """A grant never takes a limited window above its limit."""
        context = {"request_id": f"r-{hold}", "model": "m"}
        answer = self.both("reserve", want(hold, *asked, context=context, **amounts))
        if isinstance(answer, Granted) and not answer.repeated and answer.amount:
            self.due = answer.expires_at
            for standing in self.run(self.memory.standing(ORG, asked)):
                assert standing.limit == UNLIMITED or standing.used + standing.held <= standing.limit

    @rule(hold=holds, asked=accounts, off=st.integers(-1, 1))
    def reserve_at_the_edge(self, hold: HoldId, asked: tuple[Account, ...], off: int) -> None:
        """Exactly what is left, a token less, a token more."""
        left = [standing.remaining for standing in self.run(self.memory.standing(ORG, asked))]
        fixed = min((tokens for tokens in left if tokens != UNLIMITED), default=0) + off
        self.both("reserve", want(hold, *asked, fixed=max(0, fixed), units=0, units_min=0))

    @rule(hold=holds, used=tokens, unknown=st.booleans(), detail=st.sampled_from([None, {"finish": "stop"}]))
    def settle(self, hold: HoldId, used: Tokens, unknown: bool, detail: dict[str, str] | None) -> None:
        """First, repeated, late, correcting or blind."""
        self.both("settle", ORG, hold, used, unknown=unknown, detail=detail)

    @rule(hold=holds)
    def void(self, hold: HoldId) -> None:
        """First or late."""
        self.both("void", ORG, hold, reason="upstream_4xx")

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

    @rule(off=st.integers(-1, 0))
    def the_last_hold_is_due(self, off: int) -> None:
        """To the very millisecond, or the one before; the sweep comes at once."""
        self.clock.now_ms = self.witness.now_ms = self.due + off
        self.both("tick", ORG)
        self.both("expire", ORG, holds_max=100)

    @rule(millis=moves)
    def the_store_clock_leaps(self, millis: int) -> None:
        """Alone."""
        self.clock.advance_ms(millis)

    @rule()
    def tick(self) -> None:
        """Confirm."""
        self.both("tick", ORG)

    @rule(asked=accounts)
    def standing(self, asked: tuple[Account, ...]) -> None:
        """Every window as it stands."""
        self.both("standing", ORG, asked)

    @invariant()
    def outboxes_are_equal(self) -> None:
        """Entry by entry, field by field."""
        entries = self.run(self.client.xrange(org_key(ORG, "outbox"), min=f"({self.last}"))
        assert [fields for _, fields in entries] == self.memory.outbox[self.seen :]
        self.seen += len(entries)
        self.last = entries[-1][0] if entries else self.last

    def teardown(self) -> None:
        """Counters in the store are what the outbox says."""
        replayed = replay(self.memory.outbox)
        prefix = org_key(ORG, "w:")
        for key in self.run(self.client.keys(prefix.replace("{", "[{]") + "*")):
            window = key.removeprefix(prefix).replace("|tokens|", "|", 1)
            counter = self.run(self.client.hgetall(key))
            assert (int(counter["used"]), int(counter["held"])) == replayed.get(window, (0, 0)), window
        self.run(self.redis.leave())  # thousands of ledgers share the client's pool


def replay(entries: list[dict[str, str]]) -> dict[str, tuple[int, int]]:
    """(used, held) of each window, from outbox entries alone, by the rule in gateway/budget/outbox.py."""
    counters: dict[str, tuple[int, int]] = {}
    for entry in entries:
        held, used = int(entry.get("a.held", 0)), int(entry.get("a.used", 0))
        moved = {
            "hold.granted": (0, held),
            "hold.settled": (used, -held),
            "hold.expired": (used, -held),
            "hold.voided": (0, -held),
            "hold.corrected": (used - held, 0),
        }.get(entry["type"])
        if moved is not None:
            for window in entry["accounts"].split():
                before = counters.get(window, (0, 0))
                counters[window] = (before[0] + moved[0], before[1] + moved[1])
    return counters


def run_machine(store: StoreProcess, profile: settings, library: Path = LIBRARY) -> None:
    """Random histories against ``library`` in a running store. Raises AssertionError when they differ."""
    with asyncio.Runner() as runner:
        client = connect(store.url, timeout=PATIENT)
        bound = {"client": client, "runner": runner, "library": library}
        try:
            run_state_machine_as_test(type("BoundLedgerMachine", (LedgerMachine,), bound), settings=profile)
        finally:
            runner.run(client.aclose())
