"""Every parameter of the four endpoints: its check, or why it is not served.

Sources: OpenAI API reference (chat completions, completions, embeddings); SGLang 0.5's
ChatCompletionRequest for the vendor parameters. A vendor parameter has a check here before a catalogue
may allow it: SGLang also takes fields that run code or name its files.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from gateway.openai import checks, messages
from gateway.openai.checks import Check
from gateway.openai.terms import Endpoint

GATEWAY_OWNED: Final = frozenset({"rid", "request_id", "priority", "cache_salt", "extra_key"})
"""Set by the gateway alone; a client's are dropped, so that an SDK's extra_body does no harm."""
FOR_US: Final = frozenset(
    {
        "user",
        "metadata",
        "store",
        "service_tier",
        "safety_identifier",
        "prompt_cache_key",
        "prompt_cache_retention",
        "modalities",
        "best_of",
    }
)
"""Checked, then kept from the engine: labels and hints for OpenAI, or values that ask for nothing more."""
PROMPTS_TOKENS_MAX: Final = 4_194_304
"""Token ids in one prompt."""
VOCABULARY_MAX: Final = 2**31 - 1
STOP_MAX: Final = 4
N_MAX: Final = 128
INPUTS_MAX: Final = 2048

_ID: Final = checks.whole(0, VOCABULARY_MAX)
_STOP_TEXT: Final = checks.text(most=1024, empty=False)
_STOPS: Final = checks.array(_STOP_TEXT, most=STOP_MAX)


def _stop(value: Any, place: str) -> None:
    if isinstance(value, str):
        _STOP_TEXT(value, place)
    else:
        _STOPS(value, place)


def _logit_bias(value: Any, place: str) -> None:
    checks.any_object(value, place)
    if len(value) > 1024:
        raise checks.invalid(
            place, "too many properties. Expected at most 1024.", "object_above_max_properties"
        )
    bias = checks.number(-100, 100)
    for token, entry in value.items():
        if not (token.isascii() and token.isdigit() and len(token) <= 10):
            raise checks.invalid(place, "keys must be token ids written as digits.")
        bias(entry, f"{place}.{token}")


def _text_modality(value: Any, place: str) -> None:
    if value != ["text"]:
        checks.array(checks.one_of("text", "audio"), least=1, most=2)(value, place)
        raise checks.unserved(place, "other than ['text'] is not supported with this model.")


def _not_stored(value: Any, place: str) -> None:
    checks.boolean(value, place)
    if value:
        raise checks.unserved(place, "is not supported: answers are not stored; send false.")


def _usual_tier(value: Any, place: str) -> None:
    checks.one_of("auto", "default", "flex", "scale", "priority")(value, place)
    if value not in ("auto", "default"):
        raise checks.unserved(place, "other than 'auto' and 'default' is not supported.")


def _ids(value: Any, place: str) -> None:
    """Token ids, without a Python call for each of them in the good case."""
    checks.array_length(value, place, least=1, most=PROMPTS_TOKENS_MAX)
    if set(map(type, value)) == {int} and min(value) >= 0 and max(value) <= VOCABULARY_MAX:
        return
    for index, token in enumerate(value):
        _ID(token, f"{place}[{index}]")


def _prompts(most: int) -> Check:
    filled = checks.text(empty=False)

    def check(value: Any, place: str) -> None:
        if isinstance(value, str):
            filled(value, place)
            return
        if isinstance(value, list) and value and type(value[0]) is int:
            _ids(value, place)
            return
        if not isinstance(value, list):
            raise checks.wrong_type(value, place, "a string, an array of strings or an array of tokens")
        checks.array_length(value, place, least=1, most=most)
        of_ids = isinstance(value[0], list)
        for index, entry in enumerate(value):
            (_ids if of_ids else filled)(entry, f"{place}[{index}]")

    return check


def _texts(value: Any, place: str) -> None:
    """A string or an array of strings, empty ones too: they have tokens, or none."""
    if isinstance(value, list):
        checks.array(checks.text(), least=1, most=INPUTS_MAX)(value, place)
    elif not isinstance(value, str):
        raise checks.wrong_type(value, place, "a string or an array of strings")


_STREAM_OPTIONS: Final = checks.obj(
    {
        "include_usage": checks.boolean,
        "continuous_usage_stats": checks.boolean,
        "include_obfuscation": checks.boolean,
    },
    nulls=True,
)
_TEMPLATE_SWITCHES: Final = checks.obj({"enable_thinking": checks.boolean, "thinking": checks.boolean})
_PENALTY: Final = checks.number(-2, 2)
_LABEL: Final = checks.text(most=512)
_GENERATED: Final[dict[str, Check]] = {
    "model": checks.text(most=256, empty=False),
    "max_tokens": checks.whole(1),
    "n": checks.whole(1, N_MAX),
    "temperature": checks.number(0, 2),
    "top_p": checks.number(0, 1, above=True),
    "presence_penalty": _PENALTY,
    "frequency_penalty": _PENALTY,
    "logit_bias": _logit_bias,
    "seed": checks.whole(-(2**63)),
    "stop": _stop,
    "stream": checks.boolean,
    "stream_options": _STREAM_OPTIONS,
    "user": _LABEL,
}
PARAMETERS: Final[Mapping[Endpoint, Mapping[str, Check]]] = {
    Endpoint.CHAT: {
        **_GENERATED,
        "messages": messages.messages,
        "max_completion_tokens": checks.whole(1),
        "logprobs": checks.boolean,
        "top_logprobs": checks.whole(0, 20),
        "tools": messages.tools,
        "tool_choice": messages.tool_choice,
        "parallel_tool_calls": checks.boolean,
        "response_format": messages.response_format,
        "reasoning_effort": checks.one_of("none", "minimal", "low", "medium", "high", "xhigh"),
        "modalities": _text_modality,
        "metadata": checks.text_map(most=16, name_chars=64, value_chars=512),
        "store": _not_stored,
        "service_tier": _usual_tier,
        "safety_identifier": _LABEL,
        "prompt_cache_key": _LABEL,
        "prompt_cache_retention": checks.one_of("in_memory", "in-memory", "24h"),
    },
    Endpoint.COMPLETIONS: {
        **_GENERATED,
        "prompt": _prompts(INPUTS_MAX),
        "logprobs": checks.whole(0, 5),
        "echo": checks.boolean,
        "best_of": checks.whole(1, 20),
    },
    Endpoint.EMBEDDINGS: {
        "model": checks.text(most=256, empty=False),
        "input": _prompts(INPUTS_MAX),
        "encoding_format": checks.one_of("float", "base64"),
        "dimensions": checks.whole(1, 65_536),
        "user": _LABEL,
    },
    Endpoint.TOKENIZE: {
        "model": checks.text(most=256, empty=False),
        "prompt": _texts,
        "messages": messages.messages,
        "tools": messages.tools,
        "add_special_tokens": checks.boolean,
    },
}
"""Known and served, subject to the model's capabilities."""

_NO_MODEL: Final = "is not supported with this model."
UNSERVED: Final[Mapping[Endpoint, Mapping[str, str]]] = {
    Endpoint.CHAT: {
        "audio": _NO_MODEL,
        "prediction": _NO_MODEL,
        "web_search_options": _NO_MODEL,
        "verbosity": _NO_MODEL,
        "functions": "is not supported; use 'tools'.",
        "function_call": "is not supported; use 'tool_choice'.",
    },
    Endpoint.COMPLETIONS: {"suffix": _NO_MODEL},
    Endpoint.EMBEDDINGS: {},
    Endpoint.TOKENIZE: {},
}
"""Known to OpenAI, refused with the reason."""

VENDOR: Final[Mapping[str, Check]] = {
    "top_k": checks.whole(-1, VOCABULARY_MAX),
    "min_p": checks.number(0, 1),
    "min_tokens": checks.whole(0),
    "repetition_penalty": checks.number(0, 2, above=True),
    "ignore_eos": checks.boolean,
    "skip_special_tokens": checks.boolean,
    "spaces_between_special_tokens": checks.boolean,
    "no_stop_trim": checks.boolean,
    "stop_token_ids": checks.array(_ID, most=64),
    "stop_regex": checks.text(most=1024, empty=False),
    "regex": checks.text(most=16_384, empty=False),
    "ebnf": checks.text(most=65_536, empty=False),
    "separate_reasoning": checks.boolean,
    "stream_reasoning": checks.boolean,
    "chat_template_kwargs": _TEMPLATE_SWITCHES,
}
"""Engine parameters a catalogue entry may allow."""
