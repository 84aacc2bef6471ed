"""Requests that are refused: the place, the code, the words."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.contract.errors import InvalidRequest, PermissionDenied, UnsupportedParameter
from gateway.openai.requests import parse_request
from gateway.openai.terms import Endpoint
from tests.unit.openai.asking import CALL, HELLO, PLAIN, TOOL, Terms, chat, parse

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
    ({"tools": [{"type": "web"}]}, "tools[0].type", "invalid_value"),
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
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "s", "schema": {}}}},
            "response_format",
        ),
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
        (Endpoint.COMPLETIONS, {"prompt": ["a"], "suffix": "b"}, "suffix"),
        (Endpoint.COMPLETIONS, {"prompt": "a", "suffix": "b", "echo": True}, "suffix"),
        (Endpoint.COMPLETIONS, {"prompt": "a", "max_tokens": 0, "echo": True}, "max_tokens"),
        (Endpoint.COMPLETIONS, {"prompt": [1, 50_000]}, "prompt[1]"),
        (Endpoint.COMPLETIONS, {"prompt": [[1], [2, 50_000]]}, "prompt[1][1]"),
        (Endpoint.COMPLETIONS, {"prompt": "a", "logit_bias": {"50000": 1}}, "logit_bias"),
        (Endpoint.COMPLETIONS, {"prompt": "a", "stop_token_ids": [0, 50_000]}, "stop_token_ids[1]"),
        (Endpoint.COMPLETIONS, {"prompt": "a", "separate_reasoning": True}, "separate_reasoning"),
        (Endpoint.EMBEDDINGS, {"input": " \n"}, "input"),
        (Endpoint.EMBEDDINGS, {"input": ["a", " "]}, "input"),
        (Endpoint.EMBEDDINGS, {"input": [50_000]}, "input[0]"),
        (Endpoint.COMPLETIONS, {"prompt": "a", "logprobs": 6}, "logprobs"),
        (Endpoint.COMPLETIONS, {"prompt": "a", "messages": []}, "messages"),
        (Endpoint.EMBEDDINGS, {"input": ""}, "input"),
        (Endpoint.EMBEDDINGS, {"input": "a", "stream": True}, "stream"),
        (Endpoint.EMBEDDINGS, {"input": "a", "top_k": 1}, "top_k"),
        (Endpoint.EMBEDDINGS, {"input": "a", "encoding_format": "hex"}, "encoding_format"),
        (Endpoint.EMBEDDINGS, {"input": "a", "dimensions": 0}, "dimensions"),
        (Endpoint.TOKENIZE, {}, "prompt"),
        (Endpoint.TOKENIZE, {"prompt": []}, "prompt"),
        (Endpoint.TOKENIZE, {"prompt": [1]}, "prompt[0]"),
        (Endpoint.TOKENIZE, {"prompt": 1}, "prompt"),
        (Endpoint.TOKENIZE, {"prompt": ["a"] * 65}, "prompt"),
        (Endpoint.TOKENIZE, {"prompt": "a", "messages": [HELLO]}, "messages"),
        (Endpoint.TOKENIZE, {"prompt": "a", "tools": [TOOL]}, "tools"),
        (Endpoint.TOKENIZE, {"messages": []}, "messages"),
        (Endpoint.TOKENIZE, {"prompt": "a", "add_special_tokens": 1}, "add_special_tokens"),
        (Endpoint.TOKENIZE, {"prompt": "a", "top_k": 1}, "top_k"),
        (Endpoint.TOKENIZE, {"prompt": "a", "n": 1}, "n"),
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
