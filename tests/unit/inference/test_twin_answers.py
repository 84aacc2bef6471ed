"""What the twin answers beyond words: values of a schema, calls of tools, probabilities, vectors."""

from __future__ import annotations

import json
import math
import random
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.cases import SUM, WEATHER
from inference.twin import calls, embedding, logprobs
from inference.twin.errors import EngineError
from inference.twin.instances import check_parameters, check_regex, instance
from inference.twin.request import job

CHAT = "/v1/chat/completions"
TREE: dict[str, Any] = {
    "$defs": {
        "node": {
            "type": "object",
            "properties": {
                "value": {"type": "integer", "minimum": 3, "maximum": 5},
                "left": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]},
            },
            "required": ["value", "left"],
        }
    },
    "$ref": "#/$defs/node",
}


def made(schema: object, seed: int = 0) -> Any:
    return instance(schema, random.Random(seed))


@pytest.mark.parametrize(
    ("schema", "wanted"),
    [
        ({"type": "object"}, {}),
        ({"const": 4}, 4),
        ({"enum": ["x"]}, "x"),
        ({"type": "integer", "exclusiveMinimum": 4, "maximum": 5}, 5),
        ({"type": "integer", "minimum": 5, "maximum": 9, "multipleOf": 7}, 7),
        ({"type": "array", "items": {"const": 1}, "minItems": 3}, [1, 1, 1]),
        ({"type": "array", "prefixItems": [{"const": 1}], "items": False}, [1]),
        ({"type": "string", "format": "date"}, "2026-01-02"),
        ({"type": ["null", "string"]}, None),
        (
            {"allOf": [{"properties": {"a": {"const": 1}}}, {"properties": {"b": {"const": 2}}}]},
            {"a": 1, "b": 2},
        ),
    ],
)
def test_an_instance_follows_its_schema(schema: dict[str, Any], wanted: object) -> None:
    assert made(schema) == wanted
    jsonschema.validate(wanted, schema)


@given(st.integers())
def test_a_schema_that_refers_to_itself_ends(seed: int) -> None:
    node, depth = made(TREE, seed), 0
    jsonschema.validate(node, TREE)
    assert node == made(TREE, seed)
    while node is not None:
        assert 3 <= node["value"] <= 5
        node, depth = node["left"], depth + 1
    assert depth < 20


@given(least=st.integers(0, 90), more=st.integers(0, 9))
def test_a_string_keeps_its_bounds(least: int, more: int) -> None:
    text = made({"type": "string", "minLength": least, "maxLength": least + more})
    assert least <= len(text) <= least + more


@pytest.mark.parametrize(
    "schema", [{"type": "nope"}, {"pattern": "a"}, {"$ref": "#/nowhere"}, {"type": "object", "not": {}}, 5]
)
def test_what_no_answer_can_be_bound_to_is_refused(schema: object) -> None:
    with pytest.raises(EngineError, match="Failed to compile json grammar"):
        made(schema)


def test_tools_and_patterns_are_checked() -> None:
    check_parameters(0, WEATHER["function"]["parameters"])
    with pytest.raises(EngineError, match="Tool 3 function has invalid"):
        check_parameters(3, {"properties": {"x": {"type": "intger"}}})
    check_regex("a+")
    with pytest.raises(EngineError, match="Regex parsing error at position 0"):
        check_regex("(")


@given(limit=st.integers(1, 60), step=st.integers(1, 5), seed=st.integers(0, 99))
def test_a_streamed_call_is_the_whole_one(limit: int, step: int, seed: int) -> None:
    plan = calls.calls_plan([WEATHER["function"], SUM["function"]], max_tokens=limit, seed=seed)
    names, arguments = dict[int, str](), dict[int, str]()
    for first in range(0, len(plan.tokens), step):
        for index, name, text in calls.shown(plan, first, min(first + step, len(plan.tokens))):
            if name is not None:
                assert index not in names
                names[index] = name
            assert index in names, "a name comes before its arguments"
            arguments[index] = arguments.get(index, "") + text
    whole = calls.complete(plan, len(plan.tokens))
    assert [names[place] for place in range(len(whole))] == [call.name for call in whole]
    assert [arguments[place] for place in range(len(whole))] == [call.arguments for call in whole]
    assert (plan.finish == "tool_calls") == (len(whole) == 2)
    if whole:
        assert set(json.loads(whole[0].arguments)) == {"city", "unit"}


def test_which_tools_are_called() -> None:
    tools = [WEATHER, SUM]

    def names(text: str, *, required: bool) -> list[str]:
        return [function["name"] for function in calls.called(tools, text, required=required, seed=1)]

    assert names("hello", required=False) == []
    assert names("get_weather, then add", required=False) == ["get_weather", "add"]
    assert names("hello", required=True) == ["add"]


def test_a_named_choice_shows_one_tool_and_binds_the_answer_to_any() -> None:
    body = {"messages": [{"role": "user", "content": "x"}], "tools": [WEATHER, SUM]}
    named = {"type": "function", "function": {"name": "add"}}
    both = job(CHAT, {**body, "tool_choice": "required"}, context=1000)
    one = job(CHAT, {**body, "tool_choice": named}, context=1000)
    assert one.must_call
    assert len(one.tools) == 2
    assert one.prompts[0].tokens < both.prompts[0].tokens


@pytest.mark.parametrize("top", [0, 3])
def test_probabilities(top: int) -> None:
    [first, second] = logprobs.of_chat(["é", " tide"], top)["content"]
    assert (first["bytes"], len(second["top_logprobs"])) == ([195, 169], top)
    told = logprobs.of_text(["b"], top, ["a"])
    assert told["token_logprobs"][0] is None
    assert told["token_logprobs"][1] == logprobs.of_text(["b"], 0)["token_logprobs"][0]
    assert len(told["top_logprobs"]) == (2 if top else 0)


def test_vectors_are_of_length_one_and_near_for_shared_words() -> None:
    tide, tides, other = (embedding.vector(text, 384) for text in ("the tide", "The tide", "bread salt"))
    assert tide == tides
    assert math.isclose(math.hypot(*tide), 1)
    assert sum(a * b for a, b in zip(tide, other, strict=True)) < 0.5
