"""The prompt's bound: never below what a byte-level tokenizer can count."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ext_proc.prompt_bound import (
    BYTES_PER_TOKEN_MAX,
    COMPLETION_FLOOR,
    PART_TOKENS,
    SPECIAL_TOKENS,
    SUFFIX_TOKENS,
    completion_tokens_wanted,
    prompt_tokens_bound,
    prompt_tokens_least,
)
from gateway.contract.ids import ModelName
from gateway.models.catalogue import Model
from gateway.openai.requests import WireRequest, parse_request
from gateway.openai.terms import Capabilities, Endpoint

MODEL = Model(
    name=ModelName("m"),
    served_name="m",
    revision="1",
    context_tokens=1000,
    max_completion_tokens=600,
    template_tokens_base=10,
    template_tokens_per_message=5,
    template_tokens_tools=100,
    endpoints=frozenset(Endpoint),
    capabilities=Capabilities(tools=True, n_max=4, batch_max=8),
)


def chat(content: str, **fields: Any) -> WireRequest:
    return parse(Endpoint.CHAT, {"messages": [{"role": "user", "content": content}], **fields})


def parse(endpoint: Endpoint, fields: dict[str, Any]) -> WireRequest:
    return parse_request(endpoint, orjson.dumps({"model": "m", **fields}), lambda _: MODEL)


def test_text_counts_its_bytes() -> None:
    assert prompt_tokens_bound(chat("hello"), MODEL) == len("user") + 5 + 10 + 5
    assert prompt_tokens_bound(chat("größe 🎈"), MODEL) == len("user") + 12 + 10 + 5


def test_prompts_count_each_once_whatever_n_is() -> None:
    assert prompt_tokens_bound(parse(Endpoint.COMPLETIONS, {"prompt": ["abc", "de"], "n": 3}), MODEL) == 5 + 4
    assert prompt_tokens_bound(parse(Endpoint.COMPLETIONS, {"prompt": [[1, 2, 3], [4]]}), MODEL) == 4 + 4
    assert prompt_tokens_bound(parse(Endpoint.EMBEDDINGS, {"input": [7, 8]}), MODEL) == 2 + 2


VALUES = st.recursive(
    st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(st.text(max_size=5), VALUES, max_size=4))
def test_tools_count_as_the_most_wasteful_template_prints_them(parameters: dict[str, Any]) -> None:
    """Templates print tools with or without indent and escapes, and a call's arguments parsed anew."""
    tool = {"type": "function", "function": {"name": "f", "parameters": {"default": parameters}}}
    request = chat("", tools=[tool])
    sent = orjson.loads(orjson.dumps([tool]))
    widest = max(len(json.dumps(sent, indent=4, ensure_ascii=ascii)) for ascii in (True, False))
    assert prompt_tokens_bound(request, MODEL) >= widest + MODEL.template_tokens_tools
    call = {
        "id": "1",
        "type": "function",
        "function": {"name": "f", "arguments": orjson.dumps(parameters).decode()},
    }
    answered = [
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "1", "content": ""},
    ]
    assistant = parse(Endpoint.CHAT, {"messages": answered})
    assert prompt_tokens_bound(assistant, MODEL) >= len(
        json.dumps(orjson.loads(orjson.dumps(parameters)), indent=4)
    )


def test_the_wanted_completion() -> None:
    assert completion_tokens_wanted(chat("hi", max_tokens=7), MODEL) == 7
    assert completion_tokens_wanted(chat("hi"), MODEL) == 600
    assert completion_tokens_wanted(parse(Endpoint.EMBEDDINGS, {"input": "hi"}), MODEL) == 0
    tight = completion_tokens_wanted(chat("x" * 1000), MODEL)
    assert COMPLETION_FLOOR < tight < 600
    assert completion_tokens_wanted(chat("x" * 5000), MODEL) == COMPLETION_FLOOR
    assert completion_tokens_wanted(chat("漢" * 200), MODEL) < 1000 - 600 + 10
    usual = dataclasses.replace(MODEL, default_completion_tokens=30)
    assert completion_tokens_wanted(chat("hi"), usual) == 30
    assert completion_tokens_wanted(chat("hi", max_tokens=500), usual) == 500
    small = dataclasses.replace(MODEL, max_completion_tokens=20)
    assert completion_tokens_wanted(chat("x" * 5000), small) == 20
    assert completion_tokens_wanted(parse(Endpoint.COMPLETIONS, {"prompt": ["hi", "x" * 5000]}), MODEL) == 16
    assert completion_tokens_wanted(parse(Endpoint.COMPLETIONS, {"prompt": [[1], [2] * 990]}), MODEL) == 10


def test_parts_and_a_suffix_count() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    whole = parse(Endpoint.CHAT, {"messages": [{"role": "user", "content": "ab"}]})
    parted = parse(Endpoint.CHAT, {"messages": [{"role": "user", "content": parts}]})
    least = prompt_tokens_bound(whole, MODEL) + len(parts) * PART_TOKENS
    assert prompt_tokens_bound(parted, MODEL) == least
    middle = dataclasses.replace(MODEL, capabilities=Capabilities(suffix=True))
    body = orjson.dumps({"model": "m", "prompt": "ab", "suffix": "cde"})
    request = parse_request(Endpoint.COMPLETIONS, body, lambda _: middle)
    assert prompt_tokens_bound(request, middle) == 2 + 3 + SPECIAL_TOKENS + SUFFIX_TOKENS


def test_what_an_assistant_thought_counts() -> None:
    said = {"role": "assistant", "content": "x", "reasoning": "y" * 50}
    plain = {"role": "assistant", "content": "x"}
    more, less = (
        prompt_tokens_bound(parse(Endpoint.CHAT, {"messages": [message]}), MODEL) for message in (said, plain)
    )
    assert more == less + 50


@pytest.mark.parametrize(
    ("endpoint", "fields", "least"),
    [
        (Endpoint.COMPLETIONS, {"prompt": [[1, 2], [3, 4, 5]]}, 3),
        (Endpoint.EMBEDDINGS, {"input": ["a", "b" * (BYTES_PER_TOKEN_MAX + 1)]}, 2),
        (Endpoint.TOKENIZE, {"prompt": ""}, 0),
        (Endpoint.CHAT, {"messages": [{"role": "user", "content": "a" * BYTES_PER_TOKEN_MAX * 3}]}, 3),
        (Endpoint.CHAT, {"messages": [{"role": "assistant", "content": "a" * 999}]}, 0),
    ],
)
def test_the_least_that_the_longest_prompt_has(
    endpoint: Endpoint, fields: dict[str, Any], least: int
) -> None:
    assert prompt_tokens_least(parse(endpoint, fields)) == least
