"""A cache entry's bytes: sealed, so that only what this gateway wrote there is ever answered.

    32 bytes HMAC-SHA256 | 8 bytes stored_at (Unix ms) | body

The seal covers org, key and epoch too: an entry copied to another tenant's key, kept over a purge, cut
or changed by whoever can write to the store does not open.
"""

from __future__ import annotations

import hmac
from typing import Final

from ext_proc.cache.store import CachedAnswer
from gateway.contract.ids import OrgId
from gateway.contract.units import UnixMillis
from gateway.keys.keyed_hash import length_prefixed

_SEAL: Final = 32
_HEAD: Final = _SEAL + 8


class Sealer:
    """Seals and opens entries with one key."""

    def __init__(self, key: bytes) -> None:
        """``key``: 32 secret bytes, the same in every worker."""
        self._key = key

    def seal(self, org: OrgId, key: str, epoch: str, answer: CachedAnswer) -> bytes:
        """The entry's bytes."""
        at = answer.stored_at.to_bytes(8, "big")
        return self._mac(org, key, epoch, at, answer.body) + at + answer.body

    def open(self, org: OrgId, key: str, epoch: str, entry: bytes) -> CachedAnswer | None:
        """The answer, or None for anything that was not sealed for this place."""
        at, body = entry[_SEAL:_HEAD], entry[_HEAD:]
        if not hmac.compare_digest(entry[:_SEAL], self._mac(org, key, epoch, at, body)):
            return None
        return CachedAnswer(body=body, stored_at=UnixMillis(int.from_bytes(at, "big")))

    def _mac(self, org: OrgId, key: str, epoch: str, at: bytes, body: bytes) -> bytes:
        covered = length_prefixed(org.encode(), key.encode(), epoch.encode(), at, body)
        return hmac.digest(self._key, covered, "sha256")
