"""The official Python client's own options: time-outs, retries, headers, addresses, credentials."""

from __future__ import annotations

import os
from collections.abc import Iterator

import httpx2
import openai
import pytest
from openai import AsyncOpenAI, OpenAI

from tests.clients.served import Served, ask
from tests.harness.engines import Twin
from tests.harness.gateway import MODEL, until

IMPATIENT_S = 2.0
"""Longer than the way through the gateway on a slow machine; the engine's stall has no end."""


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_a_client_time_out_resolves_the_hold(
    on_twin: Served, script: Twin, sdk: OpenAI, stream: bool
) -> None:
    text = f"stalls for good ({stream})"
    script.script({"contains": text, "stall_after_chunks": 2})
    impatient = sdk.with_options(timeout=IMPATIENT_S)
    before = on_twin.used()
    with pytest.raises(openai.APITimeoutError):
        answer = impatient.chat.completions.create(**ask(text, max_tokens=40), stream=stream)
        if stream:
            list(answer)
    assert on_twin.used() - before > 0, "what was produced is paid"
    until(lambda: script.attempts()[-1].get("outcome") == "client_gone", "the engine is free again")


async def test_an_async_client_time_out(on_twin: Served, script: Twin, async_sdk: AsyncOpenAI) -> None:
    script.script({"contains": "async stall", "stall_after_chunks": 0})
    with pytest.raises(openai.APITimeoutError):
        await async_sdk.with_options(timeout=IMPATIENT_S).chat.completions.create(**ask("async stall"))
    on_twin.used()  # fails unless every hold is resolved


def test_a_503_is_retried_by_the_client_and_answered(script: Twin, on_twin: Served) -> None:
    text = "unavailable at first"
    tries_of_one_request = 4  # Envoy's own: mesh/base/gateway.yaml, retries
    full = {"object": "error", "message": "The request queue is full.", "code": 503}
    script.script({"contains": text, "status": 503, "body": full, "times": tries_of_one_request})
    with on_twin.sdk(max_retries=5) as patient:
        raw = patient.chat.completions.with_raw_response.create(**ask(text))
    assert raw.retries_taken == 1
    assert raw.http_request.headers["x-stainless-retry-count"] == "1"
    assert raw.parse().choices[0].message.content


async def test_async_retries(script: Twin, on_twin: Served) -> None:
    script.script({"contains": "async retry", "status": 500, "times": 1})
    async with on_twin.async_sdk(max_retries=5) as patient:
        raw = await patient.chat.completions.with_raw_response.create(**ask("async retry"))
    assert raw.retries_taken >= 1
    assert raw.parse().choices[0].message.content


def test_a_refusal_is_not_retried(on_twin: Served) -> None:
    with on_twin.sdk(max_retries=5) as patient, pytest.raises(openai.BadRequestError) as caught:
        patient.chat.completions.create(**ask("hello", temperature=9))
    assert caught.value.request.headers["x-stainless-retry-count"] == "0"


def test_nobody_listening_is_a_connection_error(on_twin: Served) -> None:
    with pytest.raises(openai.APIConnectionError) as caught:
        on_twin.sdk(base_url="http://127.0.0.1:9/v1").models.list()
    assert not isinstance(caught.value, openai.APITimeoutError)


def test_extra_headers_query_and_body(sdk: OpenAI) -> None:
    raw = sdk.chat.completions.with_raw_response.create(
        **ask("extras", temperature=0),
        extra_headers={"x-team-trace": "abc", "cache-control": "no-store"},
        extra_query={"api-version": "2024-10-21"},
        extra_body={"top_k": 1, "ignore_eos": True},
    )
    assert raw.headers["x-tidegate-cache"] == "bypass"
    usage = raw.parse().usage
    assert usage is not None
    assert usage.completion_tokens == 12, "ignore_eos reached the engine"


def test_organization_project_and_default_headers_are_taken_and_mean_nothing(on_twin: Served) -> None:
    client = on_twin.sdk(
        organization="org-of-others", project="proj-of-others", default_headers={"x-request-id": "mine"}
    )
    raw = client.models.with_raw_response.list()
    assert raw.status_code == 200
    assert raw.headers["x-request-id"] != "mine"


@pytest.mark.parametrize("ending", ["", "/"])
def test_base_urls_with_and_without_a_slash(on_twin: Served, ending: str) -> None:
    client = on_twin.sdk(base_url=on_twin.gateway.base_url + ending)
    assert MODEL in {model.id for model in client.models.list()}


def test_the_host_name_is_as_good_as_the_address(on_twin: Served) -> None:
    client = on_twin.sdk(base_url=on_twin.gateway.base_url.replace("127.0.0.1", "localhost"))
    assert client.models.list().data


def test_a_jwt_opens_the_same_door(on_twin: Served) -> None:
    assert on_twin.sdk(api_key=on_twin.jwt("demo")).models.list().data


@pytest.fixture
def exported(on_twin: Served, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The variables of ``tidegate env``, as a shell that evaluates them has them."""
    for name in [name for name in os.environ if name.startswith("OPENAI_")]:
        monkeypatch.delenv(name)
    for line in on_twin.gateway.tidegate("env").splitlines():
        name, _, value = line.removeprefix("export ").partition("=")
        if name.startswith("OPENAI_"):
            monkeypatch.setenv(name, value.strip("'\""))
    yield


@pytest.mark.usefixtures("exported")
def test_the_client_needs_no_argument_after_tidegate_env() -> None:
    with OpenAI() as client:
        answer = client.chat.completions.create(
            model=os.environ["OPENAI_MODEL"], messages=[{"role": "user", "content": "hi"}], max_tokens=4
        )
    assert answer.choices


def test_an_http_client_of_ones_own_without_proxies(on_twin: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "")
    with pytest.raises(openai.APIConnectionError):
        on_twin.sdk(http_client=None).models.list()
    with httpx2.Client(trust_env=False) as http:
        assert on_twin.sdk(http_client=http).models.list().data


def test_one_client_keeps_its_connection_over_many_requests(on_twin: Served) -> None:
    with on_twin.sdk() as client:
        ports = {
            client.models.with_raw_response.list()
            .http_response.extensions["network_stream"]
            .get_extra_info("client_addr")
            for _ in range(5)
        }
    assert len(ports) == 1
