"""A question as it is kept on disk: its text sealed, so that only who has the keys reads it, and only as what
it was written.

AES-256-GCM (NIST SP 800-38D), a key for each org, a random nonce before the sealed text. Everything else that
decides over what is served (org, partition, entry, end, vector) is associated data: a row that was moved,
prolonged or changed does not open.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Final

import numpy as np
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from numpy.typing import NDArray

from ext_proc.cache.store import Lineage
from gateway.contract.ids import OrgId
from gateway.contract.units import UnixMillis
from gateway.keys.keyed_hash import hmac_hex, length_prefixed

_NONCE: Final = 12
_ORGS_KEPT: Final = 4096
"""Keys that are not derived again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredQuestion:
    """``vector``: of length 1, as the index keeps it. ``stored_at`` and ``expires_at`` in Unix ms."""

    org: OrgId
    partition: str
    entry: str
    text: str
    vector: NDArray[np.float16]
    expires_at: UnixMillis
    stored_at: UnixMillis
    lineage: Lineage


class TextSealer:
    """Seals and opens texts with keys derived from one."""

    def __init__(self, key: bytes) -> None:
        """``key``: 32 secret bytes, the same as long as the table is to be read."""

        @lru_cache(maxsize=_ORGS_KEPT)
        def cipher(org: str) -> AESGCM:
            return AESGCM(bytes.fromhex(hmac_hex(key, "recall-text", org)))

        self._cipher = cipher

    def seal(self, question: StoredQuestion) -> bytes:
        """Nonce and sealed text."""
        nonce, covered = os.urandom(_NONCE), _covered(question)
        return nonce + self._cipher(question.org).encrypt(nonce, question.text.encode(), covered)

    def opened(self, sealed: bytes, question: StoredQuestion) -> StoredQuestion | None:
        """``question`` with the text that was sealed, or None for what was not sealed for this row."""
        try:
            text = self._cipher(question.org).decrypt(sealed[:_NONCE], sealed[_NONCE:], _covered(question))
            return replace(question, text=text.decode())
        except (InvalidTag, ValueError):  # ValueError: too short for a nonce
            return None


def _covered(question: StoredQuestion) -> bytes:
    return length_prefixed(
        b"1",
        question.org.encode(),
        question.partition.encode(),
        question.entry.encode(),
        str(question.expires_at).encode(),
        question.vector.tobytes(),
    )
