"""Clocks that jump by an hour and a day, both ways, on the store and on the caller: nothing is overspent.

    .venv/bin/python -m tests.contract.clock.test_clock_jumps [--histories N] [--seed S] [--ledger valkey]

prints the figures; jumps.py says what is promised. The suite takes a few histories of each kind.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Protocol

import pytest

from gateway.budget.ledger import BudgetLedger
from gateway.budget.memory_books import Books
from gateway.budget.memory_ledger import MemoryLedger
from gateway.budget.redis_connection import connect
from gateway.budget.redis_ledger import RedisLedger
from gateway.contract.ids import OrgId
from gateway.contract.units import Millis, UnixMillis
from tests.contract.clock.jumps import (
    AHEAD_ALONE_MS,
    DAY,
    JUMPING,
    ORG,
    START,
    WINDOWS,
    Clocks,
    History,
    Verdict,
    judged,
)
from tests.harness.valkey import ledger_store, redis_binary, valkey_binary

HISTORIES = 6
PATIENT = Millis(10_000)
"""Deadline of a call: a busy machine must not fail what is not about deadlines."""


class Maker(Protocol):
    """A ledger on such clocks, founded and empty, and how to read its outbox."""

    async def made(self, clocks: Clocks) -> BudgetLedger: ...

    async def entries(self, ledger: BudgetLedger) -> Sequence[Mapping[str, str]]: ...

    async def leave(self, ledger: BudgetLedger) -> None: ...


class InMemory:
    """The specification."""

    ledger_type: type[MemoryLedger] = MemoryLedger

    async def made(self, clocks: Clocks) -> BudgetLedger:
        return self.ledger_type(clocks.store, witness=clocks.witness)

    async def entries(self, ledger: BudgetLedger) -> Sequence[Mapping[str, str]]:
        assert isinstance(ledger, MemoryLedger)
        return ledger.outbox

    async def leave(self, ledger: BudgetLedger) -> None:
        """Holds nothing."""


class TrustsTheStore(MemoryLedger):
    """A ledger as most are: its time is what the store's clock shows."""

    def _open(self, org: OrgId, **_: bool) -> tuple[Books, UnixMillis]:
        books, _now = super()._open(org)
        return books, self._clock.unix_ms()


class Trusting(InMemory):
    """Such ledgers."""

    ledger_type = TrustsTheStore


class InStore:
    """The ledger in Lua, in a real store that is emptied before each history."""

    def __init__(self, client: Any) -> None:
        self._client = client

    async def made(self, clocks: Clocks) -> BudgetLedger:
        await self._client.flushall()
        ledger = RedisLedger(
            self._client, clock=clocks.witness, deadline=PATIENT, test_store_clock=clocks.store
        )
        await ledger.found_epoch(fresh=True)
        return ledger

    async def entries(self, ledger: BudgetLedger) -> Sequence[Mapping[str, str]]:
        return [fields for _, fields in await self._client.xrange(f"tg:{{{ORG}}}:outbox")]

    async def leave(self, ledger: BudgetLedger) -> None:
        assert isinstance(ledger, RedisLedger)
        await ledger.leave()


@asynccontextmanager
async def maker_of(kind: str) -> AsyncIterator[Maker]:
    """``memory``, ``valkey`` or ``redis``."""
    if kind == "memory":
        yield InMemory()
        return
    binary = valkey_binary() if kind == "valkey" else redis_binary()
    with ledger_store(binary) as store:
        client = connect(store.url, timeout=PATIENT)
        try:
            yield InStore(client)
        finally:
            await client.aclose()


async def of_many(maker: Maker, window: str, jumping: str, histories: int, *, seed: int = 0) -> Verdict:
    """The verdict on so many histories."""
    found = Verdict(histories=0)
    for number in range(histories):
        clocks = Clocks.right(START)
        ledger = await maker.made(clocks)
        chance = random.Random(f"{window} {jumping} {seed} {number}")
        history = History(window, jumping, ledger, clocks, chance)
        try:
            await history.run()
            found.add(judged(history, await maker.entries(ledger)))
        finally:
            await maker.leave(ledger)
    return found


@pytest.mark.parametrize("jumping", JUMPING)
@pytest.mark.parametrize("window", WINDOWS)
async def test_nothing_is_overspent_whichever_clock_jumps(window: str, jumping: str) -> None:
    found = await of_many(InMemory(), window, jumping, HISTORIES)
    assert found.good, found
    assert found.jumps and found.grants


async def test_nothing_is_overspent_in_a_real_store() -> None:
    async with maker_of("valkey") as maker:
        for window in ("minute, burst", "day", "rolling 600 s"):
            for jumping in JUMPING:
                found = await of_many(maker, window, jumping, 1)
                assert found.good, (window, jumping, found)


async def test_a_clock_that_leaps_alone_opens_no_window_more_than_two_minutes_early() -> None:
    assert (await of_many(InMemory(), "minute", "witness", HISTORIES)).ahead_ms == 0
    assert 0 < (await of_many(InMemory(), "minute", "store", HISTORIES)).ahead_ms <= AHEAD_ALONE_MS
    assert (await of_many(InMemory(), "hour", "together", HISTORIES)).ahead_ms > DAY / 2


@pytest.mark.parametrize("window", WINDOWS)
async def test_a_ledger_that_trusts_the_stores_clock_is_found_out(window: str) -> None:
    found = await of_many(Trusting(), window, "store", HISTORIES)
    assert found.went_back and found.too_early
    assert found.overspent or window == "month", "a day ahead seldom leaves a month"


def _print(verdicts: Mapping[tuple[str, str], Verdict]) -> None:
    head = ("clocks that jump", "window", "histories", "jumps", "grants", "overspent", "back", "too early")
    print("{:18}{:16}{:>10}{:>8}{:>8}{:>11}{:>6}{:>11}{:>10}{:>9}".format(*head, "ahead s", "most/win"))
    for (jumping, window), one in verdicts.items():
        counts = (one.histories, one.jumps, one.grants, one.overspent, one.went_back, one.too_early)
        print("{:18}{:16}{:>10}{:>8}{:>8}{:>11}{:>6}{:>11}".format(jumping, window, *counts), end="")
        print(f"{one.ahead_ms / 1000:>10.0f}{one.most_in_a_window:>9.2f}")


async def main(arguments: argparse.Namespace) -> int:
    """0 when every promise was kept."""
    verdicts, total = {}, Verdict(histories=0)
    async with maker_of(arguments.ledger) as maker:
        for jumping in JUMPING:
            for window in WINDOWS:
                found = await of_many(maker, window, jumping, arguments.histories, seed=arguments.seed)
                verdicts[jumping, window] = found
                total.add(found)
    verdicts["all", ""] = total
    _print(verdicts)
    return 0 if total.good else 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--histories", type=int, default=50, help="of each window and kind of jump (50)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--ledger", choices=("memory", "valkey", "redis"), default="valkey")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(asyncio.run(main(_arguments())))
