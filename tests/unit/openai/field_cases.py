"""For each field a value of its request parameter: one that the check lets through, or one it refuses."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from gateway.contract.errors import InvalidRequest
from gateway.openai import checks, messages, parameters, tools
from gateway.openai.checks import Check
from gateway.openai.terms import Endpoint

CALL = {"id": "c", "type": "function", "function": {"name": "a", "arguments": "{}"}}
ANSWER = {"role": "tool", "tool_call_id": "c", "content": "4"}
TOOLS = [{"type": "function", "function": {"name": "a"}}]
BASE: dict[Endpoint, dict[str, Any]] = {
    Endpoint.CHAT: {"messages": [{"role": "user", "content": "a"}]},
    Endpoint.COMPLETIONS: {"prompt": "a"},
    Endpoint.EMBEDDINGS: {"input": "a"},
    Endpoint.TOKENIZE: {"messages": [{"role": "user", "content": "a"}]},
}
BESIDE: dict[str, dict[str, Any]] = {
    "stream_options": {"stream": True},
    "tool_choice": {"tools": TOOLS},
    "parallel_tool_calls": {"tools": TOOLS},
    "top_logprobs": {"logprobs": True},
    "continue_final_message": {"messages": [{"role": "assistant", "content": "a"}]},
}
"""What has to stand beside a parameter."""
_BY_FUNCTION: dict[Check, Any] = {
    checks.boolean: True,
    checks.any_object: {},
    messages.call_arguments: "{}",
    tools.parameters_schema: {"type": "object"},
    tools.answer_schema: {"type": "object"},
}
_BY_NAME: dict[str, Any] = {
    "logit_bias": {"7": 1},
    "prompt": "a",
    "input": "a",
    "reasoning_effort": "low",
    "top_k": -1,
    "stop_regex": "a",
}
_TOO_MUCH: list[Any] = [True, "flex", "24h", "explicit", ["text", "audio"]]


@dataclass(frozen=True)
class Case:
    """``value`` of the whole parameter; ``param`` of the refusal, None when it is accepted."""

    place: str
    value: Any
    param: str | None = None


def example(rule: Check, name: str = "") -> Any:
    """The smallest value that ``rule`` lets through."""
    match rule:
        case checks.Whole(least=least):
            return least
        case checks.Number(most=most):
            return most
        case checks.Text():
            return "c" if name == "tool_call_id" else "a"
        case checks.OneOf(values=values):
            return values[0]
        case checks.Array(item=item, most=most):
            return [example(item)] if most else []
        case checks.Object(fields=fields, required=required):
            return {one: example(fields[one], one) for one in required}
        case checks.Variants(by=by):
            return example(next(one for one in by.values() if not isinstance(one, checks.Refused)))
        case checks.Either(text=text):
            return example(text)
        case checks.Only(served=served):
            return served[0]
        case checks.TextMap():
            return {"a": "b"}
        case _:
            return _BY_NAME[name] if name in _BY_NAME else _BY_FUNCTION[rule]


def cases(place: str, rule: Check, param: str) -> Iterator[Case]:
    """One case for each field at and below ``place``; of a value that is served in part, two."""
    rule = messages.EACH if rule is messages.messages else rule
    if isinstance(rule, checks.Refused):
        yield Case(place, {}, param)
        return
    if isinstance(rule, checks.Only):
        yield Case(place, _refused_value(rule), param)
    yield Case(place, example(rule, place))
    yield from _below(place, rule, param)


def _refused_value(rule: checks.Only) -> Any:
    for value in _TOO_MUCH:
        try:
            rule.check(value, "")
        except InvalidRequest:
            continue
        if value not in rule.served:
            return value
    raise AssertionError("no value that is known and not served")


def _below(place: str, rule: Check, param: str) -> Iterator[Case]:
    match rule:
        case checks.Object(fields=fields):
            whole = example(rule)
            for name, inner in fields.items():
                for case in cases(f"{place}.{name}", inner, f"{param}.{name}"):
                    yield Case(case.place, {**whole, name: case.value}, case.param)
        case checks.Either(other=other):
            yield Case(place, example(other))
            yield from _below(place, other, param)
        case checks.Array(item=item):
            for case in _below(place, item, f"{param}[0]"):
                yield Case(case.place, [case.value], case.param)
        case checks.Variants(tag=tag, by=by):
            for kind, inner in by.items():
                here = f"{place}[{tag}={kind}]"
                if isinstance(inner, checks.Refused):
                    yield Case(here, {tag: kind}, f"{param}.{tag}")
                else:
                    yield from _tagged(here, inner, param, {tag: kind})
        case _:
            return


def _tagged(here: str, inner: Check, param: str, tag: dict[str, str]) -> Iterator[Case]:
    for case in cases(here, inner, param):
        yield Case(case.place, {**case.value, **tag}, case.param)


def in_request(endpoint: Endpoint, name: str, case: Case) -> tuple[dict[str, Any], str | None]:
    """The whole request (without model), and the param its refusal names."""
    value, param = case.value, case.param
    if name == "messages" and isinstance(value, list):
        first = value[0]
        if first.get("role") == "tool":
            call = {**CALL, "id": first.get("tool_call_id")}
            value = [{"role": "assistant", "tool_calls": [call]}, first]
            param = param and param.replace("messages[0]", "messages[1]")
        elif first.get("tool_calls") and param is None:
            value = [first, {**ANSWER, "tool_call_id": first["tool_calls"][0]["id"]}]
        elif first.get("role") == "assistant" and "tool_calls" not in first:
            value = [{"content": "a", **first}]
    beside = {} if endpoint is Endpoint.TOKENIZE else BESIDE.get(name, {})
    base = {} if endpoint is Endpoint.TOKENIZE and name == "prompt" else BASE[endpoint]
    return {**base, **beside, name: value}, param


def all_cases(endpoint: Endpoint) -> Iterator[tuple[str, Case]]:
    """With the name of the parameter."""
    for name, rule in parameters.PARAMETERS[endpoint].items():
        yield from ((name, case) for case in cases(name, rule, name))
    for name in parameters.UNSERVED[endpoint]:
        yield name, Case(name, {}, name)
    if endpoint.generates:
        for name, rule in parameters.VENDOR.items():
            if endpoint is Endpoint.CHAT or name not in parameters.CHAT_ONLY:
                yield name, Case(name, example(rule, name))
