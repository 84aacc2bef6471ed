"""How many tokens a prompt can have at most, and how many completion tokens to want for it.

Why bytes: a byte-level BPE token stands for one byte or more, so UTF-8 bytes never undercount, and no
tokenizer has to be on the path. The template adds what the catalogue says. The hold is too large by a
factor of about 4 for English text; it lasts for the request only and is settled to the true amount.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

import orjson

from gateway.contract.units import Tokens
from gateway.models.catalogue import Model
from gateway.openai.requests import WireRequest, message_texts

SPECIAL_TOKENS: Final = 2
"""What an engine puts around a raw prompt: begin and end of text, or [CLS] and [SEP]."""
COMPLETION_FLOOR: Final = Tokens(256)
"""Completion tokens wanted when the client named none and the prompt's estimate leaves little room."""

BYTES_PER_TOKEN_MAX: Final = 128
"""Longest token of the vocabularies we know (runs of spaces in cl100k and o200k)."""
COMPLETIONS_DEFAULT: Final = Tokens(16)
"""max_tokens of ``/v1/completions`` when the client named none: OpenAI's default and SGLang's."""
PART_TOKENS: Final = 4
"""Upper bound of what stands between two content parts: SGLang joins them with a space, a template that
takes parts may put white space of its own there."""
SUFFIX_TOKENS: Final = 96
"""Upper bound of the three marks of a fill-in-the-middle template, were they read as plain text."""

_EXPONENT: Final = re.compile(rb"\de[+-]?\d")
_FLOAT_CHARS: Final = 24
"""Python prints 1e15 as 1000000000000000.0."""


def prompt_tokens_bound(request: WireRequest, model: Model) -> Tokens:
    """Upper bound of the prompt tokens the engine can count for ``request``."""
    size = sum(_utf8_bytes(text) for text in request.prompt_texts())
    size += sum(_printed_bytes(document) for document in request.prompt_documents())
    return Tokens(size + _overhead(request, model))


def prompt_tokens_least(request: WireRequest) -> Tokens:
    """Lower bound of the tokens of the longest prompt, under any tokenizer.

    Of messages only what every template prints: not the assistant's own, whose thoughts many leave out.
    """
    if "messages" in request.fields:
        texts = (
            text
            for message in request.fields["messages"]
            if message["role"] != "assistant"
            for text in message_texts({"content": message["content"]})
        )
        return Tokens(-(-sum(map(_utf8_bytes, texts)) // BYTES_PER_TOKEN_MAX))
    return Tokens(
        max(
            -(-_utf8_bytes(prompt) // BYTES_PER_TOKEN_MAX) if isinstance(prompt, str) else len(prompt)
            for prompt in request.separate_prompts()
        )
    )


def completion_tokens_wanted(request: WireRequest, model: Model) -> Tokens:
    """max_tokens of each choice before the affordable clamp: the client's, else OpenAI's default for
    completions, else the model's default as far as the context leaves room.

    The engine refuses a prompt that does not fit beside max_tokens, so without a client's limit the room
    is estimated (two ASCII bytes, or one other byte, a token; ids exactly); for text never under
    COMPLETION_FLOOR, which an estimate that is too large would else take away.
    """
    if request.max_tokens_asked is not None:
        return request.max_tokens_asked
    most = model.default_completion_tokens or model.max_completion_tokens
    if "messages" in request.fields:
        estimate = _overhead(request, model)
        estimate += sum(map(_printed_bytes, request.prompt_documents())) // 2
        estimate += sum(map(_estimate, request.prompt_texts()))
        return Tokens(min(most, max(model.context_tokens - estimate, COMPLETION_FLOOR)))
    rooms = (
        max(model.context_tokens - _estimate(prompt), COMPLETION_FLOOR)
        if isinstance(prompt, str)
        else model.context_tokens - len(prompt)
        for prompt in request.separate_prompts()
    )
    return Tokens(max(1, min(most, COMPLETIONS_DEFAULT, *rooms)))


def _estimate(text: str) -> int:
    narrow = len(text) if text.isascii() else len(text.encode("ascii", "ignore"))
    return _utf8_bytes(text) - narrow // 2


def _overhead(request: WireRequest, model: Model) -> int:
    if "messages" not in request.fields:
        marks = SUFFIX_TOKENS if request.fields.get("suffix") else 0
        return request.prompt_token_ids + SPECIAL_TOKENS * request.prompts + marks
    tools = request.fields.get("tools", ())
    entries = len(request.fields["messages"]) + len(tools)
    parts = sum(
        len(message["content"])
        for message in request.fields["messages"]
        if isinstance(message.get("content"), list)
    )
    extra = PART_TOKENS * parts + (model.template_tokens_tools if tools else 0)
    return model.template_tokens_base + model.template_tokens_per_message * entries + extra


def _utf8_bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode())


def _printed_bytes(document: object) -> int:
    own = _widest(document)
    return own + sum(_argument_bytes(text) for text in _arguments(document))


def _widest(document: object) -> int:
    """Bytes of ``document`` as the most wasteful template prints it: four spaces a level, everything
    beyond ASCII escaped (``\\u00e9`` for 2 bytes), floats in full."""
    compact = orjson.dumps(document)
    spaces = len(orjson.dumps(document, option=orjson.OPT_INDENT_2)) - len(compact)
    wide = 0 if compact.isascii() else len(compact) - len(compact.decode().encode("ascii", "ignore"))
    return len(compact) + 2 * spaces + 2 * wide + _FLOAT_CHARS * len(_EXPONENT.findall(compact))


def _arguments(document: object) -> Iterator[str]:
    if isinstance(document, dict):
        call = document.get("function")
        if isinstance(call, dict) and isinstance(call.get("arguments"), str):
            yield call["arguments"]


def _argument_bytes(text: str) -> int:
    """The engine parses a call's arguments and lets the template print them again."""
    try:
        return _widest(orjson.loads(text))
    except orjson.JSONDecodeError:
        return 0
