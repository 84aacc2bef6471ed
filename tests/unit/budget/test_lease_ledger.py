"""Requests of a busy account are decided in memory, within what was leased, and the ledger is told."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import replace

import pytest

from gateway.budget.lease_hand import HEAR_EVERY_S, IDLE_S, MARGIN_S
from gateway.budget.leasing_ledger import AWAY_AGAIN_S, LeasingLedger
from gateway.budget.ledger import Draw, Granted, LeaseState, Outcome, Refused
from gateway.budget.measure import Amounts, Measure
from gateway.budget.window import Account, Standing, Window, WindowKind
from gateway.contract.errors import LedgerUnavailable
from gateway.contract.ids import AccountId
from gateway.contract.units import Millis
from tests.unit.budget.leasing import LEASES, ORG, Store, accounts, hold_request

PLENTY = accounts(1_000_000)


class Worker:
    """A LeasingLedger, what it counted, and the requests it has had."""

    def __init__(self, store: Store, name: str = "w") -> None:
        self.store = store
        self.policy = LEASES
        self.counted: Counter[str] = Counter()
        self.ledger = LeasingLedger(store, store.clock, lambda: self.policy, worker=name, count=self._count)
        self._asked = 0

    def _count(self, what: str) -> None:
        self.counted[what] += 1

    async def ask(self, windows: tuple[Account, ...] = PLENTY, **more: int) -> Granted:
        self._asked += 1
        answer = await self.ledger.reserve(hold_request(f"{id(self)}-{self._asked}", windows, **more))
        assert isinstance(answer, Granted)
        return answer

    async def until_leased(self, windows: tuple[Account, ...] = PLENTY) -> Granted:
        """Ask as a busy account does; the first grant out of a lease."""
        for _ in range(100):
            granted = await self.ask(windows)
            if granted.lease:
                return granted
            await self.ledger.settle(ORG, granted.hold, granted.amounts)
            self.store.clock.advance_ms(2)
            await asyncio.sleep(0)
        raise AssertionError("no lease was made")

    async def standing(self, windows: tuple[Account, ...] = PLENTY) -> Standing:
        (found,) = await self.store.truth.standing(ORG, windows)
        return found


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
def worker(store: Store) -> Worker:
    return Worker(store)


async def test_an_account_that_is_not_busy_asks_the_ledger_each_time(store: Store, worker: Worker) -> None:
    for _ in range(30):
        assert not (await worker.ask()).lease
        store.clock.advance_ms(500)
    assert set(store.calls) == {"reserve"}


async def test_a_grant_in_memory_asks_the_ledger_nothing(store: Store, worker: Worker) -> None:
    await worker.until_leased()
    store.calls.clear()
    granted = await worker.ask()
    assert granted.lease == "lease/w/1"
    assert granted.amounts == Amounts.of(0, 10)
    assert store.calls == []


async def test_what_was_drawn_is_told_and_the_rest_returned(store: Store, worker: Worker) -> None:
    granted = await worker.until_leased()
    store.clock.advance_ms(10)
    await worker.ledger.tend()
    assert (await store.truth.draw(ORG, granted.lease, ())) is LeaseState.LIVE
    store.clock.advance_ms(int(IDLE_S * 1000) + 1)
    await worker.ledger.tend()
    assert (await worker.standing()).held == granted.amounts.tokens, "the hold, and nothing of the lease"
    resolved = await worker.ledger.settle(ORG, granted.hold, Amounts.of(0, 7))
    assert resolved.outcome is Outcome.POSTED
    assert (await worker.standing()).held == 0


async def test_a_lease_that_cannot_pay_all_leaves_the_decision_to_the_ledger(
    store: Store, worker: Worker
) -> None:
    await worker.until_leased()
    granted = await worker.ask(tokens=5_000)
    assert not granted.lease
    assert granted.units == 5_000


async def test_a_settle_before_its_draw_carries_it_and_nothing_is_doubled(
    store: Store, worker: Worker
) -> None:
    before = (await worker.standing()).used
    granted = await worker.until_leased()
    used = (await worker.standing()).used - before
    resolved = await worker.ledger.settle(ORG, granted.hold, Amounts.of(0, 4))
    assert (resolved.outcome, resolved.first) == (Outcome.POSTED, True)
    store.calls.clear()
    await worker.ledger.tend()
    assert "draw" not in store.calls, "nothing is left to tell"
    await worker.ledger.leave()
    standing = await worker.standing()
    assert (standing.used - used, standing.held) == (4, 0)


async def test_another_workers_settle_brings_the_draw(store: Store, worker: Worker) -> None:
    granted = await worker.until_leased()
    draw = Draw(
        lease=granted.lease,
        windows=(),
        hold=granted.hold,
        amounts=granted.amounts,
        units=granted.units,
        expires_at=granted.expires_at,
        policy_version=1,
    )
    other = Worker(store, "other")
    await other.ledger.settle(ORG, granted.hold, Amounts.of(0, 3), draw=draw)
    await worker.ledger.leave()
    assert (await worker.standing()).held == 0


async def test_a_void_of_a_draw_gives_all_back(store: Store, worker: Worker) -> None:
    granted = await worker.until_leased()
    before = (await worker.standing()).used
    await worker.ledger.void(ORG, granted.hold, reason="test")
    await worker.ledger.leave()
    standing = await worker.standing()
    assert (standing.used, standing.held) == (before, 0)


async def test_the_same_hold_again_is_the_same_grant(worker: Worker) -> None:
    granted = await worker.until_leased()
    again = await worker.ledger.reserve(hold_request(granted.hold, PLENTY))
    assert isinstance(again, Granted)
    assert again == replace(granted, repeated=True)


async def test_an_extended_draw_is_told_first(store: Store, worker: Worker) -> None:
    granted = await worker.until_leased()
    resolved = await worker.ledger.extend(ORG, granted.hold, Millis(20 * 60_000))
    assert (resolved.outcome, resolved.first) == (Outcome.LIVE, True)


async def test_the_next_lease_is_asked_for_before_the_first_is_used_up(store: Store, worker: Worker) -> None:
    await worker.until_leased()
    leases = set()
    for _ in range(40):
        leases.add((await worker.ask()).lease)
        await asyncio.sleep(0.001)
        store.clock.advance_ms(1)
    assert "" not in leases, "nobody waited for the ledger"
    assert len(leases) > 3


async def test_a_silent_ledger_is_outlived_as_long_as_the_lease_lasts(store: Store, worker: Worker) -> None:
    await worker.until_leased()
    store.down = True
    await worker.ledger.tend()
    served = 0
    with pytest.raises(LedgerUnavailable):
        while True:
            granted = await worker.ask()
            assert granted.lease
            served += 1
            store.clock.advance_ms(150)
            await worker.ledger.tend()
    assert 0 < served <= LEASES.requests * 2
    assert worker.counted["drawn_away"] > 0
    store.down = False
    store.clock.advance_ms(int(AWAY_AGAIN_S * 1000) + 1)
    await worker.ledger.leave()
    assert (await worker.standing()).held == 10 * (served + 1), "each hold, and nothing of the lease"


async def test_an_emptied_ledger_ends_what_was_leased_of_it(store: Store, worker: Worker) -> None:
    await worker.until_leased()
    store.truth.lose_everything()
    await worker.ledger.tend()
    with pytest.raises(LedgerUnavailable, match="closed until"):
        await worker.ask()


async def test_time_ends_a_lease_whatever_is_left_of_it(store: Store, worker: Worker) -> None:
    await worker.until_leased()
    store.down = True
    store.clock.advance_ms(LEASES.ttl - int(MARGIN_S * 1000) + 1)
    with pytest.raises(LedgerUnavailable):
        await worker.ask()


async def test_a_lease_whose_answer_was_lost_is_returned(store: Store, worker: Worker) -> None:
    store.lost = "lease"
    while "lease" not in store.calls:
        granted = await worker.ask()
        await worker.ledger.settle(ORG, granted.hold, granted.amounts)
        await asyncio.sleep(0)
    held = (await worker.standing()).held
    assert held > 0
    await worker.ledger.leave()
    assert (await worker.standing()).held == 0


async def test_a_refusal_waits_for_what_other_workers_hold(store: Store) -> None:
    """The other hears of the recall with its next draw, and what it held is granted here."""
    room = accounts(200)
    one, other = Worker(store, "one"), Worker(store, "other")
    spent = 0
    granted = await one.ask(room)
    while not granted.lease:
        await one.ledger.void(ORG, granted.hold, reason="test")
        granted = await one.ask(room)
        await asyncio.sleep(0)
    spent = granted.amounts.tokens
    running = asyncio.create_task(one.ledger.run())
    try:
        while True:
            answer = await other.ledger.reserve(hold_request(f"o{spent}", room, tokens=10, least=10))
            if isinstance(answer, Refused):
                break
            spent += answer.amounts.tokens
            store.clock.advance_ms(20)
    finally:
        running.cancel()
        await asyncio.wait((running,))
    assert spent == 200
    assert one.counted["returned"] == 1


async def test_a_lease_that_is_not_used_is_asked_about(store: Store, worker: Worker) -> None:
    """It hears of the recall although it has nothing to tell, long before it is idle."""
    granted = await worker.until_leased()
    await worker.ledger.tend()
    refused = await store.truth.reserve(hold_request("other", PLENTY, tokens=2_000_000, least=2_000_000))
    assert isinstance(refused, Refused)
    assert refused.recalled
    store.clock.advance_ms(int(HEAR_EVERY_S * 1000) + 1)
    await worker.ledger.tend()
    assert (await store.truth.draw(ORG, granted.lease, ())) is LeaseState.RETURNED
    assert worker.counted["recalled"] == 1


async def test_a_workers_own_lease_never_clamps_its_client(store: Store, worker: Worker) -> None:
    room = accounts(120)
    granted = await worker.ask(room)
    while not granted.lease:
        await worker.ledger.void(ORG, granted.hold, reason="test")
        granted = await worker.ask(room)
        await asyncio.sleep(0)
    large = await worker.ask(room, tokens=110)
    assert large.units == 110


async def test_a_newer_policy_returns_what_the_older_leased(store: Store, worker: Worker) -> None:
    await worker.until_leased()
    granted = await worker.ask(version=2)
    assert not granted.lease
    await worker.ledger.tend()
    assert worker.counted["returned"] == 1


async def test_leases_switched_off_go_back(store: Store, worker: Worker) -> None:
    await worker.until_leased()
    worker.policy = replace(LEASES, enabled=False)
    assert not (await worker.ask()).lease
    await worker.ledger.tend()
    assert worker.counted["returned"] == 1


@pytest.mark.parametrize(
    "account",
    [
        Account(id=AccountId("workflow/w"), windows=()),
        Account(
            id=AccountId("key/k"),
            windows=(Window(kind=WindowKind.LIFETIME, limit=100, measure=Measure.CONCURRENT),),
        ),
    ],
)
async def test_what_is_counted_in_flight_or_of_a_workflow_is_never_leased(
    store: Store, worker: Worker, account: Account
) -> None:
    for _ in range(60):
        granted = await worker.ask((*PLENTY, account))
        assert not granted.lease
        await worker.ledger.void(ORG, granted.hold, reason="test")
    assert "lease" not in store.calls


async def test_remaining_counts_the_rest_of_the_own_lease_as_free(store: Store, worker: Worker) -> None:
    first = (await worker.until_leased()).tightest[Measure.TOKENS]
    second = (await worker.ask()).tightest[Measure.TOKENS]
    assert first.remaining - second.remaining == 10
    assert first.held < LEASES.requests * 10, "less than the lease holds in the ledger"
