"""Two workers with leases over one ledger, in any order, dying anywhere: nothing is overspent, and the books
close once everything has expired and been reconciled.

Each call of a worker is a coroutine that stops before the ledger does it and before its answer arrives; the
test draws who goes on next, whose call fails on its way or back, who dies, and how time passes.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.budget import lease_demand, leasing_ledger
from gateway.budget.leasing_ledger import LeasingLedger
from gateway.budget.ledger import LEASE_GRACE, Draw, Granted, LeaseState, Refused
from gateway.budget.measure import Amounts
from gateway.budget.policy import LeasePolicy
from gateway.contract.errors import LedgerUnavailable
from gateway.contract.ids import HoldId
from gateway.contract.units import Millis
from tests.unit.budget.leasing import ORG, TTL, Store, accounts, away, hold_request

T = TypeVar("T")
ROOM: Final = 300
POLICY: Final = LeasePolicy(enabled=True, share=2, requests=8, requests_least=3, ttl=Millis(5_000))
STEPS: Final = (
    *["ask"] * 8,
    *["go"] * 5,
    *["all"] * 8,
    *["tend"] * 4,
    "settle",
    "time",
    "time",
    "lose",
    "die",
)
STEPS_MAX: Final = 100
seen: Final[Counter[str]] = Counter()
"""What happened in all examples: a search that never leases proves nothing."""


@pytest.fixture(autouse=True)
def busy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every account is busy from its first request on; time passes only when the test says so."""
    monkeypatch.setattr(lease_demand, "BUSY_PER_S", 0.0)
    monkeypatch.setattr(leasing_ledger, "RECALL_WAITS_S", (0.0, 0.0, 0.0))


async def a_while() -> None:
    """Until all that can go on has come to its next stop."""
    for _ in range(4):
        await asyncio.sleep(0)


@dataclass(slots=True)
class Paused:
    """A call that waits to be done (``before``) or answered."""

    go: asyncio.Future[None]
    owner: int


class Line(Store):
    """The way from one worker to the store, on which each call stops twice."""

    def __init__(self, store: Store, owner: int, paused: list[Paused]) -> None:
        super().__init__(store.clock)
        self.truth = store.truth
        self.owner, self.paused, self.free = owner, paused, False

    async def _stop(self) -> None:
        if not self.free:
            here = Paused(asyncio.get_running_loop().create_future(), self.owner)
            self.paused.append(here)
            await here.go

    async def _call(self, verb: str, call: Coroutine[Any, Any, T]) -> T:
        try:
            await self._stop()
        except BaseException:
            call.close()
            raise
        answer = await call
        await self._stop()
        return answer


@dataclass(slots=True)
class Spent:
    """A request that was granted: what its engine produces for it, settled or not."""

    granted: Granted
    produced: int
    settled: bool = False

    def draw(self) -> Draw | None:
        one = self.granted
        if not one.lease:
            return None
        return Draw(
            lease=one.lease,
            windows=getattr(one, "lease_windows", ()),
            hold=one.hold,
            amounts=one.amounts,
            units=one.units,
            expires_at=one.expires_at,
            policy_version=1,
        )


@dataclass(slots=True)
class World:
    """Both workers, the store, and the truth about what was produced."""

    store: Store = field(default_factory=Store)
    paused: list[Paused] = field(default_factory=list)
    workers: list[LeasingLedger] = field(default_factory=list)
    lines: list[Line] = field(default_factory=list)
    tasks: list[tuple[int, asyncio.Task[None]]] = field(default_factory=list)
    spent: dict[HoldId, Spent] = field(default_factory=dict)
    asked: int = 0
    born: int = 0

    def start(self) -> None:
        for _ in range(2):
            self.workers.append(self._worker(len(self.workers)))

    def _worker(self, owner: int) -> LeasingLedger:
        line = Line(self.store, owner, self.paused)
        self.lines[owner:] = [line, *self.lines[owner + 1 :]]
        self.born += 1
        count = lambda what: seen.update((what,))  # noqa: E731  # a name for one line
        return LeasingLedger(line, self.store.clock, lambda: POLICY, worker=f"w{self.born}", count=count)

    def run(self, owner: int, work: Coroutine[Any, Any, None]) -> None:
        self.tasks.append((owner, asyncio.create_task(work)))

    async def ask(self, owner: int, tokens: int, produced: float) -> None:
        self.asked += 1
        request = hold_request(f"h{self.asked}", accounts(ROOM), tokens=tokens)
        try:
            answer = await self.workers[owner].reserve(request)
        except LedgerUnavailable:
            return
        seen["refused"] += isinstance(answer, Refused)
        if isinstance(answer, Granted):
            amount = round(answer.amounts.tokens * produced)
            seen["clamped"] += answer.units < tokens
            self.spent[request.hold] = Spent(answer, amount)
            total = sum(one.produced for one in self.spent.values())
            assert total <= ROOM, f"{total} tokens were produced where {ROOM} may be"

    async def settle(self, owner: int, one: Spent) -> None:
        used = Amounts.of(0, one.produced)
        try:
            await self.workers[owner].settle(ORG, one.granted.hold, used, draw=one.draw())
        except LedgerUnavailable:
            return
        one.settled = True

    async def tend(self, owner: int) -> None:
        await self.workers[owner].tend()

    def die(self, owner: int) -> None:
        """At whatever its tasks are waiting for; what the store was sent is done or not, as it happens."""
        seen["died holding a lease"] += bool(self.workers[owner]._hands)
        seen["died with draws untold"] += bool(self.workers[owner]._drawn)
        for whose, task in self.tasks:
            if whose == owner:
                task.cancel()
        for task in self.workers[owner]._tasks:  # its background work dies with it
            task.cancel()
        self.paused[:] = [one for one in self.paused if one.owner != owner]
        self.workers[owner] = self._worker(owner)

    def go_on(self, which: int, *, lost: bool = False) -> None:
        """The call is done or answered now, or fails."""
        one = self.paused.pop(which)
        if one.go.done():
            return
        if lost:
            one.go.set_exception(away())
        else:
            one.go.set_result(None)

    async def settled_down(self) -> None:
        """Nothing is held back any more, everything under way ends."""
        for line in self.lines:
            line.free = True
        while self.paused:
            self.go_on(0)
            await a_while()
        await asyncio.gather(*(task for _, task in self.tasks), return_exceptions=True)
        for worker in self.workers:
            await worker.leave()


async def close_the_books(world: World) -> None:
    """What the reconciler does, from what is known: every answer is settled late, with its draw, and every
    lease that expired is returned. Then the books must say exactly what was produced."""
    ledger, clock = world.store.truth, world.store.clock
    for _ in range(40):  # a minute at a time: a store's clock that leaps is not believed
        clock.advance_ms(30_000)
        await ledger.tick(ORG)
    clock.advance_ms(TTL + LEASE_GRACE - 40 * 30_000)
    await ledger.tick(ORG)
    while await ledger.expire(ORG):
        pass
    for one in world.spent.values():
        used = Amounts.of(0, one.produced)
        resolved = await ledger.settle(ORG, one.granted.hold, used, draw=one.draw())
        assert resolved.posted == used
    known = {entry["hold"] for entry in ledger.outbox if entry["type"] == "lease.granted"}
    for lease in sorted(known):
        assert await ledger.return_lease(ORG, HoldId(lease), reconciled=True) is LeaseState.RETURNED
    granted = {entry["hold"]: entry for entry in ledger.outbox if entry["type"] == "hold.granted"}
    unfunded = [one.granted.hold for one in world.spent.values() if one.granted.lease]
    unfunded = [hold for hold in unfunded if "c.lease" not in granted[hold]]
    assert unfunded == [], "handed out of a lease that did not have it any more"
    # A reserve whose answer was lost is charged in full, until the access log says that it reached no engine.
    orphans = sum(int(entry["a.held"]) for hold, entry in granted.items() if hold not in world.spent)
    (standing,) = await ledger.standing(ORG, accounts(ROOM))
    assert standing.held == 0
    assert standing.used == sum(one.produced for one in world.spent.values()) + orphans


async def play(draw: Any) -> None:
    world = World()
    world.start()
    for _ in range(draw(st.integers(10, STEPS_MAX))):
        owner = draw(st.integers(0, 1))
        unsettled = [one for one in world.spent.values() if not one.settled]
        match draw(st.sampled_from(STEPS)):
            case "ask":
                tokens, produced = (
                    draw(st.sampled_from([2, 3, 5, 5, 20])),
                    draw(st.sampled_from([0.0, 1.0, 1.0])),
                )
                for _ in range(draw(st.sampled_from([1, 4]))):
                    world.run(owner, world.ask(owner, tokens, produced))
            case "settle" if unsettled:
                world.run(owner, world.settle(owner, draw(st.sampled_from(unsettled))))
            case "tend":
                world.run(owner, world.tend(owner))
            case "time":
                world.store.clock.advance_ms(draw(st.sampled_from([1, 20, 150, 1_200, 3_000])))
            case "die":
                world.die(owner)
            case "all":
                while world.paused:
                    world.go_on(0)
                    await a_while()
            case "go" | "lose" as how if world.paused:
                world.go_on(draw(st.integers(0, len(world.paused) - 1)), lost=how == "lose")
            case _:
                pass
        await a_while()
        for _, task in world.tasks:
            if task.done() and not task.cancelled() and (error := task.exception()) is not None:
                raise error
    await world.settled_down()
    await close_the_books(world)


@settings(max_examples=40, suppress_health_check=list(HealthCheck), derandomize=True)
@given(st.data())
def search(data: st.DataObject) -> None:
    asyncio.run(play(data.draw))


def test_two_workers_in_any_order_never_overspend() -> None:
    search()
    wanted = ("drawn", "asked", "leased", "returned", "clamped", "refused")
    assert [
        what for what in (*wanted, "died holding a lease", "died with draws untold") if not seen[what]
    ] == []
