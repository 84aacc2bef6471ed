"""Log probabilities that the twin claims for its tokens: stable by token, in SGLang's two forms. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final
from zlib import crc32

from inference.twin.words import WORDS

_STEPS: Final = 4096
"""Values lie in (-4.1, 0]."""


def _value(token: str) -> float:
    return -(crc32(token.encode()) % _STEPS) / 1000


def _ranked(token: str, top: int) -> list[tuple[str, float]]:
    """The token and ``top`` - 1 others that were less likely."""
    start = crc32(token.encode())
    others = [" " + WORDS[(start + place) % len(WORDS)] for place in range(1, top)]
    return [
        (token, _value(token)),
        *((other, _value(token) - place) for place, other in enumerate(others, 1)),
    ]


def of_chat(tokens: Sequence[str], top: int) -> dict[str, Any]:
    """``logprobs`` of a chat's choice or chunk; ``top`` 0 lists no others."""
    return {
        "content": [
            {
                "token": token,
                "bytes": list(token.encode()),
                "logprob": _value(token),
                "top_logprobs": [
                    {"token": other, "bytes": list(other.encode()), "logprob": value}
                    for other, value in (_ranked(token, top) if top else ())
                ],
            }
            for token in tokens
        ]
    }


def of_text(tokens: Sequence[str], top: int, prompt: Sequence[str] = ()) -> dict[str, Any]:
    """``logprobs`` of a completion's choice or chunk, those of the ``prompt`` first, if asked for; SGLang
    does not compute offsets."""
    every = [*prompt, *tokens]
    values: list[float | None] = [_value(token) for token in every]
    tops: list[dict[str, float] | None] = [dict(_ranked(token, top)) for token in every] if top else []
    if prompt:
        # Nothing stands before the first token that could make it likely.
        values[0] = None
        tops[:1] = [None] if top else []
    return {
        "text_offset": [-1] * len(every),
        "token_logprobs": values,
        "tokens": every,
        "top_logprobs": tops,
    }
