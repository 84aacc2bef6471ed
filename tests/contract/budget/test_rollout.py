"""Workers of version 1 and 2 of the library on one store: each reserves and settles the other's holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import pytest

from gateway.budget.certainty import Certainty
from gateway.budget.ledger import Outcome
from gateway.budget.measure import Measure
from gateway.budget.redis_keys import EPOCH_KEY, org_key
from gateway.contract.ids import HoldId
from tests.contract.budget.subjects import NOON, ORG, TTL, Subject, account, used, want

LIMITS: Final = account(minute=1000, month=5000)
LIBRARY: Final = Path(__file__).with_name("ledger_v1.lua")
"""As workers of version 1 load it."""


class First:
    """What a worker of version 1 sends and reads."""

    def __init__(self, client: Any) -> None:
        self.client = client

    async def call(self, verb: str, *arguments: object, hold: str = "") -> Any:
        keys = [org_key(ORG, name) for name in ("meta", "limits", "live", "outbox", "windows")]
        keys += [org_key(ORG, f"hold:{hold}")] if hold else []
        epoch = await self.client.get(EPOCH_KEY)
        return await self.client.fcall(f"tg1_{verb}", len(keys), *keys, epoch, str(NOON), *arguments)

    async def reserve(self, hold: str, units: int) -> list[str]:
        limits = ("org", "minute", 1000, "org", "month", 5000)
        context = ("request_id", f"r-{hold}")
        amounts = (0, 1, units, 1, TTL)
        found: list[str] = await self.call("reserve", hold, *amounts, 1, 2, *limits, *context, hold=hold)
        return found

    async def settle(self, hold: str, tokens: int, unknown: int = 0) -> list[str]:
        found: list[str] = await self.call("settle", hold, tokens, unknown, hold=hold)
        return found


@pytest.fixture
async def first(stored: Subject) -> First:
    """Beside version 2 in a store that both have loaded."""
    await stored.client.function_load(LIBRARY.read_text(), replace=True)
    await stored.reserve(want("before", LIMITS, units=1))
    await stored.ledger.void(ORG, HoldId("before"), reason="opens the books")
    return First(stored.client)


async def test_both_libraries_stand_side_by_side(stored: Subject, first: First) -> None:
    assert {one[1] for one in await stored.client.function_list()} == {
        "tidegate_ledger_v1",
        "tidegate_ledger_v2",
    }


async def test_they_count_in_the_same_windows(stored: Subject, first: First) -> None:
    await stored.reserve(want("second", LIMITS, units=300))
    assert (await first.reserve("first", 600))[:3] == ["granted", "600", "600"]
    refusal = await stored.refused(want("more", LIMITS, units=200, units_min=200))
    assert (refusal.standing.held, refusal.standing.remaining) == (900, 100)
    clamped = await stored.reserve(want("rest", LIMITS, units=200))
    assert clamped.units == 100
    assert (await first.reserve("none", 1))[0] == "refused"


async def test_the_second_settles_what_the_first_reserved(stored: Subject, first: First) -> None:
    await first.reserve("h", 600)
    again = await stored.reserve(want("h", LIMITS, units=600))
    assert (again.repeated, again.amounts.tokens, again.units) == (True, 600, 600)
    assert again.tightest[Measure.TOKENS].remaining == 400
    settled = await stored.ledger.settle(ORG, HoldId("h"), used(250))
    assert (settled.outcome, settled.posted.tokens, settled.overdraft) == (Outcome.POSTED, 250, 0)
    assert await first.settle("h", 9) == ["posted", "0", "250", "0"]
    assert (await stored.minute(LIMITS)).used == 250


async def test_the_first_settles_what_the_second_reserved(stored: Subject, first: First) -> None:
    grant = await stored.reserve(want("h", LIMITS, units=600, context={"request_id": "r-h"}))
    again = await first.reserve("h", 600)
    assert again[:5] == ["granted", "600", "600", str(grant.expires_at), "1"]
    assert again[6].split("|")[2:5] == ["1000", "0", "600"]
    assert await first.settle("h", 250) == ["posted", "1", "250", "0"]
    settled = await stored.ledger.settle(ORG, HoldId("h"), used(9))
    assert (settled.outcome, settled.first, settled.posted.tokens) == (Outcome.POSTED, False, 250)
    assert (await stored.outbox())[-1]["c.request_id"] == "r-h"


async def test_what_one_charged_blindly_the_other_corrects(stored: Subject, first: First) -> None:
    await stored.reserve(want("a", LIMITS, units=300))
    await first.reserve("b", 300)
    assert await first.settle("a", 0, 1) == ["posted", "1", "300", "0"]
    await stored.ledger.settle(ORG, HoldId("b"), used(0), certainty=Certainty.UNKNOWN)
    corrected = await stored.ledger.settle(ORG, HoldId("a"), used(100))
    assert (corrected.outcome, corrected.posted.tokens) == (Outcome.CORRECTED, 100)
    assert await first.settle("b", 50) == ["corrected", "1", "50", "0"]
    standing = await stored.minute(LIMITS)
    assert (standing.used, standing.held) == (150, 0)


async def test_what_one_charged_provisionally_the_other_leaves(stored: Subject, first: First) -> None:
    """Version 1 knows no such charge: it neither corrects it nor takes away who may."""
    await stored.reserve(want("a", LIMITS, units=300))
    await stored.ledger.settle(ORG, HoldId("a"), used(40), certainty=Certainty.PROVISIONAL)
    for unknown in (0, 1):
        assert await first.settle("a", 50, unknown) == ["posted", "0", "40", "0"]
    await first.reserve("b", 300)
    assert await first.settle("b", 0, 1) == ["posted", "1", "300", "0"]
    await stored.ledger.settle(ORG, HoldId("b"), used(60), certainty=Certainty.PROVISIONAL)
    assert await first.settle("b", 50) == ["corrected", "0", "60", "0"]
    assert (await stored.minute(LIMITS)).used == 100
    for hold, tokens in (("a", 50), ("b", 70)):
        corrected = await stored.ledger.settle(ORG, HoldId(hold), used(tokens))
        assert (corrected.outcome, corrected.posted.tokens) == (Outcome.CORRECTED, tokens)
    standing = await stored.minute(LIMITS)
    assert (standing.used, standing.held) == (120, 0)


async def test_each_expires_and_voids_the_others(stored: Subject, first: First) -> None:
    await stored.reserve(want("a", LIMITS, units=100, ttl=1))
    await first.reserve("b", 100)
    await first.reserve("c", 100)
    voided = await stored.ledger.void(ORG, HoldId("c"), reason="x")
    assert voided.outcome is Outcome.VOIDED
    stored.clock.now_ms = NOON + 1
    epoch = await stored.client.get(EPOCH_KEY)
    keys = [org_key(ORG, name) for name in ("meta", "limits", "live", "outbox", "windows")]
    assert await stored.client.fcall("tg1_expire", 5, *keys, epoch, str(NOON + 1), 10) == ["a"]
    stored.clock.now_ms = NOON + TTL
    await stored.pass_time(0)
    stored.witness.now_ms = stored.clock.now_ms
    await stored.ledger.tick(ORG)
    assert list(await stored.ledger.expire(ORG)) == ["b"]
    assert (await stored.ledger.settle(ORG, HoldId("a"), used(7))).outcome is Outcome.CORRECTED
