"""Requests: what is taken, what is refused and how, what the engine and the cache get."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.contract.errors import GatewayError, InvalidRequest, PermissionDenied, UnsupportedParameter
from gateway.contract.units import Tokens
from gateway.openai.parameters import GATEWAY_OWNED, PARAMETERS, UNSERVED, VENDOR
from gateway.openai.requests import WireRequest, parse_request
from gateway.openai.terms import Capabilities, Endpoint, endpoint_of

HELLO = {"role": "user", "content": "hello"}
TOOL = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}
CALL = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}


@dataclass(frozen=True, kw_only=True)
class Terms:
    """A model that serves everything, unless told otherwise."""

    endpoints: frozenset[Endpoint] = frozenset(Endpoint)
    capabilities: Capabilities = Capabilities(
        tools=True, logprobs=True, reasoning=True, n_max=8, batch_max=64
    )
    vendor_parameters: frozenset[str] = frozenset(VENDOR)
    context_tokens: int = 1000
    max_completion_tokens: int = 800


PLAIN = Terms(capabilities=Capabilities(json_object=False, json_schema=False), vendor_parameters=frozenset())


def parse(endpoint: Endpoint, fields: dict[str, Any], terms: Terms | None = None) -> WireRequest:
    body = orjson.dumps({"model": "demo", **fields})
    return parse_request(endpoint, body, lambda _: terms or Terms())


def chat(terms: Terms | None = None, /, **fields: Any) -> WireRequest:
    return parse(Endpoint.CHAT, {"messages": [HELLO], **fields}, terms)


def complete(**fields: Any) -> WireRequest:
    return parse(Endpoint.COMPLETIONS, {"prompt": "hello", **fields})


def embed(**fields: Any) -> WireRequest:
    return parse(Endpoint.EMBEDDINGS, {"input": "hello", **fields})


def engine(request: WireRequest) -> dict[str, Any]:
    body = request.engine_body(model="served", max_tokens=Tokens(7), rid="r-1", priority=5, cache_salt="salt")
    decoded: dict[str, Any] = orjson.loads(body)
    return decoded


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
        response_format={"type": "json_schema", "json_schema": {"name": "s", "schema": {"a": 1}}},
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
    assert body["messages"][2]["tool_calls"] == [CALL]


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
    ("prompt", "prompts", "ids"),
    [("one", 1, 0), (["a", "b"], 2, 0), ([1, 2, 3], 1, 3), ([[1, 2], [3]], 2, 3)],
)
def test_prompt_forms(prompt: object, prompts: int, ids: int) -> None:
    request = complete(prompt=prompt, n=3)
    assert (request.prompts, request.choices, request.prompt_token_ids) == (prompts, prompts * 3, ids)
    inputs = embed(input=prompt)
    assert (inputs.prompts, inputs.choices, inputs.max_tokens_asked) == (prompts, 1, 0)
    assert inputs.prompt_token_ids == ids


CHAT_REFUSALS: list[tuple[dict[str, Any], str, str]] = [
    ({"messages": None}, "messages", "missing_required_parameter"),
    ({"messages": []}, "messages", "empty_array"),
    ({"messages": {}}, "messages", "invalid_type"),
    ({"messages": [HELLO] * 3000}, "messages", "array_above_max_length"),
    ({"messages": ["x"]}, "messages[0]", "invalid_type"),
    ({"messages": [{"content": "x"}]}, "messages[0].role", "missing_required_parameter"),
    ({"messages": [{"role": "robot", "content": "x"}]}, "messages[0].role", "invalid_value"),
    ({"messages": [{"role": ["user"], "content": "x"}]}, "messages[0].role", "invalid_type"),
    ({"messages": [HELLO, {"role": "user"}]}, "messages[1].content", "missing_required_parameter"),
    ({"messages": [HELLO, {"role": "user", "content": 3}]}, "messages[1].content", "invalid_type"),
    ({"messages": [{"role": "user", "content": None}]}, "messages[0].content", "invalid_type"),
    ({"messages": [{"role": "assistant", "content": None}]}, "messages[0].content", "invalid_type"),
    ({"messages": [{**HELLO, "colour": 1}]}, "messages[0].colour", "unknown_parameter"),
    (
        {"messages": [{"role": "tool", "content": "x"}]},
        "messages[0].tool_call_id",
        "missing_required_parameter",
    ),
    (
        {"messages": [{"role": "user", "content": [{}]}]},
        "messages[0].content[0].type",
        "missing_required_parameter",
    ),
    (
        {"messages": [{"role": "user", "content": [{"type": "text"}]}]},
        "messages[0].content[0].text",
        "missing_required_parameter",
    ),
    (
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
        "messages[0].content[0].type",
        "unsupported_parameter",
    ),
    (
        {"messages": [{"role": "assistant", "tool_calls": [{**CALL, "function": {"name": "a b"}}]}]},
        "messages[0].tool_calls[0].function.arguments",
        "missing_required_parameter",
    ),
    (
        {
            "messages": [
                {
                    "role": "assistant",
                    "tool_calls": [{**CALL, "function": {"name": "add", "arguments": "[" * 99}}],
                }
            ]
        },
        "messages[0].tool_calls[0].function.arguments",
        "invalid_value",
    ),
    ({"n": 0}, "n", "integer_below_min_value"),
    ({"n": 9}, "n", "integer_above_max_value"),
    ({"n": True}, "n", "invalid_type"),
    ({"max_tokens": 0}, "max_tokens", "integer_below_min_value"),
    ({"max_tokens": -3}, "max_tokens", "integer_below_min_value"),
    ({"max_tokens": True}, "max_tokens", "invalid_type"),
    ({"max_tokens": 5.0}, "max_tokens", "invalid_type"),
    ({"max_tokens": "5"}, "max_tokens", "invalid_type"),
    ({"max_tokens": 2**63}, "max_tokens", "integer_above_max_value"),
    ({"max_tokens": 801}, "max_tokens", "context_length_exceeded"),
    ({"max_completion_tokens": 801}, "max_completion_tokens", "context_length_exceeded"),
    ({"max_tokens": 5, "max_completion_tokens": 6}, "max_tokens", "invalid_value"),
    ({"temperature": 2.1}, "temperature", "decimal_above_max_value"),
    ({"temperature": -0.1}, "temperature", "decimal_below_min_value"),
    ({"temperature": "hot"}, "temperature", "invalid_type"),
    ({"temperature": False}, "temperature", "invalid_type"),
    ({"top_p": 0}, "top_p", "decimal_below_min_value"),
    ({"top_p": 1.01}, "top_p", "decimal_above_max_value"),
    ({"presence_penalty": 3}, "presence_penalty", "decimal_above_max_value"),
    ({"stop": ["a"] * 5}, "stop", "array_above_max_length"),
    ({"stop": [""]}, "stop[0]", "empty_string"),
    ({"stop": 5}, "stop", "invalid_type"),
    ({"seed": 1.5}, "seed", "invalid_type"),
    ({"stream": "yes"}, "stream", "invalid_type"),
    ({"stream_options": {}}, "stream_options", "invalid_value"),
    ({"stream": True, "stream_options": {"x": 1}}, "stream_options.x", "unknown_parameter"),
    (
        {"stream": True, "stream_options": {"include_usage": 1}},
        "stream_options.include_usage",
        "invalid_type",
    ),
    ({"logit_bias": {"a": 1}}, "logit_bias", "invalid_value"),
    ({"logit_bias": {"1": 101}}, "logit_bias.1", "decimal_above_max_value"),
    ({"top_logprobs": 3}, "top_logprobs", "invalid_value"),
    ({"logprobs": 3}, "logprobs", "invalid_type"),
    ({"tools": []}, "tools", "empty_array"),
    ({"tools": [{"type": "web"}]}, "tools[0].function", "missing_required_parameter"),
    ({"tools": [TOOL] * 129}, "tools", "array_above_max_length"),
    ({"tool_choice": "auto"}, "tool_choice", "invalid_value"),
    ({"tools": [TOOL], "tool_choice": "maybe"}, "tool_choice", "invalid_value"),
    (
        {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "sub"}}},
        "tool_choice.function.name",
        "invalid_value",
    ),
    ({"response_format": {}}, "response_format.type", "missing_required_parameter"),
    ({"response_format": {"type": "xml"}}, "response_format.type", "invalid_value"),
    (
        {"response_format": {"type": "json_schema"}},
        "response_format.json_schema",
        "missing_required_parameter",
    ),
    ({"metadata": {"a": 1}}, "metadata.a", "invalid_type"),
    ({"metadata": {str(n): "" for n in range(17)}}, "metadata", "object_above_max_properties"),
    ({"user": 5}, "user", "invalid_type"),
    ({"foo": 1}, "foo", "unknown_parameter"),
    ({"lora_path": "x"}, "lora_path", "unknown_parameter"),
    ({"custom_logit_processor": "x"}, "custom_logit_processor", "unknown_parameter"),
    ({"top_k": 1.5}, "top_k", "invalid_type"),
    ({"chat_template_kwargs": {"documents": "x"}}, "chat_template_kwargs.documents", "unknown_parameter"),
    ({"store": True}, "store", "unsupported_parameter"),
    ({"service_tier": "flex"}, "service_tier", "unsupported_parameter"),
    ({"modalities": ["text", "audio"]}, "modalities", "unsupported_parameter"),
    ({"audio": {}}, "audio", "unsupported_parameter"),
    ({"web_search_options": {}}, "web_search_options", "unsupported_parameter"),
    ({"functions": []}, "functions", "unsupported_parameter"),
]


@pytest.mark.parametrize(("fields", "param", "code"), CHAT_REFUSALS)
def test_chat_refusals(fields: dict[str, Any], param: str, code: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        chat(**fields)
    assert (caught.value.param, caught.value.code) == (param, code)
    assert caught.value.http_status == 400


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": [TOOL]}, "tools"),
        ({"logprobs": True}, "logprobs"),
        ({"reasoning_effort": "low"}, "reasoning_effort"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "s"}}}, "response_format"),
    ],
)
def test_what_the_model_cannot_do(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(UnsupportedParameter) as caught:
        chat(PLAIN, **fields)
    assert caught.value.param == param
    chat(PLAIN, logprobs=False, response_format={"type": "text"}, tool_choice="none")
    with pytest.raises(InvalidRequest):
        chat(PLAIN, top_k=3)


@pytest.mark.parametrize(
    ("endpoint", "fields", "param"),
    [
        (Endpoint.COMPLETIONS, {}, "prompt"),
        (Endpoint.COMPLETIONS, {"prompt": ""}, "prompt"),
        (Endpoint.COMPLETIONS, {"prompt": []}, "prompt"),
        (Endpoint.COMPLETIONS, {"prompt": 5}, "prompt"),
        (Endpoint.COMPLETIONS, {"prompt": ["a", 1]}, "prompt[1]"),
        (Endpoint.COMPLETIONS, {"prompt": [1, "a"]}, "prompt[1]"),
        (Endpoint.COMPLETIONS, {"prompt": [1, True]}, "prompt[1]"),
        (Endpoint.COMPLETIONS, {"prompt": [1, -1]}, "prompt[1]"),
        (Endpoint.COMPLETIONS, {"prompt": [1, 2**40]}, "prompt[1]"),
        (Endpoint.COMPLETIONS, {"prompt": [[1], []]}, "prompt[1]"),
        (Endpoint.COMPLETIONS, {"prompt": ["a"] * 65}, "prompt"),
        (Endpoint.COMPLETIONS, {"prompt": ["a"] * 64, "n": 3}, "n"),
        (Endpoint.COMPLETIONS, {"prompt": "a", "best_of": 2}, "best_of"),
        (Endpoint.COMPLETIONS, {"prompt": "a", "suffix": "b"}, "suffix"),
        (Endpoint.COMPLETIONS, {"prompt": "a", "logprobs": 6}, "logprobs"),
        (Endpoint.COMPLETIONS, {"prompt": "a", "messages": []}, "messages"),
        (Endpoint.EMBEDDINGS, {"input": ""}, "input"),
        (Endpoint.EMBEDDINGS, {"input": "a", "stream": True}, "stream"),
        (Endpoint.EMBEDDINGS, {"input": "a", "top_k": 1}, "top_k"),
        (Endpoint.EMBEDDINGS, {"input": "a", "encoding_format": "hex"}, "encoding_format"),
        (Endpoint.EMBEDDINGS, {"input": "a", "dimensions": 0}, "dimensions"),
    ],
)
def test_other_refusals(endpoint: Endpoint, fields: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse(endpoint, fields)
    assert caught.value.param == param


@pytest.mark.parametrize("model", [None, "", 5, "x" * 300, ["demo"]])
def test_the_model_must_be_named(model: object) -> None:
    with pytest.raises(InvalidRequest) as caught:
        chat(model=model)
    assert caught.value.param == "model"


def test_the_lookups_refusal_comes_through_and_first() -> None:
    def refuse(name: str) -> Terms:
        raise PermissionDenied(f"no {name}", code="model_not_allowed")

    with pytest.raises(PermissionDenied):
        parse_request(Endpoint.CHAT, b'{"model":"x","foo":1}', refuse)


def test_an_endpoint_the_model_does_not_serve() -> None:
    with pytest.raises(InvalidRequest) as caught:
        chat(Terms(endpoints=frozenset({Endpoint.EMBEDDINGS})))
    assert caught.value.code == "model_not_supported"
    assert "/v1/embeddings" in caught.value.message


def test_client_words_in_messages_are_short_and_printable() -> None:
    with pytest.raises(InvalidRequest) as caught:
        chat(**{"x\r\nset-cookie: a" + "y" * 5000: 1})
    assert len(caught.value.message) < 200
    assert "\r" not in caught.value.message + str(caught.value.param)


def test_cache_fields_ignore_what_does_not_decide_the_answer() -> None:
    one = chat(
        max_tokens=5, stream=True, stream_options={"include_usage": True}, user="a", rid="x", seed=None
    )
    two = chat(max_completion_tokens=5, model="alias", metadata={"k": "v"})
    assert one.cache_text() == two.cache_text()


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
    assert chat().cache_text() != chat(**fields).cache_text()


def test_cache_text_tells_endpoints_apart() -> None:
    assert complete().cache_text() != embed().cache_text()


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
    assert {"part", "ann", "said", "no", "four", "c1", "user", "tool"} <= texts
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
    assert request.cache_text()
    assert sum(map(len, request.prompt_texts())) >= 0


@given(st.binary(max_size=100))
def test_junk_is_refused_as_a_gateway_error(body: bytes) -> None:
    with pytest.raises(GatewayError):
        parse_request(Endpoint.CHAT, body, lambda _: Terms())
