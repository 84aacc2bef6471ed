"""The cache store in memory: the executable specification of CacheStore, and the store of unit tests."""

from __future__ import annotations

from ext_proc.cache.store import ENTRY_BYTES_MAX, CachedAnswer, Lookup
from gateway.contract.clock import Clock
from gateway.contract.ids import OrgId


class MemoryStore:
    """See CacheStore. ``clock`` decides when an entry is too old."""

    def __init__(self, clock: Clock) -> None:
        """Empty."""
        self._clock = clock
        self._epochs: dict[OrgId, int] = {}
        self._entries: dict[tuple[OrgId, str], tuple[str, CachedAnswer, int]] = {}

    def _epoch(self, org: OrgId) -> str:
        return str(self._epochs.get(org, 0))

    async def get(self, org: OrgId, key: str) -> Lookup:
        """See CacheStore."""
        epoch = self._epoch(org)
        found = self._entries.get((org, key))
        if found is None or found[0] != epoch or self._clock.unix_ms() >= found[2]:
            return Lookup(answer=None, epoch=epoch)
        return Lookup(answer=found[1], epoch=epoch)

    async def put(self, org: OrgId, key: str, epoch: str, answer: CachedAnswer, *, ttl_seconds: int) -> bool:
        """See CacheStore."""
        if len(answer.body) > ENTRY_BYTES_MAX:
            return False
        self._entries[org, key] = (epoch, answer, self._clock.unix_ms() + ttl_seconds * 1000)
        return True

    async def purge(self, org: OrgId) -> None:
        """See CacheStore."""
        self._epochs[org] = self._epochs.get(org, 0) + 1
