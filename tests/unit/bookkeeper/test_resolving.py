"""Holds that only the access log can resolve, and its reception."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from gateway.bookkeeper import resolving as module
from gateway.bookkeeper.aborting import Aborting
from gateway.bookkeeper.access import SettleUnknown, Void
from gateway.bookkeeper.inbox import Inbox
from gateway.bookkeeper.reception import Reception
from gateway.bookkeeper.resolving import Resolving
from gateway.budget.ledger import Draw, LeaseRequest, Outcome, Resolved
from gateway.budget.measure import Amounts
from gateway.budget.memory_ledger import MemoryLedger
from gateway.contract.clock import ManualClock
from gateway.contract.errors import LedgerUnavailable
from gateway.contract.ids import HoldId, OrgId, RegionName
from gateway.contract.units import Millis, Tokens
from tests.unit.bookkeeper.entries import logged, message, record
from tests.unit.bookkeeper.stand_ins import KeptLog
from tests.unit.bookkeeper.test_heartbeat import ACCOUNT, ACME, want


class Away(MemoryLedger):
    """Does not answer the first ``times`` calls."""

    def __init__(self, times: int) -> None:
        super().__init__(ManualClock())
        self.times = times

    async def void(self, org: OrgId, hold: HoldId, *, reason: str, draw: Draw | None = None) -> Resolved:
        self.times -= 1
        if self.times >= 0:
            raise LedgerUnavailable("away")
        return await super().void(org, hold, reason=reason, draw=draw)


async def finished(resolving: Resolving) -> None:
    stop = asyncio.Event()
    running = asyncio.create_task(resolving.run(stop))
    await asyncio.sleep(0)
    stop.set()
    await asyncio.wait_for(running, 10)


async def test_void_and_settle(monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = MemoryLedger(ManualClock())
    for hold in ("void", "unknown", "settled"):
        await ledger.reserve(want(hold))
    await ledger.settle(ACME, HoldId("settled"), Amounts.of(3, 4))
    resolving = Resolving(ledger, KeptLog())
    assert resolving.offer(Void(org=ACME, hold=HoldId("void")))
    assert resolving.offer(SettleUnknown(org=ACME, hold=HoldId("unknown")))
    assert resolving.offer(Void(org=ACME, hold=HoldId("settled")))
    assert resolving.offer(Void(org=ACME, hold=HoldId("never-was")))
    assert resolving.offer(Void(org=OrgId("NO}NAME"), hold=HoldId("{}")))
    await finished(resolving)
    standing = (await ledger.standing(ACME, [ACCOUNT]))[0]
    assert (standing.held, standing.used) == (0, 107)
    assert (await ledger.void(ACME, HoldId("settled"), reason="again")).outcome is Outcome.POSTED


async def test_a_hold_of_a_lease_is_resolved_though_the_ledger_has_not_heard_of_it() -> None:
    ledger = MemoryLedger(ManualClock())
    wanted = Amounts.of(500, 500)
    leased = await ledger.lease(
        LeaseRequest(
            lease=HoldId("l"),
            org=ACME,
            accounts=(ACCOUNT,),
            wanted=wanted,
            wanted_requests=9,
            least=Amounts(),
            share=1,
            ttl=Millis(9_000),
            policy_version=1,
        )
    )
    assert leased is not None
    draws = [
        Draw(
            lease=leased.lease,
            windows=leased.windows,
            hold=HoldId(hold),
            amounts=Amounts.of(10, 20),
            units=Tokens(20),
            expires_at=leased.expires_at,
            policy_version=1,
        )
        for hold in ("void", "unknown")
    ]
    resolving = Resolving(ledger, KeptLog())
    resolving.offer(Void(org=ACME, hold=draws[0].hold, draw=draws[0]))
    resolving.offer(SettleUnknown(org=ACME, hold=draws[1].hold, draw=draws[1]))
    await finished(resolving)
    await ledger.return_lease(ACME, leased.lease)
    standing = (await ledger.standing(ACME, [ACCOUNT]))[0]
    assert (standing.held, standing.used) == (0, 30)


async def test_a_ledger_that_is_away_is_told_later(monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = Away(times=3)
    await ledger.reserve(want("h"))
    log = KeptLog()
    resolving = Resolving(ledger, log)
    resolving.offer(Void(org=ACME, hold=HoldId("h")))
    stop = asyncio.Event()
    running = asyncio.create_task(resolving.run(stop))
    await asyncio.wait_for(resolving._queue.join(), 10)
    assert (await ledger.standing(ACME, [ACCOUNT]))[0].held == 0
    stop.set()
    await asyncio.wait_for(running, 5)
    assert log.names == ["resolving.failing", "resolving.recovered"]


async def test_a_stop_does_not_wait_for_a_ledger_that_is_away() -> None:
    resolving = Resolving(Away(times=10**9), KeptLog())
    for number in range(20):
        resolving.offer(Void(org=ACME, hold=HoldId(f"h{number}")))
    await finished(resolving)


async def test_one_hold_that_never_succeeds_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TRIES_MAX", 2)
    ledger = Away(times=2)
    await ledger.reserve(want("second"))
    resolving = Resolving(ledger, KeptLog())
    monkeypatch.setattr(module, "WORKERS", 1)
    resolving.offer(Void(org=ACME, hold=HoldId("first")))
    resolving.offer(Void(org=ACME, hold=HoldId("second")))
    stop = asyncio.Event()
    running = asyncio.create_task(resolving.run(stop))
    await asyncio.wait_for(resolving._queue.join(), 5)
    stop.set()
    await asyncio.wait_for(running, 5)
    assert (await ledger.standing(ACME, [ACCOUNT]))[0].held == 0


def test_the_queue_is_bounded() -> None:
    resolving = Resolving(MemoryLedger(ManualClock()), KeptLog(), queue_max=1)
    assert resolving.offer(Void(org=ACME, hold=HoldId("a")))
    assert not resolving.offer(Void(org=ACME, hold=HoldId("b")))


async def _stream(*messages: bytes) -> AsyncIterator[bytes]:
    for item in messages:
        yield item


@pytest.fixture
def inbox() -> Inbox:
    return Inbox(3)


@pytest.fixture
def reception(inbox: Inbox) -> Reception:
    resolving = Resolving(MemoryLedger(ManualClock()), KeptLog())
    clock = ManualClock()
    return Reception(inbox, resolving, Aborting(clock), RegionName("local"), clock)


async def test_only_a_streams_first_message_names_the_log(reception: Reception, inbox: Inbox) -> None:
    entries = [logged(admitted=record(), request_id=f"r-{n}") for n in range(3)]
    messages = [message(entries[0]), message(entries[1], log_name=None)]
    assert [answer async for answer in reception.stream({}, _stream(*messages))] == [b""]
    assert [event.request_id for event in inbox.first(9)] == ["r-0", "r-1"]


async def test_another_log_is_not_ours(reception: Reception, inbox: Inbox) -> None:
    for foreign in (message(logged(), log_name="other"), message(logged(), log_name=None)):
        assert [answer async for answer in reception.stream({}, _stream(foreign))] == [b""]
    assert len(inbox) == 0


async def test_what_does_not_fit_is_dropped_not_waited_for(reception: Reception, inbox: Inbox) -> None:
    entries = [logged(admitted=record(), request_id=f"r-{n}") for n in range(9)]
    assert [answer async for answer in reception.stream({}, _stream(message(*entries)))] == [b""]
    assert len(inbox) == 3
    inbox.pass_on(2)
    assert [event.request_id for event in inbox.first(9)] == ["r-2"]
