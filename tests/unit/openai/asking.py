"""A model that serves everything, and requests to it in one line."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import orjson

from gateway.contract.units import Tokens
from gateway.openai.parameters import VENDOR
from gateway.openai.requests import WireRequest, parse_request
from gateway.openai.terms import Capabilities, Endpoint

HELLO = {"role": "user", "content": "hello"}
TOOL = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}
CALL = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}


@dataclass(frozen=True, kw_only=True)
class Terms:
    """A model that serves everything, unless told otherwise."""

    endpoints: frozenset[Endpoint] = frozenset(Endpoint)
    capabilities: Capabilities = Capabilities(
        tools=True, logprobs=True, reasoning=True, suffix=True, dimensions=True, n_max=8, batch_max=64
    )
    vendor_parameters: frozenset[str] = frozenset(VENDOR)
    context_tokens: int = 1000
    max_completion_tokens: int = 800
    vocabulary_size: int = 50_000


PLAIN = Terms(capabilities=Capabilities(json_object=False, json_schema=False), vendor_parameters=frozenset())


def parse(endpoint: Endpoint, fields: dict[str, Any], terms: Terms | None = None) -> WireRequest:
    body = orjson.dumps({"model": "demo", **fields})
    return parse_request(endpoint, body, lambda _: terms or Terms())


def chat(terms: Terms | None = None, /, **fields: Any) -> WireRequest:
    return parse(Endpoint.CHAT, {"messages": [HELLO], **fields}, terms)


def complete(terms: Terms | None = None, /, **fields: Any) -> WireRequest:
    return parse(Endpoint.COMPLETIONS, {"prompt": "hello", **fields}, terms)


def embed(**fields: Any) -> WireRequest:
    return parse(Endpoint.EMBEDDINGS, {"input": "hello", **fields})


def tokenize(**fields: Any) -> WireRequest:
    return parse(Endpoint.TOKENIZE, fields or {"prompt": "hello"})


def engine(request: WireRequest) -> dict[str, Any]:
    body = request.engine_body(model="served", max_tokens=Tokens(7), rid="r-1", priority=5, cache_salt="salt")
    decoded: dict[str, Any] = orjson.loads(body)
    return decoded
