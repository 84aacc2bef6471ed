"""budgets.yaml: which accounts a principal gets, and refusals that name their place."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from gateway.budget.policy import BudgetPolicy, budget_policy_from, load_budget_policy
from gateway.budget.window import UNLIMITED, Account
from gateway.config.document import PolicyError, parse_documents
from gateway.contract.errors import PermissionDenied
from gateway.contract.ids import KeyId, OrgId, TeamId, Tier, UserId
from gateway.contract.principal import Principal

SHIPPED = Path(__file__).resolve().parents[3] / "mesh" / "base" / "policy" / "budgets.yaml"
TEXT = """\
version: 3
minimum_completion_tokens: 8
tiers:
  standard:
    priority: 0
    priority_class: standard
    key: {tokens_per_minute: 100, tokens_per_month: 1000}
  free:
    priority: -5
    priority_class: batch
orgs:
  acme:
    tokens_per_minute: 500
    keys:
      k1: {tokens_per_minute: 40}
      off: {tokens_per_minute: 0, tokens_per_month: 0}
"""


def policy(text: str = TEXT) -> BudgetPolicy:
    return budget_policy_from(parse_documents(text, "budgets.yaml")[0])


def caller(org: str = "acme", key: str = "k1", tier: str = "standard") -> Principal:
    return Principal(org=OrgId(org), team=TeamId("t"), user=UserId("u"), key=KeyId(key), tier=Tier(tier))


def accounts(principal: Principal, text: str = TEXT) -> tuple[Account, ...]:
    return policy(text).accounts_for(principal, model="m", user="a1b2")


def limits(principal: Principal, text: str = TEXT) -> dict[str, int]:
    return {
        f"{account.id} {window.kind}": window.limit
        for account in accounts(principal, text)
        for window in account.windows
    }


def test_a_key_takes_from_its_tier_what_it_does_not_say() -> None:
    org = {"org minute": 500, "org month": UNLIMITED}
    assert limits(caller()) == org | {"key/k1 minute": 40, "key/k1 month": 1000}
    assert limits(caller(key="k2")) == org | {"key/k2 minute": 100, "key/k2 month": 1000}
    assert limits(caller(key="off")) == org | {"key/off minute": 0, "key/off month": 0}
    assert limits(caller(tier="free", key="k2")) == org | {"key/k2 minute": -1, "key/k2 month": -1}


def test_every_account_has_every_window_so_that_a_limit_can_be_taken_away() -> None:
    for account in accounts(caller(tier="free")):
        assert [window.span for window in account.windows] == ["minute", "month"]


def test_orgs_that_are_not_listed() -> None:
    with pytest.raises(PermissionDenied) as refusal:
        accounts(caller(org="stranger"))
    assert refusal.value.code == "org_not_allowed"
    assert limits(caller(org="stranger"), TEXT + '  "*": {tokens_per_month: 9}\n')["org month"] == 9
    assert limits(caller(), TEXT + '  "*": {tokens_per_minute: 9}\n')["org minute"] == 500


def test_tiers() -> None:
    found = policy().tier(caller(tier="free"))
    assert (found.priority, found.priority_class) == (-5, "batch")
    for ask in (policy().tier, accounts):
        with pytest.raises(PermissionDenied) as refusal:
            ask(caller(tier="gold"))
        assert refusal.value.code == "tier_not_allowed"


def test_the_shipped_policy_has_the_demo_org_and_both_tiers() -> None:
    shipped = load_budget_policy(SHIPPED)
    assert (shipped.version, shipped.minimum_completion_tokens) == (1, 16)
    assert set(shipped.orgs) == {"demo", "operator", "*"}
    assert shipped.tiers[Tier("priority")].priority > shipped.tiers[Tier("standard")].priority


@pytest.mark.parametrize(
    ("before", "after", "place"),
    [
        ("version: 3", "version: 0", "budgets.yaml:1: version"),
        ("version: 3", "version: true", "budgets.yaml:1: version"),
        ("version: 3", "", "'version' is a required"),
        ("minimum_completion_tokens: 8", "minimum_completion_tokens: 0", ":2: minimum_completion_tokens"),
        ("tokens_per_minute: 500", "tokens_per_minute: -1", ":13: orgs.acme.tokens_per_minute"),
        ("tokens_per_minute: 500", "tokens_per_minute: 1.5", ":13: orgs.acme.tokens_per_minute"),
        ("tokens_per_minute: 500", "tokens_per_hour: 5", ":13: orgs.acme.tokens_per_hour: unknown field"),
        ("tokens_per_minute: 500", "tokens_per_month: 9007199254740992", ":13: orgs.acme.tokens_per_month"),
        ("priority: -5", "priority: 5000", ":9: tiers.free.priority"),
        ("priority_class: batch", "priority_class: Batch", ":10: tiers.free.priority_class"),
        ("  acme:", "  ACME:", ": orgs: "),
        ("      k1:", '      "k{1}":', ":14: orgs.acme.keys"),
        ("  acme:", '  "*":', ":15: orgs[\"*\"].keys.k1: 'k1': a key belongs to one org"),
        (
            "tokens_per_month: 1000}",
            "tokens_per_month: 99}",
            ":7: tiers.standard.key.tokens_per_minute: 100 a",
        ),
    ],
)
def test_a_bad_policy_is_refused_with_its_place(before: str, after: str, place: str) -> None:
    assert before in TEXT
    with pytest.raises(PolicyError) as refusal:
        policy(TEXT.replace(before, after, 1))
    assert place in str(refusal.value)


def test_the_examples_of_the_shipped_policy_load_when_they_are_switched_on() -> None:
    plain = SHIPPED.read_text()
    fields = r"leases|request|wait_seconds_max|limits|teams|users|keys|models|workflows"
    switched_on = re.sub(rf"(?m)^( *)# (({fields}):|  )", r"\1\2", plain).replace("    #   #", "    #")
    switched_on = re.sub(r"(?m)^( *)#   (- |\w[\w-]*: \{|\"\*\": )", r"\1  \2", switched_on)
    shipped = policy(switched_on)
    assert shipped.leases.enabled and shipped.tiers[Tier("standard")].wait_seconds_max == 5
    demo = shipped.orgs[OrgId("demo")]
    assert all((demo.teams, demo.users, demo.keys, demo.models, demo.workflows))
    assert len(demo.limits.windows) == 5 and len(shipped.tiers[Tier("standard")].key.windows) == 4
    for org, limits in policy(plain).orgs.items():
        assert limits.limits.windows == shipped.orgs[org].limits.windows[:2]
