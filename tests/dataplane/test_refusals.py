"""403, 429 and 503 as an SDK sees them, revocation, reload, and the operators' listener."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from gateway.contract.ids import KeyId
from gateway.keys.key_file import revoke_api_key
from tests.harness.api_keys import key_for, sdk, verdicts
from tests.harness.engines import Twin, twin
from tests.harness.gateway import MODEL, Gateway, free_ports, overlay, until

HELLO: list[Any] = [{"role": "user", "content": "hello"}]
BUDGETS = """
version: {version}
minimum_completion_tokens: 16
tiers:
  standard: {{priority: 0, priority_class: standard, key: {{}}}}
orgs:
  demo: {{}}
  minute: {{tokens_per_minute: {per_minute}}}
  month: {{tokens_per_month: 300}}
  clamp: {{tokens_per_month: 400}}
"""


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Twin]:
    with twin(tmp_path_factory.mktemp("engine"), "--model", MODEL) as running:
        yield running


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Path:
    budgets = BUDGETS.format(version=1, per_minute=300)
    return overlay(tmp_path_factory.mktemp("policy") / "mesh", {"budgets.yaml": budgets})


@pytest.fixture(scope="module")
def small(engine: Twin, mesh: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    running = Gateway(tmp_path_factory.mktemp("state"), engine=engine.url, mesh=mesh)
    yield running
    running.close()


def code_of(error: openai.APIStatusError) -> str:
    assert isinstance(error.body, dict)
    assert set(error.body) == {"message", "type", "param", "code"}
    assert error.response.headers["x-request-id"]
    return str(error.body["code"])


def test_403_for_a_model_that_is_not_the_callers(small: Gateway) -> None:
    client = sdk(small, key_for(small, "demo", key="k-other", models=("another-model",)))
    with pytest.raises(openai.PermissionDeniedError) as caught:
        client.chat.completions.create(model=MODEL, messages=HELLO)
    assert code_of(caught.value) == "model_not_allowed"
    assert client.models.list().data == []


def test_429_for_a_used_up_minute_says_when_to_come_back(small: Gateway) -> None:
    client = sdk(small, key_for(small, "minute"))
    with pytest.raises(openai.RateLimitError) as caught:
        for number in range(30):
            client.chat.completions.create(
                model=MODEL, messages=[{"role": "user", "content": f"n {number}"}], max_tokens=60
            )
    assert code_of(caught.value) == "rate_limit_exceeded"
    headers = caught.value.response.headers
    assert 1 <= int(headers["retry-after"]) <= 60
    assert headers["x-ratelimit-limit-tokens"] == "300"


def test_429_for_a_used_up_month_is_insufficient_quota(small: Gateway) -> None:
    client = sdk(small, key_for(small, "month"))
    with pytest.raises(openai.RateLimitError) as caught:
        for number in range(30):
            client.chat.completions.create(
                model=MODEL, messages=[{"role": "user", "content": f"n {number}"}], max_tokens=60
            )
    assert code_of(caught.value) == "insufficient_quota"


def test_max_tokens_is_clamped_to_what_can_be_paid_and_says_so(small: Gateway) -> None:
    client = sdk(small, key_for(small, "clamp"))
    raw = client.chat.completions.with_raw_response.create(model=MODEL, messages=HELLO, max_tokens=1000)
    assert 16 <= int(raw.headers["x-tidegate-clamped-max-tokens"]) < 400


def test_a_revoked_key_is_refused_by_every_worker(small: Gateway) -> None:
    key = key_for(small, "demo", key="k-gone")
    assert revoke_api_key(small.state / "secrets" / "api_keys.json", KeyId("k-gone"))
    until(lambda: verdicts(small, key) == {"api_key_revoked"}, "refused by every worker")
    with pytest.raises(openai.AuthenticationError) as caught:
        sdk(small, key).models.list()
    assert code_of(caught.value) == "api_key_revoked"


def test_a_changed_budget_is_in_force_soon_and_a_bad_one_keeps_the_last_good(
    small: Gateway, mesh: Path
) -> None:
    client = sdk(small, key_for(small, "minute", key="k-reload"))
    (mesh / "budgets.yaml").write_text("version: nonsense\n")
    assert client.models.list().data
    (mesh / "budgets.yaml").write_text(BUDGETS.format(version=2, per_minute=100_000))

    def raised() -> bool:
        raw = client.chat.completions.with_raw_response.create(model=MODEL, messages=HELLO, max_tokens=8)
        return raw.headers["x-ratelimit-limit-tokens"] == "100000"

    def try_raised() -> bool:
        try:
            return raised()
        except openai.RateLimitError:
            return False

    until(try_raised, "the new limit")


def test_503_while_no_engine_is_there_says_so(tmp_path: Path) -> None:
    gateway = Gateway(tmp_path / "state", engine=f"http://127.0.0.1:{free_ports()}")
    try:
        client = sdk(gateway, gateway.api_key)
        with pytest.raises(openai.InternalServerError) as caught:
            client.chat.completions.create(model=MODEL, messages=HELLO)
        assert caught.value.status_code == 503
        assert code_of(caught.value) == "engine_unavailable"
        assert int(caught.value.response.headers["retry-after"]) >= 1
        assert gateway.settled()[("org", "month")]["used"] == 0
    finally:
        gateway.close()


def test_operators_listener(small: Gateway) -> None:
    for path in ("/healthz", "/readyz"):
        assert httpx.get(small.operators_url + path).status_code == 200
    metrics = httpx.get(f"{small.operators_url}/metrics").text
    assert "tidegate_admissions_total" in metrics
    assert "gen_ai_client_token_usage" in metrics
    assert small.api_key not in metrics
    assert "envoy_http_downstream_rq" in httpx.get(f"{small.operators_url}/metrics/envoy").text
    for path in ("/v1/models", "/config_dump", "/metrics/envoy/../config_dump", "/quitquitquit"):
        assert httpx.get(small.operators_url + path).status_code in (400, 404), path


def test_every_decision_is_in_the_books_and_they_verify(small: Gateway) -> None:
    def verified() -> dict[str, Any] | None:
        output = small.tidegate("ledger", "verify", "--json", check=False)
        report: dict[str, Any] = json.loads(output)
        return report if report["events"] > 0 and not report["problems"] else None

    report = until(verified, "verified books")
    kinds = {event["type"] for event in small.events()}
    assert {"hold.granted", "hold.settled", "hold.refused", "access"} <= kinds, report
