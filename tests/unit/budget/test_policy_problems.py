"""budgets.yaml: every rule has a policy that breaks it; it is told file, line, path, value and mend, and a
running process keeps the last good snapshot."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

import pytest

from gateway.budget.policy import BudgetPolicy, budget_policy_from, load_budget_policy
from gateway.budget.policy_problems import model_problems
from gateway.config.document import PolicyError, parse_documents
from gateway.config.watch import Watched

GOOD: Final = """\
version: 3
leases: {enabled: true, requests: 8, requests_least: 2}
tiers:
  standard:
    priority: 0
    priority_class: standard
    key: {tokens_per_month: 1000}
orgs:
  acme:
    wait_seconds_max: 5
    limits:
      - {tokens: 500, per: minute}
    teams:
      red: {tokens_per_minute: 50}
    workflows:
      nightly: {tokens_per_minute: 50}
"""
LIMIT: Final = "{tokens: 500, per: minute}"
IDENTIFIER: Final = "1 to 63 of lower-case letters, digits, _ and -, starting with a letter or digit"
ONE_LIMIT: Final = (
    "one limit: exactly one of tokens, prompt_tokens, completion_tokens, micro_usd, requests (each with per)"
    " and concurrent (without)"
)
RULES: Final = {
    "per with concurrent": (
        (LIMIT, "{concurrent: 4, per: minute}"),
        "12: orgs.acme.limits[0].per: 'minute': concurrent counts the requests in flight, over no time;"
        " remove per, or limit requests instead",
    ),
    "zone of a minute": (
        (LIMIT, "{tokens: 500, per: minute, zone: Europe/Berlin}"),
        "12: orgs.acme.limits[0].zone: 'Europe/Berlin': a minute is the same in every zone;"
        " only day and month have one",
    ),
    "zone of rolling seconds": (
        (LIMIT, "{tokens: 500, per: {rolling_seconds: 9}, zone: UTC}"),
        "12: orgs.acme.limits[0].zone: 'UTC': a rolling window is the same in every zone;"
        " only day and month have one",
    ),
    "unknown zone": (
        (LIMIT, "{tokens: 500, per: day, zone: Europe/Berln}"),
        "12: orgs.acme.limits[0].zone: 'Europe/Berln' is no time zone; perhaps Europe/Berlin",
    ),
    "zone in another case": (
        (LIMIT, "{tokens: 500, per: day, zone: america/new_york}"),
        "12: orgs.acme.limits[0].zone: 'america/new_york' is no time zone; perhaps America/New_York",
    ),
    "zone like no other": (
        (LIMIT, "{tokens: 500, per: day, zone: '##'}"),
        "12: orgs.acme.limits[0].zone: '##' is no time zone;"
        " a name of the IANA time zone database, as Europe/Berlin",
    ),
    "burst of a month": (
        (LIMIT, "{tokens: 500, per: month, burst: 7}"),
        "12: orgs.acme.limits[0].burst: 7: a month has no burst;"
        " only minute and hour have; raise the limit instead",
    ),
    "burst of what is unlimited": (
        (LIMIT, "{tokens: unlimited, per: minute, burst: 7}"),
        "12: orgs.acme.limits[0].burst: 7: tokens is unlimited here, so that nothing is ever reached;"
        " remove burst, or give a number",
    ),
    "enforcement of what is unlimited": (
        (LIMIT, "{tokens: unlimited, per: minute, enforcement: soft}"),
        "12: orgs.acme.limits[0].enforcement: 'soft': tokens is unlimited here, so that nothing is ever"
        " reached; remove enforcement, or give a number",
    ),
    "two limits of one window": (
        (LIMIT, "{tokens: 500, per: minute}\n      - {tokens: 9, per: minute, enforcement: soft}"),
        "13: orgs.acme.limits[1]: 9: tokens per minute is limited to 500 by line 12;"
        " keep one; for a warning before the limit, take a soft limit on a rolling window",
    ),
    "a shorthand and a limit of its window": (
        ("    limits:\n", "    tokens_per_minute: 9\n    limits:\n"),
        "13: orgs.acme.limits[0]: 500: tokens per minute is limited to 9 by line 11;"
        " keep one; for a warning before the limit, take a soft limit on a rolling window",
    ),
    "a minute above a day": (
        (LIMIT, "{tokens: 500, per: minute}\n      - {tokens: 9, per: day, zone: Europe/Berlin}"),
        "12: orgs.acme.limits[0]: 500 a minute is more than the 9 of the whole day in Europe/Berlin;"
        " raise the longer window's limit or lower this",
    ),
    "a minute above an hour of rolling seconds": (
        (LIMIT, "{tokens: 500, per: minute}\n      - {tokens: 9, per: {rolling_seconds: 3600}}"),
        "12: orgs.acme.limits[0]: 500 a minute is more than the 9 of the whole 3600 rolling seconds;"
        " raise the longer window's limit or lower this",
    ),
    "shorthands the wrong way round": (
        ("{tokens_per_month: 1000}", "{tokens_per_minute: 1001, tokens_per_month: 1000}"),
        "7: tiers.standard.key.tokens_per_minute: 1001 a minute is more than the 1000 of the whole month;"
        " raise the longer window's limit or lower this",
    ),
    "a name with a line feed": (
        ("      red:", '      "red\\n":'),
        f"14: orgs.acme.teams[\"red\n\"]: 'red\\n' is no identifier; {IDENTIFIER}",
    ),
    "a tier with a line feed": (
        ("  standard:", '  "standard\\n":'),
        f"4: tiers[\"standard\n\"]: 'standard\\n' is no identifier; {IDENTIFIER}",
    ),
    "a model with a line feed": (
        ("    teams:", '    models: {"a\\n": {}}\n    teams:'),
        "13: orgs.acme.models[\"a\n\"]: 'a\\n' is no name of a model; remove the line feed",
    ),
    "a workflow like a pseudonym": (
        ("nightly", "0123456789abcdef0123456789abcdef"),
        "16: orgs.acme.workflows[\"0123456789abcdef0123456789abcdef\"]: '0123456789abcdef0123456789abcdef'"
        " could be the pseudonym of a workflow that is not listed; a name that is not 32 hexadecimal digits",
    ),
    "a team of all other orgs": (
        ("  acme:", '  "*":'),
        "14: orgs[\"*\"].teams.red: 'red': a team belongs to one org, and these are all others;"
        ' list the org and put the team there, or write "*" for every team of theirs',
    ),
    "more windows than the ledger takes": (
        (
            LIMIT,
            "{tokens: 500, per: minute}"
            + "".join(f"\n      - {{tokens: 900, per: {{rolling_seconds: {n}}}}}" for n in range(70, 85))
            + "\n    users: {u: {limits: ["
            + ", ".join(f"{{requests: 9, per: {{rolling_seconds: {n}}}}}" for n in range(1, 17))
            + "]}}",
        ),
        "9: orgs.acme: a request may count in 37 windows (org 17, keys 2, teams 1, users 16, workflows 1),"
        " of which the ledger takes 32; fewer limits on one of the levels",
    ),
    "leases of fewer requests than the least": (
        ("requests: 8", "requests: 1"),
        "2: leases.requests_least: 2 is more than the 1 a lease is to fund; lower it",
    ),
    # What the schema says, in the words of the validator, with the schema's own description as mend.
    "no measure": ((LIMIT, "{per: minute}"), ONE_LIMIT),
    "two measures": ((LIMIT, "{tokens: 1, requests: 1, per: minute}"), ONE_LIMIT),
    "no per": ((LIMIT, "{tokens: 1}"), f"'per' is a dependency of 'tokens'; {ONE_LIMIT}"),
    "an unknown window": ((LIMIT, "{tokens: 1, per: week}"), "12: orgs.acme.limits[0].per: 'week'"),
    "a rolling window of no time": ((LIMIT, "{tokens: 1, per: {rolling_seconds: 0}}"), ".limits[0].per: {"),
    "an unknown field": (
        (LIMIT, "{tokens: 1, per: minute, unit: usd}"),
        "orgs.acme.limits[0].unit: unknown field",
    ),
    "a fraction": ((LIMIT, "{micro_usd: 0.5, per: minute}"), "12: orgs.acme.limits[0].micro_usd: 0.5"),
    "a negative limit": ((LIMIT, "{requests: -1, per: minute}"), "12: orgs.acme.limits[0].requests: -1"),
    "an unknown enforcement": (
        (LIMIT, "{tokens: 1, per: minute, enforcement: lax}"),
        "'lax' is not allowed; use one of hard, soft, shadow",
    ),
    "a burst of nothing": ((LIMIT, "{tokens: 1, per: minute, burst: 0}"), "orgs.acme.limits[0].burst: 0"),
    "a wait without end": (
        ("wait_seconds_max: 5", "wait_seconds_max: 31"),
        "10: orgs.acme.wait_seconds_max: 31",
    ),
    "a prompt of nothing": (
        ("    teams:", "    request: {prompt_tokens_max: 0}\n    teams:"),
        "13: orgs.acme.request.prompt_tokens_max: 0",
    ),
    "a request limit of a workflow": (
        ("      nightly: {", "      nightly: {request: {}, "),
        "16: orgs.acme.workflows.nightly.request: unknown field",
    ),
    "a share of all": (("requests: 8", "share: 1"), "2: leases.share: 1 is less than the minimum of 2"),
    "a lease without end": (("requests: 8", "ttl_seconds: 61"), "2: leases.ttl_seconds: 61"),
    "a team that is no identifier": (("      red:", "      Red:"), "orgs.acme.teams: 'Red' does not match"),
}


def policy(text: str) -> BudgetPolicy:
    return budget_policy_from(parse_documents(text, "budgets.yaml")[0])


@pytest.mark.parametrize("rule", RULES)
def test_a_broken_rule_is_told_with_place_value_and_mend(rule: str) -> None:
    (before, after), expected = RULES[rule]
    assert GOOD.count(before) == 1
    with pytest.raises(PolicyError) as refusal:
        policy(GOOD.replace(before, after))
    assert expected in str(refusal.value)
    if expected[0].isdigit() and "; " in expected:
        assert [str(problem) for problem in refusal.value.problems] == [f"budgets.yaml:{expected}"]


def test_what_is_next_to_a_broken_rule_is_taken() -> None:
    said = "{tokens: 900, per: {rolling_seconds: 60}}\n      - {tokens: 900, per: hour, burst: 9}"
    for fine in (
        f"{LIMIT}\n      - {said}\n      - {{tokens: 901, per: day, zone: Japan}}",
        f"{LIMIT}\n      - {{tokens: 10, per: lifetime, enforcement: soft}}",
        f"{LIMIT}\n      - {{requests: 10, per: minute}}\n      - {{concurrent: 2, enforcement: shadow}}",
        f"{LIMIT}\n      - {{tokens: 500, per: month}}\n      - {{tokens: 600, per: month, zone: Japan}}",
        f"{LIMIT}\n      - {{tokens: unlimited, per: day}}",
        "{tokens: 0, per: minute}",
    ):
        policy(GOOD.replace(LIMIT, fine))
    policy(GOOD.replace("  acme:", '  "*":').replace("red:", '"*":'))


def test_every_problem_is_told_at_once_in_the_order_of_the_file() -> None:
    text = (
        GOOD.replace(LIMIT, "{tokens: 1, per: hour, zone: Asia/Tokyo}\n      - {concurrent: 1, burst: 2}")
        .replace("requests: 8", "requests: 1")
        .replace("nightly", "f" * 32)
    )
    with pytest.raises(PolicyError) as refusal:
        policy(text)
    assert [problem.path for problem in refusal.value.problems] == [
        "leases.requests_least",
        "orgs.acme.limits[0].zone",
        "orgs.acme.limits[1].burst",
        f"orgs.acme.workflows.{'f' * 32}",
    ]


def test_a_running_process_keeps_the_last_good_policy_whatever_is_wrong(tmp_path: Path) -> None:
    file = tmp_path / "budgets.yaml"
    file.write_text(GOOD)
    told: list[str] = []
    watched = Watched(
        lambda: load_budget_policy(file), (file,), on_refusal=lambda error: told.append(str(error))
    )
    first = watched.current
    for at, (rule, ((before, after), expected)) in enumerate(RULES.items(), start=1):
        file.write_text(GOOD.replace(before, after))
        os.utime(file, ns=(at, at))  # two writes within the file system's clock tick are one to a poll
        assert not watched.poll(), rule
        assert watched.current is first
        assert len(told) == at and expected in told[-1]
    file.write_text(GOOD.replace("version: 3", "version: 4"))
    assert watched.poll()
    assert watched.current.version == 4


def test_a_limit_on_a_model_that_is_not_in_the_catalogue() -> None:
    models = "    models: {qwen3-8b: {}, qwen3-8: {}, demo: {}, '*': {}}\n    teams:"
    document = parse_documents(GOOD.replace("    teams:", models), "budgets.yaml")[0]
    budget_policy_from(document)
    found = model_problems(document, {"qwen3-8b": "qwen3-8b", "demo": "qwen3-8b"})
    assert [str(problem) for problem in found] == [
        "budgets.yaml:13: orgs.acme.models.qwen3-8: 'qwen3-8' names no model;"
        " the catalogue (models.yaml) has qwen3-8b",
        "budgets.yaml:13: orgs.acme.models.demo: 'demo' names no model;"
        " an alias: limits are by the model's name, qwen3-8b",
    ]
