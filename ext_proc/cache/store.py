"""The cache's store: what a look-up can say, and what every store must keep.

An answer is a hit only when all of this holds; whatever else is found (nothing, a damaged, foreign or older
entry) is a miss:

- it was put for the same org and key, and is byte for byte what was put;
- its time is not over;
- neither its org (``purge``) nor what it comes from (``purge_where``) was purged after the look-up of the
  request that made it: an answer is put under the ``epoch`` of that look-up;
- it answers the question it was put for, or, where it is found by likeness (``HitKind`` other than EXACT),
  the pair of question and answer is not barred and likeness of that kind is not switched off for its model.

A store may forget anything at any time: that is a miss, and never brings back what was purged or barred.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Protocol

from gateway.contract.ids import OrgId
from gateway.contract.units import UnixMillis

ENTRY_BYTES_MAX: Final = 1024 * 1024
"""A larger answer is not stored: one entry must not push out a thousand others."""
TTL_SECONDS_MAX: Final = 30 * 24 * 3600
"""The longest life of an entry; purge rules are kept for longer, and are dropped then."""
BAR_SECONDS: Final = 30 * 24 * 3600
"""How long a pair stays barred."""
BARS_MAX: Final = 64
"""Pairs of one question, and of one answer. With more, likeness finds nothing for that question, and that
answer is found by likeness no more: a list that grows without end would be a way to fill the store."""
SEEN_S: Final = 1.0
"""A purge, a bar and a switch made elsewhere are obeyed so many seconds later at the latest, also by what a
worker holds in memory."""

FLIGHT_MILLIS: Final = 10_000
"""After so long another one may lead: the leader is gone, or slower than it is worth to wait for."""

_KEY: Final = re.compile(r"[0-9a-f]{64}")


class CacheUnavailable(Exception):
    """The store did not answer. A miss to the request (fails open), counted."""


class HitKind(StrEnum):
    """How the answer was found."""

    EXACT = "exact"
    """Put for this very question."""
    CANONICAL = "canonical"
    """Put for a question of the same canonical text."""
    ALIAS = "alias"
    """Put for another question, which was judged to ask the same."""
    SEMANTIC = "semantic"
    """Put for another question, which the search found to ask the same."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Keys:
    """Where a question's answer is. Each 64 hex digits; ``canonical`` empty: neither looked up nor
    written."""

    exact: str
    canonical: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lineage:
    """What an answer comes from, for purges. ``admitted_at``: when its request came."""

    request_id: str = ""
    model: str = ""
    revision: str = ""
    template: str = ""
    policy_version: str = ""
    tags: tuple[str, ...] = ()
    admitted_at: UnixMillis = UnixMillis(0)


@dataclass(frozen=True, slots=True, kw_only=True)
class CachedAnswer:
    """``body`` is opaque here (gateway/openai/replay.py reads it). ``entry``: the exact key it was put under;
    a store says it, and does not read it from what it is given."""

    body: bytes
    stored_at: UnixMillis
    entry: str = ""
    lineage: Lineage = Lineage()


@dataclass(frozen=True, slots=True, kw_only=True)
class Lookup:
    """``answer`` and ``kind`` are None for a miss. ``epoch`` is where a new answer belongs: letters and
    digits, different after each purge. ``expires_at``: of the answer and
    of the alias that led to it; 0 for a miss. ``standing``: that of the
    org when a hit was read; empty for a miss."""

    answer: CachedAnswer | None
    epoch: str
    kind: HitKind | None = None
    expires_at: UnixMillis = UnixMillis(0)
    standing: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class PurgeRule:
    """Which answers are to go: those that fit each field that is not empty. At least one must be filled."""

    org: str = ""
    model: str = ""
    revision: str = ""
    template: str = ""
    policy_version: str = ""
    request_id: str = ""
    tag: str = ""
    entry: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleInForce:
    """``number``: a rule ends the answers that were looked up before the rule with that number was made.
    ``made_at``: in the store's time."""

    rule: PurgeRule
    number: int
    made_at: UnixMillis


class CacheStore(Protocol):
    """Raises CacheUnavailable, never a driver's error. A key or an entry that is not 64 hex digits (it may
    come from a client) is one that is not there."""

    def peek(self, org: OrgId, keys: Keys) -> Lookup | None:
        """A hit, where it can be told without waiting. None: ask ``get``."""

    def standing(self, org: OrgId) -> str | None:
        """A text that changes whenever anything happens that may end an answer of ``org``, as last seen; None
        when that was more than SEEN_S ago."""

    def epoch(self, org: OrgId) -> str:
        """As a look-up would say it now, by what was last seen: for the answer of a request whose look-up was
        late. Empty when nothing was seen yet, or when the store has not answered for SEEN_S. A purge that was
        not seen yet ends that answer too."""

    async def get(self, org: OrgId, keys: Keys) -> Lookup:
        """One round trip, two for what is found by likeness."""

    async def fetch(self, org: OrgId, entry: str, *, asked: str) -> Lookup:
        """The answer under ``entry``, found by a search for the question ``asked`` (its exact key)."""

    async def put(
        self, org: OrgId, keys: Keys, epoch: str, answer: CachedAnswer, *, ttl_seconds: int
    ) -> bool:
        """``epoch`` as the look-up said it; ends the flight of ``keys.exact``, stored or not. False, and not
        stored: larger than ENTRY_BYTES_MAX, a time below 1 s or above TTL_SECONDS_MAX, a lineage of more than
        4 KiB, or no such epoch."""

    async def alias(self, org: OrgId, asked: str, entry: str, *, ttl_seconds: int) -> bool:
        """From now on the question ``asked`` is answered with what is under ``entry``. False: that is gone,
        the pair is barred, or ``asked`` has an answer of its own."""

    async def bar(self, org: OrgId, asked: str, entry: str) -> None:
        """``entry`` does not answer ``asked``, for BAR_SECONDS; an alias between them ends. ``asked ==
        entry``: the answer itself is wrong, and goes."""

    async def purge(self, org: OrgId) -> None:
        """Every entry of ``org`` is a miss from now on, also those being generated."""

    async def purge_where(self, rule: PurgeRule) -> int:
        """Every entry that ``rule`` fits is a miss from now on, also those being generated, and the aliases
        to them. Returns how many rules are in force; 0 when there were too many, and everything was purged in
        their place. Raises ValueError for an empty rule."""

    async def rules(self) -> tuple[RuleInForce, ...]:
        """Those in force, oldest first."""

    async def switch_off(self, bucket: str) -> None:
        """Likeness ``<org>/<model>/<level>/<band>`` answers no more: CANONICAL hits end with a bucket of the
        level ``canonical``, ALIAS hits with one of ``near``; SEMANTIC hits are the search's to refuse."""

    async def switch_on(self, bucket: str) -> None:
        """As if it had never been switched off."""

    async def switched_off(self) -> frozenset[str]:
        """The buckets, as ``purge.is_off`` reads them."""


class Flights(Protocol):
    """Single flight: identical concurrent misses make one engine call. A store that does not answer lets
    everybody lead."""

    async def join(self, org: OrgId, key: str) -> bool:
        """True: the caller leads, until ``land``, a ``put`` under ``key``, or the flight's time is over."""

    async def land(self, org: OrgId, key: str) -> None:
        """The leader's answer is stored, or will never come."""

    async def landed(self, org: OrgId, keys: Keys, at_most_s: float) -> Lookup:
        """Wait for the leader: a hit, or a miss when the flight has landed without an answer or the time is
        over. Raises CacheUnavailable."""


def is_key(text: str) -> bool:
    """64 hex digits."""
    return _KEY.fullmatch(text) is not None
