"""Tools, the choice among them, and response formats: what constrains a chat's answer.

Source: OpenAI API reference, "Create chat completion"; SGLang 0.5.23, ``Tool`` and ``ToolChoice`` of
protocol.py.
"""

from __future__ import annotations

import re
from typing import Any, Final

from gateway.openai import checks
from gateway.openai.checks import Object, OneOf, Refused, Text, Variants
from gateway.openai.json_schemas import check_schema

TOOLS_MAX: Final = 128
"""As OpenAI's."""
DESCRIPTION_CHARS_MAX: Final = 16_384
"""Of a function or a schema: it is read by the model with every request."""
FUNCTION_NAME: Final = Text(pattern=re.compile(r"[a-zA-Z0-9_-]{1,64}"))

_DESCRIPTION: Final = Text(most=DESCRIPTION_CHARS_MAX)


def parameters_schema(value: Any, place: str) -> None:
    """A function's ``parameters``."""
    checks.any_object(value, place)
    check_schema(value, place, "invalid_function_parameters")


def answer_schema(value: Any, place: str) -> None:
    """The ``schema`` of a response format."""
    checks.any_object(value, place)
    check_schema(value, place, "invalid_json_schema")


_FUNCTION: Final = Object(
    fields={
        "name": FUNCTION_NAME,
        "description": _DESCRIPTION,
        "parameters": parameters_schema,
        "strict": checks.boolean,
    },
    required=("name",),
)
tools: Final = checks.Array(
    item=Variants(
        tag="type",
        by={
            "function": Object(
                fields={"type": OneOf(("function",)), "function": _FUNCTION}, required=("type", "function")
            ),
            "custom": Refused("of 'custom' is not supported; use 'function' with a string parameter."),
        },
    ),
    least=1,
    most=TOOLS_MAX,
)
"""The ``tools`` array: functions only."""

_CHOSEN: Final = Variants(
    tag="type",
    by={
        "function": Object(
            fields={
                "type": OneOf(("function",)),
                "function": Object(fields={"name": FUNCTION_NAME}, required=("name",)),
            },
            required=("type", "function"),
        ),
        "allowed_tools": Refused("of 'allowed_tools' is not supported; send only those tools in 'tools'."),
        "custom": Refused("of 'custom' is not supported; use a tool of type 'function'."),
    },
)
tool_choice: Final = checks.Either(
    text=OneOf(("none", "auto", "required")), other=_CHOSEN, kind=dict, expected="a string or an object"
)
"""A word, or the function that must be called."""


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


_JSON_SCHEMA: Final = Object(
    fields={
        "name": FUNCTION_NAME,
        "description": _DESCRIPTION,
        "schema": answer_schema,
        "strict": checks.boolean,
    },
    # OpenAI lets the schema out; SGLang refuses that, and an answer of any form is 'json_object'.
    required=("name", "schema"),
)
response_format: Final = Variants(
    tag="type",
    by={
        "text": Object(fields={"type": OneOf(("text",))}, required=("type",)),
        "json_object": Object(fields={"type": OneOf(("json_object",))}, required=("type",)),
        "json_schema": Object(
            fields={"type": OneOf(("json_schema",)), "json_schema": _JSON_SCHEMA},
            required=("type", "json_schema"),
        ),
    },
)
"""text, json_object or json_schema."""
