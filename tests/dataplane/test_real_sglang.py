"""The whole path in front of the real SGLang with a real language model, as ``./tidegate up`` starts it."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest
from openai import OpenAI

from tests.harness.engines import SGLANG_START_S, Engine, real_sglang
from tests.harness.gateway import MODEL, Gateway, free_ports, until

FRANCE: list[Any] = [{"role": "user", "content": "What is the capital of France? Answer in one sentence."}]


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with real_sglang(tmp_path_factory.mktemp("sglang"), port=free_ports()) as running:
        yield running


@pytest.fixture(scope="module")
def gateway(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    running = Gateway(tmp_path_factory.mktemp("state"), engine=engine.url)
    yield running
    running.close()


@pytest.fixture
def sdk(gateway: Gateway) -> OpenAI:
    return OpenAI(base_url=gateway.base_url, api_key=gateway.api_key, max_retries=0, timeout=SGLANG_START_S)


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
