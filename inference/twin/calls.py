"""Answers that call tools, in the form that SGLang's parser "hermes" reads and binds answers to. Pure.

Which tools: those whose names stand in the last user's text; where a call is required and none does, one by
the question. As the real one does, a named ``tool_choice`` only requires a call: with several tools it may
be another's (``FunctionCallParser.get_legacy_structural_tag`` of 0.5.23 binds the answer to all of them).
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from typing import Any, Final

from inference.twin.instances import instance
from inference.twin.words import END_TOKEN, LITERAL_CHARS, Call, Plan, literal_tokens

_BEGIN: Final = '<tool_call>{"name":"'
_BETWEEN: Final = '", "arguments":'
_END: Final = "}</tool_call>"


def called(tools: Sequence[Mapping[str, Any]], text: str, *, required: bool, seed: int) -> list[Any]:
    """The functions to call, in their order."""
    functions = [tool["function"] for tool in tools]
    meant = [function for function in functions if function["name"] in text]
    if meant or not required:
        return meant
    return [functions[seed % len(functions)]]


def calls_plan(functions: Sequence[Mapping[str, Any]], *, max_tokens: int, seed: int) -> Plan:
    """The answer that calls ``functions``, with arguments that follow their schemas."""
    text, calls, chooser = "", [], random.Random(seed)
    for function in functions:
        schema = function.get("parameters") or {"type": "object"}
        arguments = json.dumps(instance(schema, chooser), ensure_ascii=False)
        text += ("\n" if text else "") + _BEGIN + function["name"]
        named_at = len(text)
        text += _BETWEEN
        arguments_at = len(text)
        text += arguments + _END
        calls.append(
            Call(
                name=function["name"],
                arguments=arguments,
                named_at=named_at,
                arguments_at=arguments_at,
                end=len(text),
            )
        )
    tokens = literal_tokens(text)
    whole = len(tokens) <= max_tokens
    return Plan(
        tokens=tuple(tokens[:max_tokens]),
        pieces=("",) * min(len(tokens), max_tokens),
        finish="tool_calls" if whole else "length",
        matched=END_TOKEN if whole else None,
        calls=tuple(calls),
    )


def shown(plan: Plan, first: int, end: int) -> list[tuple[int, str | None, str]]:
    """What a stream tells of the calls with tokens ``first`` to ``end``: index, name (once) or None, and new
    text of the arguments."""
    start, stop = first * LITERAL_CHARS, end * LITERAL_CHARS
    found: list[tuple[int, str | None, str]] = []
    for index, call in enumerate(plan.calls):
        if start < call.named_at <= stop:
            found.append((index, call.name, ""))
        told, new = (min(max(0, at - call.arguments_at), len(call.arguments)) for at in (start, stop))
        if told < new:
            found.append((index, None, call.arguments[told:new]))
    return found


def complete(plan: Plan, position: int) -> tuple[Call, ...]:
    """The calls that stand whole in the first ``position`` tokens."""
    return tuple(call for call in plan.calls if call.end <= position * LITERAL_CHARS)
