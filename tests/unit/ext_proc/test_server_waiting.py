"""Requests that wait for their turn: called by what is released, in order; gone with their clients."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from typing import Any

import pytest

from ext_proc.server import PeerLeft
from ext_proc.vocabulary import Void
from gateway.budget.measure import Measure
from gateway.budget.policy_limits import Limits
from gateway.budget.window import Window, WindowKind
from gateway.contract.ids import HoldId
from gateway.sidecar import wire
from gateway.telemetry import names
from gateway.telemetry.metrics import counter, gauge
from tests.unit.ext_proc.asked import PRINCIPAL, RULES, budgets
from tests.unit.ext_proc.streams import ACME, Filters, request_body, request_headers

ONE_AT_A_TIME = Limits(windows=(Window(kind=WindowKind.LIFETIME, limit=1, measure=Measure.CONCURRENT),))
LATER = 100.0
"""Seconds: a pause no test waits for."""


@pytest.fixture
def filters(monkeypatch: pytest.MonkeyPatch) -> Filters:
    """One request at a time may run; the others wait, and only a release calls them."""
    monkeypatch.setattr("ext_proc.waiting.POLL", LATER)
    return Filters(replace(RULES, budgets=budgets(wait=LATER, limits=ONE_AT_A_TIME)))


@pytest.fixture(autouse=True)
def in_time() -> Iterator[None]:
    """Nobody is left in the gauge."""
    waiting = gauge(names.ADMIT_WAITING, "Requests that wait for their turn")
    before = waiting._value.get()
    yield
    assert waiting._value.get() == before


class Stream:
    """One request whose client stays until ``leave``."""

    def __init__(self, filters: Filters, name: str, **principal: Any) -> None:
        self.gone = asyncio.Event()
        self.name = HoldId(name)
        headers = request_headers({"x-request-id": name}, principal={**PRINCIPAL, **principal})

        async def messages() -> AsyncIterator[bytes]:
            yield headers
            yield request_body(temperature=1)
            await self.gone.wait()

        self.replies: Any = filters.filters.process({"tidegate-filter": "admit"}, messages())

    async def next(self) -> Any:
        """The next reply."""
        async with asyncio.timeout(5):
            return wire.ProcessingResponse.FromString(await anext(self.replies))

    async def granted(self) -> None:
        """Goes on to the engine."""
        assert (await self.next()).WhichOneof("response") == "request_body"

    async def waits(self) -> None:
        """Envoy is told so, and the request stands in its line."""
        assert (await self.next()).WhichOneof("response") == "request_headers"
        told = await self.next()
        assert told.WhichOneof("response") is None
        assert told.override_message_timeout.ToMilliseconds() == LATER * 1000 + 1000


async def first(filters: Filters) -> Stream:
    stream = Stream(filters, "r-1")
    assert (await stream.next()).WhichOneof("response") == "request_headers"
    await stream.granted()
    return stream


async def waiting(filters: Filters, stream: Stream) -> asyncio.Task[None]:
    """The task that ends when ``stream`` is granted; it stands in line."""
    await stream.waits()
    task = asyncio.create_task(stream.granted())
    room = filters.performer._room
    for _ in range(1000):
        if stream.name in room._lines:
            return task
        await asyncio.sleep(0)
    raise AssertionError("it does not stand in line")


async def release(filters: Filters, hold: str) -> None:
    await filters.performer.resolve(Void(org=ACME, hold=HoldId(hold), reason="test"))


async def test_what_is_released_goes_to_the_highest_priority_and_then_to_who_came_first(
    filters: Filters,
) -> None:
    await first(filters)
    low = await waiting(filters, Stream(filters, "low-1"))
    later = await waiting(filters, Stream(filters, "low-2"))
    high = await waiting(filters, Stream(filters, "high", tier="high"))
    for task, hold in ((high, "r-1"), (low, "high"), (later, "low-1")):
        await release(filters, hold)
        await task
    granted = [entry["hold"] for entry in filters.ledger.outbox if entry["type"] == "hold.granted"]
    assert granted == ["r-1", "high", "low-1", "low-2"]


async def test_somebody_new_does_not_go_before_those_who_wait(filters: Filters) -> None:
    await first(filters)
    waits = await waiting(filters, Stream(filters, "waits"))
    filters.ledger.go.clear()
    filters.ledger.asked.clear()
    voiding = asyncio.create_task(release(filters, "r-1"))
    await filters.ledger.asked.wait()
    filters.ledger.asked.clear()
    new = await waiting(filters, Stream(filters, "new"))
    assert not filters.ledger.asked.is_set(), "the ledger is not asked for who is not the next"
    filters.ledger.go.set()
    await voiding
    await waits
    assert not new.done()
    await release(filters, "waits")
    await new


@pytest.mark.parametrize("how", ["ends", "cancelled"])
async def test_a_client_that_leaves_waits_no_more_and_holds_nothing(filters: Filters, how: str) -> None:
    await first(filters)
    stream = Stream(filters, "leaves", tier="high")
    leaves = await waiting(filters, stream)
    stays = await waiting(filters, Stream(filters, "stays"))
    if how == "ends":
        stream.gone.set()
    else:
        leaves.cancel()
    with pytest.raises(PeerLeft if how == "ends" else asyncio.CancelledError):
        await leaves
    await stream.replies.aclose()
    await release(filters, "r-1")
    await stays
    assert await filters.background.drain(1) == 0
    holds = {entry["hold"] for entry in filters.ledger.outbox if entry["type"] == "hold.granted"}
    assert holds == {"r-1", "stays"}


async def test_whose_time_is_over_is_refused_as_the_ledger_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ext_proc.waiting.POLL", 0.01)
    filters = Filters(replace(RULES, budgets=budgets(wait=0.05, limits=ONE_AT_A_TIME)))
    await first(filters)
    stream = Stream(filters, "late")
    replies = [await stream.next() for _ in range(3)]
    assert replies[2].immediate_response.status.code == 429
    assert b"1 or more" in replies[2].immediate_response.body
    assert filters.ledger.kinds().count("hold.refused") > 1, "it has tried again"


async def test_a_full_room_refuses_at_once(filters: Filters, monkeypatch: pytest.MonkeyPatch) -> None:
    full = counter(names.ADMIT_WAITS, "Requests that waited for their turn", ["result"]).labels("full")
    before = full._value.get()
    await first(filters)
    task = await waiting(filters, Stream(filters, "waits"))
    monkeypatch.setattr(filters.performer._room._lines, "_most_of_org", 1)
    stream = Stream(filters, "too-many")
    await stream.waits()
    reply = (await stream.next()).immediate_response
    assert reply.status.code == 429
    assert b"waited for their turn for longer" in reply.body
    assert full._value.get() == before + 1
    await release(filters, "r-1")
    await task
    await filters.background.drain(1)
    await filters.notes.close()
    await filters.notes.run()
    assert filters.ledger.kinds()[-1] == "request.refused", "the ledger was not asked: admit says it"
