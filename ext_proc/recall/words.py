"""What the filters and the recall process say to each other, and the protocol between them.

A question is never served from here: a Reply names entries, and whether their answers may still be given
(epoch, purge rules, tombstones) is decided when the cache store fetches one. So an index that lags behind
can only cost a hit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Protocol

from ext_proc.cache.policy import Profile
from ext_proc.cache.question import Level
from ext_proc.cache.store import Lineage
from gateway.contract.ids import ModelName, OrgId
from gateway.contract.units import UnixMillis

CANDIDATES_MAX: Final = 3
"""Of one reply. Each costs its asker a look-up in the cache store when the one before it is gone."""
TEXT_BYTES_MAX: Final = 2048
"""Of a question: far more than the 64 tokens the embedder reads."""
SERVED_BYTES_MAX: Final = 256 * 1024
"""Of a drawn hit's request and of its answer: what is larger is not verified."""


class RecallUnavailable(Exception):
    """No answer in time: late, queue full, not ready yet, or down. A miss to the request (fails open),
    counted. The text is a code: ``late``, ``full``, ``not_ready``, ``resting``, ``down`` or
    ``bad_message``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """One question. ``partition`` and ``asked`` (its exact key) are 64 hex digits each, made by
    ext_proc.cache.partition; ``text`` is the last user's turn, at most TEXT_BYTES_MAX bytes; ``keep_s``: how
    long the question is kept in case its answer comes to be stored; ``rule``, ``slo``, ``verify_share`` and
    ``judge_per_minute`` are of the cache rule."""

    org: OrgId
    model: ModelName
    partition: str
    asked: str
    text: str
    profile: Profile
    keep_s: int
    rule: str = ""
    slo: float = 0.01
    verify_share: float = 0.0
    judge_per_minute: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A stored question whose answer may be given. ``entry``: its exact key; ``similarity``: cosine;
    ``share``: of the hits of its bucket, those to be verified. In ``probation`` its answer is not given, but
    verified as if it had been: that is how a bucket that was switched off comes back."""

    entry: str
    similarity: float
    level: Level
    bucket: str
    share: float = 0.0
    probation: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """``candidates``: acceptable ones, best first, at most CANDIDATES_MAX. ``reason``: why there is none
    (``no_candidate``, ``guard.<code>``, ``below_floor``, ``near``, ``far``, ``bucket_off``, ``too_long``,
    ``language``, ``off``), or ``found``. ``steps`` hold codes and numbers, never words of a prompt."""

    candidates: tuple[Candidate, ...]
    reason: str
    steps: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Remember:
    """The answer to a question that was asked a moment ago is stored under ``entry``, its exact key."""

    org: OrgId
    partition: str
    entry: str
    expires_at: UnixMillis
    lineage: Lineage


@dataclass(frozen=True, slots=True, kw_only=True)
class Forget:
    """The stored question ``entry`` is not to be found any more."""

    org: OrgId
    entry: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """A hit that was drawn to be verified: ``request`` is the OpenAI body as the client sent it, ``answer``
    what it was given."""

    org: OrgId
    model: ModelName
    bucket: str
    asked: str
    entry: str
    request: bytes
    answer: bytes
    slo: float = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class NearMiss:
    """A stored question that may mean the same as ``ask``: for a judge, off the path."""

    ask: Ask
    entry: str
    stored_text: str
    similarity: float
    bucket: str


class Recall(Protocol):
    """Raises RecallUnavailable, never a transport's error."""

    async def find(self, ask: Ask) -> Reply:
        """Within the recall hop's deadline."""

    async def expect(self, ask: Ask) -> None:
        """As ``find``, but nothing is looked for: keep the question in case its answer comes to be stored."""

    async def remember(self, remember: Remember) -> None:
        """A question that neither ``find`` nor ``expect`` saw within its ``keep_s`` is not remembered."""

    async def forget(self, forget: Forget) -> None:
        """An unknown entry is fine."""

    async def served(self, served: Served) -> None:
        """Hand over a hit to be verified, off the path."""
