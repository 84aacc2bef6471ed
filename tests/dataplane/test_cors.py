"""A page in a browser, through real Envoy: CORS off, and on by an overlay's corsPolicy."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.harness.engines import Twin
from tests.harness.gateway import MODEL, Gateway, overlay, until

PAGE = "https://app.example"
OTHER = "https://evil.example"
BUDGETS = """
version: 1
minimum_completion_tokens: 16
tiers: {standard: {priority: 0, priority_class: standard, key: {}}}
orgs: {demo: {tokens_per_minute: 300}}
"""
POLICY = {
    "allowOrigins": [{"exact": PAGE}, {"prefix": "http://localhost:"}],
    "allowMethods": ["GET", "POST"],
    "allowHeaders": ["*"],
    "exposeHeaders": ["x-request-id", "retry-after", "x-ratelimit-remaining-tokens"],
    "maxAge": "10m",
    "unmatchedPreflights": "IGNORE",
}
ASKED = {
    "access-control-request-method": "POST",
    "access-control-request-headers": "authorization,content-type,x-stainless-lang",
}


@pytest.fixture(scope="module")
def opened(engine: Twin, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway whose VirtualService has a CORS policy, and whose minute is soon used up."""
    mesh = overlay(tmp_path_factory.mktemp("policy") / "mesh", {"budgets.yaml": BUDGETS})
    kustomization = json.loads((mesh / "kustomization.yaml").read_text())
    change = [
        {"op": "test", "path": "/spec/http/2/name", "value": "api"},
        {"op": "add", "path": "/spec/http/2/corsPolicy", "value": POLICY},
    ]
    kustomization["patches"] = [
        {"target": {"kind": "VirtualService", "name": "openai"}, "patch": json.dumps(change)}
    ]
    (mesh / "kustomization.yaml").write_text(json.dumps(kustomization))
    running = Gateway(tmp_path_factory.mktemp("state"), engine=engine.url, mesh=mesh)
    yield running
    running.close()


def allowed(answer: httpx.Response) -> dict[str, str]:
    """What the answer tells a browser."""
    prefix = "access-control-"
    return {name[len(prefix) :]: text for name, text in answer.headers.items() if name.startswith(prefix)}


def test_off_by_default_also_for_what_an_engine_would_allow(gateway: Gateway) -> None:
    asked = httpx.options(f"{gateway.base_url}/chat/completions", headers={"origin": PAGE, **ASKED})
    assert (asked.status_code, allowed(asked)) == (401, {})
    with gateway.client() as client:
        body: dict[str, Any] = {"model": MODEL, "messages": [{"role": "user", "content": "x"}]}
        answers = [
            client.get("/models", headers={"origin": PAGE}),
            client.post("/chat/completions", json=body | {"max_tokens": 2}, headers={"origin": PAGE}),
        ]
    assert [(answer.status_code, allowed(answer)) for answer in answers] == [(200, {}), (200, {})]


@pytest.mark.parametrize("origin", [PAGE, "http://localhost:5173"])
@pytest.mark.parametrize("path", ["/chat/completions", "/models", "/nope"])
def test_a_preflight_needs_no_key(opened: Gateway, origin: str, path: str) -> None:
    answer = httpx.options(opened.base_url + path, headers={"origin": origin, **ASKED})
    assert (answer.status_code, answer.content) == (200, b"")
    assert allowed(answer) == {
        "allow-origin": origin,
        "allow-methods": "GET,POST",
        "allow-headers": ASKED["access-control-request-headers"],
        "expose-headers": "x-request-id,retry-after,x-ratelimit-remaining-tokens",
        "max-age": "600",
    }


@pytest.mark.parametrize("origin", [OTHER, "null", f"{PAGE}.evil.example", "https://APP.example", "x"])
def test_another_origins_preflight_is_answered_with_nothing(opened: Gateway, origin: str) -> None:
    answer = httpx.options(
        f"{opened.base_url}/chat/completions", headers={"origin": origin, **ASKED}, timeout=10
    )
    assert "allow-origin" not in allowed(answer)


def test_a_page_reads_answers_and_refusals_with_their_headers(opened: Gateway) -> None:
    body: dict[str, Any] = {"model": MODEL, "messages": [{"role": "user", "content": "x"}], "max_tokens": 16}
    seen: dict[int, httpx.Response] = {}
    with opened.client() as client:
        for number in range(40):
            said = [{"role": "user", "content": f"n {number}"}]
            answer = client.post(
                "/chat/completions", json=body | {"messages": said}, headers={"origin": PAGE}
            )
            seen[answer.status_code] = answer
            if answer.status_code == 429:
                break
        seen[404] = client.get("/nope", headers={"origin": PAGE})
        seen[405] = client.get("/chat/completions", headers={"origin": PAGE})
    seen[401] = httpx.get(f"{opened.base_url}/models", headers={"origin": PAGE})
    assert set(seen) >= {401, 404, 405, 429}
    for status, answer in seen.items():
        assert allowed(answer)["allow-origin"] == PAGE, status
        assert "x-request-id" in allowed(answer)["expose-headers"], status
        assert "allow-credentials" not in allowed(answer)
    assert int(seen[429].headers["retry-after"]) >= 1


def test_another_origin_is_served_but_its_page_reads_nothing(opened: Gateway) -> None:
    with opened.client() as client:
        answer = client.get("/models", headers={"origin": OTHER})
    assert (answer.status_code, allowed(answer).get("allow-origin")) == (200, None)


def test_an_options_with_a_key_is_still_the_apis(opened: Gateway) -> None:
    with opened.client() as client:
        answer = client.options("/models", headers={"origin": PAGE})
    assert (answer.status_code, answer.headers["allow"]) == (204, "GET, HEAD")


def test_a_preflight_is_logged_and_neither_counted_nor_decided(opened: Gateway) -> None:
    answer = httpx.options(f"{opened.base_url}/embeddings", headers={"origin": PAGE, **ASKED})
    request_id = answer.headers["x-request-id"]

    def recorded() -> list[dict[str, Any]]:
        return [event for event in opened.events() if event.get("request_id") == request_id]

    (event,) = until(recorded, "the preflight's access entry")
    assert (event["type"], event["verdict"], event.get("org", "")) == ("access", "200", "")
    assert event["context"]["method"] == "OPTIONS"
