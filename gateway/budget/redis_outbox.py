"""The bookkeeper's side of the store: take events from the outboxes, keep the anchor of its books.

Events are delivered at least once: read, seal, then drop. The stream is never trimmed otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from gateway.budget.redis_connection import connect, within
from gateway.budget.redis_keys import org_key
from gateway.budget.redis_route import CLUSTER_SCHEME, connect_cluster
from gateway.contract.ids import OrgId, RegionName
from gateway.contract.units import Millis

BLOCK_MAX: Final = Millis(2_000)
_ANSWER: Final = Millis(2_000)
"""The bookkeeper is not on the request path: it waits longer than a filter would."""
START: Final = "0-0"
"""``after_id`` of the first read."""


class RedisOutbox:
    """Raises LedgerUnavailable, never a driver's error."""

    def __init__(self, client: Any) -> None:
        """``client`` as redis_connection.connect makes it, with a timeout above BLOCK_MAX."""
        self._client = client

    @classmethod
    def connect(cls, url: str) -> RedisOutbox:
        """Outboxes at TIDEGATE_LEDGER_URL, one store or a cluster. Does no I/O. Raises ValueError."""
        timeout = Millis(BLOCK_MAX + _ANSWER)
        if url.startswith(CLUSTER_SCHEME):
            return cls(connect_cluster(url, timeout=timeout))
        return cls(connect(url, timeout=timeout, connections_max=8))

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def read_outbox(
        self, org: OrgId, after_id: str, count: int, *, block_ms: int | None = None
    ) -> Sequence[tuple[str, Mapping[str, str]]]:
        """At most ``count`` entries after ``after_id`` (START for the first), oldest first, as
        (id, fields). With ``block_ms`` (at most BLOCK_MAX) it waits so long for one."""
        if block_ms is not None and not 0 < block_ms <= BLOCK_MAX:
            raise ValueError(f"block_ms: must be 1 to {BLOCK_MAX}")
        async with within(Millis(_ANSWER + (block_ms or 0))):
            key = org_key(org, "outbox")
            streams = await self._client.xread({key: after_id}, count=count, block=block_ms)
        return [(str(entry), fields) for _, entries in streams for entry, fields in entries]

    async def drop_outbox(self, org: OrgId, ids: Sequence[str]) -> None:
        """Forget entries that are sealed."""
        if ids:
            async with within(_ANSWER):
                await self._client.xdel(org_key(org, "outbox"), *ids)

    async def outbox_length(self, org: OrgId) -> int:
        """Entries not dropped yet."""
        async with within(_ANSWER):
            return int(await self._client.xlen(org_key(org, "outbox")))

    async def anchor(self, region: RegionName) -> Mapping[str, str] | None:
        """``{"count": ..., "head": ...}`` of the region's sealed books; None before the first seal."""
        async with within(_ANSWER):
            found: dict[str, str] = await self._client.hgetall(_anchor_key(region))
        return found or None

    async def set_anchor(self, region: RegionName, count: int, head: str) -> None:
        """Set both in one step."""
        async with within(_ANSWER):
            await self._client.hset(_anchor_key(region), mapping={"count": count, "head": head})


def _anchor_key(region: RegionName) -> str:
    return f"tg:books:{region}"
