"""An engine's answers, read leniently: usage, finish reasons, content, error frames.

Nothing an engine sends may raise here. Numbers are believed only when they are whole, not negative and
no larger than the ledger can count.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from gateway.contract.units import TOKENS_MAX, Tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Tokens of one answer, or so far. ``cached`` is the part of ``prompt`` found in the prefix cache."""

    prompt: Tokens
    completion: Tokens
    cached: Tokens = Tokens(0)

    @property
    def total(self) -> Tokens:
        """What is charged."""
        return Tokens(self.prompt + self.completion)


class InvalidUsage(ValueError):
    """A usage object with a count that cannot be true."""


def _count(value: object) -> Tokens:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= TOKENS_MAX:
        raise InvalidUsage("a token count must be a whole number from 0 to 2^53 - 1")
    return Tokens(value)


def read_usage(answer: Mapping[str, Any]) -> Usage | None:
    """The ``usage`` of a completion or chunk; None when absent or null. Raises InvalidUsage.

    Without completion_tokens (embeddings) it is total - prompt.
    """
    value = answer.get("usage")
    if value is None:
        return None
    if not isinstance(value, dict):
        raise InvalidUsage("usage must be an object")
    prompt = _count(value.get("prompt_tokens"))
    if value.get("completion_tokens") is not None:
        completion = _count(value["completion_tokens"])
    else:
        completion = _count(_count(value.get("total_tokens")) - prompt)
    if prompt + completion > TOKENS_MAX:
        raise InvalidUsage("more tokens than can be counted")
    details = value.get("prompt_tokens_details")
    cached = details.get("cached_tokens") if isinstance(details, dict) else None
    known = min(_count(cached), prompt) if cached is not None else 0
    return Usage(prompt=prompt, completion=completion, cached=Tokens(known))


def read_json(data: bytes) -> dict[str, Any] | None:
    """The JSON object in ``data``, or None."""
    try:
        value = orjson.loads(data)
    except orjson.JSONDecodeError:
        return None
    return value if isinstance(value, dict) else None


def write_json(value: object) -> bytes | None:
    """``value`` as JSON; None for one nested too deeply to be written (orjson reads 1024 levels and
    writes 254)."""
    try:
        return orjson.dumps(value)
    except orjson.JSONEncodeError:
        return None


def choices_of(answer: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The choices that are objects; any other thing is no choice."""
    choices = answer.get("choices")
    if not isinstance(choices, list):
        return []
    return [choice for choice in choices if isinstance(choice, dict)]


def index_of(choice: Mapping[str, Any]) -> int:
    """The choice's index; 0 when it has none that can be one."""
    index = choice.get("index")
    return index if isinstance(index, int) and not isinstance(index, bool) and 0 <= index < 65_536 else 0


def finish_of(choice: Mapping[str, Any]) -> str:
    """The finish reason, or an empty string."""
    reason = choice.get("finish_reason")
    return reason if isinstance(reason, str) else ""


def error_frame(answer: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The error inside an answer that says 200: OpenAI's nested form or SGLang's flat one."""
    nested = answer.get("error")
    if isinstance(nested, dict):
        return nested
    if nested:
        return {"message": nested}
    return answer if answer.get("object") == "error" else None


def show_usage(chunk: dict[str, Any], *, usage_asked: bool, continuous_usage_asked: bool) -> bool:
    """Leave of ``usage`` what this client asked for; False for a chunk it is not to see at all.

    OpenAI: with include_usage every chunk has ``usage``, null but in the last, whose choices are empty;
    without it no chunk has the field and the last does not exist. continuous_usage_stats keeps it as is.
    """
    usage = chunk.get("usage")
    if chunk.get("choices") == [] and usage is not None:
        return usage_asked
    if continuous_usage_asked:
        return True
    if usage_asked:
        chunk["usage"] = None
    else:
        chunk.pop("usage", None)
    return True
