"""Every parameter of the four endpoints: its check, or why it is not served.

Sources: OpenAI API reference (chat completions, completions, embeddings); SGLang 0.5's
ChatCompletionRequest for the vendor parameters. A vendor parameter has a check here before a catalogue
may allow it: SGLang also takes fields that run code or name its files.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from gateway.openai import checks, messages, tools
from gateway.openai.checks import Array, Check, Number, Object, OneOf, Only, Text, Whole
from gateway.openai.terms import Endpoint

GATEWAY_OWNED: Final = frozenset({"rid", "request_id", "priority", "cache_salt", "extra_key"})
"""Set by the gateway alone; a client's are dropped, so that an SDK's extra_body does no harm."""
FOR_US: Final[Mapping[str, str]] = {
    "user": "a label of the end user: a pseudonym of it goes into the event",
    "safety_identifier": "a label of the end user: a pseudonym of it goes into the event",
    "metadata": "labels of a stored answer, and none is stored; workflow or session_id name a budget",
    "store": "false asks for nothing",
    "service_tier": "auto and default ask for nothing; the caller's tier is the gateway's",
    "prompt_cache_key": "a routing hint; the engine finds reusable prefixes by itself",
    "prompt_cache_options": "the implicit mode asks for nothing",
    "prompt_cache_retention": "in_memory asks for nothing",
    "modalities": "text alone asks for nothing",
    "best_of": "equal to n it asks for nothing",
}
"""Checked, then kept from the engine, with the reason why nothing of the answer is lost."""
PROMPTS_TOKENS_MAX: Final = 4_194_304
"""Token ids in one prompt."""
VOCABULARY_MAX: Final = 2**31 - 1
STOP_MAX: Final = 4
N_MAX: Final = 128
INPUTS_MAX: Final = 2048

INSTRUCTIONS_MAX: Final = 65_536
"""Characters of a grammar a client sends."""

_ID: Final = Whole(0, VOCABULARY_MAX)
# An empty stop text is found in every answer at once.
_STOP_TEXT: Final = Text(most=1024, empty=False)
_STOP: Final = checks.Either(
    text=_STOP_TEXT,
    other=Array(item=_STOP_TEXT, most=STOP_MAX),
    kind=list,
    expected="a string or an array of strings",
)
_TOKEN_KEY: Final = re.compile(r"0|[1-9][0-9]{0,9}")


def _logit_bias(value: Any, place: str) -> None:
    """Token ids, written as digits, to numbers from -100 to 100; at most 1024."""
    checks.any_object(value, place)
    if len(value) > 1024:
        raise checks.invalid(
            place, "too many properties. Expected at most 1024.", "object_above_max_properties"
        )
    bias = Number(-100, 100)
    for token, entry in value.items():
        if not _TOKEN_KEY.fullmatch(token):
            raise checks.invalid(place, "keys must be token ids written as digits.")
        bias(entry, f"{place}.{token}")


def _ids(value: Any, place: str) -> None:
    """Token ids, without a Python call for each of them in the good case."""
    checks.array_length(value, place, least=1, most=PROMPTS_TOKENS_MAX)
    if set(map(type, value)) == {int} and min(value) >= 0 and max(value) <= VOCABULARY_MAX:
        return
    for index, token in enumerate(value):
        _ID(token, f"{place}[{index}]")


def _prompts(value: Any, place: str) -> None:
    """A string, an array of strings, an array of token ids or an array of such arrays."""
    filled = Text(empty=False)
    if isinstance(value, str):
        filled(value, place)
        return
    if not isinstance(value, list):
        raise checks.wrong_type(value, place, "a string, an array of strings or an array of tokens")
    if value and type(value[0]) is int:
        _ids(value, place)
        return
    checks.array_length(value, place, least=1, most=INPUTS_MAX)
    of_ids = isinstance(value[0], list)
    for index, entry in enumerate(value):
        (_ids if of_ids else filled)(entry, f"{place}[{index}]")


def _inputs(value: Any, place: str) -> None:
    """As ``_prompts``; SGLang refuses a text of white space only."""
    _prompts(value, place)
    blank = isinstance(value, str) and not value.strip()
    if blank or (isinstance(value, list) and any(type(one) is str and not one.strip() for one in value)):
        raise checks.invalid(place, "a text is white space only; send words.", "empty_string")


def _texts(value: Any, place: str) -> None:
    """A string or an array of strings, empty ones too: they have tokens, or none."""
    if isinstance(value, list):
        Array(item=Text(), least=1, most=INPUTS_MAX)(value, place)
    elif not isinstance(value, str):
        raise checks.wrong_type(value, place, "a string or an array of strings")


def _effort(value: Any, place: str) -> None:
    """OpenAI's words, SGLang's ``ultra``, or its number from 0 to 0.99."""
    if isinstance(value, str):
        _EFFORTS(value, place)
    else:
        Number(0, 0.99)(value, place)


_EFFORTS: Final = OneOf(("none", "minimal", "low", "medium", "high", "xhigh", "max", "ultra"))
_STREAM_OPTIONS: Final = Object(
    fields={
        "include_usage": checks.boolean,
        "continuous_usage_stats": checks.boolean,
        "include_obfuscation": Only(
            check=checks.boolean,
            served=(False,),
            reason="is not supported: chunks are not padded; send false.",
        ),
    }
)
_TEMPLATE_SWITCHES: Final = Object(
    fields={
        "enable_thinking": checks.boolean,
        "thinking": checks.boolean,
        "spaces_between_special_tokens": checks.boolean,
    },
    nulls=False,
)
_PENALTY: Final = Number(-2, 2)
_LABEL: Final = Text(most=512)
_MODEL: Final = Text(most=256, empty=False)
_GENERATED: Final[dict[str, Check]] = {
    "model": _MODEL,
    "max_tokens": Whole(1),
    "n": Whole(1, N_MAX),
    "temperature": Number(0, 2),
    "top_p": Number(0, 1, above=True),
    "presence_penalty": _PENALTY,
    "frequency_penalty": _PENALTY,
    "logit_bias": _logit_bias,
    "seed": Whole(-(2**63)),
    "stop": _STOP,
    "stream": checks.boolean,
    "stream_options": _STREAM_OPTIONS,
    "user": _LABEL,
}
_HINTS: Final[dict[str, Check]] = {
    "metadata": checks.TextMap(most=16, name_chars=64, value_chars=512),
    "modalities": Only(
        check=Array(item=OneOf(("text", "audio")), least=1, most=2),
        served=(["text"],),
        reason="other than ['text'] is not supported with this model.",
    ),
    "store": Only(
        check=checks.boolean,
        served=(False,),
        reason="is not supported: answers are not stored; send false.",
    ),
    "service_tier": Only(
        check=OneOf(("auto", "default", "flex", "scale", "priority", "fast")),
        served=("auto", "default"),
        reason="other than 'auto' and 'default' is not supported.",
    ),
    "safety_identifier": Text(most=128),
    "prompt_cache_key": _LABEL,
    "prompt_cache_options": Object(
        fields={
            "mode": Only(
                check=OneOf(("implicit", "explicit")),
                served=("implicit",),
                reason="other than 'implicit' is not supported: the engine finds prefixes by itself.",
            ),
            "ttl": checks.Refused("is not supported: prefixes are kept while there is room; leave it out."),
        }
    ),
    "prompt_cache_retention": Only(
        check=OneOf(("in_memory", "in-memory", "24h")),
        served=("in_memory", "in-memory"),
        reason="other than 'in_memory' is not supported: prefixes are kept while there is room.",
    ),
}
PARAMETERS: Final[Mapping[Endpoint, Mapping[str, Check]]] = {
    Endpoint.CHAT: {
        **_GENERATED,
        **_HINTS,
        "messages": messages.messages,
        "max_completion_tokens": Whole(1),
        "logprobs": checks.boolean,
        "top_logprobs": Whole(0, 20),
        "tools": tools.tools,
        "tool_choice": tools.tool_choice,
        "parallel_tool_calls": checks.boolean,
        "response_format": tools.response_format,
        "reasoning_effort": _effort,
    },
    Endpoint.COMPLETIONS: {
        **_GENERATED,
        "prompt": _prompts,
        "logprobs": Whole(0, 5),
        "echo": checks.boolean,
        "best_of": Whole(1, 20),
        "suffix": Text(),
    },
    Endpoint.EMBEDDINGS: {
        "model": _MODEL,
        "input": _inputs,
        "encoding_format": OneOf(("float", "base64")),
        "dimensions": Whole(1, 65_536),
        "user": _LABEL,
    },
    Endpoint.TOKENIZE: {
        "model": _MODEL,
        "prompt": _texts,
        "messages": messages.messages,
        "tools": tools.tools,
        "add_special_tokens": checks.boolean,
    },
}
"""Known and served, subject to the model's capabilities."""

UNSERVED: Final[Mapping[Endpoint, Mapping[str, str]]] = {
    Endpoint.CHAT: {
        "audio": "is not supported with this model: it answers with text.",
        "moderation": "is not supported: no answer is moderated; leave it out.",
        "prediction": "is not supported with this model; leave it out.",
        "web_search_options": "is not supported: the model cannot search; use 'tools'.",
        "verbosity": "is not supported with this model; say it in a message.",
        "functions": "is not supported; use 'tools'.",
        "function_call": "is not supported; use 'tool_choice'.",
    },
    Endpoint.COMPLETIONS: {},
    Endpoint.EMBEDDINGS: {},
    Endpoint.TOKENIZE: {},
}
"""Known to OpenAI, refused with the reason."""


def _top_k(value: Any, place: str) -> None:
    """-1 for no limit, else 1 or more: SGLang refuses 0."""
    Whole(-1, VOCABULARY_MAX)(value, place)
    if value == 0:
        raise checks.invalid(place, "expected -1 (no limit) or 1 and more.")


def _stop_regex(value: Any, place: str) -> None:
    """A regular expression of at most 256 bytes, as SGLang's bound."""
    Text(most=256, empty=False)(value, place)
    if len(value.encode()) > 256:
        raise checks.invalid(place, "expected at most 256 bytes.", "string_above_max_length")


VENDOR: Final[Mapping[str, Check]] = {
    "top_k": _top_k,
    "min_p": Number(0, 1),
    "min_tokens": Whole(0),
    "repetition_penalty": Number(0, 2, above=True),
    "ignore_eos": checks.boolean,
    "skip_special_tokens": checks.boolean,
    "no_stop_trim": checks.boolean,
    "stop_token_ids": Array(item=_ID, most=64),
    "stop_regex": _stop_regex,
    "regex": Text(most=16_384, empty=False),
    "ebnf": Text(most=INSTRUCTIONS_MAX, empty=False),
    "continue_final_message": checks.boolean,
    "separate_reasoning": checks.boolean,
    "stream_reasoning": checks.boolean,
    "chat_template_kwargs": _TEMPLATE_SWITCHES,
}
"""Engine parameters a catalogue entry may allow, for chat and completions."""
CHAT_ONLY: Final = frozenset(
    {"continue_final_message", "separate_reasoning", "stream_reasoning", "chat_template_kwargs"}
)
"""Of these, what SGLang's completions would drop in silence."""
