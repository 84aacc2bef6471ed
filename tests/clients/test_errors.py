"""Every refusal and failure as the class that the official Python client raises for OpenAI's own API."""

from __future__ import annotations

from typing import Any

import openai
import pytest
from openai import AsyncOpenAI, OpenAI

from gateway.contract.ids import KeyId, OrgId, TeamId, Tier, UserId
from gateway.contract.principal import Principal
from gateway.keys.key_file import create_api_key
from tests.clients.served import Served, ask
from tests.harness.engines import Twin
from tests.harness.gateway import MODEL, until

FIELDS = {"message", "type", "param", "code"}


def checked(error: openai.APIStatusError) -> openai.APIStatusError:
    """The parts an application reads; all are there, whatever went wrong."""
    assert isinstance(error.body, dict)
    assert set(error.body) == FIELDS
    assert error.request_id
    assert error.request_id == error.response.headers["x-request-id"]
    assert error.response.headers["x-tidegate-refusal"] == error.code
    assert error.type
    assert isinstance(error.body["message"], str)
    assert len(error.body["message"]) > 10
    return error


@pytest.mark.parametrize(
    ("change", "param", "code"),
    [
        ({"temperature": 9}, "temperature", None),
        ({"messages": []}, "messages", None),
        ({"messages": [{"role": "wizard", "content": "x"}]}, "messages[0].role", None),
        ({"max_tokens": 0}, "max_tokens", None),
        ({"n": 0}, "n", None),
        ({"extra_body": {"no_such_parameter": 1}}, "no_such_parameter", "unknown_parameter"),
        ({"messages": [{"role": "user", "content": "word " * 9000}]}, "messages", "context_length_exceeded"),
        ({"max_tokens": 100_000}, "max_tokens", "context_length_exceeded"),
        ({"stream_options": {"include_usage": True}}, "stream_options", None),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else str(value),
)
def test_400_names_the_parameter(sdk: OpenAI, change: dict[str, Any], param: str, code: str | None) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        sdk.chat.completions.create(**{**ask("hello"), **change})
    error = checked(caught.value)
    assert error.type == "invalid_request_error"
    assert error.param == param
    assert code is None or error.code == code


@pytest.mark.parametrize("key", ["x", "sk-wrong", "a.b.c", "tg-nobody-" + "x" * 43])
def test_401_for_a_wrong_key(on_twin: Served, key: str) -> None:
    with pytest.raises(openai.AuthenticationError) as caught:
        on_twin.sdk(api_key=key).models.list()
    assert checked(caught.value).type == "invalid_request_error"


def test_403_for_a_model_of_others(on_twin: Served) -> None:
    principal = Principal(
        org=OrgId("demo"),
        team=TeamId("t"),
        user=UserId("u"),
        key=KeyId("k-other"),
        tier=Tier("standard"),
        models=("another-model",),
    )
    secret = create_api_key(on_twin.gateway.state / "secrets" / "api_keys.json", principal)
    client = on_twin.sdk(api_key=secret)

    def refused() -> openai.PermissionDeniedError | None:
        try:
            client.chat.completions.create(**ask("hello"))
        except openai.PermissionDeniedError as error:
            return error
        except openai.AuthenticationError:
            return None  # not every worker has read the new key
        raise AssertionError("answered")

    assert checked(until(refused, "the key is known")).code == "model_not_allowed"


def test_404_for_a_model_and_for_a_path(sdk: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        sdk.chat.completions.create(**{**ask("hello"), "model": "gpt-unknown"})
    assert (checked(caught.value).code, caught.value.param) == ("model_not_found", "model")
    with pytest.raises(openai.NotFoundError) as caught:
        sdk.files.list()
    assert checked(caught.value).code == "unknown_url"


def test_405_413_and_415_are_status_errors(sdk: OpenAI) -> None:
    with pytest.raises(openai.APIStatusError) as caught:
        sdk.get("/chat/completions", cast_to=object)
    assert (checked(caught.value).status_code, caught.value.response.headers["allow"]) == (405, "POST")
    with pytest.raises(openai.APIStatusError) as caught:
        sdk.chat.completions.create(**ask("hello"), extra_headers={"content-type": "text/plain"})
    assert checked(caught.value).status_code == 415
    with pytest.raises(openai.APIStatusError) as caught:
        sdk.chat.completions.create(**ask("y" * 17 * 1024 * 1024))
    assert checked(caught.value).status_code == 413


@pytest.mark.parametrize(
    ("org", "code"), [("minute", "rate_limit_exceeded"), ("month", "insufficient_quota")]
)
def test_429_is_not_lost_by_retries(on_twin: Served, org: str, code: str) -> None:
    """With retries on, the client waits as it is told and still raises what it was told."""
    client = on_twin.sdk(api_key=on_twin.jwt(org), max_retries=0 if org == "minute" else 1)
    with pytest.raises(openai.RateLimitError) as caught:
        for number in range(30):
            client.chat.completions.create(**ask(f"question {number}", max_tokens=60))
    assert checked(caught.value).code == code
    headers = caught.value.response.headers
    assert (headers["x-ratelimit-limit-tokens"], int(headers["x-ratelimit-remaining-tokens"]) < 300) == (
        "300",
        True,
    )
    assert org == "month" or 1 <= int(headers["retry-after"]) <= 60


@pytest.mark.parametrize(
    ("status", "seen", "code"),
    [(500, 502, "bad_gateway"), (503, 503, "engine_unavailable"), (504, 504, "timeout")],
)
def test_5xx_of_the_engine_are_internal_server_errors(
    on_twin: Served, script: Twin, sdk: OpenAI, status: int, seen: int, code: str
) -> None:
    text = f"engine says {status}"
    script.script({"contains": text, "status": status, "body": {"object": "error", "message": "/srv/x.py"}})
    before = on_twin.used()
    with pytest.raises(openai.InternalServerError) as caught:
        sdk.chat.completions.create(**ask(text))
    assert (checked(caught.value).status_code, caught.value.code) == (seen, code)
    assert "/srv" not in caught.value.response.text
    assert on_twin.used() == before
    until_answered(sdk)


def until_answered(sdk: OpenAI) -> None:
    """Until the only engine, which Envoy leaves out for a moment after errors, is asked again."""

    def answers() -> bool:
        try:
            return bool(sdk.chat.completions.create(**ask("again")).choices)
        except openai.InternalServerError:
            return False

    until(answers, "an answer")


def test_an_error_within_a_stream_is_raised_where_it_happens(
    on_twin: Served, script: Twin, sdk: OpenAI
) -> None:
    text = "fails after three chunks"
    script.script({"contains": text, "error_after_chunks": 3})
    before = on_twin.used()
    seen = ""
    with pytest.raises(openai.APIError) as caught:
        for chunk in sdk.chat.completions.create(**ask(text, max_tokens=40, stream=True)):
            seen += chunk.choices[0].delta.content or ""
    assert seen
    assert caught.value.code
    assert caught.value.type
    assert 0 < on_twin.used() - before < 40


def test_a_stream_cut_by_the_engine_is_an_error_too(script: Twin, sdk: OpenAI) -> None:
    text = "cut after three chunks"
    script.script({"contains": text, "cut_after_chunks": 3, "reset": True})
    with pytest.raises(openai.APIError):
        list(sdk.chat.completions.create(**ask(text, max_tokens=40, stream=True)))
    until_answered(sdk)


async def test_async_errors_are_the_same_classes(on_twin: Served, async_sdk: AsyncOpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as bad:
        await async_sdk.chat.completions.create(**ask("hello", top_p=7))
    assert checked(bad.value).param == "top_p"
    with pytest.raises(openai.NotFoundError):
        await async_sdk.models.retrieve("nope")
    async with on_twin.async_sdk(api_key="sk-wrong") as stranger:
        with pytest.raises(openai.AuthenticationError):
            await stranger.chat.completions.create(**ask("hello", stream=True))


def test_refusals_on_the_real_engine_too(either: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        either.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "word " * 9000}])
    assert checked(caught.value).code == "context_length_exceeded"
    with pytest.raises(openai.BadRequestError) as caught:
        either.chat.completions.create(**ask("hello", top_p=7))
    assert checked(caught.value).param == "top_p"
