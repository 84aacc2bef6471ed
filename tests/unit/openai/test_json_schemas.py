"""JSON Schemas of clients: as draft 2020-12 says, bounded, refused at the place of the fault."""

from __future__ import annotations

from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.contract.errors import InvalidRequest
from gateway.openai.json_schemas import (
    BYTES_MAX,
    LEVELS_MAX,
    PATTERN_CHARS_MAX,
    PATTERN_PROPERTIES_MAX,
    PATTERNS_MAX,
    SCHEMAS_MAX,
    TEXT_CHARS_MAX,
    check_schema,
)
from tests.unit.openai.asking import chat

PERSON = {
    "$defs": {"name": {"type": "string", "pattern": "^[a-z]+$", "minLength": 1}},
    "type": "object",
    "properties": {
        "name": {"$ref": "#/$defs/name"},
        "age": {"type": ["integer", "null"], "minimum": 0},
        "kind": {"enum": ["a", 1, None]},
        "tags": {"type": "array", "items": {"type": "string"}, "uniqueItems": True, "maxItems": 3},
        "any": True,
        "child": {"$ref": "#"},
    },
    "required": ["name"],
    "additionalProperties": False,
    "anyOf": [{"required": ["age"]}, {"required": ["kind"]}],
    "x-vendor": {"type": 7},
}


def nested(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(levels - 1):
        schema = {"items": schema}
    return schema


def test_usual_schemas_are_let_through() -> None:
    for schema in (PERSON, {}, nested(LEVELS_MAX), {"$ref": "#named", "$anchor": "named"}):
        check_schema(schema, "s", "code")


@pytest.mark.parametrize(
    ("schema", "fault"),
    [
        ({"type": "varchar"}, "'type'"),
        ({"type": ["string", "string"]}, "'type'"),
        ({"type": []}, "'type'"),
        ({"properties": []}, "'properties'"),
        ({"properties": {"a": {"type": 5}}}, "'properties.a.type'"),
        ({"properties": {"a": "string"}}, "'properties.a'"),
        ({"patternProperties": {"a" * (PATTERN_CHARS_MAX + 1): {}}}, "'patternProperties'"),
        (
            {"patternProperties": {str(n): {} for n in range(PATTERN_PROPERTIES_MAX + 1)}},
            "'patternProperties'",
        ),
        ({"items": [{}]}, "'items'"),
        ({"anyOf": []}, "'anyOf'"),
        ({"anyOf": [{}, 3]}, "'anyOf[1]'"),
        ({"required": "name"}, "'required'"),
        ({"required": ["a", "a"]}, "'required'"),
        ({"enum": "a"}, "'enum'"),
        ({"minLength": -1}, "'minLength'"),
        ({"maxItems": 1.5}, "'maxItems'"),
        ({"minimum": "0"}, "'minimum'"),
        ({"multipleOf": 0}, "'multipleOf'"),
        ({"uniqueItems": 1}, "'uniqueItems'"),
        ({"description": 1}, "'description'"),
        ({"pattern": 1}, "'pattern'"),
        ({"pattern": "a" * (PATTERN_CHARS_MAX + 1)}, "'pattern'"),
        ({"dependentRequired": {"a": "b"}}, "'dependentRequired'"),
        ({"$ref": "https://example.com/s"}, "'$ref'"),
        ({"$ref": "#/$defs/gone"}, "'$ref'"),
        ({"$ref": 3}, "'$ref'"),
        (nested(LEVELS_MAX + 1), "deeper"),
        ({"properties": {str(n): {} for n in range(SCHEMAS_MAX)}}, "schemas"),
        ({"enum": ["a" * (TEXT_CHARS_MAX + 1)]}, "characters"),
    ],
)
def test_faults_are_named(schema: dict[str, Any], fault: str) -> None:
    tool = {"type": "function", "function": {"name": "f", "parameters": schema}}
    with pytest.raises(InvalidRequest) as caught:
        chat(tools=[tool])
    assert (caught.value.code, caught.value.param) == (
        "invalid_function_parameters",
        "tools[0].function.parameters",
    )
    assert fault in caught.value.message
    with pytest.raises(InvalidRequest) as caught:
        chat(response_format={"type": "json_schema", "json_schema": {"name": "f", "schema": schema}})
    assert (caught.value.code, caught.value.param) == (
        "invalid_json_schema",
        "response_format.json_schema.schema",
    )


def test_all_schemas_of_a_request_are_bounded_together() -> None:
    def tools(**schema: Any) -> list[dict[str, Any]]:
        return [{"type": "function", "function": {"name": "f", "parameters": schema}}] * 2

    half = {str(n): {"pattern": "a"} for n in range(PATTERNS_MAX // 2)}
    chat(tools=tools(properties=half))
    for schema in ({"properties": {**half, "more": {"pattern": "a"}}}, {"default": "a" * (BYTES_MAX // 2)}):
        with pytest.raises(InvalidRequest) as caught:
            chat(tools=tools(**schema))
        assert (caught.value.code, caught.value.param) == ("object_above_max_size", "tools")


WORDS = [
    *("type", "properties", "items", "required", "enum", "anyOf", "not", "minLength", "minimum", "pattern"),
    *("uniqueItems", "$defs", "const", "additionalProperties", "prefixItems", "multipleOf", "title"),
]
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-2, 2)
    | st.just(1.5)
    | st.sampled_from(["string", "object", "a", "^a$"]),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from([*WORDS, "a"]), inner, max_size=3)
    ),
    max_leaves=6,
)


@given(st.dictionaries(st.sampled_from(WORDS), VALUES, max_size=3))
@settings(max_examples=200)
def test_what_is_let_through_is_a_schema_for_the_reference_implementation(schema: dict[str, Any]) -> None:
    """And the other way round: SGLang calls the same check_schema."""
    try:
        check_schema(schema, "s", "code")
    except InvalidRequest:
        with pytest.raises(jsonschema.SchemaError):
            jsonschema.Draft202012Validator.check_schema(schema)
        return
    jsonschema.Draft202012Validator.check_schema(schema)
