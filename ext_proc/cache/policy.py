"""What the cache may repeat, to whom, for how long: one immutable snapshot of cache.yaml. Pure.

Rules stand in order and the first that matches decides; a request that none matches, and any request
where there is no file, falls under BUILT_IN. ``policy_file`` reads the file.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from ext_proc.cache.detectors import DETECTORS
from gateway.contract.ids import OrgId
from gateway.contract.principal import Principal
from gateway.contract.units import MicroUsd
from gateway.openai.terms import Endpoint

FILE: Final = "cache.yaml"
"""Its name in the policy directory."""
CACHED_ENDPOINTS: Final = frozenset({Endpoint.CHAT, Endpoint.COMPLETIONS, Endpoint.EMBEDDINGS})
"""Tokenizing costs nothing, so that nothing is saved by keeping its answers."""
_SECONDS: Final = re.compile(r"[0-9]{1,9}")


class CacheMode(StrEnum):
    """Which answers may be repeated at all."""

    OFF = "off"
    DETERMINISTIC = "deterministic"
    """Of requests that ask for one answer only: temperature 0, top_k 1, a seed, embeddings."""
    ALL = "all"
    """Also sampled ones: who asks twice gets the same answer twice."""


class Profile(StrEnum):
    """What is served to a question that is not the stored one to the byte."""

    OFF = "off"
    """Nothing."""
    STRICT = "strict"
    """The answer of a question of the same canonical text or the same content words."""
    VERIFIED = "verified"
    """Also of one that differs in a content word, once a judge has called the answers the same."""


class Share(StrEnum):
    """Who sees an answer that one caller paid for; never another org."""

    KEY = "key"
    USER = "user"
    TEAM = "team"
    ORG = "org"
    GROUP = "group"
    """The teams and users that a group of cache.yaml names, all of one org."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Callers of one org who share answers. A caller belongs by team or by user."""

    name: str
    org: OrgId
    teams: frozenset[str] = frozenset()
    users: frozenset[str] = frozenset()

    def holds(self, principal: Principal) -> bool:
        """Whether ``principal`` belongs to it."""
        return principal.org == self.org and (principal.team in self.teams or principal.user in self.users)


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """Whose requests a rule is for; an empty set is every one."""

    orgs: frozenset[str] = frozenset()
    teams: frozenset[str] = frozenset()
    models: frozenset[str] = frozenset()
    """Names in the catalogue, never aliases."""
    endpoints: frozenset[Endpoint] = frozenset()

    def holds(self, principal: Principal, model: str, endpoint: Endpoint) -> bool:
        """Whether each set is empty or has its part of the request."""
        return (
            (not self.orgs or principal.org in self.orgs)
            and (not self.teams or principal.team in self.teams)
            and (not self.models or model in self.models)
            and (not self.endpoints or endpoint in self.endpoints)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheRule:
    """What is done with the answers of the requests it matches."""

    name: str
    mode: CacheMode = CacheMode.DETERMINISTIC
    profile: Profile = Profile.OFF
    share: Share = Share.USER
    group: Group | None = None
    """With Share.GROUP: who shares; the rule is for its members only."""
    ttl_seconds: int = 3600
    """How long an answer is kept."""
    tags: tuple[str, ...] = ()
    """Part of each entry's lineage, for purging."""
    hit_micro_usd: MicroUsd = MicroUsd(0)
    """What a hit costs in place of the engine's price; 0: hits are free."""
    freshness: bool = False
    """Whether questions about the present (today, latest, price of) may be served by similarity."""
    actions: bool = False
    """Whether requests to do or to make something (cancel my, write a) may be served by similarity."""
    tool_results: bool = False
    """Whether conversations that hold results of tools are cached at all."""
    personal_data: frozenset[str] = DETECTORS
    """Detectors of which none may find anything in an answer that is stored."""
    false_hit_slo: float = 0.01
    """Most wrong answers among similar hits, as a share; a bucket that may be worse is switched off."""
    verify_share: float = 0.02
    """Share of similar hits that are also sent to the engine, off the path, to be compared."""
    judge_per_minute: int = 30
    """Most near misses judged a minute, for each org; Profile.VERIFIED only."""


BUILT_IN: Final = CacheRule(name="built-in")
"""Identical deterministic requests of the same user, for an hour."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CachePolicy:
    """All of cache.yaml."""

    version: int = 0
    """Part of each entry's lineage; 0 is the policy without a file."""
    rules: tuple[tuple[Match, CacheRule], ...] = ()

    def rule_for(self, principal: Principal, model: str, endpoint: Endpoint) -> CacheRule:
        """The first rule that matches, else BUILT_IN. ``model``: its name in the catalogue."""
        for match, rule in self.rules:
            member = rule.group is None or rule.group.holds(principal)
            if member and match.holds(principal, model, endpoint):
                return rule
        return BUILT_IN


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where and for how long an answer is to be stored, as the admission record carries it to the tap."""

    key: str
    epoch: str
    ttl_seconds: int

    def to_text(self) -> str:
        """``<key>.<epoch>.<seconds>``."""
        return f"{self.key}.{self.epoch}.{self.ttl_seconds}"

    @classmethod
    def from_text(cls, text: str) -> Place | None:
        """None for an empty text (do not store) and for anything ``to_text`` does not write."""
        key, _, rest = text.partition(".")
        epoch, _, seconds = rest.partition(".")
        if not key or not epoch or not _SECONDS.fullmatch(seconds) or int(seconds) < 1:
            return None
        return cls(key=key, epoch=epoch, ttl_seconds=int(seconds))
