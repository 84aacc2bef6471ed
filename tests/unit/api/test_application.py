"""The API's routes, by ASGI, with the memory ledger: who sees what, and in which shape."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.api.application import Application
from gateway.api.state import ApiState
from gateway.budget.memory_ledger import MemoryLedger
from gateway.budget.policy import load_budget_policy
from gateway.config.watch import Watched
from gateway.contract import headers
from gateway.contract.clock import ManualClock
from gateway.contract.ids import KeyId, OrgId, TeamId, Tier, UserId
from gateway.contract.principal import Principal
from gateway.models.catalogue import load_catalogue

POLICY = Path(__file__).resolve().parents[3] / "mesh" / "base" / "policy"
ALICE = Principal(
    org=OrgId("demo"), team=TeamId("demo"), user=UserId("alice"), key=KeyId("k1"), tier=Tier("standard")
)


@pytest.fixture
def client(tmp_path: Path) -> httpx.AsyncClient:
    models, budgets = POLICY / "models.yaml", POLICY / "budgets.yaml"
    state = ApiState(
        catalogue=Watched(lambda: load_catalogue(models), (models,)),
        budgets=Watched(lambda: load_budget_policy(budgets), (budgets,)),
        ledger=MemoryLedger(ManualClock()),
        metrics_dir=str(tmp_path),
        books_dir=tmp_path,
        pseudonym_key=bytes(32),
        clock=ManualClock(),
    )
    transport = httpx.ASGITransport(app=Application(state))
    return httpx.AsyncClient(transport=transport, base_url="http://gateway")


def gated(principal: Principal = ALICE) -> dict[str, str]:
    return {headers.PRINCIPAL: json.dumps(principal.to_fields())}


def error_of(response: httpx.Response) -> dict[str, Any]:
    body = response.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"message", "type", "param", "code"}
    error: dict[str, Any] = body["error"]
    return error


async def test_models_are_those_the_caller_may_use(client: httpx.AsyncClient) -> None:
    listed = (await client.get("/v1/models", headers=gated())).json()
    assert listed["object"] == "list"
    names = {entry["id"] for entry in listed["data"]}
    assert "smollm2-135m" in names
    nobody = Principal(
        org=ALICE.org, team=ALICE.team, user=ALICE.user, key=ALICE.key, tier=ALICE.tier, models=("other",)
    )
    assert (await client.get("/v1/models", headers=gated(nobody))).json()["data"] == []
    hidden = await client.get("/v1/models/smollm2-135m", headers=gated(nobody))
    assert hidden.status_code == 404
    assert error_of(hidden)["code"] == "model_not_found"
    assert (await client.get("/v1/models/smollm2-135m", headers=gated())).json()["id"] == "smollm2-135m"


async def test_usage_shows_the_callers_windows(client: httpx.AsyncClient) -> None:
    body = (await client.get("/v1/usage", headers=gated())).json()
    assert body["org"] == "demo"
    assert {(entry["account"], entry["window"]) for entry in body["windows"]} == {
        ("org", "minute"),
        ("org", "month"),
        ("key/k1", "minute"),
        ("key/k1", "month"),
    }


@pytest.mark.parametrize(
    "path", ["/v1/nope", "/generate", "/metrics", "/healthz", "/readyz", "/flush_cache", "/"]
)
async def test_tenants_get_an_openai_shaped_404_everywhere_else(client: httpx.AsyncClient, path: str) -> None:
    answer = await client.get(path, headers=gated())
    assert answer.status_code == 404
    assert error_of(answer)["code"] == "unknown_url"


@pytest.mark.parametrize("path", ["/v1/models", "/v1/usage", "/v1/chat/completions"])
async def test_operators_do_not_reach_the_tenants_pages(client: httpx.AsyncClient, path: str) -> None:
    assert (await client.get(path)).status_code == 404


async def test_wrong_methods_are_405_with_allow(client: httpx.AsyncClient) -> None:
    answer = await client.get("/v1/chat/completions", headers=gated())
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
    answer = await client.post("/v1/models", headers=gated())
    assert answer.status_code == 405
    assert "GET" in answer.headers["allow"]


async def test_options_says_what_a_url_takes(client: httpx.AsyncClient) -> None:
    for path, allow in (
        ("/v1/chat/completions", "POST"),
        ("/v1/tokenize", "POST"),
        ("/v1/models", "GET, HEAD"),
        ("/v1/models/smollm2-135m", "GET, HEAD"),
        ("/v1/usage", "GET, HEAD"),
    ):
        answer = await client.options(path, headers=gated())
        assert (answer.status_code, answer.headers["allow"], answer.content) == (204, allow, b"")
    unknown = await client.options("/v1/nope", headers=gated())
    assert (unknown.status_code, error_of(unknown)["code"]) == (404, "unknown_url")


async def test_head_is_get_without_the_body(client: httpx.AsyncClient) -> None:
    got = await client.get("/v1/models", headers=gated())
    head = await client.head("/v1/models", headers=gated())
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == str(len(got.content))


@pytest.mark.parametrize(
    ("path", "mend"),
    [
        ("/chat/completions", "must begin with /v1"),
        ("/models/smollm2-135m", "must begin with /v1"),
        ("/v1/v1/chat/completions", "begins with /v1 twice"),
        ("/v1/models/", "Leave out the slash"),
        ("/v1/chat/completions/", "Leave out the slash"),
        ("/V1/Models", "lower case"),
        ("/v1", "Check it for typos; served are /v1/chat/completions"),
        ("/v1/fine_tuning/<script>", "Check it for typos"),
    ],
)
async def test_an_unknown_url_is_told_what_would_be_right(
    client: httpx.AsyncClient, path: str, mend: str
) -> None:
    for method in ("GET", "POST", "DELETE"):
        answer = await client.request(method, path, headers=gated())
        error = error_of(answer)
        assert (answer.status_code, error["code"], error["param"]) == (404, "unknown_url", None)
        assert error["message"].startswith("Unknown request URL. ") and mend in error["message"]
        assert "script" not in error["message"]


async def test_a_post_that_only_engines_answer_is_our_fault(client: httpx.AsyncClient) -> None:
    answer = await client.post("/v1/chat/completions", headers=gated())
    assert (answer.status_code, error_of(answer)["code"]) == (500, "internal_error")


async def test_a_malformed_principal_is_never_a_caller(client: httpx.AsyncClient) -> None:
    for value in ("", "{}", "[]", '{"org":"A B"}', "null"):
        answer = await client.get("/v1/usage", headers={headers.PRINCIPAL: value})
        assert answer.status_code == 503, value
        assert error_of(answer)["code"] == "identity_unavailable"


async def test_operators_pages(client: httpx.AsyncClient) -> None:
    assert (await client.get("/healthz")).status_code == 200
    assert (await client.get("/readyz")).json()["status"] == "ready"
    assert (await client.get("/metrics")).status_code == 200
