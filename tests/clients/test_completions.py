"""Completions, embeddings and models by the official Python client."""

from __future__ import annotations

import base64
import struct

import openai
import pytest
from openai import AsyncOpenAI, OpenAI

from tests.clients.served import EMBEDDER, PLAIN_MODEL, Served
from tests.harness.gateway import MODEL


def test_a_prompt_is_completed(either: OpenAI) -> None:
    answer = either.completions.create(model="demo", prompt="Once upon a time", max_tokens=5)
    assert answer.object == "text_completion"
    assert answer.id.startswith("cmpl-")
    assert answer.model == MODEL
    assert answer.choices[0].text
    assert answer.usage is not None
    assert 1 <= answer.usage.completion_tokens <= 5


def test_several_prompts_have_several_choices(either: OpenAI) -> None:
    prompts = ["The capital of France is", "The capital of Italy is"]
    answer = either.completions.create(model=MODEL, prompt=prompts, max_tokens=4, n=2, temperature=1)
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    assert all(choice.text for choice in answer.choices)


def test_streamed_completions(either: OpenAI) -> None:
    chunks = list(
        either.completions.create(
            model=MODEL,
            prompt=["One", "Two"],
            max_tokens=4,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    assert len({chunk.id for chunk in chunks}) == 1
    finished = [choice.index for chunk in chunks for choice in chunk.choices if bool(choice.finish_reason)]
    assert sorted(finished) == [0, 1]
    assert chunks[-1].usage is not None
    assert chunks[-1].choices == []


def test_echo_repeats_the_prompt(either: OpenAI) -> None:
    prompt = "Echo this sentence:"
    answer = either.completions.create(model=MODEL, prompt=prompt, max_tokens=4, echo=True)
    assert answer.choices[0].text.startswith(prompt)
    assert len(answer.choices[0].text) > len(prompt)


def test_prompts_of_token_ids(either: OpenAI) -> None:
    answer = either.completions.create(model=MODEL, prompt=[504, 3575, 282], max_tokens=3)
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == 3


def test_logprobs_of_completions(either: OpenAI) -> None:
    answer = either.completions.create(model=MODEL, prompt="One two", max_tokens=3, logprobs=2)
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.tokens
    assert logprobs.token_logprobs is not None
    assert len(logprobs.tokens) == len(logprobs.token_logprobs)


def test_a_suffix_is_refused_by_name(sdk: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        sdk.completions.create(model=MODEL, prompt="a", suffix="b")
    assert caught.value.param == "suffix"


@pytest.mark.parametrize(
    "given",
    ["one text", ["one text", "another"], [1, 2, 3], [[1, 2, 3], [4, 5]]],
    ids=["text", "list", "tokens", "token lists"],
)
def test_embeddings_of_every_form_of_input(sdk: OpenAI, given: str | list[str]) -> None:
    """The client asks for base64 by itself and decodes it."""
    answer = sdk.embeddings.create(model=EMBEDDER, input=given)
    assert answer.object == "list"
    assert answer.model == EMBEDDER
    expected = len(given) if isinstance(given, list) and not isinstance(given[0], int) else 1
    assert [entry.index for entry in answer.data] == list(range(expected))
    for entry in answer.data:
        assert abs(sum(number * number for number in entry.embedding) - 1) < 1e-3
    assert answer.usage.prompt_tokens >= 1
    assert answer.usage.total_tokens == answer.usage.prompt_tokens


def test_the_three_encodings_agree(sdk: OpenAI) -> None:
    default = sdk.embeddings.create(model=EMBEDDER, input="the same text")
    floats = sdk.embeddings.create(model=EMBEDDER, input="the same text", encoding_format="float")
    packed = sdk.embeddings.create(model=EMBEDDER, input="the same text", encoding_format="base64")
    raw = packed.data[0].embedding
    assert isinstance(raw, str), "asked for by name, base64 stays base64"
    decoded = list(struct.unpack(f"<{len(default.data[0].embedding)}f", base64.b64decode(raw)))
    assert decoded == default.data[0].embedding
    assert floats.data[0].embedding == pytest.approx(default.data[0].embedding, abs=1e-6)


async def test_async_embeddings_and_their_price(on_twin: Served, async_sdk: AsyncOpenAI) -> None:
    before = on_twin.used()
    answer = await async_sdk.embeddings.create(model=EMBEDDER, input=f"a fresh text, {before} tokens later")
    assert on_twin.used() - before == answer.usage.total_tokens


def test_models_are_listed_and_retrieved(either: OpenAI) -> None:
    listed = {model.id: model for model in either.models.list()}
    assert MODEL in listed
    one = either.models.retrieve(MODEL)
    assert (one.id, one.object) == (MODEL, "model")
    assert one.created > 0
    assert one.owned_by
    with pytest.raises(openai.NotFoundError) as caught:
        either.models.retrieve("nope")
    assert caught.value.code == "model_not_found"


async def test_async_models(async_sdk: AsyncOpenAI) -> None:
    names = {model.id async for model in async_sdk.models.list()}
    assert {MODEL, PLAIN_MODEL, EMBEDDER} <= names


def test_a_model_is_asked_only_where_it_serves(sdk: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        sdk.embeddings.create(model=MODEL, input="text")
    assert (caught.value.param, caught.value.code) == ("model", "model_not_supported")
    with pytest.raises(openai.BadRequestError):
        sdk.completions.create(model=EMBEDDER, prompt="text")
