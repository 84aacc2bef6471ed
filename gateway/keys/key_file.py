"""api_keys.json on disk: read, and changed by one writer at a time in one step.

Every ext_authz worker looks at the file four times a second (gateway/config/watch.py), and asks its copy
with each request: a change is in force on all of them within a second, and no cache stands between.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import secrets
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import IO, Final

from gateway.config.durable_file import replace_durably
from gateway.contract.ids import KeyId
from gateway.contract.principal import Principal
from gateway.contract.units import Millis, UnixMillis
from gateway.keys.api_key import (
    EARLIER_MAX,
    ApiKey,
    EarlierSecret,
    dump_api_keys,
    hash_of,
    parse_api_keys,
)

SECRET_BYTES: Final = 32
FILE_BYTES_MAX: Final = 64 * 1024 * 1024
"""About 200,000 keys; the workers refuse more."""


class KeyConflict(ValueError):
    """The change does not go with what is stored."""


def write_private(path: Path, data: bytes) -> None:
    """Put ``data`` at ``path`` in one step, readable by this user only; a revocation that a power cut undoes
    would be none. Raises OSError."""
    replace_durably(path, data, mode=0o600)


def new_text(key: KeyId) -> str:
    """A fresh key's text, of which this is the only copy."""
    return f"tg-{key}-{secrets.token_urlsafe(SECRET_BYTES)}"


class KeyFile:
    """``read`` and ``write`` are whole-file; change only while ``lock`` is held."""

    def __init__(self, path: Path) -> None:
        """Touches nothing yet."""
        self._path = path
        self.turn = asyncio.Lock()
        """For the tasks of this process: one of them at a time has a thread wait for the others."""

    @contextlib.contextmanager
    def lock(self) -> Iterator[IO[str]]:
        """The lock file, open but not yet locked; ``wait_for`` locks it, its end lets go."""
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with self._path.with_name(f".{self._path.name}.lock").open("w") as file:
            yield file

    @staticmethod
    def wait_for(lock: IO[str]) -> None:
        """Blocks until no other writer is at work; the kernel lets go for one that died."""
        fcntl.flock(lock, fcntl.LOCK_EX)

    def read(self) -> dict[KeyId, ApiKey]:
        """Every key by id, in the order of the file; none without a file. Raises NotApiKeys, OSError."""
        return dict(parse_api_keys(self._path.read_bytes())) if self._path.exists() else {}

    def write(self, keys: dict[KeyId, ApiKey]) -> None:
        """Raises KeyConflict for more than the workers read, OSError."""
        data = dump_api_keys(keys.values())
        if len(data) > FILE_BYTES_MAX:
            raise KeyConflict(f"keys: the file would be larger than {FILE_BYTES_MAX} bytes")
        write_private(self._path, data)


def created(
    keys: dict[KeyId, ApiKey],
    principal: Principal,
    *,
    created_ms: UnixMillis | None,
    expires_ms: UnixMillis | None = None,
) -> str:
    """Adds a key for ``principal`` (``principal.key`` is its id) to ``keys``; its text. Raises
    KeyConflict."""
    if principal.key in keys:
        raise KeyConflict(f"a key with the id {principal.key!r} exists")
    text = new_text(principal.key)
    keys[principal.key] = ApiKey(
        principal=principal, hash=hash_of(text), created_ms=created_ms, expires_ms=expires_ms
    )
    return text


def rotated(keys: dict[KeyId, ApiKey], key_id: KeyId, *, now: UnixMillis, overlap: Millis) -> str:
    """Gives the key a new secret; those it had live ``overlap`` longer at most. Its new text. Raises
    KeyConflict for a key that is revoked or has too many secrets that live, KeyError."""
    key = keys[key_id]
    if key.revoked:
        raise KeyConflict(f"the key {key_id!r} is revoked: create another")
    until_ms = UnixMillis(now + overlap)
    lived = [*key.earlier, EarlierSecret(hash=key.hash, until_ms=until_ms)]
    earlier = tuple(
        replace(secret, until_ms=min(secret.until_ms, until_ms))
        for secret in lived
        if min(secret.until_ms, until_ms) > now
    )
    if len(earlier) > EARLIER_MAX:
        raise KeyConflict(
            f"the key {key_id!r} has {EARLIER_MAX} earlier secrets that still live: "
            "rotate it with an overlap of 0, which ends them"
        )
    text = new_text(key_id)
    keys[key_id] = replace(key, hash=hash_of(text), earlier=earlier)
    return text


def revoked(keys: dict[KeyId, ApiKey], key_id: KeyId) -> None:
    """Refuses the key with all its secrets from now on. Raises KeyError."""
    keys[key_id] = replace(keys[key_id], revoked=True)


@contextlib.contextmanager
def _editing(path: Path) -> Iterator[dict[KeyId, ApiKey]]:
    file = KeyFile(path)
    with file.lock() as lock:
        file.wait_for(lock)
        keys = file.read()
        yield keys
        file.write(keys)


def create_api_key(
    path: Path,
    principal: Principal,
    *,
    created_ms: UnixMillis | None = None,
    expires_ms: UnixMillis | None = None,
) -> str:
    """Add a key to the file; the only copy of its text. For who sets a region up: an operator's change goes
    through gateway.admin.keys, which records it.

    Raises NotApiKeys for a broken file, KeyConflict for an id that exists, OSError.
    """
    with _editing(path) as keys:
        return created(keys, principal, created_ms=created_ms, expires_ms=expires_ms)


def revoke_api_key(path: Path, key_id: str) -> bool:
    """Refuse the key, as ``create_api_key`` without a record. False when there is no such key.

    Raises NotApiKeys for a broken file, OSError.
    """
    with _editing(path) as keys:
        found = KeyId(key_id) in keys
        if found:
            revoked(keys, KeyId(key_id))
    return found
