"""The whole path in front of the real SGLang with a real language model, as ``./tidegate up`` starts it."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import openai
import pytest
from openai import OpenAI

from inference.cases import HIGH, JSON_SCHEMA, LOW, MIDDLE, QUEUED_MAX, RUNNING_MAX, SUM, WEATHER
from inference.record import Crowd, until_idle
from tests.harness import api_keys
from tests.harness.engines import SGLANG_START_S, Engine
from tests.harness.gateway import MODEL, Gateway, until

FRANCE: list[Any] = [{"role": "user", "content": "What is the capital of France? Answer in one sentence."}]


pytestmark = pytest.mark.real_sglang("limited")


@pytest.fixture(scope="module")
def engine(limited_sglang: Engine) -> Engine:
    return limited_sglang


@pytest.fixture(scope="module")
def gateway(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    running = Gateway(tmp_path_factory.mktemp("state"), engine=engine.url)
    yield running
    running.close()


@pytest.fixture
def sdk(gateway: Gateway) -> OpenAI:
    made: OpenAI = api_keys.sdk(gateway, gateway.api_key).with_options(timeout=SGLANG_START_S)
    return made


def charged(gateway: Gateway) -> int:
    return int(gateway.settled()[("org", "month")]["used"])


def test_it_answers_in_words_and_charges_what_it_reports(gateway: Gateway, sdk: OpenAI) -> None:
    before = charged(gateway)
    answer = sdk.chat.completions.create(model=MODEL, messages=FRANCE, max_tokens=24, temperature=0)
    assert "Paris" in (answer.choices[0].message.content or "")
    assert answer.usage is not None
    assert charged(gateway) - before == answer.usage.total_tokens


def test_the_same_question_again_is_a_hit_in_both_forms_and_costs_nothing(
    gateway: Gateway, sdk: OpenAI
) -> None:
    question: dict[str, Any] = {"model": MODEL, "messages": FRANCE, "max_tokens": 25, "temperature": 0}
    first = sdk.chat.completions.with_raw_response.create(**question)
    assert first.headers["x-tidegate-cache"] == "miss"
    before = charged(gateway)

    def hit() -> Any:
        raw = sdk.chat.completions.with_raw_response.create(**question)
        return raw if raw.headers["x-tidegate-cache"] == "hit" else None

    again = until(hit, "a hit")
    assert int(again.headers["age"]) >= 0
    assert again.parse().choices[0].message.content == first.parse().choices[0].message.content
    chunks = list(
        sdk.chat.completions.create(**question, stream=True, stream_options={"include_usage": True})
    )
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == first.parse().choices[0].message.content
    assert chunks[-1].usage is not None
    assert charged(gateway) == before
    fresh = sdk.chat.completions.with_raw_response.create(
        **question, extra_headers={"cache-control": "no-cache"}
    )
    assert fresh.headers["x-tidegate-cache"] != "hit"


@pytest.mark.parametrize("asked", [True, False])
def test_streams(gateway: Gateway, sdk: OpenAI, asked: bool) -> None:
    before = charged(gateway)
    options: dict[str, Any] = {"stream_options": {"include_usage": True}} if asked else {}
    chunks = list(
        sdk.chat.completions.create(
            model=MODEL, messages=FRANCE, max_tokens=12 + asked, temperature=1, stream=True, **options
        )
    )
    assert any(chunk.choices and chunk.choices[0].delta.content for chunk in chunks)
    usages = [chunk.usage for chunk in chunks if chunk.usage is not None]
    spent = charged(gateway) - before
    if asked:
        assert [usage.total_tokens for usage in usages] == [spent]
    else:
        assert usages == []
        assert spent > 12


def test_completions(sdk: OpenAI) -> None:
    answer = sdk.completions.create(
        model=MODEL, prompt="The capital of France is", max_tokens=4, temperature=0
    )
    assert "Paris" in answer.choices[0].text


def test_a_prompt_over_the_context_is_openais_400(gateway: Gateway, sdk: OpenAI) -> None:
    before = charged(gateway)
    with pytest.raises(openai.BadRequestError) as caught:
        sdk.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "word " * 9000}])
    assert isinstance(caught.value.body, dict)
    assert caught.value.body["code"] == "context_length_exceeded"
    assert charged(gateway) == before


def test_a_client_that_leaves_frees_the_engine_and_pays_what_was_produced(
    gateway: Gateway, engine: Engine
) -> None:
    before = charged(gateway)
    body = {"model": MODEL, "messages": FRANCE, "max_tokens": 1000, "stream": True, "ignore_eos": True}
    with gateway.client() as client, client.stream("POST", "/chat/completions", json=body) as answer:
        assert answer.status_code == 200, answer.read()
        received = ""
        for part in answer.iter_text():
            received += part
            if received.count("data: ") >= 5:
                break

    def idle() -> bool:
        loads = httpx.get(f"{engine.url}/v1/loads", trust_env=False).text
        found = re.search(r'"num_running_reqs":\s*(\d+)', loads)
        return found is not None and found[1] == "0"

    until(idle, "the engine is free again")
    assert 5 <= charged(gateway) - before < 500


def test_the_engines_own_names_stay_inside(gateway: Gateway) -> None:
    with gateway.client() as client, contextlib.ExitStack():
        for path in ("/server_info", "/model_info", "/get_model_info", "/flush_cache", "/generate"):
            assert client.get(f"http://127.0.0.1:{gateway.port}{path}").status_code == 404
        assert client.get("/loads").status_code == 404


def test_a_tool_is_called(gateway: Gateway, sdk: OpenAI) -> None:
    before = charged(gateway)
    tools: Any = [{**WEATHER, "function": {**WEATHER["function"], "strict": True}}]
    question: Any = [{"role": "user", "content": "What is the weather in Paris?"}]
    asked: dict[str, Any] = {"model": MODEL, "messages": question, "tools": tools, "max_tokens": 150}
    answer = sdk.chat.completions.create(**asked, tool_choice="required", temperature=0)
    [call, *_] = answer.choices[0].message.tool_calls or []
    assert call.type == "function"
    assert answer.choices[0].finish_reason == "tool_calls"
    assert set(json.loads(call.function.arguments)) == {"city", "unit"}
    assert answer.usage is not None
    assert charged(gateway) - before == answer.usage.total_tokens


def test_an_answer_follows_a_schema(sdk: OpenAI) -> None:
    wanted: Any = JSON_SCHEMA
    answer = sdk.chat.completions.create(
        model=MODEL, messages=FRANCE, response_format=wanted, max_tokens=60, temperature=0
    )
    assert set(json.loads(answer.choices[0].message.content or "")) == {"capital", "big"}


def test_probabilities_and_echo(sdk: OpenAI) -> None:
    told = sdk.chat.completions.create(
        model=MODEL, messages=FRANCE, max_tokens=3, temperature=0, logprobs=True, top_logprobs=2
    ).choices[0]
    assert told.logprobs is not None
    assert told.logprobs.content is not None
    assert "".join(one.token for one in told.logprobs.content) == told.message.content
    assert {len(one.top_logprobs) for one in told.logprobs.content} == {2}
    text = sdk.completions.create(
        model=MODEL, prompt="The capital of France is", max_tokens=3, echo=True, logprobs=1, temperature=0
    ).choices[0]
    assert text.text.startswith("The capital of France is")
    assert text.logprobs is not None
    assert "".join(text.logprobs.tokens or []) == text.text


def test_two_choices_streamed_cost_one_prompt(gateway: Gateway, sdk: OpenAI) -> None:
    before = charged(gateway)
    options: Any = {"stream_options": {"include_usage": True}}
    stream = sdk.chat.completions.create(
        model=MODEL, messages=FRANCE, n=2, max_tokens=9, temperature=1, stream=True, **options
    )
    chunks = list(stream)
    texts = {0: "", 1: ""}
    for chunk in chunks:
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
    assert all(texts.values())
    assert len({chunk.id for chunk in chunks}) == 1
    usage = chunks[-1].usage
    assert usage is not None
    assert usage.completion_tokens <= 18
    assert charged(gateway) - before == usage.total_tokens


def test_tokenize_costs_nothing_and_tells_what_a_chat_is_charged(gateway: Gateway, sdk: OpenAI) -> None:
    asked = {"model": MODEL, "messages": FRANCE, "tools": [SUM]}
    before = charged(gateway)
    with gateway.client() as client:
        told = client.post("/tokenize", json=asked).json()["count"]
        assert charged(gateway) == before
        answer = client.post("/chat/completions", json={**asked, "max_tokens": 1, "temperature": 0}).json()
    assert answer["usage"]["prompt_tokens"] == told


@asynccontextmanager
async def crowd(engine: Engine) -> AsyncIterator[Crowd]:
    """Streams of others that go to the engine beside the gateway; it is idle before and after."""
    async with httpx.AsyncClient(base_url=engine.url, timeout=SGLANG_START_S, trust_env=False) as client:
        await until_idle(client)
        others = Crowd(client)
        try:
            yield others
        finally:
            await others.leave()
            await until_idle(client)


def public_client(gateway: Gateway) -> httpx.AsyncClient:
    headers = {"authorization": f"Bearer {gateway.api_key}", "cache-control": "no-store"}
    return gateway.async_client(headers=headers, timeout=SGLANG_START_S)


async def test_a_full_queue_is_a_503_with_the_time_to_come_again(gateway: Gateway, engine: Engine) -> None:
    before = charged(gateway)
    async with crowd(engine) as others, public_client(gateway) as client:
        # Of the gateway's own priority: requests without one are put out for its.
        for body in (LOW,) * (RUNNING_MAX + QUEUED_MAX):
            await others.join(body)
        for stream in (False, True):
            asked = {"model": MODEL, "messages": FRANCE, "max_tokens": 4, "stream": stream}
            answer = await client.post("/chat/completions", json=asked)
            assert answer.status_code == 503, answer.text
            assert answer.json()["error"]["code"] == "engine_overloaded"
            assert int(answer.headers["retry-after"]) >= 1
    assert charged(gateway) == before


async def test_a_preempted_stream_ends_with_an_error_and_costs_what_it_produced(
    gateway: Gateway, engine: Engine
) -> None:
    before = charged(gateway)
    body: dict[str, Any] = {"model": MODEL, "messages": FRANCE, "max_tokens": 600, "ignore_eos": True}
    body |= {"stream": True, "stream_options": {"include_usage": True, "continuous_usage_stats": True}}
    received: list[str] = []
    async with crowd(engine) as others, public_client(gateway) as client:
        await others.join(LOW)
        async with client.stream("POST", "/chat/completions", json=body) as answer:
            assert answer.status_code == 200
            lines = (line async for line in answer.aiter_lines() if line)
            while len(received) < 5:
                received.append(await anext(lines))
            for other in (LOW, LOW, HIGH):
                await others.join(other, already=1)
            others.send(MIDDLE)
            received += [line async for line in lines]
    assert received[-1] == "data: [DONE]"
    *chunks, error = (json.loads(line.removeprefix("data: ")) for line in received[:-1])
    assert set(error["error"]) == {"message", "type", "param", "code"}
    produced = [chunk["usage"]["total_tokens"] for chunk in chunks if chunk.get("usage")]
    assert charged(gateway) - before == produced[-1]
