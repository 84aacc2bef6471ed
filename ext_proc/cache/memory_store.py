"""The cache store in memory: the executable specification of CacheStore, and the store of unit tests."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field, replace

from ext_proc.cache import purge
from ext_proc.cache.entry import LINEAGE_BYTES_MAX, lineage_bytes
from ext_proc.cache.purge import Document
from ext_proc.cache.store import (
    BAR_SECONDS,
    BARS_MAX,
    ENTRY_BYTES_MAX,
    FLIGHT_MILLIS,
    TTL_SECONDS_MAX,
    CachedAnswer,
    HitKind,
    Keys,
    Lineage,
    Lookup,
    PurgeRule,
    RuleInForce,
    is_key,
)
from gateway.contract.clock import Clock
from gateway.contract.ids import OrgId
from gateway.contract.units import UnixMillis


@dataclass(slots=True, kw_only=True)
class _Value:
    answer: CachedAnswer
    epoch: str
    number: int
    expires_at: UnixMillis
    barred: set[str] = field(default_factory=set)
    """Questions it does not answer; gone with it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Alias:
    entry: str
    lineage: Lineage
    epoch: str
    number: int
    expires_at: UnixMillis


@dataclass(frozen=True, slots=True, kw_only=True)
class _Flight:
    until: UnixMillis
    over: asyncio.Event


class MemoryStore:
    """See CacheStore and Flights. ``clock`` decides when an entry is too old. It never forgets."""

    def __init__(self, clock: Clock) -> None:
        """Empty."""
        self._clock = clock
        self._document = Document(generation="memory")
        self._epochs: dict[OrgId, int] = {}
        self._bars_made: dict[OrgId, int] = {}
        self._values: dict[tuple[OrgId, str], _Value] = {}
        self._aliases: dict[tuple[OrgId, str], _Alias] = {}
        self._bars: dict[tuple[OrgId, str], dict[str, UnixMillis]] = {}
        self._flights: dict[tuple[OrgId, str], _Flight] = {}

    # --- reading ---

    def peek(self, org: OrgId, keys: Keys) -> Lookup | None:
        """See CacheStore: always asked anew."""
        return None

    def standing(self, org: OrgId) -> str:
        """See CacheStore."""
        return f"{self.epoch(org)}x{self._bars_made.get(org, 0)}"

    def epoch(self, org: OrgId) -> str:
        """See CacheStore: always known."""
        return f"{self._epochs.get(org, 0)}x{self._document.generation}x{self._document.number}"

    async def get(self, org: OrgId, keys: Keys) -> Lookup:
        """See CacheStore."""
        if not is_key(keys.exact):
            return Lookup(answer=None, epoch=self.epoch(org))
        own = self._value(org, keys.exact)
        if own is not None:
            return self._hit(org, own, HitKind.EXACT)
        for key, kind in ((keys.exact, HitKind.ALIAS), (keys.canonical, HitKind.CANONICAL)):
            alias = self._alias(org, key)
            found = None if alias is None else self._like(org, alias.entry, keys.exact, kind)
            if alias is not None and found is not None:
                hit = self._hit(org, found, kind)
                return replace(hit, expires_at=min(hit.expires_at, alias.expires_at))
        return Lookup(answer=None, epoch=self.epoch(org))

    async def fetch(self, org: OrgId, entry: str, *, asked: str) -> Lookup:
        """See CacheStore."""
        found = self._like(org, entry, asked, HitKind.SEMANTIC)
        if found is None or not is_key(asked):
            return Lookup(answer=None, epoch=self.epoch(org))
        return self._hit(org, found, HitKind.SEMANTIC)

    def _hit(self, org: OrgId, found: _Value, kind: HitKind) -> Lookup:
        return Lookup(
            answer=found.answer,
            epoch=self.epoch(org),
            kind=kind,
            expires_at=found.expires_at,
            standing=self.standing(org),
        )

    def _value(self, org: OrgId, key: str) -> _Value | None:
        found = self._values.get((org, key))
        if found is None or not self._lives(org, key, found, found.answer.lineage):
            return None
        return found

    def _alias(self, org: OrgId, key: str) -> _Alias | None:
        found = self._aliases.get((org, key))
        if found is None or not self._lives(org, found.entry, found, found.lineage):
            return None
        return found

    def _lives(self, org: OrgId, entry: str, record: _Value | _Alias, lineage: Lineage) -> bool:
        present = self.epoch(org).rpartition("x")[0]
        if record.epoch != present or self._clock.unix_ms() >= record.expires_at:
            return False
        return not self._document.purged(org, entry, lineage, number=record.number)

    def _like(self, org: OrgId, entry: str, asked: str, kind: HitKind) -> _Value | None:
        """What is under ``entry``, where likeness may answer ``asked`` with it."""
        found = self._value(org, entry)
        if found is None or self._document.refuses(kind, org, found.answer.lineage.model):
            return None
        return None if self._barred(org, asked, entry, found) else found

    def _barred(self, org: OrgId, asked: str, entry: str, found: _Value) -> bool:
        listed = self._bars.get((org, asked), {})
        if listed and self._clock.unix_ms() >= max(listed.values()):
            listed = {}
        return entry in listed or asked in found.barred or max(len(listed), len(found.barred)) > BARS_MAX

    # --- writing ---

    async def put(
        self, org: OrgId, keys: Keys, epoch: str, answer: CachedAnswer, *, ttl_seconds: int
    ) -> bool:
        """See CacheStore."""
        await self.land(org, keys.exact)  # nothing waits in here: followers look once this is done
        sealed_under, _, number = epoch.rpartition("x")
        if len(answer.body) > ENTRY_BYTES_MAX or not 1 <= ttl_seconds <= TTL_SECONDS_MAX:
            return False
        if not is_key(keys.exact) or not sealed_under or not number.isdigit():
            return False
        if len(lineage_bytes(answer.lineage)) > LINEAGE_BYTES_MAX:
            return False
        expires_at = self._until(ttl_seconds)
        kept = replace(answer, entry=keys.exact)
        self._aliases.pop((org, keys.exact), None)
        self._values[org, keys.exact] = _Value(
            answer=kept, epoch=sealed_under, number=int(number), expires_at=expires_at
        )
        if is_key(keys.canonical):
            self._aliases[org, keys.canonical] = _Alias(
                entry=keys.exact,
                lineage=answer.lineage,
                epoch=sealed_under,
                number=int(number),
                expires_at=expires_at,
            )
        return True

    async def alias(self, org: OrgId, asked: str, entry: str, *, ttl_seconds: int) -> bool:
        """See CacheStore."""
        found = self._value(org, entry)
        if found is None or asked == entry or not is_key(asked) or not 1 <= ttl_seconds <= TTL_SECONDS_MAX:
            return False
        if self._value(org, asked) is not None or self._barred(org, asked, entry, found):
            return False
        self._values.pop((org, asked), None)
        self._aliases[org, asked] = _Alias(
            entry=entry,
            lineage=found.answer.lineage,
            epoch=found.epoch,
            number=found.number,
            expires_at=self._until(ttl_seconds),
        )
        return True

    async def bar(self, org: OrgId, asked: str, entry: str) -> None:
        """See CacheStore."""
        if not is_key(asked) or not is_key(entry):
            return
        self._bars_made[org] = self._bars_made.get(org, 0) + 1
        if asked == entry:
            self._values.pop((org, entry), None)
            self._aliases.pop((org, entry), None)
            return
        self._bars.setdefault((org, asked), {})[entry] = self._until(BAR_SECONDS)
        found, alias = self._value(org, entry), self._alias(org, asked)
        if found is not None:
            found.barred.add(asked)
        if alias is not None and alias.entry == entry:
            del self._aliases[org, asked]

    async def purge(self, org: OrgId) -> None:
        """See CacheStore."""
        self._epochs[org] = self._epochs.get(org, 0) + 1

    async def purge_where(self, rule: PurgeRule) -> int:
        """See CacheStore."""
        now, other = self._clock.unix_ms(), f"{self._document.generation}m"
        self._document = purge.with_rule(self._document, rule, now=now, generation=other)
        return len(self._document.rules)

    async def rules(self) -> tuple[RuleInForce, ...]:
        """See CacheStore."""
        return self._document.rules

    async def switch_off(self, bucket: str) -> None:
        """See CacheStore."""
        self._document = purge.with_bucket(self._document, bucket, off=True)

    async def switch_on(self, bucket: str) -> None:
        """See CacheStore."""
        self._document = purge.with_bucket(self._document, bucket, off=False)

    async def switched_off(self) -> frozenset[str]:
        """See CacheStore."""
        return frozenset(self._document.off)

    # --- flights ---

    async def join(self, org: OrgId, key: str) -> bool:
        """See Flights."""
        found = self._flights.get((org, key))
        if found is not None and self._clock.unix_ms() < found.until:
            return False
        until = UnixMillis(self._clock.unix_ms() + FLIGHT_MILLIS)
        self._flights[org, key] = _Flight(until=until, over=asyncio.Event())
        return True

    async def land(self, org: OrgId, key: str) -> None:
        """See Flights."""
        found = self._flights.pop((org, key), None)
        if found is not None:
            found.over.set()

    async def landed(self, org: OrgId, keys: Keys, at_most_s: float) -> Lookup:
        """See Flights."""
        found = self._flights.get((org, keys.exact))
        if found is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(at_most_s):
                    await found.over.wait()
        return await self.get(org, keys)

    def _until(self, seconds: int) -> UnixMillis:
        return UnixMillis(self._clock.unix_ms() + seconds * 1000)
