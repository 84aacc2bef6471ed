"""The pseudonym of a user in account ids and events: who holds the key can name the account of a user, and
nobody can name the user of an account."""

from __future__ import annotations

from typing import Final

from gateway.contract.ids import OrgId, UserId
from gateway.keys.keyed_hash import hmac_hex

FILE: Final = "pseudonym.key"
"""Its name in the secrets directory: 32 random bytes as hex digits."""
PSEUDONYM_CHARS: Final = 32
"""128 bits as hex digits: enough that no two users of an org meet."""
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


def pseudonym_of(key: bytes, kind: str, org: OrgId, name: str) -> str:
    """Of a name of this kind (``user``, ``end_user``, ``workflow``): keyed_hash.hmac_hex, cut to
    PSEUDONYM_CHARS."""
    return hmac_hex(key, kind, org, name)[:PSEUDONYM_CHARS]


def user_pseudonym(key: bytes, org: OrgId, user: UserId) -> str:
    """Of a user of an org."""
    return pseudonym_of(key, "user", org, user)
