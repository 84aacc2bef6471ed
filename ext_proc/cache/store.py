"""The exact cache's store: what a look-up can say, and what a store must keep.

Contract: a hit is byte for byte what was put for the same org and key, under the org's present epoch;
whatever else is found (nothing, another epoch, a damaged or foreign entry) is a miss. Raising the
epoch (``purge``) makes every entry of the org a miss at once, also those being generated: an answer is
put under the epoch its request was looked up in.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Protocol

from gateway.contract.ids import OrgId
from gateway.contract.units import UnixMillis

ENTRY_BYTES_MAX: Final = 1024 * 1024
"""A larger answer is not stored: one entry must not push out a thousand others."""


class CacheUnavailable(Exception):
    """The store did not answer. A miss to the request (fails open), counted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Keys:
    """64 hex digits each; ``canonical`` empty: neither looked up nor written."""

    exact: str
    canonical: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class CachedAnswer:
    """A completion as JSON, as the engine would have answered without ``stream``."""

    body: bytes
    stored_at: UnixMillis


@dataclass(frozen=True, slots=True, kw_only=True)
class Lookup:
    """``answer`` is None for a miss; ``epoch`` is where a new answer belongs."""

    answer: CachedAnswer | None
    epoch: str


class CacheStore(Protocol):
    """Raises CacheUnavailable, never a driver's error. ``key`` is 64 hex digits."""

    async def get(self, org: OrgId, key: str) -> Lookup:
        """One round trip."""

    async def put(self, org: OrgId, key: str, epoch: str, answer: CachedAnswer, *, ttl_seconds: int) -> bool:
        """False: larger than ENTRY_BYTES_MAX, not stored."""

    async def purge(self, org: OrgId) -> None:
        """Every entry of ``org`` is a miss from now on."""
