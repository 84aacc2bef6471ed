"""Chat messages: the checks of each role, the order they may stand in, and their one normal form.

Source: OpenAI API reference, "Create chat completion"; SGLang 0.5.23, protocol.py and serving_chat.py.
Content parts other than text (images, audio, files) are refused: no bound of their tokens is known
without the model's processor.
"""

from __future__ import annotations

import re
from typing import Any, Final

import orjson

from gateway.contract.errors import InvalidRequest
from gateway.openai import checks
from gateway.openai.checks import Array, Check, Object, OneOf, Refused, Text, Variants
from gateway.openai.json_body import check_shape
from gateway.openai.tools import FUNCTION_NAME

MESSAGES_MAX: Final = 2048
"""As OpenAI's."""
TOOL_CALLS_MAX: Final = 128
PARTS_MAX: Final = 2048
_NAME: Final = Text(most=64, pattern=re.compile(r"[^\s<|\\/>]+"))
_TEXT: Final = Text()
_IDENTIFIER: Final = Text(most=256, empty=False)


def call_arguments(value: Any, place: str) -> None:
    """Text of a JSON object: SGLang parses it for the template, so the bounds of a body hold for it too.
    Empty text is let through, as OpenAI's; it becomes ``{}``."""
    _TEXT(value, place)
    if not value:
        return
    try:
        check_shape(value.encode())
        good = isinstance(orjson.loads(value), dict)
    except (InvalidRequest, orjson.JSONDecodeError):
        good = False
    if not good:
        raise checks.invalid(place, "expected the text of a JSON object of a reasonable shape.")


_CALL: Final = Object(
    fields={
        "id": _IDENTIFIER,
        "type": OneOf(("function",)),
        "function": Object(
            fields={"name": FUNCTION_NAME, "arguments": call_arguments}, required=("name", "arguments")
        ),
        # SDK streams leave the index in the message they assemble.
        "index": checks.Whole(0, TOOL_CALLS_MAX),
    },
    required=("id", "type", "function"),
)
_CALLS: Final = Array(
    item=Variants(
        tag="type",
        by={"function": _CALL, "custom": Refused("of 'custom' is not supported; use 'function'.")},
    ),
    least=1,
    most=TOOL_CALLS_MAX,
)
_BREAKPOINT: Final = Refused("is not supported: the engine finds reusable prefixes by itself; leave it out.")
_TEXT_PART: Final = Object(
    fields={"type": OneOf(("text",)), "text": _TEXT, "prompt_cache_breakpoint": _BREAKPOINT},
    required=("type", "text"),
)
_REFUSAL_PART: Final = Object(
    fields={"type": OneOf(("refusal",)), "refusal": _TEXT}, required=("type", "refusal")
)


def _unread(kind: str) -> Refused:
    return Refused(f"of '{kind}' is not supported with this model; send text.")


_MEDIA: Final = {kind: _unread(kind) for kind in ("image_url", "input_audio", "file")}
_TEXTS: Final[dict[str, Check]] = {"text": _TEXT_PART}


def _content(parts: dict[str, Check]) -> Check:
    return checks.Either(
        text=_TEXT,
        other=Array(item=Variants(tag="type", by=parts), least=1, most=PARTS_MAX),
        kind=list,
        expected="a string or an array of content parts",
    )


def _spoken(role: str, parts: dict[str, Check], /, **more: Check) -> Object:
    fields: dict[str, Check] = {
        "role": OneOf((role,)),
        "content": _content({**parts, **_MEDIA}),
        "name": _NAME,
    }
    return Object(fields={**fields, **more}, required=("role", "content"))


_ASSISTANT: Final = Object(
    fields={
        "role": OneOf(("assistant",)),
        "content": _content({**_TEXTS, "refusal": _REFUSAL_PART, **_MEDIA}),
        "name": _NAME,
        "refusal": _TEXT,
        "tool_calls": _CALLS,
        "audio": Refused("is not supported with this model; send text."),
        "function_call": Refused("is not supported; use 'tool_calls'."),
        # What OpenAI's own answers carry: an SDK sends an answer's message back as it came.
        "annotations": Array(item=checks.any_object, most=0),
        "reasoning_content": _TEXT,
        "reasoning": _TEXT,
    },
    required=("role",),
)
message: Final = Variants(
    tag="role",
    by={
        "developer": _spoken("developer", _TEXTS),
        "system": _spoken("system", _TEXTS),
        "user": _spoken("user", _TEXTS),
        "assistant": _ASSISTANT,
        "tool": Object(
            fields={**_spoken("tool", _TEXTS).fields, "tool_call_id": _IDENTIFIER},
            required=("role", "content", "tool_call_id"),
        ),
        "function": Refused("of 'function' is not supported; use 'tool'."),
    },
)
"""One message; what a role may hold is in ``by``."""
EACH: Final = Array(item=message, least=1, most=MESSAGES_MAX)
"""All of them, without the rules between them."""


def messages(value: Any, place: str) -> None:
    """The ``messages`` array: each message, then every tool's answer beside its call."""
    EACH(value, place)
    open_calls: set[str] = set()
    for index, entry in enumerate(value):
        here, role = f"{place}[{index}]", entry["role"]
        if role == "tool":
            if entry["tool_call_id"] not in open_calls:
                raise checks.invalid(
                    f"{here}.tool_call_id",
                    "a message with role 'tool' must answer a call in the 'tool_calls' of the assistant's"
                    " message before it, and only once.",
                )
            open_calls.discard(entry["tool_call_id"])
            continue
        _all_answered(open_calls, place)
        if role == "assistant":
            _says_something(entry, here)
            open_calls = {call["id"] for call in entry.get("tool_calls") or ()}
    _all_answered(open_calls, place)


def _all_answered(open_calls: set[str], place: str) -> None:
    if open_calls:
        raise checks.invalid(
            place,
            "an assistant's message with 'tool_calls' must be followed by messages with role 'tool' that"
            f" answer each 'tool_call_id'; {len(open_calls)} of them have no answer.",
        )


def _says_something(entry: dict[str, Any], here: str) -> None:
    if entry.get("reasoning") and entry.get("reasoning_content"):
        raise checks.invalid(f"{here}.reasoning", "send it or 'reasoning_content', not both.")
    if entry.get("content") is None and entry.get("refusal") is None and not entry.get("tool_calls"):
        raise checks.wrong_type(entry.get("content"), f"{here}.content", "a string")


def in_normal_form(entry: dict[str, Any], *, developer_role: bool) -> dict[str, Any]:
    """A checked message as the engine takes it: nothing it would refuse or silently drop.

    A refusal becomes text of the assistant's turn, ``reasoning`` ``reasoning_content``, empty arguments
    ``{}``; without ``developer_role`` a developer speaks as system, which every template knows.
    """
    role = entry["role"]
    found = {
        name: value
        for name, value in entry.items()
        if value is not None and name not in ("annotations", "refusal", "reasoning")
    }
    if role == "developer" and not developer_role:
        found["role"] = "system"
    if role != "assistant":
        return found
    content = found.get("content")
    if isinstance(content, list):
        content = [_as_text(part) for part in content]
    refusal = entry.get("refusal")
    if refusal is not None:
        content = _with_refusal(content, refusal)
    if content is not None:
        found["content"] = content
    if entry.get("reasoning"):
        found["reasoning_content"] = entry["reasoning"]
    if "tool_calls" in found:
        found["tool_calls"] = [_call(call) for call in found["tool_calls"]]
    return found


def _as_text(part: dict[str, Any]) -> dict[str, Any]:
    return {"type": "text", "text": part["refusal"]} if part["type"] == "refusal" else part


def _with_refusal(content: Any, refusal: str) -> Any:
    if not content:
        return refusal
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
    return [*parts, {"type": "text", "text": refusal}]


def _call(call: dict[str, Any]) -> dict[str, Any]:
    function = call["function"]
    return {
        "id": call["id"],
        "type": "function",
        "function": {"name": function["name"], "arguments": function["arguments"] or "{}"},
    }
