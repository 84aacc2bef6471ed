"""API keys ``tg-<id>-<secret>``: made here, stored as SHA-256 only, checked in constant time.

The secret has 256 random bits, so a fast hash is right: there is nothing to guess (a slow one would
only slow every request).
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import hmac
import os
import re
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import orjson

from ext_authz.decision import AuthCode, NotVerified
from gateway.contract.ids import KeyId, is_identifier
from gateway.contract.principal import NotAPrincipal, Principal
from gateway.contract.units import UnixMillis

SECRET_BYTES: Final = 32
_KEY: Final = re.compile(r"tg-([a-z0-9][a-z0-9_-]{0,62})-[A-Za-z0-9_-]{43}\Z")
_HASH: Final = re.compile(r"[0-9a-f]{64}\Z")
_MEMBERS: Final = frozenset(
    {"id", "hash", "org", "team", "user", "tier", "models", "scopes", "expires_ms", "revoked"}
)
_NOBODY: Final = hashlib.sha256(b"").hexdigest()


class NotApiKeys(ValueError):
    """The file is no list of API keys."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiKey:
    """One key as it is stored. ``principal.key`` is its id."""

    principal: Principal
    hash: str
    expires_ms: UnixMillis | None = None
    revoked: bool = False

    def to_fields(self) -> dict[str, Any]:
        """As JSON-ready fields."""
        fields: dict[str, Any] = dict(self.principal.to_fields())
        fields["id"] = fields.pop("key")
        fields["hash"] = self.hash
        if self.expires_ms is not None:
            fields["expires_ms"] = self.expires_ms
        if self.revoked:
            fields["revoked"] = True
        return fields


ApiKeys = Mapping[KeyId, ApiKey]


def _read(entry: Any, place: int) -> ApiKey:
    where = f"keys[{place}]"
    if not isinstance(entry, dict) or not entry.keys() <= _MEMBERS:
        raise NotApiKeys(f"{where}: must be an object with {', '.join(sorted(_MEMBERS))} only")
    digest, expires, revoked = entry.get("hash"), entry.get("expires_ms"), entry.get("revoked", False)
    if not isinstance(digest, str) or not _HASH.match(digest):
        raise NotApiKeys(f"{where}.hash: must be 64 lower-case hex digits, the SHA-256 of the key")
    if expires is not None and type(expires) is not int:
        raise NotApiKeys(f"{where}.expires_ms: must be whole milliseconds since 1970")
    if type(revoked) is not bool:
        raise NotApiKeys(f"{where}.revoked: must be true or false")
    try:
        principal = Principal.from_fields({"models": ["*"], **entry, "key": entry.get("id")})
    except NotAPrincipal as error:
        raise NotApiKeys(f"{where}: {error}") from None
    return ApiKey(
        principal=principal,
        hash=digest,
        expires_ms=None if expires is None else UnixMillis(expires),
        revoked=revoked,
    )


def parse_api_keys(document: bytes) -> ApiKeys:
    """The keys of api_keys.json, by id. Raises NotApiKeys."""
    try:
        entries = orjson.loads(document)
    except orjson.JSONDecodeError as error:
        raise NotApiKeys(f"not JSON: {error}") from None
    if not isinstance(entries, list):
        raise NotApiKeys("must be a list")
    found: dict[KeyId, ApiKey] = {}
    for place, entry in enumerate(entries):
        key = _read(entry, place)
        if key.principal.key in found:
            raise NotApiKeys(f"keys[{place}].id: {key.principal.key!r} stands twice")
        found[key.principal.key] = key
    return found


def check_api_key(text: str, keys: ApiKeys, *, now: UnixMillis) -> Principal:
    """Whose key ``text`` is. Raises NotVerified. Revoked and expired are told only to who has the secret."""
    form = _KEY.match(text)
    key = keys.get(KeyId(form.group(1))) if form else None
    digest = hashlib.sha256(text.encode("utf-8")).hexdigest()
    if not hmac.compare_digest(digest, _NOBODY if key is None else key.hash) or key is None:
        raise NotVerified(AuthCode.INVALID_API_KEY)
    if key.revoked:
        raise NotVerified(AuthCode.API_KEY_REVOKED)
    if key.expires_ms is not None and now >= key.expires_ms:
        raise NotVerified(AuthCode.API_KEY_EXPIRED)
    return key.principal


def write_private(path: Path, data: bytes) -> None:
    """Put ``data`` at ``path`` in one step, readable by this user only. Raises OSError."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def _editing(path: Path) -> Iterator[dict[KeyId, ApiKey]]:
    """The keys in ``path``, written back at the end; two editors wait for each other."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with path.with_name(f".{path.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        keys = dict(parse_api_keys(path.read_bytes())) if path.exists() else {}
        yield keys
        fields = [key.to_fields() for key in keys.values()]
        write_private(path, orjson.dumps(fields, option=orjson.OPT_INDENT_2) + b"\n")


def create_api_key(path: Path, principal: Principal, *, expires_ms: UnixMillis | None = None) -> str:
    """Add a key for ``principal`` (``principal.key`` is its id); returns the only copy of its text.

    Raises NotApiKeys for a broken file or an id that exists, OSError.
    """
    text = f"tg-{principal.key}-{secrets.token_urlsafe(SECRET_BYTES)}"
    with _editing(path) as keys:
        if principal.key in keys:
            raise NotApiKeys(f"a key with the id {principal.key!r} exists")
        digest = hashlib.sha256(text.encode("ascii")).hexdigest()
        keys[principal.key] = ApiKey(principal=principal, hash=digest, expires_ms=expires_ms)
    return text


def revoke_api_key(path: Path, key_id: str) -> bool:
    """Refuse the key from the next reload (a quarter second) on. False when there is no such key.

    Raises NotApiKeys for a broken file, OSError.
    """
    with _editing(path) as keys:
        if not is_identifier(key_id) or KeyId(key_id) not in keys:
            return False
        keys[KeyId(key_id)] = replace(keys[KeyId(key_id)], revoked=True)
    return True
