"""Expiry, the store's clock, and what is said of a ledger that does not answer."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from gateway.bookkeeper.condition import PAUSE_S_MAX, Condition
from gateway.bookkeeper.heartbeat import TICK_EVERY, Heartbeat
from gateway.bookkeeper.witness import Witness, disagreement
from gateway.budget.ledger import FORWARD_JUMP_MAX, HoldRequest
from gateway.budget.memory_ledger import MemoryLedger
from gateway.budget.window import Account, Standing, Window, WindowKind
from gateway.contract.clock import ManualClock
from gateway.contract.errors import LedgerEmptied, LedgerUnavailable
from gateway.contract.ids import AccountId, HoldId, OrgId
from gateway.contract.units import Millis, Tokens, UnixMillis
from tests.unit.bookkeeper.stand_ins import KeptLog, MemoryOutbox

ACME, BOLT = OrgId("acme"), OrgId("bolt")
ACCOUNT = Account(id=AccountId("org"), windows=(Window(kind=WindowKind.MINUTE, limit=Tokens(10**6)),))
HOUR = 3_600_000


def want(hold: str, org: OrgId = ACME, ttl: int = 1000) -> HoldRequest:
    return HoldRequest(
        hold=HoldId(hold),
        org=org,
        accounts=(ACCOUNT,),
        fixed=Tokens(0),
        choices=1,
        units_wanted=Tokens(100),
        units_min=Tokens(1),
        ttl=Millis(ttl),
        policy_version=1,
    )


class WallClock:
    """A wall clock that can be set apart from the monotonic one."""

    def __init__(self) -> None:
        self.wall_ms, self.elapsed_s = 1_800_000_000_000, 0.0

    def unix_ms(self) -> UnixMillis:
        return UnixMillis(self.wall_ms)

    def monotonic_s(self) -> float:
        return self.elapsed_s

    def advance(self, millis: int) -> None:
        self.wall_ms += millis
        self.elapsed_s += millis / 1000


class Bench:
    """``clock`` is the machine's: the store and the bookkeeper share it, as they do on one machine."""

    def __init__(self) -> None:
        self.clock, self.log, self.outbox = WallClock(), KeptLog(), MemoryOutbox()
        self.witness = Witness(self.clock)
        self.ledger = MemoryLedger(self.clock, witness=self.witness)
        self.heart = Heartbeat(self.ledger, self.outbox, self.witness, self.log, beat_s=0.01)

    async def beat(self, times: int = TICK_EVERY) -> None:
        for _ in range(times):
            await self.heart.beat()

    async def window(self, org: OrgId = ACME) -> Standing:
        return (await self.ledger.standing(org, [ACCOUNT]))[0]


@pytest.fixture
def bench() -> Bench:
    return Bench()


async def test_overdue_holds_are_charged_in_full(bench: Bench) -> None:
    for number in range(250):
        await bench.ledger.reserve(want(f"h{number}"))
    await bench.ledger.reserve(want("later", ttl=50_000))
    await bench.ledger.reserve(want("b", org=BOLT))
    bench.clock.advance(1500)
    await bench.heart.beat()
    standing = await bench.window()
    assert (standing.used, standing.held) == (25_000, 100)
    assert (await bench.window(BOLT)).used == 100
    assert [OrgId(str(fields["org"])) for name, fields in bench.log.lines if name == "holds.expired"] == [
        *[ACME] * 3,
        BOLT,
    ]


async def test_the_clock_is_confirmed_as_it_goes(bench: Bench) -> None:
    await bench.ledger.reserve(want("h"))
    for _ in range(120):
        bench.clock.advance(10_000)
        await bench.beat()
    assert await bench.ledger.tick(ACME) == bench.clock.wall_ms
    assert "store_clock.failing" not in bench.log.names


@pytest.mark.parametrize("leap", [HOUR, 30 * 24 * HOUR])
async def test_a_wall_clock_that_leaps_rolls_no_window(bench: Bench, leap: int) -> None:
    await bench.ledger.reserve(want("h"))
    await bench.beat()
    before = await bench.window()
    bench.clock.wall_ms += leap  # set, not lived through
    for _ in range(10):
        await bench.beat()
    after = await bench.window()
    assert after.resets_at - before.resets_at <= 2 * FORWARD_JUMP_MAX
    assert bench.log.names.count("store_clock.failing") == 1
    bench.clock.advance(HOUR)
    await bench.beat()
    assert (await bench.window()).resets_at - before.resets_at >= HOUR, "it goes on at the pace of true time"


async def test_a_new_start_takes_the_wall_clocks_word(bench: Bench) -> None:
    await bench.ledger.reserve(want("h"))
    bench.clock.wall_ms += HOUR
    assert Witness(bench.clock).unix_ms() == bench.clock.wall_ms
    assert disagreement(UnixMillis(bench.clock.wall_ms), bench.witness.unix_ms()) == "ahead"
    assert disagreement(UnixMillis(0), bench.witness.unix_ms()) == "behind"
    assert disagreement(bench.witness.unix_ms(), bench.witness.unix_ms()) == ""


async def test_an_outage_is_said_once(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    async def away() -> Sequence[OrgId]:
        raise LedgerUnavailable("away")

    await bench.ledger.reserve(want("h"))
    await bench.beat()
    assert await bench.heart.answers() and bench.heart.orgs == [ACME]
    with monkeypatch.context() as patched:
        patched.setattr(bench.ledger, "orgs", away)
        await bench.beat()
        assert not await bench.heart.answers()
        assert bench.heart.orgs == [ACME], "what is known is not forgotten"
    await bench.beat()
    assert bench.log.names == ["ledger.failing", "ledger.recovered"]


async def test_an_emptied_ledger_is_an_error_with_its_mend(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of one org here: the other one is still swept."""
    real = bench.ledger.expire

    async def expire(org: OrgId, *, holds_max: int = 100) -> Sequence[HoldId]:
        if org == ACME:
            raise LedgerEmptied("emptied")
        return await real(org, holds_max=holds_max)

    await bench.ledger.reserve(want("a"))
    await bench.ledger.reserve(want("b", org=BOLT))
    bench.clock.advance(1500)
    monkeypatch.setattr(bench.ledger, "expire", expire)
    await bench.beat()
    assert bench.log.names.count("books.ledger_emptied") == 1 and not await bench.heart.answers()
    assert (await bench.window(BOLT)).used == 100


async def test_a_bug_does_not_end_the_process(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken() -> Sequence[OrgId]:
        raise ZeroDivisionError

    monkeypatch.setattr(bench.ledger, "orgs", broken)
    await bench.beat()
    assert bench.log.names == ["ledger.failed"]


async def test_run_waits_for_the_epoch_and_ends(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    founded, stop, beaten = asyncio.Event(), asyncio.Event(), asyncio.Event()
    real = bench.heart.beat

    async def beat() -> None:
        await real()
        beaten.set()

    monkeypatch.setattr(bench.heart, "beat", beat)
    await bench.ledger.reserve(want("h"))
    running = asyncio.create_task(bench.heart.run(founded, stop))
    await asyncio.sleep(0)
    assert len(bench.heart.orgs) == 0
    founded.set()
    await asyncio.wait_for(beaten.wait(), 5)
    assert bench.heart.orgs == [ACME]
    stop.set()
    await asyncio.wait_for(running, 5)
    early = Heartbeat(bench.ledger, bench.outbox, bench.witness, bench.log)
    await asyncio.wait_for(early.run(asyncio.Event(), stop), 5)


def test_pauses_grow_to_a_bound() -> None:
    condition, pauses = Condition("x", KeptLog()), []
    for _ in range(2000):
        condition.fails("y")
        pauses.append(condition.pause_s())
    assert pauses[:3] == [0.1, 0.2, 0.4] and pauses[-1] == PAUSE_S_MAX
    condition.works()
    assert not condition.failing


def test_the_manual_clock_is_a_witness_too() -> None:
    clock = ManualClock()
    witness = Witness(clock)
    clock.advance_ms(5000)
    assert witness.unix_ms() == clock.unix_ms() and witness.monotonic_s() == clock.monotonic_s()
