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


async def test_a_malformed_principal_is_never_a_caller(client: httpx.AsyncClient) -> None:
    for value in ("", "{}", "[]", '{"org":"A B"}', "null"):
        answer = await client.get("/v1/usage", headers={headers.PRINCIPAL: value})
        assert answer.status_code == 503, value
        assert error_of(answer)["code"] == "identity_unavailable"


async def test_operators_pages(client: httpx.AsyncClient) -> None:
    assert (await client.get("/healthz")).status_code == 200
    assert (await client.get("/readyz")).json()["status"] == "ready"
    assert (await client.get("/metrics")).status_code == 200
