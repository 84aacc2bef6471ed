"""Chat completions by the official Python client, as its own documentation uses them."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI, OpenAI
from pydantic import BaseModel

from tests.clients.served import Served, ask
from tests.harness.gateway import MODEL, until

FRANCE = "What is the capital of France? Answer in one sentence."


class Capital(BaseModel):
    """What the model is made to answer."""

    city: str
    inhabitants: int


CAPITAL_SCHEMA: dict[str, Any] = {
    "type": "json_schema",
    "json_schema": {
        "name": "capital",
        "strict": True,
        "schema": {**Capital.model_json_schema(), "additionalProperties": False},
    },
}


def test_an_answer_has_every_field_the_client_types(either: OpenAI) -> None:
    answer = either.chat.completions.create(**ask(FRANCE))
    assert answer.object == "chat.completion"
    assert answer.id.startswith("chatcmpl-")
    assert answer.model == MODEL
    assert answer.created > 1_700_000_000
    assert answer.system_fingerprint is not None
    assert answer.system_fingerprint.startswith("fp_")
    [choice] = answer.choices
    assert (choice.index, choice.message.role) == (0, "assistant")
    assert choice.message.content
    assert choice.message.refusal is None
    assert choice.finish_reason in ("stop", "length")
    assert answer.usage is not None
    assert 1 <= answer.usage.completion_tokens <= 12
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert answer._request_id


async def test_async_answers_are_the_same(async_either: AsyncOpenAI) -> None:
    asked = ask(f"{FRANCE} (async)", temperature=0)
    first = await async_either.chat.completions.create(**asked)
    second = await async_either.chat.completions.create(**asked)
    assert first.choices[0].message.content == second.choices[0].message.content


def test_raw_responses_show_headers_and_parse(either: OpenAI) -> None:
    raw = either.chat.completions.with_raw_response.create(**ask(f"{FRANCE} (raw)"))
    assert raw.status_code == 200
    assert raw.headers["content-type"].startswith("application/json")
    assert raw.request_id == raw.headers["x-request-id"]
    assert raw.headers["x-tidegate-cache"] in ("miss", "bypass")
    assert int(raw.headers["x-ratelimit-limit-tokens"]) > int(raw.headers["x-ratelimit-remaining-tokens"]) > 0
    assert raw.retries_taken == 0
    assert raw.parse().choices[0].message.content
    assert json.loads(raw.content)["object"] == "chat.completion"


async def test_async_streaming_responses_are_read_by_line_and_by_byte(async_either: AsyncOpenAI) -> None:
    asked = ask(f"{FRANCE} (streaming response)", stream=True)
    async with async_either.chat.completions.with_streaming_response.create(**asked) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        lines = [line async for line in response.iter_lines()]
    assert [line for line in lines if line and not line.startswith("data: ")] == []
    assert [line for line in lines if line][-1] == "data: [DONE]"
    async with async_either.chat.completions.with_streaming_response.create(**asked) as response:
        raw = b"".join([part async for part in response.iter_bytes()])
    assert raw.endswith(b"data: [DONE]\n\n")


@pytest.mark.parametrize("usage", [True, False], ids=["usage asked", "usage not asked"])
def test_a_stream_is_whole_and_shows_usage_only_when_asked(either: OpenAI, usage: bool) -> None:
    options: dict[str, Any] = {"stream_options": {"include_usage": True}} if usage else {}
    chunks = list(either.chat.completions.create(**ask(FRANCE, stream=True, temperature=1), **options))
    content = chunks[:-1] if usage else chunks
    assert {(chunk.id, chunk.created, chunk.model, chunk.object) for chunk in chunks} == {
        (chunks[0].id, chunks[0].created, MODEL, "chat.completion.chunk")
    }
    assert all(len(chunk.choices) == 1 for chunk in content)
    assert content[0].choices[0].delta.role == "assistant"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in content)
    finishes = [chunk.choices[0].finish_reason for chunk in content]
    assert finishes[-1] in ("stop", "length")
    assert set(finishes[:-1]) == {None}
    assert all(chunk.usage is None for chunk in content)
    if usage:
        assert chunks[-1].choices == []
        assert chunks[-1].usage is not None
        assert chunks[-1].usage.completion_tokens >= 1


def test_leaving_a_stream_early_frees_the_hold(served: Served, either: OpenAI) -> None:
    before = served.used()
    asked = ask("Count slowly to one thousand.", max_tokens=1000, extra_body={"ignore_eos": True})
    with either.chat.completions.create(**asked, stream=True) as stream:
        for _, _ in zip(stream, range(3), strict=False):
            pass
    assert 0 < served.used() - before < 1000


async def test_leaving_an_async_stream_early_frees_the_hold(
    served: Served, async_either: AsyncOpenAI
) -> None:
    before = served.used()
    asked = ask("Count slowly to two thousand.", max_tokens=1000, extra_body={"ignore_eos": True})
    stream = await async_either.chat.completions.create(**asked, stream=True)
    async with contextlib.aclosing(aiter(stream)) as chunks:
        assert await anext(chunks)
    await stream.close()
    assert 0 < served.used() - before < 1000


def test_the_stream_helper_assembles_the_answer(either: OpenAI) -> None:
    asked = ask(f"{FRANCE} (helper)", temperature=0, max_tokens=200)
    with either.chat.completions.stream(**asked) as stream:
        kinds = {event.type for event in stream}
        final = stream.get_final_completion()
    assert {"chunk", "content.delta", "content.done"} <= kinds
    whole = either.chat.completions.create(**asked)
    assert final.choices[0].message.content == whole.choices[0].message.content
    assert final.choices[0].finish_reason == whole.choices[0].finish_reason


async def test_the_async_stream_helper_assembles_the_answer(async_sdk: AsyncOpenAI) -> None:
    async with async_sdk.chat.completions.stream(**ask(f"{FRANCE} (async helper)", max_tokens=200)) as stream:
        deltas = [event.delta async for event in stream if event.type == "content.delta"]
        final = await stream.get_final_completion()
    assert "".join(deltas) == final.choices[0].message.content


def test_a_json_schema_is_kept(either: OpenAI) -> None:
    asked = ask(f"{FRANCE} (schema)", max_tokens=200, temperature=0, response_format=CAPITAL_SCHEMA)
    answer = either.chat.completions.create(**asked)
    assert answer.choices[0].finish_reason == "stop"
    assert Capital.model_validate_json(answer.choices[0].message.content or "").city is not None


def test_parse_gives_the_pydantic_model(either: OpenAI) -> None:
    asked = ask(f"{FRANCE} (parse)", max_tokens=200, temperature=0)
    answer = either.chat.completions.parse(**asked, response_format=Capital)
    assert isinstance(answer.choices[0].message.parsed, Capital)


def test_parse_says_when_the_limit_cut_the_answer(sdk: OpenAI) -> None:
    with pytest.raises(openai.LengthFinishReasonError):
        sdk.chat.completions.parse(**ask(f"{FRANCE} (cut)", max_tokens=1), response_format=Capital)


def test_json_object_is_an_object(either: OpenAI) -> None:
    asked = ask("Answer with a JSON object.", max_tokens=60, temperature=0)
    answer = either.chat.completions.create(**asked, response_format={"type": "json_object"})
    content = answer.choices[0].message.content or ""
    assert content.lstrip().startswith("{")
    if answer.choices[0].finish_reason == "stop":
        assert isinstance(json.loads(content), dict)
    else:
        assert answer.choices[0].finish_reason == "length"


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_two_choices(either: OpenAI, stream: bool) -> None:
    asked = ask(f"Tell me a story. ({stream})", n=2, temperature=1)
    if not stream:
        answer = either.chat.completions.create(**asked)
        assert [choice.index for choice in answer.choices] == [0, 1]
        assert all(choice.message.content for choice in answer.choices)
        return
    chunks = list(either.chat.completions.create(**asked, stream=True))
    assert len({chunk.id for chunk in chunks}) == 1
    finished = [c.index for chunk in chunks for c in chunk.choices if c.finish_reason is not None]
    assert sorted(finished) == [0, 1]


def test_logprobs(either: OpenAI) -> None:
    asked = ask(f"{FRANCE} (logprobs)", max_tokens=4, logprobs=True, top_logprobs=2)
    [choice] = either.chat.completions.create(**asked).choices
    assert choice.logprobs is not None
    assert choice.logprobs.content
    for entry in choice.logprobs.content:
        assert entry.logprob <= 0
        assert entry.bytes is None or bytes(entry.bytes).decode(errors="replace")
        assert len(entry.top_logprobs) == 2
    assert choice.logprobs.refusal is None


def test_logprobs_in_a_stream(either: OpenAI) -> None:
    asked = ask(f"{FRANCE} (logprobs, stream)", max_tokens=4, logprobs=True, top_logprobs=1)
    chunks = list(either.chat.completions.create(**asked, stream=True))
    entries = [
        entry
        for chunk in chunks
        for choice in chunk.choices
        if choice.logprobs is not None
        for entry in choice.logprobs.content or ()
    ]
    assert 1 <= len(entries) <= 4


def test_seed_repeats_and_stop_ends(either: OpenAI) -> None:
    # SGLang draws anew whatever the seed: what repeats is the cache, which keeps whole answers, such as one
    # that ends at a stop. A letter is in every answer. Only one: of several in one token SGLang cuts at the
    # first of the list, not of the text.
    seeded = ask("Invent a name.", seed=11, temperature=1, max_tokens=200, stop=["e"])
    first, second = (either.chat.completions.create(**seeded) for _ in range(2))
    assert first.choices[0].message.content == second.choices[0].message.content
    assert "e" not in (first.choices[0].message.content or "")


def test_roles_and_parts(either: OpenAI) -> None:
    messages: list[Any] = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "Hello"}, {"type": "text", "text": "there"}]},
        {"role": "assistant", "content": "Hello."},
        {"role": "user", "name": "alice", "content": "And now?"},
    ]
    answer = either.chat.completions.create(model=MODEL, messages=messages, max_completion_tokens=8)
    assert answer.choices[0].message.content


def test_the_same_question_again_is_a_hit_in_both_forms(either: OpenAI) -> None:
    asked = ask("Which river flows through Paris?", max_tokens=200, temperature=0)

    said: list[str] = []

    def whole() -> str | None:
        """The answer if it is a hit. Nobody waits for the cache's write, and a look-up that takes longer than
        25 ms is given up."""
        raw = either.chat.completions.with_raw_response.create(**asked)
        return kept(raw.headers["x-tidegate-cache"], raw.parse().choices[0].message.content or "")

    def streamed() -> str | None:
        with either.chat.completions.with_streaming_response.create(**asked, stream=True) as replay:
            chunks = list(replay.parse())
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
        return kept(replay.headers["x-tidegate-cache"], text)

    def kept(cache: str, text: str) -> str | None:
        if cache == "hit":
            return text
        said.append(text)
        return None

    assert whole() is None, "nobody has asked this before"
    assert until(whole, "a hit") in said
    assert until(streamed, "a hit in the other form") in said
