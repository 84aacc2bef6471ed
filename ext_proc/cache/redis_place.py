"""The cache Valkey's keys and commands, and their deadlines.

tgc:{<org>}:<exact key>      a value, or the alias that a judge made        evicted: a miss
tgc:{<org>}:<canonical key>  an alias to a value                            evicted: a miss
tgc:{<org>}:<exact key>:no   digests of the entries that do not answer it   see below
tgc:{<org>}:epoch            random, under each record's seal               evicted: a new one, all misses
tgc:{<org>}:bars             random, new with each bar                      evicted: a new one, L1 asks anew
tgc:{<org>}:<key>:flight     somebody asks the engine                       evicted: one more engine call
tgc:marks                    generation, purge rules (marks.py)             evicted: a new one, all misses
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from redis.exceptions import RedisError

from ext_proc.cache.store import BAR_SECONDS, FLIGHT_MILLIS, CacheUnavailable
from gateway.budget.redis_lane import Lane
from gateway.budget.store_time import store_time
from gateway.contract.ids import OrgId
from gateway.contract.units import Millis, UnixMillis
from gateway.path import hop

LOOKUP: Final = hop("cache").deadline
WRITE: Final = Millis(1000)
"""Nobody waits for a write; it may take what a busy store needs."""
_MARKS: Final = "tgc:marks"
_SWAP: Final = """
local found = redis.call('GET', KEYS[1])
if (found or '') ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[2])
return 1
"""
_BAR: Final = """
if ARGV[1] ~= '' then redis.call('APPEND', KEYS[1], ARGV[1]) end
redis.call('EXPIRE', KEYS[1], ARGV[3])
if ARGV[2] ~= '' and redis.call('EXISTS', KEYS[2]) == 1 then redis.call('APPEND', KEYS[2], ARGV[2]) end
redis.call('SET', KEYS[3], ARGV[4])
"""


def key_of(org: OrgId, name: str) -> str:
    """An org's key. No two pairs of org and name share one: names hold no brace."""
    return f"tgc:{{{org}}}:{name}"


def flight_key(org: OrgId, key: str) -> str:
    """Where it stands that somebody asks the engine."""
    return key_of(org, f"{key}:flight")


@asynccontextmanager
async def within(deadline: Millis) -> AsyncIterator[None]:
    """Bound the store's time for what stands in it; the driver's and the system's errors become
    CacheUnavailable. Our own delays do not count: in a burst of one question they would make every request
    go on without the cache, and so to the engine."""
    try:
        async with store_time(deadline):
            yield
    except (RedisError, OSError, TimeoutError) as error:
        raise CacheUnavailable(type(error).__name__) from error


async def add_bars(lane: Lane, org: OrgId, question: tuple[str, bytes], answer: tuple[str, bytes]) -> None:
    """Append a digest to the list beside ``question``, and one to the record of ``answer`` if it is there
    still; empty digests are there already. Then the bars' mark is new."""
    (asked, with_question), (entry, with_answer) = question, answer
    names = [key_of(org, name) for name in (f"{asked}:no", entry, "bars")]
    arguments = (with_question, with_answer, BAR_SECONDS, secrets.token_hex(8))
    await lane.call("EVAL", _BAR, len(names), *names, *arguments)


class RedisDocument:
    """See DocumentPlace."""

    def __init__(self, lane: Lane) -> None:
        """Over ``lane``."""
        self._lane = lane

    async def read(self) -> bytes | None:
        """See DocumentPlace."""
        async with within(WRITE):
            found: bytes | None = await self._lane.call("GET", _MARKS)
        return found

    async def swap(self, old: bytes | None, new: bytes) -> bool:
        """See DocumentPlace."""
        async with within(WRITE):
            swapped: int = await self._lane.call("EVAL", _SWAP, 1, _MARKS, old or b"", new)
        return swapped == 1

    async def now(self) -> UnixMillis:
        """See DocumentPlace."""
        async with within(WRITE):
            seconds, micros = await self._lane.call("TIME")
        return UnixMillis(int(seconds) * 1000 + int(micros) // 1000)


class RedisFlights:
    """See FlightPlace."""

    def __init__(self, lane: Lane) -> None:
        """Over ``lane``."""
        self._lane = lane

    async def begin(self, org: OrgId, key: str) -> bool:
        """See FlightPlace."""
        async with within(LOOKUP):
            begun = await self._lane.call("SET", flight_key(org, key), b"1", "NX", "PX", FLIGHT_MILLIS)
        return begun is not None

    async def end(self, org: OrgId, key: str) -> None:
        """See FlightPlace."""
        async with within(WRITE):
            await self._lane.call("DEL", flight_key(org, key))

    async def under_way(self, org: OrgId, key: str) -> bool:
        """See FlightPlace."""
        async with within(LOOKUP):
            found: int = await self._lane.call("EXISTS", flight_key(org, key))
        return found == 1
