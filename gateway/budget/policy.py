"""The budget policy: one immutable snapshot of budgets.yaml, and the accounts it gives a request.

The schema is published beside this file (policy.schema.json), the reference is docs/budgets.md. The policy
names limits only; what counts is what the ledger has under the newest policy version.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache, lru_cache
from hashlib import sha256
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import orjson

from gateway.budget.calendar import zone_offsets
from gateway.budget.policy_limits import (
    ANY,
    LEASE_REQUESTS,
    LEASE_REQUESTS_LEAST,
    Limits,
    RequestLimits,
    limits_from,
    request_limits_from,
)
from gateway.budget.policy_problems import named_zones, policy_problems
from gateway.budget.window import Account, Window
from gateway.config.document import Document, PolicyError, read_document, validate
from gateway.contract.errors import PermissionDenied
from gateway.contract.ids import AccountId, KeyId, OrgId, TeamId, Tier, UserId
from gateway.contract.principal import Principal
from gateway.contract.units import Millis, Seconds, Tokens

FILE: Final = "budgets.yaml"
"""Its name in the policy directory."""
ORG_ACCOUNT: Final = AccountId("org")
MINIMUM_COMPLETION: Final = Tokens(16)
CACHED_MAX: Final = 4096
"""Combinations of caller, model and workflow whose accounts are kept: some 2 KiB each."""
_LEDGER_NAME: Final = re.compile(r"[a-z0-9][a-z0-9_./-]*\Z")


@dataclass(frozen=True, slots=True, kw_only=True)
class TierPolicy:
    """``priority`` goes to the engine's queue, ``priority_class`` into the route; ``key`` are the limits
    of each key of this tier."""

    priority: int
    priority_class: str
    key: Limits = Limits()
    request: RequestLimits = RequestLimits()
    wait_seconds_max: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class OrgPolicy:
    """The org's own limits, and those of accounts inside it, by name or ANY."""

    limits: Limits = Limits()
    teams: Mapping[TeamId, Limits] = field(default_factory=lambda: MappingProxyType({}))
    users: Mapping[UserId, Limits] = field(default_factory=lambda: MappingProxyType({}))
    """By the real id; no account is named by it."""
    keys: Mapping[KeyId, Limits] = field(default_factory=lambda: MappingProxyType({}))
    models: Mapping[str, Limits] = field(default_factory=lambda: MappingProxyType({}))
    workflows: Mapping[str, Limits] = field(default_factory=lambda: MappingProxyType({}))
    wait_seconds_max: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LeasePolicy:
    """What a worker may hold ahead, to decide requests in memory (gateway.budget.ledger, Leases)."""

    enabled: bool = False
    share: int = 16
    """A lease takes at most this part, 1/share, of what the tightest hard window has left: 16 workers or
    leases can stand side by side before the last of them gets half of what the first got."""
    requests: int = LEASE_REQUESTS
    """How many requests of the size lately seen a lease is to fund."""
    requests_least: int = LEASE_REQUESTS_LEAST
    """A lease that would fund fewer is not made: it would cost more round trips than it saves."""
    ttl: Millis = Millis(5_000)
    """How long a lease lasts, and how long at most a worker decides without the ledger: also how long a
    lowered limit may still be spent from what was leased before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetPolicy:
    """All of budgets.yaml."""

    version: int
    minimum_completion_tokens: Tokens = MINIMUM_COMPLETION
    """Below this many tokens of completion a request is refused rather than clamped."""
    tiers: Mapping[Tier, TierPolicy]
    orgs: Mapping[OrgId, OrgPolicy]
    leases: LeasePolicy = LeasePolicy()
    _accounts: Callable[..., tuple[Account, ...]] = field(init=False, repr=False, compare=False)
    _request: Callable[..., RequestLimits] = field(init=False, repr=False, compare=False)
    _lists: dict[tuple[Window, ...], tuple[Window, ...]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )
    """One object for each list of windows, as many as the file has: the ledger remembers their text by
    identity."""

    def __post_init__(self) -> None:
        """Accounts are made once for each combination of this snapshot that is asked for."""
        object.__setattr__(self, "_accounts", lru_cache(maxsize=CACHED_MAX)(self._make_accounts))
        object.__setattr__(self, "_request", lru_cache(maxsize=CACHED_MAX)(self._make_request_limits))

    def tier(self, principal: Principal) -> TierPolicy:
        """Raises PermissionDenied for a tier the policy does not name."""
        return self._tier(principal.tier)

    def accounts_for(
        self, principal: Principal, *, model: str, user: str, workflow: str = ""
    ) -> tuple[Account, ...]:
        """The accounts of a request, in the order org, team, user, key, model, workflow. The org's and the
        key's always have the tokens of a minute and of a month; any other is left out where the policy
        gives it no window, and where its name is empty.

        ``model``: its name in the catalogue. ``user``: the user's pseudonym, which stands in the account's
        id. ``workflow``: as ``names_workflow`` says, or its pseudonym. Raises PermissionDenied for an org
        or a tier without a budget.
        """
        return self._accounts(
            principal.org,
            principal.team,
            principal.user,
            principal.key,
            principal.tier,
            model,
            user,
            workflow,
        )

    def request_limits(self, principal: Principal, *, model: str) -> RequestLimits:
        """The smallest that tier, org, team, user, key and model name. Raises PermissionDenied."""
        return self._request(
            principal.org, principal.team, principal.user, principal.key, principal.tier, model
        )

    def wait_max(self, principal: Principal) -> Seconds:
        """How long a request that cannot be paid now may wait: the org's word, else the tier's, else 0
        (refuse at once). Raises PermissionDenied."""
        org, tier = self._org(principal.org), self._tier(principal.tier)
        said = tier.wait_seconds_max if org.wait_seconds_max is None else org.wait_seconds_max
        return Seconds(said or 0.0)

    def names_workflow(self, principal: Principal, workflow: str) -> bool:
        """Whether the policy lists ``workflow`` by this name for the caller's org: then its account has the
        name, and any other its pseudonym. Raises PermissionDenied."""
        return workflow != ANY and workflow in self._org(principal.org).workflows

    def _tier(self, name: Tier) -> TierPolicy:
        found = self.tiers.get(name)
        if found is None:
            raise PermissionDenied(f"The tier {name} has no budget here.", code="tier_not_allowed")
        return found

    def _org(self, name: OrgId) -> OrgPolicy:
        found = self.orgs.get(name) or self.orgs.get(OrgId(ANY))
        if found is None:
            raise PermissionDenied(f"The organization {name} has no budget here.", code="org_not_allowed")
        return found

    def _make_accounts(
        self,
        org: OrgId,
        team: TeamId,
        user_id: UserId,
        key: KeyId,
        tier: Tier,
        model: str,
        user: str,
        workflow: str,
    ) -> tuple[Account, ...]:
        policy = self._org(org)
        of_key = _of(policy.keys, key).over(self._tier(tier).key)
        optional = {
            f"team/{team}": _of(policy.teams, team).windows,
            f"user/{user}": _of(policy.users, user_id).windows if user else (),
            f"key/{key}": of_key.always_counted(),
            f"model/{ledger_name(model)}": _of(policy.models, model).windows if model else (),
            f"workflow/{workflow}": _of(policy.workflows, workflow).windows if workflow else (),
        }
        named = {ORG_ACCOUNT: policy.limits.always_counted(), **optional}
        return tuple(
            Account(id=AccountId(name), windows=self._lists.setdefault(windows, windows))
            for name, windows in named.items()
            if windows
        )

    def _make_request_limits(
        self, org: OrgId, team: TeamId, user_id: UserId, key: KeyId, tier: Tier, model: str
    ) -> RequestLimits:
        policy = self._org(org)
        found = self._tier(tier).request.and_also(policy.limits.request)
        places = (
            _of(policy.teams, team),
            _of(policy.users, user_id),
            _of(policy.keys, key),
            _of(policy.models, model),
        )
        for place in places:
            found = found.and_also(place.request)
        return found


def _of(places: Mapping[Any, Limits], name: str) -> Limits:
    """The limits of ``name``, else of all that are not listed, else none."""
    return places.get(name) or places.get(ANY) or Limits()


def ledger_name(model: str) -> str:
    """``model`` as an account's id may hold it. A name with other letters than those (upper case, ``@``,
    ``+``) is written with ``_`` for ``@`` and ``+``, in lower case, and with a part of its hash, so that no
    two models share an account."""
    if _LEDGER_NAME.match(model):
        return model
    plain = re.sub(r"[^a-z0-9_./-]", "_", model.lower())
    return f"{plain}.{sha256(model.encode()).hexdigest()[:12]}"


@cache
def schema() -> Mapping[str, Any]:
    """The published JSON Schema."""
    found: dict[str, Any] = orjson.loads(Path(__file__).with_name("policy.schema.json").read_bytes())
    return found


def load_budget_policy(path: Path) -> BudgetPolicy:
    """Read budgets.yaml. Raises PolicyError, which names file, line and path."""
    return budget_policy_from(read_document(path))


def budget_policy_from(document: Document) -> BudgetPolicy:
    """The snapshot of a document. Raises PolicyError with every problem."""
    validate(document, schema())
    problems = policy_problems(document)
    if problems:
        raise PolicyError(sorted(problems, key=lambda problem: problem.line))
    for zone in named_zones(document):
        zone_offsets(zone)  # some 80 ms, which would else be the first request's
    data = document.data
    return BudgetPolicy(
        version=int(data["version"]),
        minimum_completion_tokens=Tokens(int(data.get("minimum_completion_tokens", MINIMUM_COMPLETION))),
        tiers=MappingProxyType({Tier(name): _tier_from(tier) for name, tier in data["tiers"].items()}),
        orgs=MappingProxyType({OrgId(name): _org_from(org) for name, org in data["orgs"].items()}),
        leases=_leases_from(data.get("leases", {})),
    )


def _tier_from(data: Mapping[str, Any]) -> TierPolicy:
    return TierPolicy(
        priority=int(data["priority"]),
        priority_class=data["priority_class"],
        key=limits_from(data.get("key", {})),
        request=request_limits_from(data.get("request", {})),
        wait_seconds_max=data.get("wait_seconds_max"),
    )


def _org_from(data: Mapping[str, Any]) -> OrgPolicy:
    def places(level: str) -> dict[str, Limits]:
        return {name: limits_from(limits) for name, limits in data.get(level, {}).items()}

    return OrgPolicy(
        limits=limits_from(data),
        teams=MappingProxyType({TeamId(name): limits for name, limits in places("teams").items()}),
        users=MappingProxyType({UserId(name): limits for name, limits in places("users").items()}),
        keys=MappingProxyType({KeyId(name): limits for name, limits in places("keys").items()}),
        models=MappingProxyType(places("models")),
        workflows=MappingProxyType(places("workflows")),
        wait_seconds_max=data.get("wait_seconds_max"),
    )


def _leases_from(data: Mapping[str, Any]) -> LeasePolicy:
    usual = LeasePolicy()
    requests = int(data.get("requests", usual.requests))
    return LeasePolicy(
        enabled=data.get("enabled", usual.enabled),
        share=int(data.get("share", usual.share)),
        requests=requests,
        requests_least=int(data.get("requests_least", min(requests, usual.requests_least))),
        ttl=Millis(int(data["ttl_seconds"]) * 1000) if "ttl_seconds" in data else usual.ttl,
    )
