"""Requests: what is taken, what is refused and how, what the engine and the cache get."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.contract.errors import GatewayError
from gateway.openai.parameters import GATEWAY_OWNED, PARAMETERS, UNSERVED, VENDOR
from gateway.openai.requests import parse_request
from gateway.openai.terms import Endpoint, endpoint_of
from tests.unit.openai.asking import CALL, HELLO, TOOL, Terms, chat, complete, embed, engine, tokenize


def test_a_full_chat_request() -> None:
    request = chat(
        messages=[
            {"role": "developer", "content": "be brief"},
            {"role": "user", "content": [{"type": "text", "text": "2+2"}], "name": "ann"},
            {"role": "assistant", "content": None, "tool_calls": [CALL], "refusal": None},
            {"role": "tool", "tool_call_id": "c1", "content": "4"},
        ],
        tools=[TOOL],
        tool_choice={"type": "function", "function": {"name": "add"}},
        parallel_tool_calls=False,
        response_format={"type": "text"},
        stop=["x", "y"],
        n=2,
        temperature=0,
        top_p=1,
        seed=-1,
        max_completion_tokens=20,
        max_tokens=20,
        stream=True,
        stream_options={"include_usage": True},
        logprobs=True,
        top_logprobs=3,
        logit_bias={"50": -100},
        metadata={"a": "b"},
        store=False,
        service_tier="auto",
        modalities=["text"],
        user="ann",
        safety_identifier="sid",
        top_k=4,
        presence_penalty=None,
    )
    assert (request.stream, request.usage_asked, request.continuous_usage_asked) == (True, True, False)
    assert (request.choices, request.prompts, request.max_tokens_asked) == (2, 1, 20)
    assert request.sampling.greedy
    assert request.end_user == "sid"
    body = engine(request)
    assert body["max_tokens"] == 7
    assert body["stream_options"] == {"include_usage": True, "continuous_usage_stats": True}
    assert (body["rid"], body["priority"], body["cache_salt"], body["model"]) == ("r-1", 5, "salt", "served")
    assert not body.keys() & {"max_completion_tokens", "user", "metadata", "store", "modalities"}
    assert "presence_penalty" not in body
    assert body["messages"] == [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": [{"type": "text", "text": "2+2"}], "name": "ann"},
        {"role": "assistant", "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "c1", "content": "4"},
    ]


def test_gateway_owned_fields_never_count() -> None:
    owned: dict[str, Any] = dict.fromkeys(GATEWAY_OWNED, "evil")
    body = engine(chat(**owned))
    assert (body["rid"], body["priority"], body["cache_salt"]) == ("r-1", 5, "salt")
    assert not body.keys() & (GATEWAY_OWNED - {"rid", "priority", "cache_salt"})
    assert not engine(embed(**owned)).keys() & GATEWAY_OWNED


def test_engine_bodies_of_the_other_endpoints() -> None:
    assert engine(embed(encoding_format="base64", dimensions=3, user="u")) == {
        "model": "served",
        "input": "hello",
        "encoding_format": "base64",
        "dimensions": 3,
    }
    body = engine(complete(best_of=1, echo=True, min_tokens=30, max_tokens=40))
    assert body["min_tokens"] == 7
    assert body["stream"] is False
    assert not body.keys() & {"best_of", "stream_options"}


@pytest.mark.parametrize(
    ("fields", "name", "prompts"),
    [
        ({"prompt": "hello"}, "prompt", 1),
        ({"prompt": ["a", ""], "add_special_tokens": False}, "prompt", 2),
        ({"messages": [HELLO], "tools": [TOOL]}, "messages", 1),
    ],
)
def test_tokenize_costs_nothing_and_is_passed_on_as_it_came(
    fields: dict[str, Any], name: str, prompts: int
) -> None:
    request = tokenize(**fields, rid="x", priority=1)
    assert (request.content_name, request.prompts, request.choices) == (name, prompts, 1)
    assert (request.max_tokens_asked, request.stream, request.prompt_token_ids) == (0, False, 0)
    assert engine(request) == {"model": "served", **fields}


@pytest.mark.parametrize(
    ("prompt", "prompts", "ids"),
    [("one", 1, 0), (["a", "b"], 2, 0), ([1, 2, 3], 1, 3), ([[1, 2], [3]], 2, 3)],
)
def test_prompt_forms(prompt: object, prompts: int, ids: int) -> None:
    request = complete(prompt=prompt, n=3)
    assert (request.prompts, request.choices, request.prompt_token_ids) == (prompts, prompts * 3, ids)
    inputs = embed(input=prompt)
    assert (inputs.prompts, inputs.choices, inputs.max_tokens_asked) == (prompts, 1, 0)
    assert inputs.prompt_token_ids == ids


def test_cache_fields_ignore_what_does_not_decide_the_answer() -> None:
    one = chat(
        max_tokens=5, stream=True, stream_options={"include_usage": True}, user="a", rid="x", seed=None
    )
    two = chat(max_completion_tokens=5, model="alias", metadata={"k": "v"})
    assert one.cache_fields() == two.cache_fields()


@pytest.mark.parametrize(
    "fields",
    [
        {"max_tokens": 5},
        {"temperature": 0.5},
        {"seed": 1},
        {"messages": [{"role": "system", "content": "hello"}]},
        {"tools": [TOOL]},
        {"response_format": {"type": "json_object"}},
        {"stop": "x"},
        {"n": 2},
        {"top_k": 1},
        {"logit_bias": {"1": 1}},
    ],
)
def test_cache_fields_tell_apart_what_decides(fields: dict[str, Any]) -> None:
    assert chat().cache_fields() != chat(**fields).cache_fields()


def test_cache_fields_tell_endpoints_apart() -> None:
    assert complete().cache_fields() != embed().cache_fields()


def test_texts_and_documents_hold_all_the_model_reads() -> None:
    request = chat(
        messages=[
            {"role": "user", "content": [{"type": "text", "text": "part"}], "name": "ann"},
            {"role": "assistant", "content": "said", "refusal": "no", "tool_calls": [CALL]},
            {"role": "tool", "tool_call_id": "c1", "content": "four"},
        ],
        tools=[TOOL],
    )
    texts = set(request.prompt_texts())
    assert {"part", "ann", "said", "no", "four", "c1", "user", "tool", "assistant"} <= texts
    assert list(request.prompt_documents()) == [[TOOL], CALL]
    assert list(complete(prompt=["a", "b"]).prompt_texts()) == ["a", "b"]
    assert list(complete(prompt=[1, 2]).prompt_texts()) == []


def test_known_parameters_are_in_one_place_only() -> None:
    for endpoint in Endpoint:
        known = set(PARAMETERS[endpoint])
        assert not known & (set(UNSERVED[endpoint]) | set(VENDOR) | GATEWAY_OWNED)
        assert endpoint_of(endpoint.path) is endpoint
    assert endpoint_of("/v1/chat/completions/") is None


NAMES = sorted(
    {name for known in PARAMETERS.values() for name in known} | set(VENDOR) | {"rid", "audio", "x"}
)
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["role", "content", "type", "text", "function", "name", "tool_calls", "a"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=8,
)


@given(
    st.sampled_from(list(Endpoint)), st.dictionaries(st.sampled_from(NAMES), JSON, max_size=6), st.booleans()
)
def test_any_object_is_read_or_refused_as_a_gateway_error(
    endpoint: Endpoint, fields: dict[str, Any], named: bool
) -> None:
    if named:
        fields = {"messages": [HELLO], "prompt": "x", "input": "x", **fields, "model": "demo"}
        keep = PARAMETERS[endpoint].keys() | VENDOR.keys()
        fields = {name: value for name, value in fields.items() if name in keep}
    try:
        body = orjson.dumps(fields)
    except orjson.JSONEncodeError:
        return
    try:
        request = parse_request(endpoint, body, lambda _: Terms())
    except GatewayError:
        return
    assert engine(request)
    assert request.cache_fields()
    assert sum(map(len, request.prompt_texts())) >= 0


@given(st.binary(max_size=100))
def test_junk_is_refused_as_a_gateway_error(body: bytes) -> None:
    with pytest.raises(GatewayError):
        parse_request(Endpoint.CHAT, body, lambda _: Terms())


def test_of_several_tools_the_engine_sees_the_named_one() -> None:
    """SGLang 0.5.23 with a tool-call parser: asked for ``add`` among two, it called the other one."""
    other = {"type": "function", "function": {"name": "other"}}
    named = {"type": "function", "function": {"name": "add"}}
    asked: dict[str, Any] = {"tools": [other, TOOL]}
    assert engine(chat(**asked, tool_choice=named))["tools"] == [TOOL]
    assert engine(chat(**asked, tool_choice="required"))["tools"] == [other, TOOL]
    assert chat(**asked, tool_choice=named).cache_fields()["tools"] == [other, TOOL]
