"""The pseudonym of a user in account ids and events: who holds the key can name the account of a user, and
nobody can name the user of an account."""

from __future__ import annotations

import hmac
from typing import Final

from gateway.contract.ids import OrgId, UserId

FILE: Final = "pseudonym.key"
"""Its name in the secrets directory: 32 random bytes as hex digits."""
PSEUDONYM_CHARS: Final = 32
"""128 bits as hex digits."""
KEY_BYTES: Final = 32


def key_from(text: bytes) -> bytes:
    """The key in the file. Raises ValueError without the text: it is a secret."""
    try:
        key = bytes.fromhex(text.decode("ascii").strip())
    except ValueError:
        key = b""
    if len(key) != KEY_BYTES:
        raise ValueError(f"{FILE}: must be {2 * KEY_BYTES} hex digits")
    return key


def user_pseudonym(key: bytes, org: OrgId, user: UserId) -> str:
    """HMAC-SHA256 over the length-prefixed parts, cut to PSEUDONYM_CHARS."""
    parts = (b"user", org.encode(), user.encode())
    message = b"".join(len(part).to_bytes(8, "big") + part for part in parts)
    return hmac.digest(key, message, "sha256").hex()[:PSEUDONYM_CHARS]
