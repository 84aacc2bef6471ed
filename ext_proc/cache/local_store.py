"""L1: what was found lately, in this process, in front of another store; bounded by bytes.

An answer is served from here only while the org's standing (epoch, bars, purge document) is the very one it
was read under, and was seen within SEEN_S. So whatever could end it reaches it as soon as anybody of this
process sees it, and within SEEN_S in any case. Nothing is written here but what a look-up found.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

from ext_proc.cache.store import (
    CachedAnswer,
    CacheStore,
    HitKind,
    Keys,
    Lookup,
    PurgeRule,
    RuleInForce,
)
from gateway.contract.clock import Clock
from gateway.contract.ids import OrgId

BYTES_MAX: Final = 32 * 1024 * 1024
"""Of one process: some 10,000 answers of 2 KiB."""
SHARE_MAX: Final = 8
"""One answer takes at most this part of it."""
OVERHEAD_BYTES: Final = 2048
"""What an answer costs beside its body: keys, lineage, objects; rounded up."""
KEEP_S: Final = 5.0
"""After so long it is read again: an answer that another worker put in its place is seen by then, and a much
asked question still costs the store next to nothing."""


@dataclass(frozen=True, slots=True)
class _Held:
    lookup: Lookup
    canonical: str
    until_s: float
    size: int


class LocalStore:
    """See CacheStore. One for each process; safe for concurrent tasks."""

    def __init__(self, store: CacheStore, clock: Clock, *, bytes_max: int = BYTES_MAX) -> None:
        """Empty, in front of ``store``."""
        self._store = store
        self._clock = clock
        self._bytes_max = bytes_max
        self._held: OrderedDict[tuple[OrgId, str], _Held] = OrderedDict()
        self._size = 0

    @property
    def size_bytes(self) -> int:
        """What is held, at most ``bytes_max``."""
        return self._size

    def peek(self, org: OrgId, keys: Keys) -> Lookup | None:
        """See CacheStore. The hit as it was found; no I/O, no task."""
        place = (org, keys.exact)
        held = self._held.get(place)
        if held is None:
            return None
        found = held.lookup
        if found.kind is HitKind.CANONICAL and held.canonical != keys.canonical:
            return None  # asked more strictly than it was found
        standing = self._store.standing(org)
        if standing is None:
            return None
        over = self._clock.monotonic_s() >= held.until_s or self._clock.unix_ms() >= found.expires_at
        if over or standing != found.standing:
            self._drop(place)
            return None
        self._held.move_to_end(place)
        return found

    def standing(self, org: OrgId) -> str | None:
        """See CacheStore."""
        return self._store.standing(org)

    def epoch(self, org: OrgId) -> str:
        """See CacheStore."""
        return self._store.epoch(org)

    async def get(self, org: OrgId, keys: Keys) -> Lookup:
        """See CacheStore."""
        held = self.peek(org, keys)
        if held is not None:
            return held
        found = await self._store.get(org, keys)
        if found.answer is not None:
            self._hold((org, keys.exact), keys.canonical, found, found.answer)
        return found

    def _hold(self, place: tuple[OrgId, str], canonical: str, found: Lookup, answer: CachedAnswer) -> None:
        self._drop(place)
        size = len(answer.body) + OVERHEAD_BYTES
        if size > self._bytes_max // SHARE_MAX:
            return
        self._held[place] = _Held(found, canonical, self._clock.monotonic_s() + KEEP_S, size)
        self._size += size
        while self._size > self._bytes_max:
            _, oldest = self._held.popitem(last=False)
            self._size -= oldest.size

    def _drop(self, place: tuple[OrgId, str]) -> None:
        held = self._held.pop(place, None)
        if held is not None:
            self._size -= held.size

    async def fetch(self, org: OrgId, entry: str, *, asked: str) -> Lookup:
        """See CacheStore."""
        return await self._store.fetch(org, entry, asked=asked)

    async def put(
        self, org: OrgId, keys: Keys, epoch: str, answer: CachedAnswer, *, ttl_seconds: int
    ) -> bool:
        """See CacheStore."""
        try:
            return await self._store.put(org, keys, epoch, answer, ttl_seconds=ttl_seconds)
        finally:
            self._drop((org, keys.exact))

    async def alias(self, org: OrgId, asked: str, entry: str, *, ttl_seconds: int) -> bool:
        """See CacheStore."""
        return await self._store.alias(org, asked, entry, ttl_seconds=ttl_seconds)

    async def bar(self, org: OrgId, asked: str, entry: str) -> None:
        """See CacheStore."""
        await self._store.bar(org, asked, entry)

    async def purge(self, org: OrgId) -> None:
        """See CacheStore."""
        await self._store.purge(org)

    async def purge_where(self, rule: PurgeRule) -> int:
        """See CacheStore."""
        return await self._store.purge_where(rule)

    async def rules(self) -> tuple[RuleInForce, ...]:
        """See CacheStore."""
        return await self._store.rules()

    async def switch_off(self, bucket: str) -> None:
        """See CacheStore."""
        await self._store.switch_off(bucket)

    async def switch_on(self, bucket: str) -> None:
        """See CacheStore."""
        await self._store.switch_on(bucket)

    async def switched_off(self) -> frozenset[str]:
        """See CacheStore."""
        return await self._store.switched_off()
