"""A ledger that does not answer: 50 ms of its time at first, then no time at all, until a probe finds it."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator

import pytest

from gateway.budget.breaker import FAILURES_MAX, BreakingLedger
from gateway.budget.leasing_ledger import LeasingLedger
from gateway.budget.ledger import Granted, Outcome
from gateway.budget.store_time import ROUNDS, store_time
from gateway.contract.clock import ManualClock, SystemClock
from gateway.contract.errors import LedgerUnavailable
from gateway.contract.ids import HoldId
from gateway.contract.units import Millis
from tests.unit.budget.leasing import LEASES, ORG, Store, accounts, hold_request

ROOM = accounts(1_000)


class Heard(list[bool]):
    """What the breaker said of itself; ``closed`` is set when it closes."""

    def __init__(self) -> None:
        super().__init__()
        self.closed = asyncio.Event()

    def add(self, opened: bool) -> None:
        self.append(opened)
        if not opened:
            self.closed.set()


@pytest.fixture
async def breaking() -> AsyncIterator[tuple[BreakingLedger, Store, Heard]]:
    store, heard = Store(), Heard()
    ledger = BreakingLedger(store, SystemClock(), decision=Millis(5), on_change=heard.add)
    await ledger.note(ORG, "first", {})
    yield ledger, store, heard
    await ledger.leave()


async def opened(ledger: BreakingLedger, store: Store) -> None:
    """Freeze the store and ask until the breaker opens."""
    store.gate = asyncio.Event()
    for number in range(FAILURES_MAX):
        with pytest.raises(LedgerUnavailable):
            await ledger.reserve(hold_request(f"frozen-{number}", ROOM))


async def test_failures_in_a_row_open_it_and_then_nothing_is_asked(
    breaking: tuple[BreakingLedger, Store, Heard],
) -> None:
    ledger, store, heard = breaking
    await opened(ledger, store)
    assert (ledger.open, heard) == (True, [True])
    await asyncio.sleep(0)
    store.calls.clear()
    with pytest.raises(LedgerUnavailable):
        await ledger.reserve(hold_request("refused", ROOM))
    with pytest.raises(LedgerUnavailable):
        await ledger.note(ORG, "x", {})
    assert store.calls == []


async def test_a_probe_finds_the_store_when_it_is_back(
    breaking: tuple[BreakingLedger, Store, Heard],
) -> None:
    ledger, store, heard = breaking
    await opened(ledger, store)
    assert store.gate is not None
    store.gate.set()
    await heard.closed.wait()
    assert heard == [True, False]
    assert isinstance(await ledger.reserve(hold_request("again", ROOM)), Granted)


async def test_one_answer_between_failures_keeps_it_closed(
    breaking: tuple[BreakingLedger, Store, Heard],
) -> None:
    ledger, store, heard = breaking
    for number in range(3 * FAILURES_MAX):
        store.down = number % FAILURES_MAX != 0
        try:
            await ledger.note(ORG, "x", {})
        except LedgerUnavailable:
            assert store.down
    assert heard == []


async def test_an_emptied_store_is_an_answer(breaking: tuple[BreakingLedger, Store, Heard]) -> None:
    ledger, store, heard = breaking
    store.truth.lose_everything()
    for number in range(2 * FAILURES_MAX):
        with pytest.raises(LedgerUnavailable, match="closed until"):
            await ledger.reserve(hold_request(f"h{number}", ROOM))
    assert heard == []


async def test_a_reserve_in_doubt_is_voided_later_and_one_never_sent_not_at_all(
    breaking: tuple[BreakingLedger, Store, Heard],
) -> None:
    ledger, store, heard = breaking
    await opened(ledger, store)
    with pytest.raises(LedgerUnavailable):
        await ledger.reserve(hold_request("never-sent", ROOM))
    store.calls.clear()
    resolved = await ledger.void(ORG, HoldId("never-sent"), reason="undecided")
    assert (resolved.outcome, resolved.first) == (Outcome.UNKNOWN, False)
    with pytest.raises(LedgerUnavailable):
        await ledger.void(ORG, HoldId("frozen-0"), reason="undecided")
    assert "void" not in store.calls, "nobody waits for a void of a store that has just been silent"
    assert store.gate is not None
    store.gate.set()
    await heard.closed.wait()
    resolved = await ledger.void(ORG, HoldId("frozen-0"), reason="undecided")
    assert resolved.outcome is Outcome.UNKNOWN


async def test_a_long_outage_leaves_no_leases_to_be_cleared_up(
    breaking: tuple[BreakingLedger, Store, Heard],
) -> None:
    ledger, store, heard = breaking
    await opened(ledger, store)
    clock = ManualClock()
    worker = LeasingLedger(ledger, clock, lambda: LEASES)
    for number in range(200):
        with pytest.raises(LedgerUnavailable):
            await worker.reserve(hold_request(f"h{number}", ROOM))
        await asyncio.sleep(0)
        clock.advance_ms(50)
    store.calls.clear()
    assert store.gate is not None
    store.gate.set()
    await heard.closed.wait()
    clock.advance_ms(1000)
    await worker.tend()
    assert "return" not in store.calls
    await worker.leave()


async def test_the_first_call_goes_alone_and_one_failure_of_it_is_enough() -> None:
    """It brings the library, which takes the store longer than a decision may."""
    store, heard = Store(), Heard()
    ledger = BreakingLedger(store, SystemClock(), decision=Millis(5), on_change=heard.add)
    store.gate = asyncio.Event()
    asked = [asyncio.create_task(ledger.reserve(hold_request(f"h{number}", ROOM))) for number in range(9)]
    for _ in range(10):
        await asyncio.sleep(0)
    assert store.calls == ["reserve"]
    store.gate.set()
    assert all(isinstance(answer, Granted) for answer in await asyncio.gather(*asked))
    await ledger.leave()
    ledger = BreakingLedger(store, SystemClock(), decision=Millis(5), on_change=heard.add)
    store.down = True
    asked = [asyncio.create_task(ledger.reserve(hold_request(f"d{number}", ROOM))) for number in range(9)]
    answers = await asyncio.gather(*asked, return_exceptions=True)
    assert all(isinstance(answer, LedgerUnavailable) for answer in answers)
    assert heard == [True]
    await ledger.leave()


async def test_time_that_our_own_loop_was_busy_is_not_the_stores() -> None:
    """The answer comes within the bound, and waits in the socket while the loop is held up for far longer."""
    near, far = socket.socketpair()
    with far:
        reader, writer = await asyncio.open_connection(sock=near)
        asyncio.get_running_loop().call_soon(time.sleep, 0.3)
        far.send(b"+OK\r\n")
        async with store_time(Millis(50)):
            assert await reader.readline() == b"+OK\r\n"
        writer.close()


async def test_an_answer_that_is_readable_when_the_time_ends_is_taken() -> None:
    """The loop is held up at the very end of the bound; the answer came meanwhile."""
    loop = asyncio.get_running_loop()
    near, far = socket.socketpair()
    with far:
        reader, writer = await asyncio.open_connection(sock=near)

        def busy() -> None:
            far.send(b"+OK\r\n")
            time.sleep(0.1)

        loop.call_later(0.0495, busy)
        async with store_time(Millis(50)):
            assert await reader.readline() == b"+OK\r\n"
        writer.close()


async def test_a_store_that_says_nothing_has_its_time_and_no_more() -> None:
    rounds = 0

    async def count() -> None:
        nonlocal rounds
        while True:
            rounds += 1
            await asyncio.sleep(0)

    counting = asyncio.create_task(count())
    with pytest.raises(TimeoutError):
        async with store_time(Millis(10)):
            await asyncio.Event().wait()
    counting.cancel()
    assert rounds > ROUNDS
