"""Budgets as the official client meets them: clamps, rates, quotas, levels, soft limits, waits, a freeze."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import openai
import pytest
import yaml
from openai import OpenAI

from gateway.budget.ledger import Adjustment, AdjustmentKind
from gateway.budget.redis_connection import connect
from gateway.budget.redis_ledger import RedisLedger
from gateway.budget.window import Account
from gateway.contract.ids import AccountId, HoldId, KeyId, OrgId, TeamId, Tier, UserId
from gateway.contract.principal import Principal
from gateway.contract.units import Millis
from gateway.keys.key_file import create_api_key
from tests.harness.api_keys import key_for, sdk
from tests.harness.engines import Twin
from tests.harness.gateway import MODEL, Gateway, until

BUDGETS = """
version: 1
minimum_completion_tokens: 16
tiers:
  standard: {priority: 0, priority_class: standard, key: {}}
orgs:
  demo: {}
  clamp: {limits: [{completion_tokens: 100, per: hour}]}
  quota: {limits: [{tokens: 300, per: day, zone: Europe/Berlin}]}
  rate: {limits: [{tokens: 1500, per: minute}, {requests: 2, per: minute}]}
  busy: {limits: [{concurrent: 1}]}
  patient: {limits: [{concurrent: 1}], wait_seconds_max: 20}
  flows:
    workflows:
      nightly: {limits: [{requests: 1, per: lifetime}]}
      "*": {limits: [{requests: 2, per: day}]}
  model: {models: {smollm2-135m: {limits: [{requests: 1, per: day}]}}}
  money: {limits: [{micro_usd: 30, per: month}]}
  one: {request: {prompt_tokens_max: 200, completion_tokens_max: 20}}
  soft: {limits: [{tokens: 1, per: day, enforcement: soft}, {tokens: 1, per: hour, enforcement: shadow}]}
  frozen: {}
"""
SLOW_MS = 2_000
"""How long one is in flight: another is refused, or sent to wait, meanwhile, on a slow machine too."""
PATIENT = Millis(5000)
"""A test's own ledger calls are not about deadlines."""


@pytest.fixture(scope="module")
def gateway(started_with: Callable[[str], Gateway]) -> Gateway:
    return started_with(BUDGETS)


@pytest.fixture(scope="module")
def callers(gateway: Gateway) -> dict[str, OpenAI]:
    """A client for each org of the policy; the last key is known to every worker only with all others."""
    *others, last = yaml.safe_load(BUDGETS)["orgs"]
    keys = {
        org: create_api_key(
            gateway.state / "secrets" / "api_keys.json",
            Principal(
                org=OrgId(org),
                team=TeamId("t"),
                user=UserId("u"),
                key=KeyId(f"k-{org}"),
                tier=Tier("standard"),
            ),
        )
        for org in others
    }
    keys[last] = key_for(gateway, last)
    return {org: sdk(gateway, key) for org, key in keys.items()}


def say(client: OpenAI, text: str = "hello", **options: Any) -> Any:
    """The raw answer to one chat completion."""
    messages: list[Any] = [{"role": "user", "content": text}]
    fields = {"model": MODEL, "messages": messages, "max_tokens": 20, **options}
    return client.chat.completions.with_raw_response.create(**fields)


def refused(client: OpenAI, text: str = "hello", **options: Any) -> openai.APIStatusError:
    """What the SDK raises for one more."""
    with pytest.raises(openai.APIStatusError) as caught:
        say(client, text, **options)
    return caught.value


def test_max_tokens_is_lowered_to_what_is_left_of_any_measure(callers: dict[str, OpenAI]) -> None:
    client = callers["clamp"]
    answer = say(client, max_tokens=1000)
    assert answer.headers["x-tidegate-clamped-max-tokens"] == "100"
    assert answer.headers["x-ratelimit-limit-tokens"] == "100"
    unsaid = say(client, max_tokens=openai.NOT_GIVEN)
    left = int(unsaid.headers["x-tidegate-clamped-max-tokens"])
    assert left == 100 - answer.parse().usage.completion_tokens
    assert unsaid.parse().usage.completion_tokens <= left


def test_a_day_that_is_used_up_is_a_quota(callers: dict[str, OpenAI]) -> None:
    client = callers["quota"]
    with pytest.raises(openai.RateLimitError) as caught:
        for number in range(30):
            say(client, f"n {number}", max_tokens=60)
    error = caught.value
    assert (error.code, error.type) == ("insufficient_quota", "insufficient_quota")
    assert error.response.headers["x-should-retry"] == "false"
    assert int(error.response.headers["retry-after"]) >= 1
    assert "tokens per day of this organization: limit 300" in error.message


def test_rates_are_told_for_requests_and_for_tokens(callers: dict[str, OpenAI]) -> None:
    client = callers["rate"]
    first = say(client).headers
    assert (first["x-ratelimit-limit-requests"], first["x-ratelimit-remaining-requests"]) == ("2", "1")
    assert (first["x-ratelimit-limit-tokens"]) == "1500"
    assert 0 < int(first["x-ratelimit-remaining-tokens"]) < 1500
    assert first["x-ratelimit-reset-requests"] and first["x-ratelimit-reset-tokens"]
    with pytest.raises(openai.RateLimitError) as caught:
        for _ in range(3):  # the minute may end between two of them
            say(client)
    error = caught.value
    assert (error.code, error.type) == ("rate_limit_exceeded", "requests")
    assert error.response.headers["x-ratelimit-remaining-requests"] == "0"
    assert 1 <= int(error.response.headers["retry-after"]) <= 60


def slowly(engine: Twin, *texts: str) -> None:
    engine.script(*({"contains": text, "delay_ms": SLOW_MS} for text in texts))


def reached(engine: Twin, text: str, before: int) -> None:
    until(lambda: len(engine.attempts()) > before, f"{text} at the engine")


def test_one_more_in_flight_is_refused_and_told_to_come_back(
    callers: dict[str, OpenAI], engine: Twin
) -> None:
    client = callers["busy"]
    slowly(engine, "busy")
    before = len(engine.attempts())
    with ThreadPoolExecutor() as pool:
        first = pool.submit(say, client, "busy")
        reached(engine, "busy", before)
        error = refused(client)
        assert first.result().headers.get("x-ratelimit-limit-requests") is None
    assert (error.status_code, error.code, error.type) == (429, "rate_limit_exceeded", "requests")
    assert error.response.headers["retry-after"] == "1"
    assert "requests in flight at a time" in error.message
    assert say(client).status_code == 200


def test_one_more_in_flight_waits_where_the_policy_says_so(callers: dict[str, OpenAI], engine: Twin) -> None:
    client = callers["patient"]
    slowly(engine, "patient")
    before = len(engine.attempts())
    with ThreadPoolExecutor() as pool:
        first = pool.submit(say, client, "patient")
        reached(engine, "patient", before)
        others = [pool.submit(say, client, f"waits {number}") for number in range(3)]
        assert [one.result().status_code for one in (first, *others)] == [200] * 4


def test_a_workflow_has_a_budget_of_its_own(callers: dict[str, OpenAI]) -> None:
    client = callers["flows"]
    header = {"x-tidegate-workflow": "nightly"}
    assert say(client, extra_headers=header).status_code == 200
    again: list[dict[str, Any]] = [{"extra_headers": header}, {"metadata": {"workflow": "nightly"}}]
    for options in again:
        error = refused(client, **options)
        assert (error.status_code, error.code) == (429, "insufficient_quota")
        assert "requests in all of this workflow: limit 1" in error.message
        assert "retry-after" not in error.response.headers
    session: dict[str, Any] = {"metadata": {"session_id": "someone@example.com"}}
    assert [say(client, **session).status_code for _ in range(2)] == [200, 200]
    assert "example.com" not in refused(client, **session).message
    assert say(client, metadata={"session_id": "another"}).status_code == 200
    assert say(client).status_code == 200


def test_a_model_has_a_budget_in_an_org(callers: dict[str, OpenAI]) -> None:
    client = callers["model"]
    assert say(client).status_code == 200
    error = refused(client)
    assert error.code == "insufficient_quota"
    assert "requests per day of this model: limit 1" in error.message


def test_money_is_a_limit_in_whole_micro_usd(callers: dict[str, OpenAI]) -> None:
    client = callers["money"]
    answer = say(client, max_tokens=1000)
    assert int(answer.headers["x-tidegate-clamped-max-tokens"]) < 1000 / 2
    assert 0 <= int(answer.headers["x-tidegate-remaining-micro-usd"]) < 30
    with pytest.raises(openai.RateLimitError) as caught:
        for number in range(40):
            say(client, f"n {number}")
    assert caught.value.code == "insufficient_quota"
    assert "micro-USD per month of this organization: limit 30" in caught.value.message
    assert caught.value.response.headers["x-should-retry"] == "false"


def test_one_request_has_limits_of_its_own(callers: dict[str, OpenAI]) -> None:
    client = callers["one"]
    answer = say(client, max_tokens=21)
    assert answer.headers["x-tidegate-clamped-max-tokens"] == "20"
    assert answer.parse().usage.completion_tokens <= 20
    assert "x-tidegate-clamped-max-tokens" not in say(client, max_tokens=20).headers
    error = refused(client, "word " * 50)
    assert (error.status_code, error.code, error.param) == (400, "prompt_tokens_above_limit", "messages")
    assert "the limit for one request is 200" in error.message


def test_a_soft_limit_warns_and_a_shadow_limit_says_nothing(callers: dict[str, OpenAI]) -> None:
    client = callers["soft"]
    warning = say(client).headers["x-tidegate-budget-warning"]
    assert warning.startswith("org;measure=tokens;window=day;limit=1;used=")
    assert "hour" not in warning
    assert "x-tidegate-budget-warning" not in say(callers["demo"]).headers


def freeze(gateway: Gateway, kind: AdjustmentKind) -> None:
    async def adjust() -> None:
        client = connect(f"unix://{gateway.state / 'run' / 'ledger.sock'}", timeout=PATIENT)
        ledger = RedisLedger(client, deadline=PATIENT)
        account = Account(id=AccountId("org"), windows=())
        change = Adjustment(
            id=HoldId(f"test-{kind}"), kind=kind, account=account, actor="a test", reason="to see it"
        )
        await ledger.adjust(OrgId("frozen"), change)
        await ledger.aclose()

    asyncio.run(adjust())


def test_a_frozen_budget_grants_nothing_until_it_is_released(
    gateway: Gateway, callers: dict[str, OpenAI]
) -> None:
    client = callers["frozen"]
    assert say(client).status_code == 200
    freeze(gateway, AdjustmentKind.FREEZE)
    error = refused(client)
    assert (error.status_code, error.code, error.type) == (
        429,
        "billing_hard_limit_reached",
        "insufficient_quota",
    )
    assert error.response.headers["x-should-retry"] == "false"
    assert "retry-after" not in error.response.headers
    freeze(gateway, AdjustmentKind.UNFREEZE)
    assert say(client).status_code == 200


def test_nothing_stays_held(gateway: Gateway) -> None:
    assert {window["held"] for window in gateway.settled().values()} == {0}
