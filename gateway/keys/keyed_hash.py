"""HMAC-SHA256 over several texts, and the bytes that several parts make."""

from __future__ import annotations

import hmac


def length_prefixed(*parts: bytes) -> bytes:
    """``parts`` joined so that no two lists of parts give the same bytes."""
    return b"".join(len(part).to_bytes(8, "big") + part for part in parts)


def hmac_hex(key: bytes, *parts: str) -> str:
    """HMAC-SHA256 over the length-prefixed parts, as hex digits."""
    return hmac.digest(key, length_prefixed(*[part.encode() for part in parts]), "sha256").hex()
