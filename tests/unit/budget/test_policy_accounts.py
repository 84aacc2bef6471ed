"""budgets.yaml: the windows of each level, what stands in for what is not said, and what is kept of it."""

from __future__ import annotations

from types import MappingProxyType

import pytest

from gateway.budget.calendar import window_bounds, zone_offsets
from gateway.budget.ledger import HoldRequest
from gateway.budget.measure import Measure
from gateway.budget.policy import (
    CACHED_MAX,
    BudgetPolicy,
    LeasePolicy,
    OrgPolicy,
    TierPolicy,
    budget_policy_from,
    ledger_name,
)
from gateway.budget.policy_limits import Limits, RequestLimits
from gateway.budget.window import UNLIMITED, Account, Enforcement, Window, WindowKind
from gateway.config.document import parse_documents
from gateway.contract.errors import PermissionDenied
from gateway.contract.ids import HoldId, KeyId, OrgId, TeamId, Tier, UserId
from gateway.contract.principal import Principal
from gateway.contract.units import Millis, Tokens, UnixMillis

TEXT = """\
version: 7
tiers:
  standard:
    priority: 0
    priority_class: standard
    key:
      tokens_per_minute: 100
      limits:
        - {requests: 60, per: minute, burst: 10}
        - {concurrent: 4}
    request: {prompt_tokens_max: 4000, completion_tokens_max: 1000}
    wait_seconds_max: 2.5
  free: {priority: -5, priority_class: batch}
orgs:
  acme:
    limits:
      - {micro_usd: 50000000, per: month, zone: Europe/Berlin}
      - {tokens: 900, per: minute}
    request: {completion_tokens_max: 900}
    wait_seconds_max: 0
    teams:
      red: {limits: [{tokens: 1000000, per: lifetime, enforcement: shadow}]}
      "*": {limits: [{tokens: 5, per: day}]}
    users:
      anna: {tokens_per_month: 70}
    keys:
      k1:
        limits:
          - {requests: unlimited, per: minute}
          - {completion_tokens: 10000, per: {rolling_seconds: 3600}, enforcement: soft}
        request: {prompt_tokens_max: 50}
    models:
      Org/Big: {limits: [{prompt_tokens: 8, per: hour}], request: {completion_tokens_max: 16}}
    workflows:
      nightly: {tokens_per_minute: 50}
      "*": {limits: [{tokens: 20, per: lifetime}]}
  other: {}
"""
ANNA = "0123456789abcdef0123456789abcdef"


def policy() -> BudgetPolicy:
    return budget_policy_from(parse_documents(TEXT, "budgets.yaml")[0])


POLICY = policy()


def caller(
    *, org: str = "acme", team: str = "red", user: str = "anna", key: str = "k1", tier: str = "standard"
) -> Principal:
    return Principal(org=OrgId(org), team=TeamId(team), user=UserId(user), key=KeyId(key), tier=Tier(tier))


def accounts(principal: Principal, *, model: str = "m", workflow: str = "") -> dict[str, tuple[Window, ...]]:
    found = POLICY.accounts_for(principal, model=model, user=ANNA, workflow=workflow)
    return {account.id: account.windows for account in found}


def per_minute(limit: int) -> Window:
    return Window(kind=WindowKind.MINUTE, limit=limit)


def per_month(limit: int) -> Window:
    return Window(kind=WindowKind.MONTH, limit=limit)


def test_every_level_in_its_order_with_every_kind_of_window() -> None:
    found = accounts(caller(), model="Org/Big", workflow="nightly")
    assert list(found) == [
        "org",
        "team/red",
        f"user/{ANNA}",
        "key/k1",
        f"model/{ledger_name('Org/Big')}",
        "workflow/nightly",
    ]
    org, team, user, key, model, workflow = found.values()
    assert org == (
        per_minute(900),
        per_month(UNLIMITED),
        Window(kind=WindowKind.MONTH, limit=50_000_000, measure=Measure.MICRO_USD, zone="Europe/Berlin"),
    )
    assert team == (Window(kind=WindowKind.LIFETIME, limit=1_000_000, enforcement=Enforcement.SHADOW),)
    assert user == (per_month(70),)
    assert key == (
        per_minute(100),
        per_month(UNLIMITED),
        Window(kind=WindowKind.MINUTE, limit=UNLIMITED, measure=Measure.REQUESTS),
        Window(
            kind=WindowKind.ROLLING,
            seconds=3600,
            limit=10_000,
            measure=Measure.COMPLETION_TOKENS,
            enforcement=Enforcement.SOFT,
        ),
        Window(kind=WindowKind.LIFETIME, limit=4, measure=Measure.CONCURRENT),
    )
    assert model == (Window(kind=WindowKind.HOUR, limit=8, measure=Measure.PROMPT_TOKENS),)
    assert workflow == (per_minute(50),)


def test_what_is_not_listed_has_the_asterisks_limits_or_no_account() -> None:
    found = accounts(caller(team="blue", user="ben", key="k2"), workflow="aa" * 16)
    assert list(found) == ["org", "team/blue", "key/k2", f"workflow/{'aa' * 16}"]
    assert found["team/blue"] == (Window(kind=WindowKind.DAY, limit=5),)
    assert found[f"workflow/{'aa' * 16}"] == (Window(kind=WindowKind.LIFETIME, limit=20),)
    burst = Window(kind=WindowKind.MINUTE, limit=60, burst=10, measure=Measure.REQUESTS)
    flight = Window(kind=WindowKind.LIFETIME, limit=4, measure=Measure.CONCURRENT)
    assert found["key/k2"] == (per_minute(100), per_month(UNLIMITED), burst, flight)


def test_an_org_of_which_nothing_is_said_is_counted() -> None:
    counted = (per_minute(UNLIMITED), per_month(UNLIMITED))
    assert accounts(caller(org="other", tier="free"), workflow="x") == {"org": counted, "key/k1": counted}


def test_a_user_or_model_or_workflow_without_a_name_has_no_account() -> None:
    found = POLICY.accounts_for(caller(), model="", user="")
    assert [account.id for account in found] == ["org", "team/red", "key/k1"]


def test_the_accounts_are_such_as_the_ledger_takes() -> None:
    found = POLICY.accounts_for(caller(), model="Org/Big", user=ANNA, workflow="nightly")
    HoldRequest(
        hold=HoldId("r1"),
        org=OrgId("acme"),
        accounts=found,
        fixed=Tokens(1),
        choices=1,
        units_wanted=Tokens(1),
        units_min=Tokens(1),
        ttl=Millis(1000),
        policy_version=POLICY.version,
    )


def test_the_smallest_limit_of_a_request_counts() -> None:
    def limits(principal: Principal, model: str = "m") -> tuple[int | None, int | None]:
        found = POLICY.request_limits(principal, model=model)
        return found.prompt_tokens_max, found.completion_tokens_max

    assert limits(caller()) == (50, 900)
    assert limits(caller(), "Org/Big") == (50, 16)
    assert limits(caller(key="k2")) == (4000, 900)
    assert limits(caller(org="other")) == (4000, 1000)
    assert limits(caller(org="other", tier="free")) == (None, None)


def test_a_zero_of_the_org_goes_over_the_wait_of_the_tier() -> None:
    assert POLICY.wait_max(caller()) == 0.0
    assert POLICY.wait_max(caller(org="other")) == 2.5
    assert POLICY.wait_max(caller(org="other", tier="free")) == 0.0


def test_strangers_are_refused_by_every_question() -> None:
    for stranger, code in ((caller(org="x"), "org_not_allowed"), (caller(tier="x"), "tier_not_allowed")):
        for ask in (
            lambda who: POLICY.accounts_for(who, model="m", user=ANNA),
            lambda who: POLICY.request_limits(who, model="m"),
            POLICY.wait_max,
        ):
            with pytest.raises(PermissionDenied) as refusal:
                ask(stranger)
            assert refusal.value.code == code


def test_only_a_listed_workflow_keeps_its_name() -> None:
    assert POLICY.names_workflow(caller(), "nightly")
    assert not any(POLICY.names_workflow(caller(), name) for name in ("*", "", "Nightly"))
    assert not POLICY.names_workflow(caller(org="other"), "nightly")


@pytest.mark.parametrize("model", ["a", "A", "a+b", "a@b", "a_b", "x" * 128, "X" * 128, "org/model-1.5"])
def test_no_two_models_share_an_account(model: str) -> None:
    names = {ledger_name(other) for other in ("a", "A", "a+b", "a@b", "a_b", "A_b") if other != model}
    assert ledger_name(model) not in names
    Account(id=POLICY.accounts_for(caller(), model=model, user=ANNA)[0].id, windows=())
    everywhere = BudgetPolicy(
        version=1,
        tiers=POLICY.tiers,
        orgs=MappingProxyType(
            {OrgId("acme"): OrgPolicy(models=MappingProxyType({"*": Limits.of_tokens(per_minute=1)}))}
        ),
    )
    assert everywhere.accounts_for(caller(), model=model, user="")[-1].id == f"model/{ledger_name(model)}"


def test_accounts_are_made_once_and_not_kept_without_end() -> None:
    fresh = policy()
    first = fresh.accounts_for(caller(), model="m", user=ANNA)
    assert fresh.accounts_for(caller(), model="m", user=ANNA) is first
    for session in range(CACHED_MAX):
        fresh.accounts_for(caller(), model="m", user=ANNA, workflow=f"s{session}")
    again = fresh.accounts_for(caller(), model="m", user=ANNA)
    assert again == first and again is not first


def test_accounts_with_the_same_limits_share_their_list() -> None:
    first, second = (POLICY.accounts_for(caller(key=key), model="m", user=ANNA) for key in ("k2", "k3"))
    assert [account.id for account in second] == ["org", "team/red", f"user/{ANNA}", "key/k3"]
    assert all(one.windows is other.windows for one, other in zip(first, second, strict=True))


def test_no_request_waits_for_the_offsets_of_a_zone() -> None:
    zone_offsets.cache_clear()
    fresh = policy()
    made = zone_offsets.cache_info().misses
    (org, *_) = fresh.accounts_for(caller(), model="m", user=ANNA)
    assert org.windows[-1].zone == "Europe/Berlin"
    window_bounds(org.windows[-1], UnixMillis(0))
    assert zone_offsets.cache_info().misses == made == 1


def test_snapshots_of_one_file_are_equal_and_cannot_be_changed() -> None:
    assert policy() == POLICY
    with pytest.raises(TypeError):
        POLICY.orgs[OrgId("x")] = OrgPolicy()  # type: ignore[index]
    with pytest.raises(AttributeError):
        POLICY.version = 8  # type: ignore[misc]


def test_leases_are_off_until_the_policy_says_otherwise() -> None:
    assert POLICY.leases == LeasePolicy() and not POLICY.leases.enabled
    text = TEXT + "leases: {enabled: true, share: 4, requests: 3, ttl_seconds: 2}\n"
    leases = budget_policy_from(parse_documents(text, "budgets.yaml")[0]).leases
    assert leases == LeasePolicy(enabled=True, share=4, requests=3, requests_least=3, ttl=Millis(2000))


def test_limits_made_in_code() -> None:
    assert Limits.of_tokens(per_minute=3).windows == (per_minute(3),)
    assert Limits.of_tokens(per_month=0).always_counted() == (per_minute(UNLIMITED), per_month(0))
    assert Limits.of_tokens(per_minute=3).over(Limits.of_tokens(per_minute=9, per_month=9)).windows == (
        per_minute(3),
        per_month(9),
    )
    none = RequestLimits()
    assert none.and_also(none) == none
    assert TierPolicy(priority=0, priority_class="x").key == Limits()
