"""Chat messages, tools and response formats: the nested half of a chat request.

Source: OpenAI API reference, "Create chat completion". Content parts other than text (images, audio,
files) are refused: no bound of their tokens is known without the model's processor.
"""

from __future__ import annotations

import re
from typing import Any, Final

from gateway.contract.errors import InvalidRequest
from gateway.openai import checks
from gateway.openai.checks import Check
from gateway.openai.json_body import check_shape

MESSAGES_MAX: Final = 2048
"""As OpenAI's."""
TOOLS_MAX: Final = 128
"""As OpenAI's."""
TOOL_CALLS_MAX: Final = 128
PARTS_MAX: Final = 2048
_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,64}\Z")


def _name(value: Any, place: str) -> None:
    checks.text()(value, place)
    if not _NAME.match(value):
        raise checks.invalid(
            place,
            "string does not match pattern. Expected a string that matches '^[a-zA-Z0-9_-]{1,64}$'.",
        )


def _arguments(value: Any, place: str) -> None:
    """A call's arguments: text that the engine parses again, so the bounds of a body hold for it too."""
    checks.text()(value, place)
    try:
        check_shape(value.encode())
    except InvalidRequest as error:
        raise checks.invalid(place, "not JSON of a reasonable shape.") from error


_TEXT: Final = checks.text()
_IDENTIFIER: Final = checks.text(most=256, empty=False)
_TEXT_PART: Final = checks.obj({"type": checks.one_of("text"), "text": _TEXT}, required=("type", "text"))
_REFUSAL_PART: Final = checks.obj(
    {"type": checks.one_of("refusal"), "refusal": _TEXT}, required=("type", "refusal")
)
_FUNCTION_CALL: Final = checks.obj({"name": _name, "arguments": _arguments}, required=("name", "arguments"))
_TOOL_CALL: Final = checks.obj(
    {
        "id": _IDENTIFIER,
        "type": checks.one_of("function"),
        "function": _FUNCTION_CALL,
        # SDK streams leave the index in the message they assemble.
        "index": checks.whole(0, TOOL_CALLS_MAX),
    },
    required=("id", "type", "function"),
)
_TOOL_CALLS: Final = checks.array(_TOOL_CALL, least=1, most=TOOL_CALLS_MAX)


def _part(value: Any, place: str) -> None:
    checks.any_object(value, place)
    kind = value.get("type")
    if kind is None:
        raise checks.missing(f"{place}.type")
    if kind in ("image_url", "input_audio", "file", "video_url", "audio_url"):
        raise checks.unserved(f"{place}.type", f"is not supported with this model: '{kind}'; send text.")
    if kind == "refusal":
        _REFUSAL_PART(value, place)
    else:
        _TEXT_PART(value, place)


_PARTS: Final = checks.array(_part, least=1, most=PARTS_MAX)


def _content(value: Any, place: str) -> None:
    if isinstance(value, list):
        _PARTS(value, place)
    elif not isinstance(value, str):
        raise checks.wrong_type(value, place, "a string or an array of content parts")


def _no_audio(value: Any, place: str) -> None:
    raise checks.unserved(place, "is not supported with this model; send text.")


def _no_function_call(value: Any, place: str) -> None:
    raise checks.unserved(place, "is not supported; use 'tool_calls'.")


_SPOKEN: Final[dict[str, Check]] = {"role": _TEXT, "content": _content, "name": _name}
_ASSISTANT: Final[dict[str, Check]] = {
    **_SPOKEN,
    "refusal": _TEXT,
    "tool_calls": _TOOL_CALLS,
    "audio": _no_audio,
    "function_call": _no_function_call,
    # What OpenAI's own answers carry: an SDK sends an answer's message back as it came.
    "annotations": checks.array(checks.any_object, most=0),
    "reasoning_content": _TEXT,
}
_BY_ROLE: Final[dict[str, Check]] = {
    "developer": checks.obj(_SPOKEN, required=("role", "content"), nulls=True),
    "system": checks.obj(_SPOKEN, required=("role", "content"), nulls=True),
    "user": checks.obj(_SPOKEN, required=("role", "content"), nulls=True),
    "assistant": checks.obj(_ASSISTANT, required=("role",), nulls=True),
    "tool": checks.obj(
        {**_SPOKEN, "tool_call_id": _IDENTIFIER}, required=("role", "content", "tool_call_id"), nulls=True
    ),
}
_ROLE: Final = checks.one_of(*_BY_ROLE)


def messages(value: Any, place: str) -> None:
    """The ``messages`` array."""
    checks.array_length(value, place, least=1, most=MESSAGES_MAX)
    for index, message in enumerate(value):
        here = f"{place}[{index}]"
        checks.any_object(message, here)
        role = message.get("role")
        if role is None:
            raise checks.missing(f"{here}.role")
        if role == "function":
            raise checks.unserved(f"{here}.role", "'function' is not supported; use 'tool'.")
        _ROLE(role, f"{here}.role")
        _BY_ROLE[role](message, here)
        if role == "assistant" and message.get("content") is None and not message.get("tool_calls"):
            raise checks.wrong_type(message.get("content"), f"{here}.content", "a string")


_FUNCTION: Final = checks.obj(
    {
        "name": _name,
        "description": _TEXT,
        "parameters": checks.any_object,
        "strict": checks.boolean,
    },
    required=("name",),
    nulls=True,
)
_TOOL: Final = checks.obj(
    {"type": checks.one_of("function"), "function": _FUNCTION}, required=("type", "function")
)
tools: Final = checks.array(_TOOL, least=1, most=TOOLS_MAX)
"""The ``tools`` array: functions only."""

_CHOSEN: Final = checks.obj(
    {
        "type": checks.one_of("function"),
        "function": checks.obj({"name": _name}, required=("name",)),
    },
    required=("type", "function"),
)
_CHOICE_WORD: Final = checks.one_of("none", "auto", "required")


def tool_choice(value: Any, place: str) -> None:
    """A word, or the function that must be called."""
    if isinstance(value, str):
        _CHOICE_WORD(value, place)
    else:
        _CHOSEN(value, place)


def chosen_tool_exists(fields: dict[str, Any]) -> None:
    """``tool_choice`` and ``parallel_tool_calls`` need ``tools``; a chosen function must be among them."""
    given = fields.get("tools") or []
    for name in ("tool_choice", "parallel_tool_calls"):
        if not given and name in fields and fields[name] != "none":
            raise checks.invalid(name, f"'{name}' is only allowed when 'tools' are specified.")
    chosen = fields.get("tool_choice")
    if isinstance(chosen, dict):
        name = chosen["function"]["name"]
        if all(tool["function"]["name"] != name for tool in given):
            raise checks.invalid("tool_choice.function.name", "no function of that name is in 'tools'.")


_JSON_SCHEMA: Final = checks.obj(
    {"name": _name, "description": _TEXT, "schema": checks.any_object, "strict": checks.boolean},
    required=("name",),
    nulls=True,
)
_FORMATS: Final[dict[str, Check]] = {
    "text": checks.obj({"type": _TEXT}),
    "json_object": checks.obj({"type": _TEXT}),
    "json_schema": checks.obj({"type": _TEXT, "json_schema": _JSON_SCHEMA}, required=("json_schema",)),
}
_FORMAT: Final = checks.one_of(*_FORMATS)


def response_format(value: Any, place: str) -> None:
    """text, json_object or json_schema."""
    checks.any_object(value, place)
    if "type" not in value:
        raise checks.missing(f"{place}.type")
    _FORMAT(value["type"], f"{place}.type")
    _FORMATS[value["type"]](value, place)
