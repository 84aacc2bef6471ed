"""The OpenAI SDK, curl and plain HTTP through real Envoy: what an application team sees."""

from __future__ import annotations

import json
import shutil
import subprocess
from typing import Any

import httpx
import openai
import pytest
from openai import OpenAI

from gateway.contract.clock import SystemClock
from mesh.local.credentials import mint_jwt
from tests.harness.gateway import MODEL, Gateway

HELLO: list[Any] = [{"role": "user", "content": "What is the capital of France?"}]


@pytest.fixture
def sdk(gateway: Gateway) -> OpenAI:
    return OpenAI(base_url=gateway.base_url, api_key=gateway.api_key, max_retries=0)


def test_chat(sdk: OpenAI) -> None:
    raw = sdk.chat.completions.with_raw_response.create(model=MODEL, messages=HELLO, max_tokens=12)
    answer = raw.parse()
    assert answer.object == "chat.completion"
    assert answer.choices[0].message.content
    assert answer.usage is not None
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert raw.headers["x-request-id"]
    assert raw.headers["x-tidegate-cache"] in ("miss", "bypass", "hit")
    assert int(raw.headers["x-ratelimit-limit-tokens"]) > 0
    assert int(raw.headers["x-ratelimit-remaining-tokens"]) >= 0


def test_stream_without_usage_shows_none(sdk: OpenAI) -> None:
    chunks = list(sdk.chat.completions.create(model=MODEL, messages=HELLO, max_tokens=8, stream=True))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert [chunk.usage for chunk in chunks if chunk.usage is not None] == []
    assert all(chunk.choices for chunk in chunks), "the usage chunk is for those who asked"
    assert chunks[-1].choices[0].finish_reason in ("stop", "length")


def test_stream_with_usage_ends_with_it(sdk: OpenAI) -> None:
    chunks = list(
        sdk.chat.completions.create(
            model=MODEL, messages=HELLO, max_tokens=8, stream=True, stream_options={"include_usage": True}
        )
    )
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens >= 1
    assert [chunk.usage for chunk in chunks[:-1] if chunk.usage is not None] == []


def test_completions_and_alias(sdk: OpenAI) -> None:
    answer = sdk.completions.create(model="demo", prompt="Once upon a time", max_tokens=5)
    assert answer.object == "text_completion"
    assert answer.usage is not None
    assert answer.usage.completion_tokens <= 5


def test_models(sdk: OpenAI) -> None:
    assert MODEL in {model.id for model in sdk.models.list()}
    assert sdk.models.retrieve(MODEL).id == MODEL
    with pytest.raises(openai.NotFoundError):
        sdk.models.retrieve("nope")


def test_jwt_opens_the_same_door(gateway: Gateway) -> None:
    jwt = mint_jwt(gateway.state / "secrets", SystemClock())
    client = OpenAI(base_url=gateway.base_url, api_key=jwt, max_retries=0)
    assert client.models.list().data


@pytest.mark.parametrize(
    ("change", "error", "status", "code"),
    [
        ({"model": "gpt-unknown"}, openai.NotFoundError, 404, "model_not_found"),
        ({"messages": []}, openai.BadRequestError, 400, None),
        ({"messages": [{"role": "wizard", "content": "x"}]}, openai.BadRequestError, 400, None),
        ({"temperature": 9}, openai.BadRequestError, 400, None),
        ({"max_tokens": 0}, openai.BadRequestError, 400, None),
        ({"n": 0}, openai.BadRequestError, 400, None),
        ({"extra_body": {"no_such_parameter": 1}}, openai.BadRequestError, 400, "unknown_parameter"),
    ],
)
def test_refusals_have_openais_shape(
    sdk: OpenAI, change: dict[str, Any], error: type[openai.APIStatusError], status: int, code: str | None
) -> None:
    request: dict[str, Any] = {"model": MODEL, "messages": HELLO, "max_tokens": 4, **change}
    with pytest.raises(error) as caught:
        sdk.chat.completions.create(**request)
    assert caught.value.status_code == status
    assert isinstance(caught.value.body, dict)
    assert set(caught.value.body) == {"message", "type", "param", "code"}
    assert code is None or caught.value.body["code"] == code
    assert caught.value.response.headers["x-request-id"]


@pytest.mark.parametrize("key", ["x", "sk-wrong", "a.b.c", "tg-nobody-" + "x" * 43])
def test_bad_credentials_are_401(gateway: Gateway, key: str) -> None:
    answer = httpx.get(f"{gateway.base_url}/models", headers={"authorization": f"Bearer {key}"})
    assert answer.status_code == 401
    assert answer.json()["error"]["type"] == "invalid_request_error"
    assert answer.headers["x-request-id"]
    with pytest.raises(openai.AuthenticationError):
        OpenAI(base_url=gateway.base_url, api_key=key, max_retries=0).models.list()


def test_no_credential_is_401_before_anything_else(gateway: Gateway) -> None:
    for path in ("/models", "/chat/completions", "/nope", "/../generate"):
        assert httpx.get(f"{gateway.base_url}{path}").status_code == 401, path


@pytest.mark.parametrize(
    "path",
    [
        "/generate",
        "/flush_cache",
        "/abort_request",
        "/v1/../flush_cache",
        "/v1/%2e%2e/flush_cache",
        "//flush_cache",
        "/v1/chat/completions/../../../flush_cache",
        "/get_server_info",
        "/metrics",
        "/healthz",
        "/v1/loads",
        "/V1/CHAT/COMPLETIONS",
        "/v1/chat/completions/",
    ],
)
def test_management_paths_cannot_be_reached(gateway: Gateway, path: str) -> None:
    curl = shutil.which("curl")
    assert curl is not None
    command = [curl, "--path-as-is", "-s", "-X", "POST", "-H", f"authorization: Bearer {gateway.api_key}"]
    command += ["-H", "content-type: application/json", "-d", "{}", "-w", "\n%{http_code}"]
    done = subprocess.run(
        [*command, f"http://127.0.0.1:{gateway.port}{path}"], capture_output=True, text=True, check=True
    )
    body, status = done.stdout.rsplit("\n", 1)
    assert status in ("400", "404"), (path, done.stdout)
    if status == "404":
        assert json.loads(body)["error"]["code"] == "unknown_url"


def test_curl_stream(gateway: Gateway) -> None:
    curl = shutil.which("curl")
    assert curl is not None
    body = json.dumps({"model": MODEL, "messages": HELLO, "max_tokens": 4, "stream": True})
    command = [curl, "-sN", "-H", f"authorization: Bearer {gateway.api_key}"]
    command += ["-H", "content-type: application/json", "-d", body, f"{gateway.base_url}/chat/completions"]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert output.startswith("data: {")
    assert output.rstrip().endswith("data: [DONE]")


def test_wrong_method_media_type_and_size(gateway: Gateway) -> None:
    with gateway.client() as client:
        wrong_method = client.get("/chat/completions")
        assert (wrong_method.status_code, wrong_method.headers["allow"]) == (405, "POST")
        as_text = client.post("/chat/completions", content=b"{}", headers={"content-type": "text/plain"})
        assert as_text.status_code == 415
        gzipped = client.post("/chat/completions", json={}, headers={"content-encoding": "gzip"})
        assert gzipped.status_code == 415
        huge = client.post("/chat/completions", json={"model": MODEL, "x": "y" * (17 * 1024 * 1024)})
        assert huge.status_code == 413
        for answer in (wrong_method, as_text, gzipped, huge):
            assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
            assert answer.headers["x-request-id"]
