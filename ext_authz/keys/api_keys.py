"""API keys checked in constant time against the hashes in force (gateway/keys has the file)."""

from __future__ import annotations

import hmac
from typing import Final

from ext_authz.decision import AuthCode, NotVerified
from gateway.contract.principal import Principal
from gateway.contract.units import UnixMillis
from gateway.keys.api_key import ApiKey, ApiKeys, hash_of, key_id_in

_NOBODY: Final = hash_of("")


def check_api_key(text: str, keys: ApiKeys, *, now: UnixMillis) -> Principal:
    """Whose key ``text`` is, by its present secret or by one that a rotation let live on. Raises NotVerified.
    Revoked and expired are told only to who has a secret of the key."""
    key_id = key_id_in(text)
    key = None if key_id is None else keys.get(key_id)
    digest = hash_of(text)
    present = hmac.compare_digest(digest, _NOBODY if key is None else key.hash)
    if key is None or not (present or _lives_on(digest, key, now)):
        raise NotVerified(AuthCode.INVALID_API_KEY)
    if key.revoked:
        raise NotVerified(AuthCode.API_KEY_REVOKED)
    if key.expires_ms is not None and now >= key.expires_ms:
        raise NotVerified(AuthCode.API_KEY_EXPIRED)
    return key.principal


def _lives_on(digest: str, key: ApiKey, now: UnixMillis) -> bool:
    matches = [hmac.compare_digest(digest, secret.hash) for secret in key.earlier if now < secret.until_ms]
    return any(matches)
