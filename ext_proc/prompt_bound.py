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
from gateway.openai.requests import WireRequest

SPECIAL_TOKENS: Final = 2
"""What an engine puts around a raw prompt: begin and end of text, or [CLS] and [SEP]."""
COMPLETION_FLOOR: Final = Tokens(256)
"""Completion tokens wanted when the client named none and the prompt's estimate leaves little room."""

_EXPONENT: Final = re.compile(rb"\de[+-]?\d")
_FLOAT_CHARS: Final = 24
"""Python prints 1e15 as 1000000000000000.0."""


def prompt_tokens_bound(request: WireRequest, model: Model) -> Tokens:
    """Upper bound of the prompt tokens the engine can count for ``request``."""
    size = sum(_utf8_bytes(text) for text in request.prompt_texts())
    size += sum(_printed_bytes(document) for document in request.prompt_documents())
    return Tokens(size + _overhead(request, model))


def completion_tokens_wanted(request: WireRequest, model: Model) -> Tokens:
    """max_tokens of each choice before the affordable clamp: the client's, else what the context leaves.

    The engine refuses a prompt that does not fit beside max_tokens, so without a client's limit the room
    is estimated (two ASCII bytes, or one other byte, a token); never under COMPLETION_FLOOR.
    """
    if request.max_tokens_asked is not None:
        return request.max_tokens_asked
    estimate = _overhead(request, model)
    estimate += sum(map(_printed_bytes, request.prompt_documents())) // 2
    for text in request.prompt_texts():
        narrow = len(text) if text.isascii() else len(text.encode("ascii", "ignore"))
        estimate += _utf8_bytes(text) - narrow // 2
    room = model.context_tokens - estimate // request.prompts
    return Tokens(min(model.max_completion_tokens, max(room, COMPLETION_FLOOR)))


def _overhead(request: WireRequest, model: Model) -> int:
    if "messages" not in request.fields:
        return request.prompt_token_ids + SPECIAL_TOKENS * request.prompts
    tools = request.fields.get("tools", ())
    entries = len(request.fields["messages"]) + len(tools)
    extra = model.template_tokens_tools if tools else 0
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
