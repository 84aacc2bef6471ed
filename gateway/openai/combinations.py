"""Rules over more than one parameter, and what the model at hand can do.

What SGLang 0.5.23 would refuse after the reservation, or would drop, is refused here with the reason.
Sources: OpenAI API reference; SGLang's protocol.py (``to_sampling_params``), sampling_params.py
(``verify``), serving_chat.py (``_validate_request``).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from gateway.contract.errors import InvalidRequest
from gateway.openai import checks
from gateway.openai.json_schemas import check_size
from gateway.openai.terms import Capabilities, Endpoint, ModelTerms
from gateway.openai.tools import chosen_tool_exists

_NO_MODEL: Final = "is not supported with this model."
_GRAMMARS: Final = ("response_format", "regex", "ebnf")
"""Parameters that bind the answer to a form; an engine follows one."""
NEEDS: Final[Mapping[str, str]] = {
    "tools": "tools",
    "logprobs": "logprobs",
    "reasoning_effort": "reasoning",
    "suffix": "suffix",
    "dimensions": "dimensions",
}
"""Parameter to the capability of the catalogue's entry without which it is refused."""
COMPLETION_LIMITS: Final = ("max_tokens", "max_completion_tokens")


def hold_together(endpoint: Endpoint, fields: Mapping[str, Any], terms: ModelTerms) -> None:
    """Raises InvalidRequest or UnsupportedParameter. ``fields``: each checked alone, without nulls."""
    able = terms.capabilities
    if fields.get("stream_options") is not None and not fields.get("stream"):
        raise checks.invalid("stream_options", "only allowed when 'stream' is true.")
    if fields.get("n", 1) > able.n_max:
        raise checks.invalid("n", f"this model serves at most {able.n_max}.", "integer_above_max_value")
    for name, reason in _beyond(endpoint, fields, able):
        raise checks.unserved(name, reason)
    for name in ("tools", "response_format"):
        if name in fields:
            check_size(fields[name], name)
    if endpoint is Endpoint.TOKENIZE and "messages" not in fields and "tools" in fields:
        raise checks.invalid("tools", "only allowed with 'messages'.")
    if endpoint is Endpoint.COMPLETIONS:
        _completions(fields)
    if endpoint is Endpoint.CHAT:
        chosen_tool_exists(dict(fields))
        if fields.get("top_logprobs") and not fields.get("logprobs"):
            raise checks.invalid("top_logprobs", "only allowed when 'logprobs' is true.")
        if fields.get("continue_final_message"):
            _continues(fields["messages"])
    if endpoint.generates:
        _one_grammar(fields)
        _minimum_below_limit(fields)
    if terms.vocabulary_size:
        _within_vocabulary(fields, terms.vocabulary_size)


def _beyond(endpoint: Endpoint, fields: Mapping[str, Any], able: Capabilities) -> Iterator[tuple[str, str]]:
    """What is asked and the model cannot do, with the reason."""
    form = fields.get("response_format", {}).get("type", "text")
    for name, capability in NEEDS.items():
        # false and "" ask for nothing; completions' logprobs of 0 asks for those of the chosen tokens.
        if fields.get(name) not in (None, "") and fields[name] is not False and not getattr(able, capability):
            yield name, _NO_MODEL
    if (form == "json_object" and not able.json_object) or (form == "json_schema" and not able.json_schema):
        yield "response_format", f"of type '{form}' is not supported with this model."
    if endpoint is Endpoint.COMPLETIONS and fields.get("best_of", fields.get("n", 1)) != fields.get("n", 1):
        yield "best_of", "other than 'n' is not supported."


def _completions(fields: Mapping[str, Any]) -> None:
    if fields.get("suffix") and not isinstance(fields["prompt"], str):
        raise checks.unserved("suffix", "is only supported with one prompt that is a string.")
    if fields.get("suffix") and fields.get("echo"):
        raise checks.unserved("suffix", "is not supported together with 'echo'; send one of them.")


def _continues(messages: list[dict[str, Any]]) -> None:
    last = messages[-1]
    if last["role"] != "assistant" or not isinstance(last.get("content"), str) or last.get("tool_calls"):
        raise checks.invalid(
            "continue_final_message", "the last message must be the assistant's, with a string as content."
        )


def _one_grammar(fields: Mapping[str, Any]) -> None:
    given = [name for name in _GRAMMARS if name in fields]
    if fields.get("response_format", {}).get("type") == "text":
        given.remove("response_format")
    if len(given) > 1:
        raise checks.invalid(given[1], f"not allowed together with '{given[0]}': an answer follows one form.")
    if given and "tools" in fields and fields.get("tool_choice") != "none":
        raise checks.unserved(
            given[0],
            "together with 'tools' is not supported: an answer bound to a form cannot call a tool;"
            " send 'tool_choice': 'none' or leave one out.",
        )


def _minimum_below_limit(fields: Mapping[str, Any]) -> None:
    limits = [fields[name] for name in COMPLETION_LIMITS if name in fields]
    if limits and fields.get("min_tokens", 0) > min(limits):
        raise checks.invalid("min_tokens", "above the limit of completion tokens; lower it.")


def _within_vocabulary(fields: Mapping[str, Any], size: int) -> None:
    """An id beyond the vocabulary stops SGLang's whole batch, not the request alone."""
    for name in ("prompt", "input"):
        content = fields.get(name)
        if isinstance(content, list) and type(content[0]) is int:
            _ids(content, name, size)
        elif isinstance(content, list) and type(content[0]) is list:
            for index, ids in enumerate(content):
                _ids(ids, f"{name}[{index}]", size)
    _ids(fields.get("stop_token_ids", ()), "stop_token_ids", size)
    for key in fields.get("logit_bias", ()):
        if int(key) >= size:
            raise _no_token("logit_bias", int(key), size)


def _ids(ids: Any, place: str, size: int) -> None:
    if ids and max(ids) >= size:
        index = next(index for index, one in enumerate(ids) if one >= size)
        raise _no_token(f"{place}[{index}]", ids[index], size)


def _no_token(place: str, token: int, size: int) -> InvalidRequest:
    return checks.invalid(
        place,
        f"token id {token} is beyond this model's vocabulary. Expected a value <= {size - 1}.",
        "integer_above_max_value",
    )
