"""budgets.yaml under fuzz: its whole grammar, limits made by chance, and what every accepted policy must
give: accounts that the ledger takes, with windows that begin and end."""

from __future__ import annotations

import random
from typing import Any, Final

import yaml

from gateway.budget.calendar import window_bounds
from gateway.budget.ledger import check_accounts
from gateway.budget.measure import Measure
from gateway.budget.policy import BudgetPolicy
from gateway.budget.policy_limits import ANY
from gateway.contract.ids import KeyId, OrgId, TeamId, UserId
from gateway.contract.principal import Principal
from gateway.contract.units import UnixMillis
from tests.fuzz.mutation import changed_value

TEXT: Final = """\
version: 1
minimum_completion_tokens: 16
leases: {enabled: true, share: 16, requests: 32, requests_least: 4, ttl_seconds: 5}
tiers:
  standard:
    priority: 0
    priority_class: standard
    request: {prompt_tokens_max: 100000, completion_tokens_max: 4096}
    wait_seconds_max: 5
    key:
      tokens_per_minute: 500000
      limits:
        - {requests: 600, per: minute, burst: 100}
        - {concurrent: 64}
orgs:
  demo:
    tokens_per_month: 10000000000
    wait_seconds_max: 0.5
    request: {prompt_tokens_max: 100000}
    limits:
      - {micro_usd: 50000000, per: month, zone: Europe/Berlin}
      - {completion_tokens: 10000, per: {rolling_seconds: 3600}, enforcement: soft}
      - {tokens: unlimited, per: lifetime}
    teams: {research: {limits: [{tokens: 50000000, per: day}]}, "*": {tokens_per_minute: 3}}
    users: {"*": {limits: [{requests: 1000, per: hour, enforcement: shadow}]}}
    keys: {ci: {tokens_per_minute: 100000, request: {completion_tokens_max: 9}}}
    models: {m: {limits: [{prompt_tokens: 7, per: lifetime}]}, "*": {}}
    workflows: {nightly: {tokens_per_minute: 2}, "*": {limits: [{tokens: 500000, per: lifetime}]}}
  "*": {tokens_per_minute: 1000000}
"""
SMALL: Final = """\
version: 1
tiers: {s: {priority: 0, priority_class: s, key: {}}}
orgs: {d: {limits: [{tokens: 1, per: day, zone: UTC}]}}
"""
DATA: Final = yaml.safe_load(TEXT)
NAMES: Final = (
    *(
        "version",
        "minimum_completion_tokens",
        "tiers",
        "orgs",
        "priority",
        "key",
        "leases",
        "enabled",
        "share",
    ),
    *("tokens_per_minute", "tokens_per_month", "limits", "request", "prompt_tokens_max", "wait_seconds_max"),
    *("teams", "users", "keys", "models", "workflows", "per", "zone", "burst", "enforcement", "x", ANY),
    *Measure,
)
_AMOUNTS: Final = (0, 1, 9, 500, 2**53 - 1, "unlimited")
_SPANS: Final = (
    *("minute", "hour", "day", "month", "lifetime", "week"),
    *({"rolling_seconds": seconds} for seconds in (1, 59, 60, 3600, 31 * 24 * 3600)),
)
_ZONES: Final = ("UTC", "Europe/Berlin", "Asia/Kathmandu", "Europe/Berln", "localtime", "../etc/passwd")
_PLACES: Final = (
    *((), ("teams", "research"), ("teams", ANY), ("users", ANY), ("keys", "ci"), ("models", "m")),
    *(("models", ANY), ("workflows", "nightly"), ("workflows", "a"), ("keys", "k2"), ("users", "B")),
)
_MOMENTS: Final = (0, 1_800_000_000_000, 1_850_000_123_456)


def made_limit(rng: random.Random) -> dict[str, Any]:
    """A limit, mostly a right one."""
    measure = rng.choice(tuple(Measure))
    made: dict[str, Any] = {measure.value: rng.choice(_AMOUNTS)}
    if measure is not Measure.CONCURRENT or rng.random() < 0.1:
        made["per"] = rng.choice(_SPANS)
    if rng.random() < (0.7 if made.get("per") in ("day", "month") else 0.05):
        made["zone"] = rng.choice(_ZONES)
    if rng.random() < (0.5 if made.get("per") in ("minute", "hour") else 0.05):
        made["burst"] = rng.choice((1, 500))
    if rng.random() < 0.3:
        made["enforcement"] = rng.choice(("hard", "soft", "shadow", "lax"))
    return made


def changed_budgets(rng: random.Random) -> Any:
    """The whole grammar with one or two changes: of any kind, or other limits at one place."""
    data = DATA
    for _ in range(rng.choice((1, 1, 2))):
        if rng.random() < 0.5 or not isinstance(data, dict) or not isinstance(data.get("orgs"), dict):
            data = changed_value(rng, data, NAMES)
            continue
        org, place = rng.choice(("demo", "demo", ANY)), rng.choice(_PLACES)
        made = [made_limit(rng) for _ in range(rng.choice((1, 1, 2, 3, 16)))]
        data = _put(data, ("orgs", org, *place, "limits"), made)
    return data


def _put(data: Any, path: tuple[str, ...], value: Any) -> Any:
    if not path:
        return value
    inner = data if isinstance(data, dict) else {}
    return {**inner, path[0]: _put(inner.get(path[0]), path[1:], value)}


def check_budgets(policy: BudgetPolicy) -> None:
    """Whoever asks gets accounts the ledger takes; every window begins and ends around now."""
    for tier in policy.tiers:
        for org, said in policy.orgs.items():
            names = [*said.teams, *said.users, *said.keys, *said.workflows, "else"]
            for name in names:
                who = Principal(
                    org=OrgId("stranger" if org == ANY else org),
                    team=TeamId(_named(name)),
                    user=UserId(_named(name)),
                    key=KeyId(_named(name)),
                    tier=tier,
                )
                _check_asked(policy, who, [*said.models, "Other/Model"], _named(name))


def _check_asked(policy: BudgetPolicy, who: Principal, models: list[str], workflow: str) -> None:
    for model in models:
        accounts = policy.accounts_for(who, model=model, user="0" * 32, workflow=workflow)
        check_accounts(accounts)
        assert accounts[0].id == "org" and any(account.id == f"key/{who.key}" for account in accounts)
        for window in [window for account in accounts for window in account.windows]:
            for now in _MOMENTS:
                begins, ends = window_bounds(window, UnixMillis(now))
                assert begins <= now and (ends == 0 or now < ends), window
        policy.request_limits(who, model=model)
    assert 0 <= policy.wait_max(who) <= 30


def _named(name: str) -> str:
    return "anybody" if name == ANY else name
