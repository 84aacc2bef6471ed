"""The cache store in the cache Valkey, which evicts, loses and forgets what it likes. What that may cost is a
miss.

Epoch and generation are random, never counted: no record from before a purge can come back. The braces put an
org's keys into one cluster slot, so that one MGET reads what a look-up needs.

A bar is written in two places. Beside the question, ``:no``, it holds for BAR_SECONDS, unless it is evicted.
In the record of the answer it holds as long as that answer: what evicts it, evicts the answer. So an answer
that was barred is never found again for that question. What an eviction of ``:no`` can bring back is the pair
of questions, once the barred answer is gone too and a new answer was put in its place; the recall process
keeps barred pairs durably and does not propose them, and a judged alias is not made twice.
"""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final

from ext_proc.cache import entry as records
from ext_proc.cache import purge
from ext_proc.cache.entry import LARGE, Record, RecordKind, Sealer, TooLong
from ext_proc.cache.marks import Marks, new_generation
from ext_proc.cache.purge import Document
from ext_proc.cache.redis_place import (
    LOOKUP,
    WRITE,
    RedisDocument,
    RedisFlights,
    add_bars,
    flight_key,
    key_of,
    within,
)
from ext_proc.cache.store import (
    ENTRY_BYTES_MAX,
    SEEN_S,
    TTL_SECONDS_MAX,
    CachedAnswer,
    CacheUnavailable,
    HitKind,
    Keys,
    Lookup,
    PurgeRule,
    RuleInForce,
    is_key,
)
from gateway.budget.redis_connection import connect
from gateway.budget.redis_lane import Lane
from gateway.contract.clock import Clock
from gateway.contract.ids import OrgId
from gateway.contract.units import UnixMillis

CONNECTIONS_MAX: Final = 4
"""Of one process: one for look-ups, one for writes, which may be large and must not stand before a
look-up."""
ORGS_MAX: Final = 10_000
"""Whose standing is remembered; one costs some 300 bytes, and one forgotten costs a round trip."""

_RANDOM: Final = re.compile(rb"[0-9a-f]{16}")
_EPOCH: Final = re.compile(r"([0-9a-f]{32})([0-9a-f]{1,8})")
"""Epoch and generation, which seal; then the document's number."""


@dataclass(frozen=True, slots=True)
class _Sight:
    """What was last seen of an org: its epoch and its bars' mark; ``marks`` empty: not to be relied upon."""

    at_s: float
    marks: str

    @property
    def epoch(self) -> str:
        return self.marks.partition(".")[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Place:
    """An org at one moment. ``seal``: what its records are sealed under."""

    org: OrgId
    document: Document
    seal: str
    standing: str

    @property
    def epoch(self) -> str:
        return f"{self.seal}{self.document.number:x}"


class RedisStore:
    """See CacheStore. One for each process; safe for concurrent tasks."""

    def __init__(self, client: Any, sealer: Sealer, clock: Clock) -> None:
        """``client``: a redis.asyncio.Redis that returns bytes."""
        self._client = client
        self._reading = Lane(client)
        self._writing = Lane(client)
        self._sealer = sealer
        self._clock = clock
        self.flights = RedisFlights(self._reading)
        self._sights: dict[OrgId, _Sight] = {}
        self._marks = Marks(RedisDocument(self._reading), sealer, clock)

    @classmethod
    def connect(cls, url: str, sealer: Sealer, clock: Clock) -> RedisStore:
        """A store at TIDEGATE_CACHE_URL. Does no I/O. Raises ValueError for a bad URL."""
        client = connect(url, timeout=WRITE, connections_max=CONNECTIONS_MAX, text=False)
        return cls(client, sealer, clock)

    async def run(self) -> None:
        """Keep the purge document fresh until cancelled; without it look-ups do, one round trip more."""
        await self._marks.run()

    async def aclose(self) -> None:
        """Close the connections."""
        await self._reading.aclose()
        await self._writing.aclose()
        await self._client.aclose()

    # --- reading ---

    def peek(self, org: OrgId, keys: Keys) -> Lookup | None:
        """See CacheStore: always asked anew."""
        return None

    def standing(self, org: OrgId) -> str | None:
        """See CacheStore."""
        sight, document = self._sights.get(org), self._marks.fresh
        if sight is None or document is None or not sight.marks:
            return None
        if self._clock.monotonic_s() - sight.at_s > SEEN_S:
            return None
        return _standing(sight.marks, document)

    def epoch(self, org: OrgId) -> str:
        """See CacheStore."""
        sight, document = self._sights.get(org), self._marks.fresh
        if sight is None or document is None or not sight.marks:
            return ""
        return f"{sight.epoch}{document.generation}{document.number:x}"

    async def get(self, org: OrgId, keys: Keys) -> Lookup:
        """See CacheStore. Within the cache hop's deadline."""
        async with within(LOOKUP):
            names = [keys.exact, f"{keys.exact}:no"] if is_key(keys.exact) else ["", ""]
            if is_key(keys.exact) and is_key(keys.canonical):
                names.append(keys.canonical)
            place, (exact, barred, *canonical) = await self._read(org, names)
            own = self._opened(place, keys.exact, exact)
            if own is not None and own.kind is RecordKind.VALUE:
                return self._hit(place, keys.exact, own, HitKind.EXACT)
            aliases = [(HitKind.ALIAS, own)]
            if canonical:
                aliases.append((HitKind.CANONICAL, self._opened(place, keys.canonical, canonical[0])))
            leading = {
                kind: alias
                for kind, alias in aliases
                if alias is not None and alias.kind is RecordKind.ALIAS and alias.body.hex() != keys.exact
            }
            if not leading:
                return _miss(place)
            targets = [key_of(org, alias.body.hex()) for alias in leading.values()]
            found = await self._reading.call("MGET", *targets)
        for (kind, alias), data in zip(leading.items(), found, strict=True):
            entry = alias.body.hex()
            record = self._like(place, entry, data, keys.exact, barred, kind)
            if record is not None:
                until = min(record.expires_at, alias.expires_at)
                return self._hit(place, entry, replace(record, expires_at=until), kind)
        return _miss(place)

    async def fetch(self, org: OrgId, entry: str, *, asked: str) -> Lookup:
        """See CacheStore. Within the cache hop's deadline."""
        async with within(LOOKUP):
            names = [entry, f"{asked}:no"] if is_key(entry) and is_key(asked) else ["", ""]
            place, (data, barred) = await self._read(org, names)
        record = self._like(place, entry, data, asked, barred, HitKind.SEMANTIC)
        return _miss(place) if record is None else self._hit(place, entry, record, HitKind.SEMANTIC)

    async def _read(self, org: OrgId, names: list[str]) -> tuple[_Place, list[bytes | None]]:
        """The org's place, and what is under ``names``, of one moment."""
        document = await self._marks.known()
        asked_at = self._clock.monotonic_s()
        wanted = [key_of(org, name) for name in (*names, "epoch", "bars")]
        *found, epoch, bars = await self._reading.call("MGET", *wanted)
        if not _is_random(epoch):
            epoch = await self._drawn(org, "epoch")
        if not _is_random(bars):
            bars = await self._drawn(org, "bars")
        marks = f"{epoch.decode()}.{bars.decode()}"
        self._saw(org, _Sight(asked_at, marks))
        seal = epoch.decode() + document.generation
        return _Place(org=org, document=document, seal=seal, standing=_standing(marks, document)), found

    async def _drawn(self, org: OrgId, name: str) -> bytes:
        """A new random mark, or that of whoever was first."""
        for only_new in (("NX",), ()):
            await self._reading.call("SET", key_of(org, name), secrets.token_hex(8), *only_new)
            found: bytes | None = await self._reading.call("GET", key_of(org, name))
            if found is not None and _is_random(found):
                return found
        raise CacheUnavailable("a mark does not stay")

    def _saw(self, org: OrgId, sight: _Sight) -> None:
        """Remember the latest."""
        known = self._sights.get(org)
        if known is not None and known.at_s > sight.at_s:
            return
        if known is None and len(self._sights) >= ORGS_MAX:
            del self._sights[next(iter(self._sights))]
        self._sights[org] = sight

    def _changed(self, org: OrgId) -> None:
        """What was asked for until now is not to be relied upon."""
        self._saw(org, _Sight(self._clock.monotonic_s(), ""))

    def _opened(self, place: _Place, key: str, data: bytes | None) -> Record | None:
        """A record that is valid by itself: sealed here, not too old, not purged."""
        record = None if not data else self._sealer.open(place.org, key, place.seal, data)
        if record is None or self._clock.unix_ms() >= record.expires_at:
            return None
        entry = key if record.kind is RecordKind.VALUE else record.body.hex()
        if place.document.purged(place.org, entry, record.lineage, number=record.number):
            return None
        return record

    def _like(
        self, place: _Place, entry: str, data: bytes | None, asked: str, barred: bytes | None, kind: HitKind
    ) -> Record | None:
        """The value under ``entry``, where likeness may answer ``asked`` with it."""
        if records.is_barred(barred or b"", entry):
            return None
        record = self._opened(place, entry, data)
        if record is None or record.kind is not RecordKind.VALUE or records.is_barred(record.bars, asked):
            return None
        return None if place.document.refuses(kind, place.org, record.lineage.model) else record

    def _hit(self, place: _Place, entry: str, record: Record, kind: HitKind) -> Lookup:
        answer = CachedAnswer(
            body=record.body, stored_at=record.stored_at, entry=entry, lineage=record.lineage
        )
        return Lookup(
            answer=answer,
            epoch=place.epoch,
            kind=kind,
            expires_at=record.expires_at,
            standing=place.standing,
        )

    # --- writing ---

    async def put(
        self, org: OrgId, keys: Keys, epoch: str, answer: CachedAnswer, *, ttl_seconds: int
    ) -> bool:
        """See CacheStore."""
        if not is_key(keys.exact):
            return False
        try:
            written = await self._written(org, keys, epoch, answer, ttl_seconds)
        except TooLong:
            written = []
        async with within(WRITE):
            for key, sealed in written:  # the value before what leads to it, and both before the flight ends
                await self._writing.call("SET", key_of(org, key), sealed, "EX", ttl_seconds)
            await self._writing.call("DEL", flight_key(org, keys.exact))
        return bool(written)

    async def _written(
        self, org: OrgId, keys: Keys, epoch: str, answer: CachedAnswer, ttl_seconds: int
    ) -> list[tuple[str, bytes]]:
        """The records of an answer, none for one that is not to be stored. Raises TooLong."""
        looked_up = _EPOCH.fullmatch(epoch)
        if looked_up is None or not 1 <= ttl_seconds <= TTL_SECONDS_MAX:
            return []
        if len(answer.body) > ENTRY_BYTES_MAX:
            return []
        seal, number = looked_up.groups()
        value = Record(
            kind=RecordKind.VALUE,
            body=answer.body,
            number=int(number, 16),
            stored_at=answer.stored_at,
            expires_at=UnixMillis(self._clock.unix_ms() + ttl_seconds * 1000),
            lineage=answer.lineage,
        )
        written = [(keys.exact, await self._sealed(org, keys.exact, seal, value))]
        if is_key(keys.canonical):
            alias = replace(value, kind=RecordKind.ALIAS, body=records.digest_of(keys.exact))
            written.append((keys.canonical, await self._sealed(org, keys.canonical, seal, alias)))
        return written

    async def _sealed(self, org: OrgId, key: str, seal: str, value: Record) -> bytes:
        if len(value.body) < LARGE:
            return self._sealer.seal(org, key, seal, value)
        return await asyncio.to_thread(self._sealer.seal, org, key, seal, value)

    async def alias(self, org: OrgId, asked: str, entry: str, *, ttl_seconds: int) -> bool:
        """See CacheStore."""
        if (
            not is_key(asked)
            or not is_key(entry)
            or asked == entry
            or not 1 <= ttl_seconds <= TTL_SECONDS_MAX
        ):
            return False
        async with within(WRITE):
            place, (own, data, barred) = await self._read(org, [asked, entry, f"{asked}:no"])
            found, present = self._opened(place, entry, data), self._opened(place, asked, own)
            if found is None or found.kind is not RecordKind.VALUE:
                return False
            if present is not None and present.kind is RecordKind.VALUE:
                return False
            if records.is_barred(barred or b"", entry) or records.is_barred(found.bars, asked):
                return False
            alias = replace(
                found,  # what purges the entry, purges its alias
                kind=RecordKind.ALIAS,
                body=records.digest_of(entry),
                expires_at=UnixMillis(self._clock.unix_ms() + ttl_seconds * 1000),
            )
            sealed = self._sealer.seal(org, asked, place.seal, alias)
            await self._writing.call("SET", key_of(org, asked), sealed, "EX", ttl_seconds)
        return True

    async def bar(self, org: OrgId, asked: str, entry: str) -> None:
        """See CacheStore."""
        if not is_key(asked) or not is_key(entry):
            return
        async with within(WRITE):
            if asked == entry:
                await self._writing.call("DEL", key_of(org, entry))
                await self._writing.call("SET", key_of(org, "bars"), secrets.token_hex(8))
            else:
                await self._bar_pair(org, asked, entry)
        self._changed(org)

    async def _bar_pair(self, org: OrgId, asked: str, entry: str) -> None:
        place, (own, data, barred) = await self._read(org, [asked, entry, f"{asked}:no"])
        found, present = self._opened(place, entry, data), self._opened(place, asked, own)
        with_question = b"" if records.is_barred(barred or b"", entry) else records.digest_of(entry)
        with_answer = b""
        if found is not None and found.kind is RecordKind.VALUE and not records.is_barred(found.bars, asked):
            with_answer = records.digest_of(asked)
        await add_bars(self._writing, org, (asked, with_question), (entry, with_answer))
        if present is not None and present.kind is RecordKind.ALIAS and present.body.hex() == entry:
            await self._writing.call("DEL", key_of(org, asked))

    async def purge(self, org: OrgId) -> None:
        """See CacheStore."""
        async with within(WRITE):
            await self._writing.call("SET", key_of(org, "epoch"), secrets.token_hex(8))
        self._changed(org)

    async def purge_where(self, rule: PurgeRule) -> int:
        """See CacheStore."""

        def step(document: Document, now: UnixMillis) -> Document:
            return purge.with_rule(document, rule, now=now, generation=new_generation())

        return len((await self._change(step)).rules)

    async def rules(self) -> tuple[RuleInForce, ...]:
        """See CacheStore."""
        return (await self._asked()).rules

    async def switch_off(self, bucket: str) -> None:
        """See CacheStore."""
        await self._change(lambda document, _: purge.with_bucket(document, bucket, off=True))

    async def switch_on(self, bucket: str) -> None:
        """See CacheStore."""
        await self._change(lambda document, _: purge.with_bucket(document, bucket, off=False))

    async def switched_off(self) -> frozenset[str]:
        """See CacheStore."""
        return frozenset((await self._asked()).off)

    async def _change(self, step: Callable[[Document, UnixMillis], Document]) -> Document:
        async with within(WRITE):
            return await self._marks.change(step)

    async def _asked(self) -> Document:
        async with within(WRITE):
            return await self._marks.ask()


def _standing(marks: str, document: Document) -> str:
    return f"{marks}.{document.generation}.{document.number}"


def _is_random(found: bytes | None) -> bool:
    return found is not None and _RANDOM.fullmatch(found) is not None


def _miss(place: _Place) -> Lookup:
    return Lookup(answer=None, epoch=place.epoch)
