"""Requests as they arrive at the two filters, and the policy they are held against."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from types import MappingProxyType
from typing import Any, TypeVar

import orjson

from ext_proc.cache.policy import CacheMode, CachePolicy, CacheRule, Match
from ext_proc.phases.admit import Admit
from ext_proc.rules import AdmitRules, Secrets
from ext_proc.vocabulary import (
    AskCache,
    Behind,
    CacheAnswered,
    Effect,
    HoldAnswered,
    PeerGone,
    ReplyNow,
    RequestBodyArrived,
    RequestHeadersArrived,
    Reserve,
)
from gateway.budget.lease_hand import LeaseGrant
from gateway.budget.ledger import Granted, HoldRequest
from gateway.budget.measure import Measure
from gateway.budget.policy import BudgetPolicy, OrgPolicy, TierPolicy
from gateway.budget.policy_limits import Limits
from gateway.budget.window import Standing
from gateway.contract.ids import AccountId, ModelName, OrgId, Tier
from gateway.contract.units import Tokens, UnixMillis
from gateway.models.catalogue import Model, catalogue_of
from gateway.openai.terms import Capabilities, Endpoint
from tests.harness import canary

E = TypeVar("E", bound=Effect)
NOW = UnixMillis(1_800_000_000_000)
PRINCIPAL: dict[str, object] = {
    "org": "acme",
    "team": "t1",
    "user": "alice",
    "key": "k1",
    "tier": "standard",
    "models": ["chat", "embed", "quiet"],
    "scopes": [],
}
HEADERS = {
    ":method": "POST",
    ":path": "/v1/chat/completions",
    "content-type": "application/json",
    "authorization": "Bearer tg-secret",
    "x-request-id": "r-1",
}
SAY = {"model": "chat", "messages": [{"role": "user", "content": canary.PROMPT}], "temperature": 0}


def model(name: str, *endpoints: Endpoint, **changed: Any) -> Model:
    plain: dict[str, Any] = {
        "served_name": name,
        "revision": "r1",
        "context_tokens": 1000,
        "max_completion_tokens": 600,
        "template_tokens_base": 10,
        "template_tokens_per_message": 5,
        "capabilities": Capabilities(n_max=4, batch_max=8),
    }
    return Model(name=ModelName(name), endpoints=frozenset(endpoints), **{**plain, **changed})


CATALOGUE = catalogue_of(
    (
        model("chat", Endpoint.CHAT, Endpoint.COMPLETIONS, aliases=("gpt-4o",)),
        model("quiet", Endpoint.CHAT),
        model("embed", Endpoint.EMBEDDINGS),
        model("secret", Endpoint.CHAT),
    )
)


def budgets(*, per_minute: int | None = 10_000, wait: float = 0.0, **org: Any) -> BudgetPolicy:
    """``org``: more of the org's policy."""
    standard = TierPolicy(priority=5, priority_class="normal", wait_seconds_max=wait)
    high = TierPolicy(priority=9, priority_class="high", wait_seconds_max=wait)
    limits = Limits.of_tokens(per_minute=per_minute)
    return BudgetPolicy(
        version=3,
        tiers=MappingProxyType({Tier("standard"): standard, Tier("high"): high}),
        orgs=MappingProxyType({OrgId("acme"): OrgPolicy(**{"limits": limits, **org})}),
    )


CACHING = CachePolicy(
    version=4,
    rules=((Match(models=frozenset({"quiet"})), CacheRule(name="quiet", mode=CacheMode.OFF)),),
)
RULES = AdmitRules(
    caching=CACHING,
    catalogue=CATALOGUE,
    budgets=budgets(),
    secrets=Secrets(pseudonym=b"p" * 32, cache_salt=b"s" * 32),
)


PATIENT = replace(RULES, budgets=budgets(wait=5.0))
"""As RULES, but requests wait for their turn."""


def headers(*, end: bool = False, principal: dict[str, object] | None = PRINCIPAL, **changed: str) -> Any:
    """``changed``: header names with ``_`` for ``-``; ``path`` and ``method`` without their colon."""
    found = dict(HEADERS)
    for name, value in changed.items():
        found[f":{name}" if name in ("path", "method") else name.replace("_", "-")] = value
    sent = {name: value for name, value in found.items() if value}
    return RequestHeadersArrived(
        headers=sent,
        header_count=len(sent),
        header_bytes=sum(len(name) + len(value) for name, value in sent.items()),
        principal=None if principal is None else {"principal": principal},
        end_of_stream=end,
        at_ms=NOW,
        at_s=1.0,
    )


def body(fields: Any = None, **changed: Any) -> RequestBodyArrived:
    data = fields if isinstance(fields, bytes) else orjson.dumps({**(fields or SAY), **changed})
    return RequestBodyArrived(body=data, at_ms=NOW, at_s=1.0)


def standing(**changed: Any) -> Standing:
    """The org's minute of 100 tokens, 80 of which are used."""
    plain: dict[str, Any] = {
        "account": AccountId("org"),
        "measure": Measure.TOKENS,
        "span": "minute",
        "limit": 100,
        "used": 80,
        "held": 0,
        "resets_at": UnixMillis(NOW + 6000),
    }
    return Standing(**{**plain, **changed})


def granted(
    request: HoldRequest, *others: Standing, units: int | None = None, limit: int = 10_000, **changed: Any
) -> HoldAnswered:
    """``others``: what else is tight, beside the org's minute with its ``limit``. With a ``lease``, out of
    that."""
    given = request.units_wanted if units is None else Tokens(units)
    amounts = request.amounts(given)
    minute = standing(limit=limit, used=0, held=amounts.tokens)
    kind = LeaseGrant if "lease" in changed else Granted
    answer = kind(
        hold=request.hold,
        amounts=amounts,
        units=given,
        tightest={one.measure: one for one in (minute, *others)},
        expires_at=UnixMillis(NOW + 900_000),
        **changed,
    )
    return HoldAnswered(answer=answer, at_ms=NOW)


def only(kind: type[E], effects: Iterable[Effect]) -> E:
    """The one effect of ``kind``."""
    found = [effect for effect in effects if isinstance(effect, kind)]
    assert len(found) == 1, effects
    return found[0]


def none(kind: type[Effect], effects: Iterable[Effect]) -> bool:
    return not any(isinstance(effect, kind) for effect in effects)


def shown_error(reply: ReplyNow) -> dict[str, Any]:
    found = orjson.loads(reply.body)["error"]
    assert isinstance(found, dict)
    return found


def admitted(
    fields: Any = None, *, rules: AdmitRules = RULES, arrived: Any = None, **changed: Any
) -> tuple[Admit, HoldRequest]:
    """A request that waits for its hold; its cache look-up, if any, was a failure. ``arrived``: its
    headers."""
    machine = Admit(rules)
    machine.receive(arrived or headers())
    effects = machine.receive(body(fields, **changed))
    if not none(AskCache, effects):
        effects = machine.receive(CacheAnswered(lookup=None, at_ms=NOW))
    return machine, only(Reserve, effects).request


GONE = PeerGone(at_s=3.0)
BEHIND = HoldAnswered(answer=Behind(account=AccountId("org")), at_ms=NOW)
