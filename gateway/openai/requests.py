"""A client's body to a typed, validated request, and that request to the engine's body.

The engine never sees the client's bytes: what was checked is written anew, so that budget, cache and
engine read the same values. Unknown fields are refused, not passed on. Raises GatewayError only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import orjson

from gateway.contract.errors import ContextLengthExceeded, InvalidRequest
from gateway.contract.units import Tokens
from gateway.openai import checks
from gateway.openai.combinations import COMPLETION_LIMITS, hold_together
from gateway.openai.json_body import read_object, shown
from gateway.openai.messages import in_normal_form
from gateway.openai.parameters import CHAT_ONLY, FOR_US, GATEWAY_OWNED, PARAMETERS, UNSERVED, VENDOR
from gateway.openai.terms import Endpoint, ModelTerms

CHOICES_MAX: Final = 128
"""Completions of one request: n x prompts."""
_NOT_IN_CACHE_KEY: Final = frozenset({"model", "stream", "stream_options", *COMPLETION_LIMITS})
_ENGINE_STREAM_OPTIONS: Final = {"include_usage": True, "continuous_usage_stats": True}
_CONTENT: Final = {
    Endpoint.CHAT: ("messages",),
    Endpoint.COMPLETIONS: ("prompt",),
    Endpoint.EMBEDDINGS: ("input",),
    Endpoint.TOKENIZE: ("prompt", "messages"),
}
"""The parameters that carry what the model reads: exactly one of them must be given."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How random the answer is. ``temperature`` is None when the client left it to the engine."""

    temperature: float | None
    seed: int | None
    top_k: int | None = None

    @property
    def greedy(self) -> bool:
        """The same request gives the same answer, as far as an engine can promise it."""
        return self.temperature == 0 or self.top_k == 1


@dataclass(frozen=True, slots=True, kw_only=True)
class WireRequest:
    """A validated request. ``fields`` are its parameters without nulls, without what the gateway owns
    and without what the engine need not know."""

    endpoint: Endpoint
    model_asked: str
    """Name or alias, as the client wrote it."""
    fields: Mapping[str, Any]
    stream: bool
    usage_asked: bool
    """stream_options.include_usage."""
    continuous_usage_asked: bool
    prompts: int
    """How many prompts (completions, tokenize) or inputs (embeddings); 1 for messages."""
    choices: int
    """n x prompts, at least 1; 1 for embeddings and tokenize, which produce no tokens."""
    max_tokens_asked: Tokens | None
    """For each choice; None when the client named none; 0 where none are produced."""
    sampling: Sampling
    end_user: str = ""
    """The client's ``user`` or ``safety_identifier``: personal, for a pseudonym only."""
    labels: Mapping[str, str] = field(default_factory=dict)
    """The client's ``metadata``: of it only the name of a workflow is read."""

    @property
    def content_name(self) -> str:
        """The parameter that carries what the model reads: messages, prompt or input."""
        return next(name for name in _CONTENT[self.endpoint] if name in self.fields)

    def prompt_texts(self) -> Iterator[str]:
        """Every text the model will read, but tools and schemas."""
        for message in self.fields.get("messages", ()):
            yield from message_texts(message)
        yield from (prompt for prompt in self.separate_prompts() if isinstance(prompt, str))
        if self.fields.get("suffix"):
            yield self.fields["suffix"]

    def separate_prompts(self) -> Sequence[str | list[int]]:
        """The prompts or inputs, each as text or token ids, in order; none for messages."""
        content = self.fields[self.content_name]
        if self.content_name == "messages":
            return ()
        return [content] if isinstance(content, str) or type(content[0]) is int else content

    def prompt_documents(self) -> Iterator[object]:
        """JSON values a chat template may print into the prompt: tools, schemas, arguments of calls."""
        for name in ("tools", "response_format"):
            if name in self.fields:
                yield self.fields[name]
        for message in self.fields.get("messages", ()):
            yield from message.get("tool_calls") or ()

    @property
    def prompt_token_ids(self) -> int:
        """How many token ids were given in place of text; 0 for text."""
        return sum(len(prompt) for prompt in self.separate_prompts() if not isinstance(prompt, str))

    def cache_fields(self) -> dict[str, Any]:
        """What decides the answer, beside model and partition: equal dicts, equal answers wanted.

        Not in it: stream and stream_options (a hit of one form serves the other). Two spellings of
        the token limit are one.
        """
        kept = {name: value for name, value in self.fields.items() if name not in _NOT_IN_CACHE_KEY}
        if self.max_tokens_asked is not None:
            kept["max_tokens"] = self.max_tokens_asked
        return {"endpoint": self.endpoint.value, **kept}

    def engine_body(
        self, *, model: str, max_tokens: Tokens, rid: str, priority: int, cache_salt: str
    ) -> bytes:
        """The engine's request. ``model`` is the engine's name, ``max_tokens`` the clamped limit of each
        choice; embeddings and tokenize take neither it nor rid, priority and salt."""
        if not self.endpoint.generates:
            return orjson.dumps({**self.fields, "model": model})
        body = {name: value for name, value in self.fields.items() if name not in COMPLETION_LIMITS}
        body["model"] = model
        body["max_tokens"] = max_tokens
        if body.get("min_tokens", 0) > max_tokens:
            body["min_tokens"] = max_tokens
        body["stream"] = self.stream
        if self.stream:
            body["stream_options"] = _ENGINE_STREAM_OPTIONS
        if isinstance(chosen := body.get("tool_choice"), dict):
            # SGLang's tool parsers bind the answer to all tools given, not to the one that is named.
            name = chosen["function"]["name"]
            body["tools"] = [tool for tool in body["tools"] if tool["function"]["name"] == name]
        body["rid"] = rid
        body["priority"] = priority
        body["cache_salt"] = cache_salt
        return orjson.dumps(body)


def message_texts(message: Mapping[str, Any]) -> Iterator[str]:
    """The texts of a message in normal form."""
    for name in ("role", "name", "reasoning_content", "tool_call_id"):
        value = message.get(name)
        if value:
            yield value
    content = message.get("content")
    if isinstance(content, str):
        yield content
    elif content:
        for part in content:
            yield part["text"]


def parse_request(endpoint: Endpoint, body: bytes, terms_of: Callable[[str], ModelTerms]) -> WireRequest:
    """Validate ``body``. ``terms_of`` gives the model of a name and raises GatewayError (404, 403) for a
    name that the caller may not use. Raises GatewayError only."""
    raw = read_object(body)
    model_asked = raw.get("model")
    if model_asked is None:
        raise checks.missing("model")
    PARAMETERS[endpoint]["model"](model_asked, "model")
    terms = terms_of(model_asked)
    if endpoint not in terms.endpoints:
        raise InvalidRequest(
            f"This model does not serve {endpoint.path}; it serves "
            + ", ".join(sorted(served.path for served in terms.endpoints))
            + ".",
            code="model_not_supported",
            param="model",
        )
    fields = _checked(endpoint, raw, terms)
    hold_together(endpoint, fields, terms)
    options = fields.get("stream_options") or {}
    prompts = _prompt_count(endpoint, fields, terms)
    choices = prompts * fields.get("n", 1) if endpoint.generates else 1
    if choices > CHOICES_MAX:
        raise checks.invalid("n", f"n times the number of prompts is over {CHOICES_MAX}.")
    return WireRequest(
        endpoint=endpoint,
        model_asked=model_asked,
        fields=_for_the_engine(endpoint, fields, terms),
        stream=fields.get("stream", False),
        usage_asked=options.get("include_usage") is True,
        continuous_usage_asked=options.get("continuous_usage_stats") is True,
        prompts=prompts,
        choices=choices,
        max_tokens_asked=_limit(endpoint, fields, terms),
        sampling=Sampling(
            temperature=fields.get("temperature"), seed=fields.get("seed"), top_k=fields.get("top_k")
        ),
        end_user=fields.get("safety_identifier") or fields.get("user") or "",
        labels=fields.get("metadata") or {},
    )


def _for_the_engine(endpoint: Endpoint, fields: Mapping[str, Any], terms: ModelTerms) -> dict[str, Any]:
    kept = {name: value for name, value in fields.items() if name not in FOR_US}
    if "messages" in kept:
        developer_role = terms.capabilities.developer_role
        kept["messages"] = [in_normal_form(one, developer_role=developer_role) for one in kept["messages"]]
    if endpoint is Endpoint.COMPLETIONS and terms.capabilities.suffix:
        # SGLang with a completion template writes a missing suffix as "None".
        kept.setdefault("suffix", "")
    elif not kept.get("suffix"):
        kept.pop("suffix", None)
    return kept


def _checked(endpoint: Endpoint, raw: Mapping[str, Any], terms: ModelTerms) -> dict[str, Any]:
    known, unserved = PARAMETERS[endpoint], UNSERVED[endpoint]
    fields: dict[str, Any] = {}
    for name, value in raw.items():
        check = known.get(name)
        if check is not None:
            if value is not None:
                check(value, name)
                fields[name] = value
        elif name in GATEWAY_OWNED:
            continue
        elif name in unserved:
            if value is not None:
                raise checks.unserved(name, unserved[name])
        elif name in terms.vendor_parameters and _vendor_taken(endpoint, name):
            if value is not None:
                VENDOR[name](value, name)
                fields[name] = value
        else:
            raise checks.unknown(shown(name))
    carriers = _CONTENT[endpoint]
    given = [name for name in carriers if name in fields]
    if not given:
        raise checks.missing(carriers[0])
    if len(given) > 1:
        raise checks.invalid(given[1], f"send either '{given[0]}' or '{given[1]}', not both.")
    return fields


def _vendor_taken(endpoint: Endpoint, name: str) -> bool:
    return endpoint is Endpoint.CHAT or (endpoint is Endpoint.COMPLETIONS and name not in CHAT_ONLY)


def _prompt_count(endpoint: Endpoint, fields: Mapping[str, Any], terms: ModelTerms) -> int:
    if "messages" in fields:
        return 1
    place = "input" if endpoint is Endpoint.EMBEDDINGS else "prompt"
    content = fields[place]
    count = 1 if isinstance(content, str) or type(content[0]) is int else len(content)
    most = terms.capabilities.batch_max
    if count > most:
        raise checks.invalid(
            place,
            f"array too long. This model takes at most {most} in one request, but got {count}.",
            "array_above_max_length",
        )
    return count


def _limit(endpoint: Endpoint, fields: Mapping[str, Any], terms: ModelTerms) -> Tokens | None:
    if not endpoint.generates:
        return Tokens(0)
    given = [name for name in COMPLETION_LIMITS if name in fields]
    if not given:
        return None
    asked = fields[given[0]]
    if len(given) == 2 and fields[given[1]] != asked:
        raise checks.invalid(given[0], "'max_tokens' and 'max_completion_tokens' differ; send one of them.")
    most = min(terms.max_completion_tokens, terms.context_tokens)
    if asked > most:
        raise ContextLengthExceeded(
            f"{given[0]} is too large: {asked}. This model supports at most {most} completion tokens,"
            f" whereas you provided {asked}.",
            param=given[0],
        )
    return Tokens(asked)
