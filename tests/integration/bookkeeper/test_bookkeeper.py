"""The whole process: events into books, expiry, the access log, an emptied and a silent ledger."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from gateway.bookkeeper import verify
from gateway.budget.ledger import Outcome
from gateway.budget.measure import Amounts
from gateway.contract.ids import HoldId, RequestId
from gateway.events.event import EventType
from gateway.events.segment import segments_of
from gateway.sidecar import wire
from gateway.sidecar.client import channel, serving
from tests.harness.valkey import StoreProcess
from tests.integration.bookkeeper.process import ORG, UNTIL_S, Bookkeeper, until, want
from tests.unit.bookkeeper.entries import logged, message, record


async def test_decisions_into_books_that_verify(bookkeeper: Bookkeeper) -> None:
    bookkeeper.start()
    await bookkeeper.serves()
    for number in range(30):
        await bookkeeper.ledger.reserve(want(f"h{number}"))
        await bookkeeper.ledger.settle(ORG, HoldId(f"h{number}"), Amounts.of(0, number))
    events = await bookkeeper.has(60)
    used = [
        event.amounts["used"] for event in events if event.type is EventType.HOLD_SETTLED and event.amounts
    ]
    assert used == [str(number) for number in range(30)]
    assert bookkeeper.stop() == 0
    assert await bookkeeper.verified() == verify.CLEAN
    [(_, path)] = segments_of(bookkeeper.books)
    whole = path.read_bytes()
    path.write_bytes(whole[: whole.rindex(b"\n", 0, -1) + 1])
    assert await bookkeeper.verified() == verify.BROKEN
    path.write_bytes(whole.replace(b'"used":"7"', b'"used":"6"'))
    assert await bookkeeper.verified() == verify.BROKEN


async def test_overdue_holds_are_swept(bookkeeper: Bookkeeper) -> None:
    bookkeeper.start()
    await bookkeeper.serves()
    await bookkeeper.ledger.reserve(want("dead", ttl=1))
    await bookkeeper.ledger.reserve(want("alive"))
    events = await bookkeeper.has(3)
    assert [event.hold for event in events if event.type is EventType.HOLD_EXPIRED] == ["dead"]
    standing = await bookkeeper.standing()
    assert (standing.used, standing.held) == (100, 100)


def _entry(hold: str, **changes: Any) -> Any:
    admitted = record(hold=HoldId(hold), request_id=RequestId(hold), org=ORG)
    return logged(admitted=admitted, request_id=hold, **changes)


async def test_the_access_log_ends_holds(bookkeeper: Bookkeeper) -> None:
    bookkeeper.start()
    await bookkeeper.serves()
    holds = ("refused", "left-early", "left-late", "answered", "settled")
    for hold in holds:
        await bookkeeper.ledger.reserve(want(hold))
    await bookkeeper.ledger.settle(ORG, HoldId("settled"), Amounts.of(0, 3))
    async with channel(bookkeeper.socket) as opened:
        # As Envoy does: a client-streaming call that it never half-closes.
        call = opened.stream_unary(wire.STREAM_ACCESS_LOGS)()
        gone = ("downstream_connection_termination",)
        first = [_entry("refused", code=503), _entry("left-early", code=0, flags=gone, upstream="")]
        await call.write(message(*first))
        rest = [
            _entry("left-late", code=0, flags=gone),
            _entry("answered", flags=gone),
            _entry("settled", code=503),
        ]
        await call.write(message(*rest, log_name=None))
        events = await bookkeeper.has(len(holds) + 1 + 3 + len(holds))
        await call.done_writing()
        async with asyncio.timeout(UNTIL_S):
            assert await call == b""
    ended = {event.hold: (event.type, event.reason) for event in events if event.type is not EventType.ACCESS}
    assert ended == {
        "refused": (EventType.HOLD_VOIDED, "access_log"),
        "left-early": (EventType.HOLD_VOIDED, "access_log"),
        "left-late": (EventType.HOLD_SETTLED, "unknown"),
        "answered": (EventType.HOLD_GRANTED, ""),
        "settled": (EventType.HOLD_SETTLED, ""),
    }
    accesses = [event for event in events if event.type is EventType.ACCESS]
    assert [event.hold for event in accesses] == [*holds]
    standing = await bookkeeper.standing()
    assert (standing.used, standing.held) == (103, 100)
    late = await bookkeeper.ledger.settle(ORG, HoldId("left-late"), Amounts.of(0, 40))
    assert late.outcome is Outcome.CORRECTED, "a tap that comes late makes it exact"


async def test_a_store_that_comes_back_is_used_again(bookkeeper: Bookkeeper, store: StoreProcess) -> None:
    store.write_first()
    bookkeeper.start()
    await bookkeeper.serves()
    await bookkeeper.ledger.reserve(want("during"))  # before its end is told, as every hold is
    await bookkeeper.has(1)
    store.kill()
    await until(lambda: _not_serving(bookkeeper), "health follows the ledger")
    async with channel(bookkeeper.socket) as opened:
        call = opened.stream_unary(wire.STREAM_ACCESS_LOGS)()
        await call.write(message(_entry("during", code=503)))
        await bookkeeper.has(2)  # books need no ledger
        store.start()
        await until(lambda: _resolved(bookkeeper), "the hold of the outage is resolved")
    await bookkeeper.serves()
    await until(lambda: _said(bookkeeper, "outbox.recovered"), "the anchor is told again")
    told = [event for event in bookkeeper.said() if event in ("ledger.failing", "ledger.recovered")]
    # Each outage is told once, and its end once: a busy machine may have had more than the one made here.
    assert told == ["ledger.failing", "ledger.recovered"] * (len(told) // 2) != []
    assert await bookkeeper.verified() == verify.CLEAN


async def _not_serving(bookkeeper: Bookkeeper) -> bool:
    return not await serving(bookkeeper.socket)


async def _resolved(bookkeeper: Bookkeeper) -> bool:
    return (await bookkeeper.standing()).held == 0


@pytest.mark.parametrize("running", [True, False])
async def test_an_emptied_ledger_stays_closed(bookkeeper: Bookkeeper, running: bool) -> None:
    bookkeeper.start()
    await bookkeeper.serves()
    await bookkeeper.ledger.note(ORG, "cache.hit", {})
    await bookkeeper.has(1)
    await until(lambda: _clean(bookkeeper), "the anchor, which else would come after the store was emptied")
    if not running:
        assert bookkeeper.stop() == 0
    await bookkeeper.client.flushall()
    if not running:
        bookkeeper.start()
    await until(lambda: _said(bookkeeper, "books.ledger_emptied"), "it is said")
    await until(lambda: _not_serving(bookkeeper), "not serving")
    assert await bookkeeper.client.get("tg:epoch") is None
    assert await bookkeeper.verified() == verify.BROKEN


async def _clean(bookkeeper: Bookkeeper) -> bool:
    return await bookkeeper.verified() == verify.CLEAN


async def _said(bookkeeper: Bookkeeper, event: str) -> bool:
    return event in bookkeeper.said()


async def test_a_bad_url_stops_the_start(bookkeeper: Bookkeeper, store: StoreProcess) -> None:
    store.url = "http://elsewhere"
    bookkeeper.start()
    assert await asyncio.to_thread(bookkeeper.ended) == 2
    assert b"TIDEGATE_LEDGER_URL" in bookkeeper.log.read_bytes()
