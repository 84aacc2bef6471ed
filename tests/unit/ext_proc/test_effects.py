"""Deeds nobody waits for, and what becomes of a settle that the ledger does not take."""

from __future__ import annotations

import orjson
import pytest

from ext_proc.cache.memory_store import MemoryStore
from ext_proc.cache.store import CachedAnswer, CacheUnavailable, Keys, Lineage
from ext_proc.effects import Performer
from ext_proc.lookups import Lookups
from ext_proc.measures import Measures
from ext_proc.vocabulary import Extend, Resolution, Settle, Store, Void
from gateway.budget.certainty import Certainty
from gateway.budget.ledger import Draw, Outcome
from gateway.budget.measure import Amounts
from gateway.contract.clock import ManualClock, SystemClock
from gateway.contract.ids import HoldId, OrgId
from gateway.contract.units import Millis, Tokens, UnixMillis
from gateway.telemetry import names
from gateway.telemetry.log import EventLog
from gateway.telemetry.metrics import counter
from tests.unit.ext_proc.asked import admitted
from tests.unit.ext_proc.streams import ACME, Filters
from tests.unit.ext_proc.tapped import PLACE

HOLD = HoldId("r-1")
DAY = Millis(24 * 3600 * 1000)
SETTLE = Settle(org=ACME, hold=HOLD, used=Amounts.of(3, 4), certainty=Certainty.EXACT, detail={})


class Kept:
    """What keeps the unsettled, in a list."""

    def __init__(self) -> None:
        self.deeds: list[Resolution] = []

    def add(self, deed: Resolution) -> None:
        self.deeds.append(deed)


def performer(filters: Filters, kept: Kept) -> Performer:
    return Performer(
        filters.ledger,
        filters.lookups,
        SystemClock(),
        background=filters.background,
        notes=filters.notes,
        log=EventLog("test"),
        unsettled=kept,
    )


async def test_a_long_stream_extends_its_hold_behind_its_back() -> None:
    filters = Filters()
    await filters.hold()
    filters.performer.do(Extend(org=ACME, hold=HOLD, ttl=DAY))
    assert filters.ledger.extended == {}
    await filters.background.drain(1)
    assert filters.ledger.extended == {HOLD: (DAY, Outcome.LIVE)}


async def test_an_extension_that_the_ledger_does_not_take_is_dropped() -> None:
    filters = Filters()
    dropped = counter(names.EFFECTS_DROPPED, "", ["effect"]).labels(effect="extend")
    before = dropped._value.get()
    filters.ledger.broken["extend"] = 1
    filters.performer.do(Extend(org=ACME, hold=HOLD, ttl=DAY))
    assert await filters.background.drain(1) == 0
    assert filters.ledger.extended == {}
    assert dropped._value.get() == before + 1


async def test_what_the_ledger_does_not_take_is_given_to_who_keeps_it_once() -> None:
    filters, kept = Filters(), Kept()
    filters.ledger.broken = {"settle": 1, "void": 1}
    void = Void(org=ACME, hold=HOLD, reason="x")
    for deed in (SETTLE, void):
        await performer(filters, kept).resolve(deed)
    assert kept.deeds == [SETTLE, void]
    await performer(filters, kept).resolve(SETTLE)
    assert len(kept.deeds) == 2


async def test_a_settle_of_a_hold_that_no_ledger_knows_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    filters, kept = Filters(), Kept()
    await performer(filters, kept).resolve(SETTLE)
    assert kept.deeds == []
    line = orjson.loads(capsys.readouterr().out)
    assert (line["event"], line["hold"], line["tokens"]) == ("hold.not_known", HOLD, 7)


async def test_what_the_drain_cuts_off_is_given_to_who_keeps_it() -> None:
    filters, kept = Filters(), Kept()
    filters.ledger.go.clear()
    filters.background.start("resolve", performer(filters, kept).resolve(SETTLE))
    await filters.ledger.asked.wait()
    assert await filters.background.drain(0) == 1
    assert kept.deeds == [SETTLE]


async def test_a_settle_brings_the_draw_of_its_lease() -> None:
    filters = Filters()
    _, request = admitted()
    draw = Draw(
        lease=HoldId("lease-1"),
        windows=(f"org|month|{ManualClock().unix_ms()}",),
        hold=HOLD,
        amounts=Amounts.of(10, 20),
        units=Tokens(20),
        expires_at=UnixMillis(SystemClock().unix_ms() + 60_000),
        policy_version=request.policy_version,
    )
    await filters.performer.resolve(
        Settle(org=ACME, hold=HOLD, used=Amounts.of(3, 4), certainty=Certainty.EXACT, detail={}, draw=draw)
    )
    assert filters.ledger.kinds() == ["hold.granted", "hold.settled"]


class FullStore(MemoryStore):
    """Takes no answer."""

    async def put(
        self, org: OrgId, keys: Keys, epoch: str, answer: CachedAnswer, *, ttl_seconds: int
    ) -> bool:
        raise CacheUnavailable("told to")


async def test_an_answer_that_the_store_does_not_take_lets_others_go() -> None:
    clock = SystemClock()
    store = FullStore(clock)
    lookups = Lookups(store, store, None, clock, Measures(clock), EventLog("test"))
    assert await store.join(ACME, PLACE.keys.exact)
    await lookups.keep(Store(org=ACME, place=PLACE, lineage=Lineage(), answer=b"x"))
    assert await store.join(ACME, PLACE.keys.exact), "the flight has landed"
