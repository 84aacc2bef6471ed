"""A served hit's request, as it is asked again by the operator. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from ext_proc.recall.operator_paths import CHAT, COMPLETIONS
from gateway.openai.answers import read_json, write_json

_LEFT_OUT: Final = frozenset(
    {
        "stream",  # one JSON answer is compared
        "stream_options",
        "user",  # the tenant's identifiers say nothing to the operator's org
        "safety_identifier",
        "prompt_cache_key",
        "metadata",
        "store",
        "service_tier",
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckRequest:
    """``question``: the last user's text, for a judge; empty where there is none."""

    path: str
    body: bytes
    question: str


def check_request(served: bytes) -> CheckRequest | None:
    """Of the OpenAI body ``served``; None for what is neither a chat nor a text completion."""
    document = read_json(served)
    if document is None:
        return None
    messages, prompt = document.get("messages"), document.get("prompt")
    kept = {name: value for name, value in document.items() if name not in _LEFT_OUT}
    body = write_json({**kept, "stream": False})
    if body is None:
        return None
    if isinstance(messages, list):
        return CheckRequest(path=CHAT, body=body, question=_last_text(messages))
    if isinstance(prompt, str):
        return CheckRequest(path=COMPLETIONS, body=body, question=prompt)
    return None


def _last_text(messages: list[Any]) -> str:
    last = messages[-1] if messages else None
    if not isinstance(last, dict) or last.get("role") != "user":
        return ""
    content = last.get("content")
    if isinstance(content, list):
        parts = [part.get("text") for part in content if isinstance(part, dict)]
        return "\n".join(part for part in parts if isinstance(part, str))
    return content if isinstance(content, str) else ""
