"""API keys ``tg-<id>-<secret>`` as api_keys.json has them: SHA-256 of the text only, never the text.

The secret has 256 random bits, so a fast hash is right: there is nothing to guess (a slow one would
only slow every request).

The file is ``{"version": 2, "keys": [...]}``. A bare list is version 1, which knew no earlier secrets and no
time of creation; it is read, and written anew as version 2 with the next change.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import orjson

from gateway.contract.ids import KeyId
from gateway.contract.principal import NotAPrincipal, Principal
from gateway.contract.units import UnixMillis

FILE_VERSION: Final = 2
EARLIER_MAX: Final = 4
"""Secrets of one key that a rotation let live on: each is one more hash to compare with a request."""
UNIX_MS_MAX: Final = 253_402_300_799_999
"""The last millisecond of the year 9999."""
_KEY: Final = re.compile(r"tg-([a-z0-9][a-z0-9_-]{0,62})-[A-Za-z0-9_-]{43}\Z")
_HASH: Final = re.compile(r"[0-9a-f]{64}\Z")
_TIMES: Final = ("created_ms", "expires_ms")
_MEMBERS: Final = frozenset(
    {"id", "hash", "org", "team", "user", "tier", "models", "scopes", "revoked", "earlier", *_TIMES}
)


class NotApiKeys(ValueError):
    """The file is no list of API keys."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EarlierSecret:
    """A secret that a rotation replaced: good before ``until_ms``."""

    hash: str
    until_ms: UnixMillis

    def to_fields(self) -> dict[str, Any]:
        """As JSON-ready fields."""
        return {"hash": self.hash, "until_ms": self.until_ms}


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiKey:
    """One key as it is stored. ``principal.key`` is its id."""

    principal: Principal
    hash: str
    created_ms: UnixMillis | None = None
    """None for a key of version 1."""
    expires_ms: UnixMillis | None = None
    revoked: bool = False
    earlier: tuple[EarlierSecret, ...] = ()

    def to_fields(self) -> dict[str, Any]:
        """As JSON-ready fields."""
        fields: dict[str, Any] = dict(self.principal.to_fields())
        fields["id"] = fields.pop("key")
        fields["hash"] = self.hash
        times = zip(_TIMES, (self.created_ms, self.expires_ms), strict=True)
        fields |= {name: time_ms for name, time_ms in times if time_ms is not None}
        if self.revoked:
            fields["revoked"] = True
        if self.earlier:
            fields["earlier"] = [secret.to_fields() for secret in self.earlier]
        return fields


ApiKeys = Mapping[KeyId, ApiKey]


def key_id_in(text: str) -> KeyId | None:
    """The id inside a key's text; None where ``text`` has not the form of one."""
    form = _KEY.match(text)
    return KeyId(form.group(1)) if form else None


def hash_of(text: str) -> str:
    """What is stored of a key's text: 64 lower-case hex digits."""
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def _hash(value: Any, where: str) -> str:
    if not isinstance(value, str) or not _HASH.match(value):
        raise NotApiKeys(f"{where}.hash: must be 64 lower-case hex digits, the SHA-256 of the key")
    return value


def _time_ms(value: Any, where: str) -> UnixMillis:
    if type(value) is not int or not 0 <= value <= UNIX_MS_MAX:  # a bool is an int to isinstance
        raise NotApiKeys(f"{where}: must be whole milliseconds since 1970")
    return UnixMillis(value)


def _earlier(entries: Any, where: str) -> tuple[EarlierSecret, ...]:
    if not isinstance(entries, list) or len(entries) > EARLIER_MAX:
        raise NotApiKeys(f"{where}: must be a list of at most {EARLIER_MAX}")
    found = []
    for place, entry in enumerate(entries):
        here = f"{where}[{place}]"
        if not isinstance(entry, dict) or entry.keys() != {"hash", "until_ms"}:
            raise NotApiKeys(f"{here}: must be an object with hash and until_ms only")
        until_ms = _time_ms(entry["until_ms"], f"{here}.until_ms")
        found.append(EarlierSecret(hash=_hash(entry["hash"], here), until_ms=until_ms))
    return tuple(found)


def _read(entry: Any, place: int) -> ApiKey:
    where = f"keys[{place}]"
    if not isinstance(entry, dict) or not entry.keys() <= _MEMBERS:
        raise NotApiKeys(f"{where}: must be an object with {', '.join(sorted(_MEMBERS))} only")
    created, expires = (
        None if entry.get(name) is None else _time_ms(entry[name], f"{where}.{name}") for name in _TIMES
    )
    revoked = entry.get("revoked", False)
    if type(revoked) is not bool:
        raise NotApiKeys(f"{where}.revoked: must be true or false")
    try:
        principal = Principal.from_fields({"models": ["*"], **entry, "key": entry.get("id")})
    except NotAPrincipal as error:
        raise NotApiKeys(f"{where}: {error}") from None
    return ApiKey(
        principal=principal,
        hash=_hash(entry.get("hash"), where),
        created_ms=created,
        expires_ms=expires,
        revoked=revoked,
        earlier=_earlier(entry.get("earlier", []), f"{where}.earlier"),
    )


def _entries(document: bytes) -> list[Any]:
    try:
        data = orjson.loads(document)
    except orjson.JSONDecodeError as error:
        raise NotApiKeys(f"not JSON: {error}") from None
    if isinstance(data, list):
        return data
    if not isinstance(data, dict) or data.keys() != {"version", "keys"} or not isinstance(data["keys"], list):
        raise NotApiKeys('must be {"version": 2, "keys": [...]}')
    if data["version"] != FILE_VERSION or type(data["version"]) is not int:
        raise NotApiKeys(f"version: must be {FILE_VERSION}, got {data['version']!r}")
    keys: list[Any] = data["keys"]
    return keys


def parse_api_keys(document: bytes) -> ApiKeys:
    """The keys of api_keys.json, by id. Raises NotApiKeys."""
    found: dict[KeyId, ApiKey] = {}
    for place, entry in enumerate(_entries(document)):
        key = _read(entry, place)
        if key.principal.key in found:
            raise NotApiKeys(f"keys[{place}].id: {key.principal.key!r} stands twice")
        found[key.principal.key] = key
    return found


def dump_api_keys(keys: Iterable[ApiKey]) -> bytes:
    """api_keys.json, as ``parse_api_keys`` reads it."""
    document = {"version": FILE_VERSION, "keys": [key.to_fields() for key in keys]}
    return orjson.dumps(document, option=orjson.OPT_INDENT_2) + b"\n"
