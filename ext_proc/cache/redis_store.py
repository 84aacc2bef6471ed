"""The cache store in the cache Valkey: one round trip for each verb.

Keys ``tgc:{<org>}:<sha-256>`` and ``tgc:{<org>}:epoch``; the braces put an org's keys into one cluster
slot, so that MGET reads both. The server evicts what it likes, the epoch included. So epochs are random,
never counted: after an eviction a new one is drawn, and no entry from before a purge can come back.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

from redis.exceptions import RedisError

from ext_proc.cache.entry import Sealer
from ext_proc.cache.store import (
    ENTRY_BYTES_MAX,
    CachedAnswer,
    CacheUnavailable,
    HitKind,
    Keys,
    Lookup,
    PurgeRule,
    RuleInForce,
)
from gateway.budget.redis_connection import connect
from gateway.budget.redis_lane import Lane
from gateway.contract.ids import OrgId
from gateway.contract.units import Millis
from gateway.path import hop

CONNECTIONS_MAX: Final = 32
"""Of one process; a look-up beyond them waits for its turn within its deadline."""
LOOKUP: Final = hop("cache").deadline
WRITE: Final = Millis(1000)
"""Nobody waits for a write; it may take what a busy store needs."""


class RedisStore:
    """See CacheStore. One for each process; safe for concurrent tasks."""

    def __init__(self, client: Any, sealer: Sealer) -> None:
        """``client``: a redis.asyncio.Redis that returns bytes."""
        self._client = client
        self._lane = Lane(client)
        self._sealer = sealer

    @classmethod
    def connect(cls, url: str, sealer: Sealer) -> RedisStore:
        """A store at TIDEGATE_CACHE_URL. Does no I/O. Raises ValueError for a bad URL."""
        return cls(connect(url, timeout=WRITE, connections_max=CONNECTIONS_MAX, text=False), sealer)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._lane.aclose()
        await self._client.aclose()

    def peek(self, org: OrgId, keys: Keys) -> Lookup | None:
        """See CacheStore."""
        return None

    def standing(self, org: OrgId) -> str | None:
        """See CacheStore."""
        return None

    async def get(self, org: OrgId, keys: Keys) -> Lookup:
        """See CacheStore. Within the cache hop's deadline."""
        key = keys.exact
        async with _within(LOOKUP):
            entry, mark = await self._lane.call("MGET", _key(org, key), _key(org, "epoch"))
            if mark is None:
                await self._client.set(_key(org, "epoch"), secrets.token_hex(8), nx=True)
                mark = await self._client.get(_key(org, "epoch")) or b""
        epoch = mark.decode("ascii", "replace")
        answer = self._sealer.open(org, key, epoch, entry) if entry else None
        return Lookup(answer=answer, epoch=epoch, kind=HitKind.EXACT if answer else None)

    async def fetch(self, org: OrgId, entry: str, *, asked: str) -> Lookup:
        """See CacheStore."""
        raise CacheUnavailable("not yet")

    async def alias(self, org: OrgId, asked: str, entry: str, *, ttl_seconds: int) -> bool:
        """See CacheStore."""
        raise CacheUnavailable("not yet")

    async def bar(self, org: OrgId, asked: str, entry: str) -> None:
        """See CacheStore."""
        raise CacheUnavailable("not yet")

    async def purge_where(self, rule: PurgeRule) -> int:
        """See CacheStore."""
        raise CacheUnavailable("not yet")

    async def rules(self) -> tuple[RuleInForce, ...]:
        """See CacheStore."""
        raise CacheUnavailable("not yet")

    async def switch_off(self, bucket: str) -> None:
        """See CacheStore."""
        raise CacheUnavailable("not yet")

    async def switch_on(self, bucket: str) -> None:
        """See CacheStore."""
        raise CacheUnavailable("not yet")

    async def switched_off(self) -> frozenset[str]:
        """See CacheStore."""
        raise CacheUnavailable("not yet")

    async def put(
        self, org: OrgId, keys: Keys, epoch: str, answer: CachedAnswer, *, ttl_seconds: int
    ) -> bool:
        """See CacheStore."""
        key = keys.exact
        if len(answer.body) > ENTRY_BYTES_MAX:
            return False
        entry = self._sealer.seal(org, key, epoch, answer)
        async with _within(WRITE):
            await self._lane.call("SET", _key(org, key), entry, "EX", ttl_seconds)
        return True

    async def purge(self, org: OrgId) -> None:
        """See CacheStore."""
        async with _within(WRITE):
            await self._client.set(_key(org, "epoch"), secrets.token_hex(8))


def _key(org: OrgId, name: str) -> str:
    return f"tgc:{{{org}}}:{name}"


@asynccontextmanager
async def _within(deadline: Millis) -> AsyncIterator[None]:
    """Bound what stands in it; the driver's and the system's errors become CacheUnavailable."""
    try:
        async with asyncio.timeout(deadline / 1000):
            yield
    except (RedisError, OSError, TimeoutError) as error:
        raise CacheUnavailable(type(error).__name__) from error
