"""The body validator under fuzz: GatewayError or a request whose engine body means the same once more."""

from __future__ import annotations

import random
from typing import Any, Final

import orjson

from gateway.contract.errors import GatewayError
from gateway.contract.units import Tokens
from gateway.openai.parameters import PARAMETERS, UNSERVED, VENDOR
from gateway.openai.requests import WireRequest, parse_request
from gateway.openai.terms import Endpoint
from tests.fuzz.mutation import changed_bytes, changed_value
from tests.unit.openai.asking import CALL, HELLO, TOOL, Terms

_SCHEMA: Final = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
SEEDS: Final[tuple[tuple[Endpoint, dict[str, Any]], ...]] = (
    (Endpoint.CHAT, {"messages": [HELLO]}),
    (Endpoint.CHAT, {"messages": [HELLO], "stream": True, "stream_options": {"include_usage": True}, "n": 2}),
    (
        Endpoint.CHAT,
        {"messages": [HELLO], "tools": [TOOL], "tool_choice": "auto", "parallel_tool_calls": True},
    ),
    (
        Endpoint.CHAT,
        {
            "messages": [
                {"role": "system", "content": "be brief"},
                {
                    "role": "user",
                    "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}],
                    "name": "n",
                },
                {"role": "assistant", "content": None, "tool_calls": [CALL]},
                {"role": "tool", "tool_call_id": "c1", "content": "1"},
            ],
            "temperature": 0.5,
            "top_p": 0.9,
            "stop": ["a", "b"],
            "logit_bias": {"5": -100},
            "seed": 7,
            "max_completion_tokens": 10,
            "presence_penalty": 0.1,
        },
    ),
    (
        Endpoint.CHAT,
        {
            "messages": [HELLO],
            "response_format": {"type": "json_schema", "json_schema": {"name": "s", "schema": _SCHEMA}},
            "logprobs": True,
            "top_logprobs": 2,
            "user": "u",
            "metadata": {"a": "b"},
        },
    ),
    (Endpoint.CHAT, {"messages": [HELLO], "top_k": 5, "min_p": 0.1, "regex": "a+", "ignore_eos": True}),
    (Endpoint.COMPLETIONS, {"prompt": "hello", "max_tokens": 5, "echo": True, "logprobs": 1}),
    (Endpoint.COMPLETIONS, {"prompt": ["a", "b"], "n": 2, "best_of": 2, "stop": "x"}),
    (Endpoint.COMPLETIONS, {"prompt": "a", "suffix": "x"}),
    (Endpoint.COMPLETIONS, {"prompt": [[1, 2], [3]], "stream": True}),
    (Endpoint.EMBEDDINGS, {"input": ["a", "b"], "encoding_format": "base64", "dimensions": 8}),
    (Endpoint.EMBEDDINGS, {"input": [1, 2, 3], "user": "u"}),
    (Endpoint.TOKENIZE, {"prompt": ["a", "b"]}),
    (Endpoint.TOKENIZE, {"messages": [HELLO], "tools": [TOOL]}),
)
_NAMES: Final[dict[Endpoint, tuple[str, ...]]] = {
    endpoint: (*PARAMETERS[endpoint], *UNSERVED[endpoint], *VENDOR, "role", "content", "type", "text", "x")
    for endpoint in Endpoint
}
_TERMS: Final = Terms()


def terms_of(_: str) -> Terms:
    """A model that serves everything."""
    return _TERMS


def body_from(rng: random.Random) -> tuple[Endpoint, bytes]:
    """A changed request, mostly still JSON; sometimes sent to another endpoint than it is made for."""
    endpoint, seed = rng.choice(SEEDS)
    value: Any = {"model": "demo", **seed}
    if rng.random() < 0.75:
        for _ in range(rng.choice((1, 1, 2, 3))):
            value = changed_value(rng, value, _NAMES[endpoint])
        try:
            body = orjson.dumps(value)
        except TypeError:
            body = b"{}"  # a whole number of more than 64 bits: orjson writes none
    else:
        body = changed_bytes(rng, orjson.dumps(value), orjson.dumps(seed))
    return (rng.choice(tuple(Endpoint)) if rng.random() < 0.05 else endpoint), body


def check_body(endpoint: Endpoint, body: bytes) -> bool:
    """Whether ``body`` is accepted. Raises AssertionError where a promise is broken, and whatever should
    never come out."""
    try:
        request = parse_request(endpoint, body, terms_of)
    except GatewayError as error:
        assert 400 <= error.http_status < 500, error
        assert error.message.isprintable(), error.message
        return False
    limit = request.max_tokens_asked or Tokens(_TERMS.max_completion_tokens)
    written = request.engine_body(model="demo", max_tokens=limit, rid="r", priority=1, cache_salt="s")
    again = parse_request(endpoint, written, terms_of)
    assert _meaning(again) == _meaning(request), written
    assert list(again.prompt_texts()) == list(request.prompt_texts())
    assert orjson.dumps(request.cache_fields(), option=orjson.OPT_SORT_KEYS)
    return True


def _meaning(request: WireRequest) -> dict[str, Any]:
    """What decides the answer, but the limit that the engine's body always names, and what it bounds."""
    fields = request.cache_fields()
    fields.pop("max_tokens", None)
    fields.pop("min_tokens", None)
    return {**fields, "stream": request.stream, "prompts": request.prompts, "choices": request.choices}
