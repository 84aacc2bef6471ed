"""Events as SGLang writes them, by name.

``{role}``, ``{word TEXT N}`` (N tokens so far), ``{plain TEXT}`` (no usage), ``{finish REASON}``,
``{sum PROMPT COMPLETION}``, ``{error CODE TEXT}``, ``{flat CODE TEXT}``, ``{done}``.
The prompt has 14 tokens. Source of the shapes: recordings of SGLang 0.5.23 with continuous_usage_stats.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Final

PROMPT: Final = 14
_PIECE: Final = re.compile(r"\{(role|word|plain|finish|sum|error|flat|done)(?: ([^{}]*))?\}")


def _usage(prompt: int, completion: int) -> dict[str, Any]:
    return {
        "prompt_tokens": prompt,
        "total_tokens": prompt + completion,
        "completion_tokens": completion,
        "prompt_tokens_details": None,
        "reasoning_tokens": 0,
    }


def event(value: object) -> bytes:
    """``value`` as JSON in an event of one data line."""
    return b"data: " + json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode() + b"\n\n"


def chunk(delta: dict[str, Any], used: int | None, finish: str | None = None) -> dict[str, Any]:
    """A chunk of the first choice; ``used``: completion tokens so far, None for a chunk without usage."""
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish, "matched_stop": None}
    return {**_bare(), "choices": [choice], "usage": None if used is None else _usage(PROMPT, used)}


def _bare() -> dict[str, Any]:
    return {"id": "e1", "object": "chat.completion.chunk", "created": 1700000000, "model": "engine-model"}


def with_chunk(members: Mapping[str, Any]) -> bytes:
    """The event of a good chunk (content "x", one token so far) with ``members`` over its own; a member whose
    value is "absent" is left out; ``choice`` and ``delta`` stand for those of the only choice."""
    made = chunk({"content": "x"}, 1)
    choice = made["choices"][0]
    choice["delta"] = _over(choice["delta"], members.get("delta", {}))
    made["choices"] = [_over(choice, members.get("choice", {}))]
    return event(
        _over(made, {key: value for key, value in members.items() if key not in ("choice", "delta")})
    )


def _over(good: Mapping[str, Any], changed: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in {**good, **changed}.items() if value != "absent"}


def filled(text: str) -> bytes:
    """``text`` with its pieces in place, in UTF-8."""
    made, at = b"", 0
    for match in _PIECE.finditer(text):
        made += text[at : match.start()].encode() + _piece(match[1], match[2] or "")
        at = match.end()
    return made + text[at:].encode()


def _piece(name: str, words: str) -> bytes:
    first, _, rest = words.rpartition(" ") if name == "word" else words.partition(" ")
    match name:
        case "role":
            return event(chunk({"role": "assistant", "content": ""}, 0))
        case "word":
            return event(chunk({"content": first}, int(rest)))
        case "plain":
            return event(chunk({"content": words}, None))
        case "finish":
            return event(chunk({}, None, words))
        case "sum":
            return event({**_bare(), "choices": [], "usage": _usage(int(first), int(rest))})
        case "error":
            return event({"error": _error(int(first), rest)})
        case "flat":
            return event(_error(int(first), rest))
        case _:
            return b"data: [DONE]\n\n"


def _error(code: int, text: str) -> dict[str, Any]:
    return {"object": "error", "message": text, "type": "SomeError", "param": None, "code": code}
