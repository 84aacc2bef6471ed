"""What becomes of each field of OpenAI's answers. Source: OpenAI API reference; SGLang 0.5.23, protocol.py.

Kept as data beside the code that mends answers: the test of the table holds it against the types of the
installed openai SDK, so that a field OpenAI adds is noticed.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Final


class State(StrEnum):
    """What the gateway does with a field."""

    SUPPORTED = "supported"
    REFUSED = "refused"
    PASSED_ON = "passed on"
    """Checked and handed on; what comes of it is the engine's."""
    ADDED = "added by us"
    """Written or mended by the gateway."""
    NULL = "null"
    """Written by the gateway, for clients that look for it."""
    ABSENT = "not sent"


_NO_AUDIO: Final = (State.ABSENT, "no model answers with audio")
_NO_SEARCH: Final = (State.ABSENT, "no model searches")
_OLD: Final = (State.ABSENT, "functions are refused; see tool_calls")
_NO_TIER: Final = (State.ABSENT, "tiers are the gateway's own")
_NO_MODERATION: Final = (State.ABSENT, "nothing is moderated")
_CUSTOM: Final = (State.ABSENT, "tools of type custom are refused")
_Rows = Mapping[str, tuple[State, str]]

_HEAD: Final[_Rows] = {
    "id": (State.ADDED, "made of the request's id; the same in every chunk"),
    "created": (State.PASSED_ON, "Unix seconds; the same in every chunk"),
    "model": (State.ADDED, "the catalogue's name"),
    "object": (State.SUPPORTED, ""),
    "system_fingerprint": (State.ADDED, "of the model's name and revision"),
}
_USAGE: Final[_Rows] = {
    "usage": (State.SUPPORTED, "in a stream when stream_options.include_usage asks for it"),
    "usage.prompt_tokens": (State.PASSED_ON, "the engine's count"),
    "usage.completion_tokens": (State.PASSED_ON, "the engine's count; what is charged"),
    "usage.total_tokens": (State.PASSED_ON, ""),
    "usage.prompt_tokens_details": (State.ADDED, "an object where the engine reports none"),
    "usage.prompt_tokens_details.cached_tokens": (State.PASSED_ON, "0 where the engine reports none"),
    "usage.prompt_tokens_details.audio_tokens": _NO_AUDIO,
    "usage.prompt_tokens_details.image_tokens": (State.ABSENT, "no model reads images"),
    "usage.prompt_tokens_details.text_tokens": (State.ABSENT, "all tokens are of text"),
    "usage.prompt_tokens_details.cache_write_tokens": (State.ABSENT, "writing a prefix costs nothing"),
    "usage.completion_tokens_details": (State.ADDED, "an object where the engine reports none"),
    "usage.completion_tokens_details.reasoning_tokens": (State.PASSED_ON, "0 where the engine reports none"),
    "usage.completion_tokens_details.audio_tokens": _NO_AUDIO,
    "usage.completion_tokens_details.text_tokens": (State.ABSENT, "all tokens are of text"),
    "usage.completion_tokens_details.accepted_prediction_tokens": (State.ABSENT, "prediction is refused"),
    "usage.completion_tokens_details.rejected_prediction_tokens": (State.ABSENT, "prediction is refused"),
}
_CHOICE: Final[_Rows] = {
    "choices": (State.SUPPORTED, ""),
    "choices[].index": (State.PASSED_ON, ""),
    "choices[].finish_reason": (
        State.ADDED,
        "stop, length, tool_calls, content_filter; an engine's abort is an error",
    ),
}
_LOGPROBS: Final[_Rows] = {
    "choices[].logprobs": (State.PASSED_ON, "null unless asked for"),
    "choices[].logprobs.content": (State.PASSED_ON, ""),
    "choices[].logprobs.content[].token": (State.PASSED_ON, ""),
    "choices[].logprobs.content[].bytes": (State.PASSED_ON, ""),
    "choices[].logprobs.content[].logprob": (State.PASSED_ON, ""),
    "choices[].logprobs.content[].top_logprobs": (State.PASSED_ON, ""),
    "choices[].logprobs.content[].top_logprobs[].token": (State.PASSED_ON, ""),
    "choices[].logprobs.content[].top_logprobs[].bytes": (State.PASSED_ON, ""),
    "choices[].logprobs.content[].top_logprobs[].logprob": (State.PASSED_ON, ""),
    "choices[].logprobs.refusal": (State.NULL, "no engine marks refusals"),
}


def _spoken(place: str) -> _Rows:
    return {
        place: (State.SUPPORTED, ""),
        f"{place}.role": (State.SUPPORTED, "assistant"),
        f"{place}.content": (State.PASSED_ON, "null beside tool_calls"),
        f"{place}.refusal": (State.NULL, "no engine marks refusals"),
        f"{place}.audio": _NO_AUDIO,
        f"{place}.function_call": _OLD,
        f"{place}.tool_calls": (State.PASSED_ON, "by the engine's tool-call parser"),
    }


def _call(place: str) -> _Rows:
    return {
        f"{place}.id": (State.PASSED_ON, ""),
        f"{place}.type": (State.PASSED_ON, "function"),
        f"{place}.function": (State.PASSED_ON, ""),
        f"{place}.function.name": (State.PASSED_ON, ""),
        f"{place}.function.arguments": (State.PASSED_ON, "text of JSON, as the model wrote it"),
    }


_REASONING: Final = (State.PASSED_ON, "SGLang's, not OpenAI's")
ANSWERS: Final[Mapping[str, _Rows]] = {
    "chat.completion": {
        **_HEAD,
        "metadata": (State.ABSENT, "of stored answers; none is stored"),
        "service_tier": _NO_TIER,
        "moderation": _NO_MODERATION,
        **_CHOICE,
        **_LOGPROBS,
        "choices[].matched_stop": _REASONING,
        **_spoken("choices[].message"),
        "choices[].message.annotations": _NO_SEARCH,
        "choices[].message.reasoning_content": _REASONING,
        **_call("choices[].message.tool_calls[type=function]"),
        "choices[].message.tool_calls[type=custom]": _CUSTOM,
        **_USAGE,
    },
    "chat.completion.chunk": {
        **_HEAD,
        "service_tier": _NO_TIER,
        "moderation": _NO_MODERATION,
        "obfuscation": (State.ABSENT, "stream_options.include_obfuscation is refused"),
        **_CHOICE,
        **_LOGPROBS,
        "choices[].matched_stop": _REASONING,
        **_spoken("choices[].delta"),
        "choices[].delta.reasoning_content": _REASONING,
        "choices[].delta.tool_calls[].index": (State.PASSED_ON, ""),
        **_call("choices[].delta.tool_calls[]"),
        **_USAGE,
    },
    "text_completion": {
        **_HEAD,
        **_CHOICE,
        "choices[].text": (State.PASSED_ON, ""),
        "choices[].logprobs": (State.PASSED_ON, "null unless asked for"),
        "choices[].logprobs.text_offset": (State.PASSED_ON, ""),
        "choices[].logprobs.token_logprobs": (State.PASSED_ON, ""),
        "choices[].logprobs.tokens": (State.PASSED_ON, ""),
        "choices[].logprobs.top_logprobs": (State.PASSED_ON, ""),
        "choices[].matched_stop": _REASONING,
        **_USAGE,
    },
    "list of embeddings": {
        "object": (State.SUPPORTED, "list"),
        "model": _HEAD["model"],
        "data": (State.SUPPORTED, ""),
        "data[].object": (State.SUPPORTED, "embedding"),
        "data[].index": (State.PASSED_ON, ""),
        "data[].embedding": (State.PASSED_ON, "numbers, or base64 where encoding_format asks for it"),
        "usage": (State.SUPPORTED, ""),
        "usage.prompt_tokens": (State.PASSED_ON, "the engine's count; what is charged"),
        "usage.total_tokens": (State.PASSED_ON, ""),
    },
    "tokenize (SGLang's)": {
        "tokens": (State.PASSED_ON, "ids, for several prompts an array of arrays"),
        "count": (State.PASSED_ON, "for several prompts an array"),
        "max_model_len": (State.PASSED_ON, ""),
    },
    "list of models": {
        "id": (State.ADDED, "the catalogue's name or alias"),
        "object": (State.ADDED, "model"),
        "created": (State.ADDED, ""),
        "owned_by": (State.ADDED, ""),
        "shutdown_date": (State.ABSENT, "the catalogue knows none"),
    },
    "error": {
        "message": (State.ADDED, "what, where and what would be right"),
        "type": (State.ADDED, "see the tree in ARCHITECTURE.md"),
        "param": (State.ADDED, "the request's field at fault, or null"),
        "code": (State.ADDED, "also in the header x-tidegate-refusal"),
        "misalignment": (State.ABSENT, "no answer is judged"),
    },
}
"""By the ``object`` of the answer; places as in a request."""
