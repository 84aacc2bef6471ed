"""Verified tokens, so that a signature is checked once for many requests of one token.

Keyed by the whole token text: a prefix or a claim as key has let one user be another (CVE-2026-35030).
An entry holds the key object that verified it and is good only while the issuer still publishes that
very key and the policy is the same object: rotation, revocation and policy change need no message.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

from ext_authz.identity import Verified
from ext_authz.keys.jwk import VerifyKey
from ext_authz.policy import AuthPolicy

ENTRIES_MAX: Final = 10_000
BYTES_MAX: Final = 16 * 1024 * 1024
"""Of token text; the principals beside it are of the same order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CachedToken:
    """What was verified, for whom to ask whether it still holds."""

    verified: Verified
    issuer: str
    key: VerifyKey
    policy: AuthPolicy


class TokenCache:
    """Least recently used goes first."""

    def __init__(self, *, entries_max: int = ENTRIES_MAX, bytes_max: int = BYTES_MAX) -> None:
        """Empty, with both bounds."""
        self._entries: OrderedDict[str, CachedToken] = OrderedDict()
        self._entries_max = entries_max
        self._bytes_max = bytes_max
        self._bytes = 0

    def __len__(self) -> int:
        """Tokens held."""
        return len(self._entries)

    @property
    def size(self) -> int:
        """Characters of token text held."""
        return self._bytes

    def get(self, token: str) -> CachedToken | None:
        """What was put for exactly ``token``; the caller checks that it still holds."""
        entry = self._entries.get(token)
        if entry is not None:
            self._entries.move_to_end(token)
        return entry

    def put(self, token: str, entry: CachedToken) -> None:
        """Keep ``entry``, within the bounds."""
        self.drop(token)
        self._entries[token] = entry
        self._bytes += len(token)
        while len(self._entries) > self._entries_max or self._bytes > self._bytes_max:
            oldest, _ = self._entries.popitem(last=False)
            self._bytes -= len(oldest)

    def drop(self, token: str) -> None:
        """Forget ``token``."""
        if self._entries.pop(token, None) is not None:
            self._bytes -= len(token)

    def clear(self) -> None:
        """Forget all."""
        self._entries.clear()
        self._bytes = 0
