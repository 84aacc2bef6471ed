"""The budget policy: one immutable snapshot of budgets.yaml, and the accounts it gives a principal.

The schema is published beside this file (policy.schema.json). The policy names limits only; what
counts is what the ledger has under the newest policy version.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import orjson

from gateway.budget.ledger import UNLIMITED, Account, Window, WindowKind
from gateway.config.document import Document, PathKey, PolicyError, Problem, read_document, validate
from gateway.contract.errors import PermissionDenied
from gateway.contract.ids import AccountId, KeyId, OrgId, Tier
from gateway.contract.principal import Principal
from gateway.contract.units import Tokens

FILE: Final = "budgets.yaml"
"""Its name in the policy directory."""
ANY_ORG: Final = "*"
ORG_ACCOUNT: Final = AccountId("org")
MINIMUM_COMPLETION: Final = Tokens(16)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Tokens a window; None where the policy says nothing."""

    tokens_per_minute: Tokens | None = None
    tokens_per_month: Tokens | None = None

    def over(self, fallback: Limits) -> Limits:
        """These limits, and those of ``fallback`` where nothing is said here."""
        minute, month = self.tokens_per_minute, self.tokens_per_month
        return Limits(
            tokens_per_minute=fallback.tokens_per_minute if minute is None else minute,
            tokens_per_month=fallback.tokens_per_month if month is None else month,
        )

    def windows(self) -> tuple[Window, Window]:
        """Both windows always: one without a limit is counted, and replaces a limit of an older version."""
        minute, month = self.tokens_per_minute, self.tokens_per_month
        return (
            Window(kind=WindowKind.MINUTE, limit=UNLIMITED if minute is None else minute),
            Window(kind=WindowKind.MONTH, limit=UNLIMITED if month is None else month),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TierPolicy:
    """``priority`` goes to the engine's queue, ``priority_class`` into the route; ``key`` are the limits
    of each key of this tier."""

    priority: int
    priority_class: str
    key: Limits = Limits()


@dataclass(frozen=True, slots=True, kw_only=True)
class OrgPolicy:
    """The org's own limits, and those of single keys."""

    limits: Limits = Limits()
    keys: Mapping[KeyId, Limits] = field(default_factory=lambda: MappingProxyType({}))


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetPolicy:
    """All of budgets.yaml."""

    version: int
    minimum_completion_tokens: Tokens = MINIMUM_COMPLETION
    """Below this many tokens of completion a request is refused rather than clamped."""
    tiers: Mapping[Tier, TierPolicy]
    orgs: Mapping[OrgId, OrgPolicy]

    def tier(self, principal: Principal) -> TierPolicy:
        """Raises PermissionDenied for a tier the policy does not name."""
        found = self.tiers.get(principal.tier)
        if found is None:
            raise PermissionDenied(f"The tier {principal.tier} has no budget here.", code="tier_not_allowed")
        return found

    def accounts_for(self, principal: Principal) -> tuple[Account, ...]:
        """The org's account and the key's, each with both windows. Raises PermissionDenied for an org or
        a tier without a budget."""
        org = self.orgs.get(principal.org) or self.orgs.get(OrgId(ANY_ORG))
        if org is None:
            raise PermissionDenied(
                f"The organization {principal.org} has no budget here.", code="org_not_allowed"
            )
        key = org.keys.get(principal.key, Limits()).over(self.tier(principal).key)
        return (
            Account(id=ORG_ACCOUNT, windows=org.limits.windows()),
            Account(id=AccountId(f"key/{principal.key}"), windows=key.windows()),
        )


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
    problems = _problems(document)
    if problems:
        raise PolicyError(problems)
    data = document.data
    return BudgetPolicy(
        version=int(data["version"]),
        minimum_completion_tokens=Tokens(int(data.get("minimum_completion_tokens", MINIMUM_COMPLETION))),
        tiers=MappingProxyType({Tier(name): _tier(tier) for name, tier in data["tiers"].items()}),
        orgs=MappingProxyType({OrgId(name): _org(org) for name, org in data["orgs"].items()}),
    )


def _limits(data: Mapping[str, Any]) -> Limits:
    def tokens(name: str) -> Tokens | None:
        return Tokens(int(data[name])) if name in data else None

    return Limits(tokens_per_minute=tokens("tokens_per_minute"), tokens_per_month=tokens("tokens_per_month"))


def _tier(data: Mapping[str, Any]) -> TierPolicy:
    return TierPolicy(
        priority=int(data["priority"]),
        priority_class=data["priority_class"],
        key=_limits(data.get("key", {})),
    )


def _org(data: Mapping[str, Any]) -> OrgPolicy:
    keys = {KeyId(key): _limits(limits) for key, limits in data.get("keys", {}).items()}
    return OrgPolicy(limits=_limits(data), keys=MappingProxyType(keys))


def _problems(document: Document) -> list[Problem]:
    """What a schema cannot say."""
    problems = []
    if "keys" in document.data["orgs"].get(ANY_ORG, {}):
        problems.append(
            document.problem(
                ("orgs", ANY_ORG, "keys"),
                "a key belongs to one org, and these are all others",
                "list the org and put the key there",
            )
        )
    places: list[tuple[PathKey, Mapping[str, Any]]] = []
    for name, tier in document.data["tiers"].items():
        places.append((("tiers", name, "key"), tier.get("key", {})))
    for name, org in document.data["orgs"].items():
        places.append((("orgs", name), org))
        places.extend((("orgs", name, "keys", key), limits) for key, limits in org.get("keys", {}).items())
    for path, limits in places:
        minute, month = limits.get("tokens_per_minute", 0), limits.get("tokens_per_month")
        if month is not None and minute > month:
            problems.append(
                document.problem(
                    (*path, "tokens_per_minute"),
                    f"{minute} a minute is more than the {month} of the whole month",
                    "raise tokens_per_month or lower this",
                )
            )
    return problems
