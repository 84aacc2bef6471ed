"""The end that is written for a stream whose engine goes on past max_tokens: OpenAI's, as if the engine had
kept to it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ext_proc.charge import NOTHING
from ext_proc.usage import UsageSeen
from gateway.openai.answers import Usage, show_usage, write_json
from gateway.openai.mending import Mender
from gateway.openai.sse import DONE, event_bytes
from gateway.openai.terms import Endpoint


def limit_end(
    mender: Mender,
    seen: UsageSeen,
    *,
    endpoint: str,
    open_choices: Iterable[int],
    charged: Usage | None,
    usage_asked: bool,
    continuous_usage_asked: bool,
) -> bytes:
    """A last chunk for each of ``open_choices``, the usage if it was asked for, and ``[DONE]``. ``charged``:
    what the client pays, and so what it is told; None is not known."""
    chat = endpoint == Endpoint.CHAT.value
    chunks: list[dict[str, Any]] = [
        {"choices": [_last_part(index, chat=chat)], "usage": _usage(seen.of_choice(index))}
        for index in open_choices
    ]
    chunks.append({"choices": [], "usage": _usage(charged or NOTHING)})
    written = []
    for chunk in chunks:
        if show_usage(chunk, usage_asked=usage_asked, continuous_usage_asked=continuous_usage_asked):
            mender.chunk(chunk)
            written.append(event_bytes(write_json(chunk) or b""))
    return b"".join(written) + event_bytes(DONE)


def _last_part(index: int, *, chat: bool) -> dict[str, Any]:
    said: dict[str, Any] = {"delta": {}} if chat else {"text": ""}
    return {"index": index, **said, "logprobs": None, "finish_reason": "length"}


def _usage(usage: Usage) -> dict[str, Any]:
    return {
        "prompt_tokens": usage.prompt,
        "completion_tokens": usage.completion,
        "total_tokens": usage.total,
        "prompt_tokens_details": {"cached_tokens": usage.cached},
    }


def show_charged(answer: dict[str, Any], charged: Usage) -> None:
    """Tell the client of a whole answer what it pays, where the engine reported more than was held."""
    if isinstance(answer.get("usage"), dict):
        answer["usage"] = _usage(charged)
