"""API keys: create, rotate, revoke, list. Each change is a ``keys.changed`` event of the key's org.

A key is made or changed only once the ledger has taken the event: no key that the books do not know. A
revocation comes first and is then recorded: it must work also while the ledger does not.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final, Protocol

from gateway.admin.change import BadValue, By, Conflict, NotRecorded, unknown
from gateway.budget.policy import BudgetPolicy
from gateway.budget.policy_limits import ANY
from gateway.contract.clock import Clock
from gateway.contract.errors import LedgerUnavailable
from gateway.contract.ids import (
    GRANT_PATTERN,
    IDENTIFIER_PATTERN,
    KeyId,
    OrgId,
    TeamId,
    Tier,
    UserId,
    is_identifier,
)
from gateway.contract.principal import Principal
from gateway.contract.units import Millis, UnixMillis
from gateway.keys.api_key import ApiKey, NotApiKeys
from gateway.keys.key_file import KeyConflict, KeyFile, created, revoked, rotated

KEYS_CHANGED: Final = "keys.changed"
"""Type of the event, as in gateway/events/event.py."""
OVERLAP_MAX: Final = timedelta(days=7)
"""Time enough to bring a new secret everywhere; a secret that lives longer was not rotated."""
GRANTS_MAX: Final = 64
"""Models or scopes of one key: all of them stand in its event."""


class Recorder(Protocol):
    """The part of BudgetLedger that takes an audit event."""

    async def note(self, org: OrgId, kind: str, context: Mapping[str, str]) -> None:
        """Raises LedgerUnavailable."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NewKey:
    """What a new key may do. ``id`` and ``user`` empty: an id is made, and the key is a user of its own."""

    org: str
    id: str = ""
    team: str = "default"
    user: str = ""
    tier: str = "standard"
    models: tuple[str, ...] = ("*",)
    scopes: tuple[str, ...] = ()
    expires_ms: UnixMillis | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Issued:
    """A key whose text was made just now. ``text`` is the only copy."""

    key: ApiKey
    text: str


class Keys:
    """The keys of one region."""

    def __init__(
        self, file: KeyFile, ledger: Recorder, clock: Clock, *, policy: BudgetPolicy, models: Sequence[str]
    ) -> None:
        """``policy`` and ``models`` (the names in the catalogue) say what a new key may name."""
        self._file = file
        self._ledger = ledger
        self._clock = clock
        self._policy = policy
        self._models = models

    async def create(self, new: NewKey, by: By) -> Issued:
        """Raises BadValue, Unknown, Conflict, NotRecorded, OSError."""
        principal = self._principal(new)
        async with self._editing() as keys:
            text = created(keys, principal, created_ms=self._clock.unix_ms(), expires_ms=new.expires_ms)
            key = keys[principal.key]
            await self._record("create", key, by)
            await asyncio.to_thread(self._file.write, keys)
        return Issued(key=key, text=text)

    async def rotate(self, key_id: str, overlap: Millis, by: By) -> Issued:
        """The secrets the key had live ``overlap`` longer, at most OVERLAP_MAX. Raises BadValue, Unknown,
        Conflict, NotRecorded, OSError."""
        if not 0 <= overlap <= OVERLAP_MAX // timedelta(milliseconds=1):
            raise BadValue("overlap: is out of bounds", f"give 0 to {OVERLAP_MAX.days} days")
        async with self._editing() as keys:
            found = _found(keys, key_id)
            text = rotated(keys, found.principal.key, now=self._clock.unix_ms(), overlap=overlap)
            key = keys[found.principal.key]
            await self._record("rotate", key, by, overlap_ms=str(overlap))
            await asyncio.to_thread(self._file.write, keys)
        return Issued(key=key, text=text)

    async def revoke(self, key_id: str, by: By) -> ApiKey:
        """Of every secret of the key, within a second on every worker; a second time changes nothing. Raises
        Unknown, NotRecorded (the key is revoked all the same), OSError."""
        async with self._editing() as keys:
            key_id = _found(keys, key_id).principal.key
            revoked(keys, KeyId(key_id))
            await asyncio.to_thread(self._file.write, keys)
            key = keys[KeyId(key_id)]
        try:
            await self._record("revoke", key, by)
        except NotRecorded as error:
            raise NotRecorded(
                f"the key {key_id!r} is revoked, but its audit event is not written",
                "run the same command again once the ledger answers",
            ) from error
        return key

    def _principal(self, new: NewKey) -> Principal:
        key_id = new.id or f"k-{secrets.token_hex(4)}"
        named = {"id": key_id, "org": new.org, "team": new.team, "user": new.user or key_id, "tier": new.tier}
        for name, value in named.items():
            if not is_identifier(value):
                mend = f"it must match {IDENTIFIER_PATTERN.pattern}"
                raise BadValue(f"{name}: {value[:40]!r} is no identity", mend)
        principal = Principal(
            org=OrgId(new.org),
            team=TeamId(new.team),
            user=UserId(named["user"]),
            key=KeyId(key_id),
            tier=Tier(new.tier),
            models=tuple(sorted(set(new.models))),
            scopes=tuple(sorted(set(new.scopes))),
        )
        if principal.tier not in self._policy.tiers:
            raise unknown("tier", new.tier, sorted(self._policy.tiers))
        if principal.org not in self._policy.orgs and OrgId(ANY) not in self._policy.orgs:
            raise unknown("org with a budget", new.org, sorted(self._policy.orgs))
        for model in principal.models:
            if model not in ("*", *self._models):
                raise unknown("model", model, ["*", *self._models])
        if not principal.models:
            raise BadValue("models: none is named", "name those it may use, or * for all")
        if max(len(principal.models), len(principal.scopes)) > GRANTS_MAX:
            raise BadValue("models or scopes: too many", f"name at most {GRANTS_MAX}")
        for scope in principal.scopes:
            if not GRANT_PATTERN.match(scope):
                raise BadValue(f"scope {scope!r} is no name", f"it must match {GRANT_PATTERN.pattern}")
        return principal

    @contextlib.asynccontextmanager
    async def _editing(self) -> AsyncIterator[dict[KeyId, ApiKey]]:
        """The keys, with no other writer at work. In a thread: a wait for one must not hold up the loop, on
        which that one may be awaiting the ledger."""
        async with self._file.turn:
            with self._file.lock() as lock:
                await asyncio.to_thread(self._file.wait_for, lock)
                try:
                    yield await asyncio.to_thread(stored, self._file)
                except KeyConflict as error:
                    raise Conflict(str(error), "see 'tidegate keys list'") from None

    async def _record(self, verb: str, key: ApiKey, by: By, **more: str) -> None:
        """No user in it: events hold no personal identifiers."""
        caller = key.principal
        context = {
            "verb": verb,
            "key": caller.key,
            "team": caller.team,
            "tier": caller.tier,
            "models": " ".join(caller.models),
            "scopes": " ".join(caller.scopes),
            "expires_ms": "" if key.expires_ms is None else str(key.expires_ms),
            "actor": by.actor,
            "reason": by.reason,
            **more,
        }
        said = {name: text for name, text in context.items() if text}
        try:
            await self._ledger.note(caller.org, KEYS_CHANGED, said)
        except LedgerUnavailable as error:
            raise NotRecorded(
                f"the ledger takes no audit event ({error.code}); no key was changed",
                "see './tidegate status', then run this again",
            ) from error


def _found(keys: Mapping[KeyId, ApiKey], key_id: str) -> ApiKey:
    key = keys.get(KeyId(key_id))
    if key is None:
        raise unknown("key", key_id, sorted(keys))
    return key


def stored(file: KeyFile) -> dict[KeyId, ApiKey]:
    """Every key. Raises Conflict for a broken file, OSError."""
    try:
        return file.read()
    except NotApiKeys as error:
        mend = "restore it, then run this again"
        raise Conflict(f"the file of keys is broken ({error})", mend) from None


def listed(file: KeyFile, org: str | None = None) -> Sequence[ApiKey]:
    """Every key, of ``org`` where one is named, sorted by org and id. Raises Unknown, Conflict, OSError."""
    keys = stored(file)
    orgs = sorted({str(key.principal.org) for key in keys.values()})
    if org is not None and org not in orgs:
        raise unknown("org with keys", org, orgs)
    wanted = (key for key in keys.values() if org in (None, key.principal.org))
    return sorted(wanted, key=lambda key: (key.principal.org, key.principal.key))
