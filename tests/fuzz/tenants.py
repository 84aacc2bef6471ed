"""Tenants made to be mixed up: names that collide when they are joined, folded or cut, each with a canary of
its own, and an oracle of who may see whose answer that shares no code with the cache's keys."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from typing import Any, Final

from ext_proc.cache.policy import CacheMode, CachePolicy, CacheRule, Group, Match, Profile, Share
from gateway.contract.ids import KeyId, OrgId, TeamId, Tier, UserId
from gateway.contract.principal import Principal

TIER: Final = Tier("fuzz")
MODELS: Final = ("chat", "chat-2")
CANARY: Final = re.compile(r"cnry[0-9a-f]{16}")
NAMES: Final = (
    *("a", "a-", "a_", "a-b", "a_b", "a--b", "a-b-c", "ab", "b", "b-c", "c", "0", "00", "01"),
    *("org", "team", "user", "key", "group", "cut", "whole", "epoch", "bars", "marks", "no", "flight", "tgc"),
    *("a" * 63, "a" * 62 + "b", "x" + "0" * 62),
)
"""Of the identifiers' alphabet, the only one that a caller can have."""
HOSTILE: Final = (
    *("", "a:b", "b:c", "a:b:c", "{a}", "a}", "}:{", "a}:b", "a\0b", "a\0", "\0a", "a/b", "a b", " a", "a "),
    *("A", "AB", "a.b", "a|b", "a\nb", "a\r", '"a"', '{"org":"a"}', "[]", "a,b", "*", "?", "[ab]", "%61"),
    *(
        "\u0430",
        "a\u0301",
        "\u00e1",
        "\u00df",
        "ss",
        "\ufb00",
        "ff",
        "\u2024",
        "\u202ea",
        "a\u200b",
        "\uff41",
    ),
    *("0" * 64, "a" * 10_000),
)
"""Of the alphabets of everything that names are joined into. No principal can have one; the cache's own keys
must keep them apart all the same."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tenant:
    """A caller, and the text by which everything of its own is known again."""

    who: Principal
    canary: str


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """Callers and the rules they share by."""

    tenants: tuple[Tenant, ...]
    policy: CachePolicy

    def by_canary(self) -> dict[str, Tenant]:
        """Who is meant by one."""
        return {tenant.canary: tenant for tenant in self.tenants}


def made_world(rng: random.Random, *, hostile: bool = False) -> World:
    """Some orgs, each with the same few names for teams, users and keys. ``hostile``: names that no principal
    can have."""
    pool = HOSTILE if hostile else NAMES
    orgs = rng.sample(pool, 5)
    inner = rng.sample(pool, 3)
    # What is an org here is a user there: "a" + "b-c" beside "a-b" + "c".
    inner += rng.sample(orgs, 2)
    tenants = [
        Tenant(
            who=_principal(org, rng.choice(inner), user, rng.choice(inner)),
            canary=f"cnry{rng.getrandbits(64):016x}",
        )
        for org in orgs
        for user in inner
        for _ in range(2)
    ]
    return World(tenants=tuple(tenants), policy=_policy(rng, orgs, inner))


def _principal(org: str, team: str, user: str, key: str) -> Principal:
    """Past the check of names, which is tested elsewhere, where one fails it."""
    found: Any = object.__new__(Principal)
    fields = {"org": OrgId(org), "team": TeamId(team), "user": UserId(user), "key": KeyId(key), "tier": TIER}
    for name, value in {**fields, "models": ("*",), "scopes": ()}.items():
        object.__setattr__(found, name, value)
    principal: Principal = found
    return principal


def _policy(rng: random.Random, orgs: list[str], inner: list[str]) -> CachePolicy:
    rules = []
    groups: dict[tuple[str, str], Group] = {}
    for number in range(12):
        org, share = rng.choice(orgs), rng.choice(tuple(Share))
        match = Match(
            orgs=frozenset({org}),
            teams=frozenset(rng.sample(inner, rng.choice((0, 0, 2)))),
            models=frozenset(rng.sample(MODELS, rng.choice((0, 1)))),
        )
        group = None
        if share is Share.GROUP:
            # Groups of different orgs may have one name, which may be a team's or a user's.
            teams, users = (frozenset(rng.sample(inner, rng.choice((0, 1, 2)))) for _ in range(2))
            name = rng.choice(inner)
            group = groups.setdefault((org, name), Group(name=name, org=OrgId(org), teams=teams, users=users))
        profile = rng.choice((Profile.STRICT, Profile.VERIFIED, Profile.VERIFIED, Profile.OFF))
        rule = CacheRule(
            name=f"r{number}",
            mode=CacheMode.ALL,
            profile=profile,
            share=share,
            group=group,
            actions=True,
            freshness=True,
            verify_share=0.2,
            judge_per_minute=1000,
        )
        rules.append((match, rule))
    rest = CacheRule(
        name="rest", mode=CacheMode.ALL, profile=Profile.VERIFIED, share=rng.choice(tuple(Share)[:4])
    )
    return CachePolicy(version=1, rules=(*rules, (Match(), rest)))


def may_see(world: World, writer: Principal, reader: Principal, model: str) -> bool:
    """Whether ``reader`` is among those with whom ``writer``'s rule for ``model`` shares."""
    if writer.org != reader.org:
        return False
    for match, rule in world.policy.rules:
        if match.orgs and writer.org not in match.orgs:
            continue
        if match.teams and writer.team not in match.teams:
            continue
        if match.models and model not in match.models:
            continue
        group = rule.group
        if group is not None and not _member(group, writer):
            continue
        if group is not None:
            return _member(group, reader)
        levels = {Share.KEY: "key", Share.USER: "user", Share.TEAM: "team"}
        level = levels.get(rule.share)
        return level is None or getattr(writer, level) == getattr(reader, level)
    return False


def _member(group: Group, who: Principal) -> bool:
    return who.org == group.org and (who.team in group.teams or who.user in group.users)
