"""The prompt's bound: never below what a byte-level tokenizer can count."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import orjson
from hypothesis import given
from hypothesis import strategies as st

from ext_proc.prompt_bound import COMPLETION_FLOOR, completion_tokens_wanted, prompt_tokens_bound
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
    tool = {"type": "function", "function": {"name": "f", "parameters": parameters}}
    request = chat("", tools=[tool])
    sent = orjson.loads(orjson.dumps([tool]))
    widest = max(len(json.dumps(sent, indent=4, ensure_ascii=ascii)) for ascii in (True, False))
    assert prompt_tokens_bound(request, MODEL) >= widest + MODEL.template_tokens_tools
    call = {
        "id": "1",
        "type": "function",
        "function": {"name": "f", "arguments": orjson.dumps(parameters).decode()},
    }
    assistant = parse(Endpoint.CHAT, {"messages": [{"role": "assistant", "tool_calls": [call]}]})
    assert prompt_tokens_bound(assistant, MODEL) >= len(
        json.dumps(orjson.loads(orjson.dumps(parameters)), indent=4)
    )


def test_arguments_that_are_not_json_count_as_text() -> None:
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "x" * 400}}
    request = parse(Endpoint.CHAT, {"messages": [{"role": "assistant", "tool_calls": [call]}]})
    assert prompt_tokens_bound(request, MODEL) > 400


def test_the_wanted_completion() -> None:
    assert completion_tokens_wanted(chat("hi", max_tokens=7), MODEL) == 7
    assert completion_tokens_wanted(chat("hi"), MODEL) == 600
    assert completion_tokens_wanted(parse(Endpoint.EMBEDDINGS, {"input": "hi"}), MODEL) == 0
    tight = completion_tokens_wanted(chat("x" * 1000), MODEL)
    assert COMPLETION_FLOOR < tight < 600
    assert completion_tokens_wanted(chat("x" * 5000), MODEL) == COMPLETION_FLOOR
    assert completion_tokens_wanted(chat("漢" * 200), MODEL) < 1000 - 600 + 10
    small = dataclasses.replace(MODEL, max_completion_tokens=20)
    assert completion_tokens_wanted(chat("x" * 5000), small) == 20
