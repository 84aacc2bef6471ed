"""A client's JSON Schema (a function's parameters, a response format) against draft 2020-12.

Why here: SGLang holds them against the same meta-schema and refuses in its own words, after tokens were
reserved; and its grammar compiler works long on large ones. One pass, its cost linear in the schema.
Sources: JSON Schema 2020-12, core and validation meta-schemas; OpenAI's guide "Structured Outputs" for
the bounds on properties and text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any, Final
from urllib.parse import unquote

import orjson

from gateway.contract.errors import InvalidRequest
from gateway.openai.json_body import shown

LEVELS_MAX: Final = 32
"""Nested schemas; OpenAI allows 10 in strict ones."""
SCHEMAS_MAX: Final = 5000
"""Schemas in one schema: as OpenAI's bound on properties."""
TEXT_CHARS_MAX: Final = 120_000
"""Characters of property names and enum values together: as OpenAI's."""
PATTERN_CHARS_MAX: Final = 256
"""SGLang compiles each: measured 0.1 s for one of 472 characters, with ranges beyond ASCII and ``(?i)``.
For the same reason none is compiled here."""
PATTERN_PROPERTIES_MAX: Final = 16
"""Patterns in one ``patternProperties``."""
PATTERNS_MAX: Final = 64
"""``pattern`` and ``patternProperties`` in all schemas of a request."""
BYTES_MAX: Final = 262_144
"""All tools of a request, or its response format, as JSON."""
TYPES: Final = ("array", "boolean", "integer", "null", "number", "object", "string")

_SCHEMA_MAPS: Final = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
_SCHEMA_LISTS: Final = ("prefixItems", "allOf", "anyOf", "oneOf")
_SCHEMAS: Final = (
    "items",
    "additionalProperties",
    "contains",
    "not",
    "if",
    "then",
    "else",
    "propertyNames",
    "unevaluatedItems",
    "unevaluatedProperties",
    "contentSchema",
)
_POINTER_ESCAPE: Final = re.compile(r"~[01]")


def _text(value: Any) -> bool:
    return isinstance(value, str)


def _flag(value: Any) -> bool:
    return isinstance(value, bool)


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _count(value: Any) -> bool:
    return _number(value) and value >= 0 and value == int(value)


def _texts(value: Any) -> bool:
    return isinstance(value, list) and all(map(_text, value)) and len(set(value)) == len(value)


def _types(value: Any) -> bool:
    names = [value] if isinstance(value, str) else value
    return bool(_texts(names) and names and all(name in TYPES for name in names))


def _pattern(value: Any) -> bool:
    return isinstance(value, str) and len(value) <= PATTERN_CHARS_MAX


_A_STRING: Final = (_text, "a string")
_A_NUMBER: Final = (_number, "a number")
_A_COUNT: Final = (_count, "a whole number of 0 or more")
_A_FLAG: Final = (_flag, "a boolean")
_KEYWORDS: Final[dict[str, tuple[Callable[[Any], bool], str]]] = {
    **dict.fromkeys(("title", "description", "$comment", "format", "contentEncoding"), _A_STRING),
    **dict.fromkeys(("contentMediaType", "$id", "$schema", "$anchor", "$dynamicAnchor"), _A_STRING),
    **dict.fromkeys(("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"), _A_NUMBER),
    **dict.fromkeys(("minLength", "maxLength", "minItems", "maxItems"), _A_COUNT),
    **dict.fromkeys(("minProperties", "maxProperties", "minContains", "maxContains"), _A_COUNT),
    **dict.fromkeys(("uniqueItems", "readOnly", "writeOnly", "deprecated"), _A_FLAG),
    "type": (_types, f"one or more of {', '.join(TYPES)}, each once"),
    "multipleOf": (lambda value: _number(value) and value > 0, "a number above 0"),
    "required": (_texts, "an array of strings, each once"),
    "enum": (lambda value: isinstance(value, list), "an array"),
    "examples": (lambda value: isinstance(value, list), "an array"),
    "pattern": (_pattern, f"a regular expression of at most {PATTERN_CHARS_MAX} characters"),
    "dependentRequired": (
        lambda value: isinstance(value, dict) and all(map(_texts, value.values())),
        "an object of arrays of strings",
    ),
}


class _Walk:
    """One schema being read. Raises InvalidRequest at the first fault."""

    def __init__(self, root: dict[str, Any], place: str, code: str) -> None:
        self._root = root
        self._place = place
        self._code = code
        self._schemas = 0
        self._chars = 0

    def visit(self, schema: Any, path: str, level: int) -> None:
        """``schema`` at ``path`` below the root (``properties.a``; empty for the root)."""
        if isinstance(schema, bool) and level > 1:
            return
        if not isinstance(schema, dict):
            raise self._fault(path, "a schema must be an object or a boolean")
        self._schemas += 1
        if level > LEVELS_MAX:
            raise self._fault(path, f"schemas are nested deeper than {LEVELS_MAX} levels")
        if self._schemas > SCHEMAS_MAX:
            raise self._fault("", f"it holds more than {SCHEMAS_MAX} schemas")
        for word, value in schema.items():
            self._keyword(word, value, f"{path}.{word}" if path else word)
        for value, below in self._inner(schema, path):
            self.visit(value, below, level + 1)
        self._count_text(schema)

    def _keyword(self, word: str, value: Any, path: str) -> None:
        rule = _KEYWORDS.get(word)
        if rule is not None and not rule[0](value):
            raise self._fault(path, f"must be {rule[1]}")
        if word in ("$ref", "$dynamicRef") and not self._found(value):
            raise self._fault(path, "must point to a schema inside this one, as '#/$defs/name' does")

    def _inner(self, schema: dict[str, Any], path: str) -> Iterator[tuple[Any, str]]:
        lead = f"{path}." if path else ""
        for word in _SCHEMA_MAPS:
            if word in schema:
                if not isinstance(schema[word], dict):
                    raise self._fault(lead + word, "must be an object of schemas")
                if word == "patternProperties":
                    self._patterns(schema[word], lead + word)
                for name, value in schema[word].items():
                    yield value, f"{lead}{word}.{name}"
        for word in _SCHEMA_LISTS:
            if word in schema:
                if not isinstance(schema[word], list) or not schema[word]:
                    raise self._fault(lead + word, "must be an array of one or more schemas")
                for index, value in enumerate(schema[word]):
                    yield value, f"{lead}{word}[{index}]"
        for word in _SCHEMAS:
            if word in schema:
                yield schema[word], lead + word

    def _patterns(self, entries: dict[str, Any], path: str) -> None:
        if len(entries) > PATTERN_PROPERTIES_MAX:
            raise self._fault(path, f"more than {PATTERN_PROPERTIES_MAX} patterns")
        if not all(map(_pattern, entries)):
            raise self._fault(path, f"each key must be at most {PATTERN_CHARS_MAX} characters long")

    def _count_text(self, schema: dict[str, Any]) -> None:
        self._chars += sum(map(len, schema.get("properties", ())))
        self._chars += sum(len(value) for value in schema.get("enum", ()) if isinstance(value, str))
        if self._chars > TEXT_CHARS_MAX:
            raise self._fault(
                "", f"property names and enum values are longer than {TEXT_CHARS_MAX} characters"
            )

    def _found(self, reference: Any) -> bool:
        if not isinstance(reference, str) or not reference.startswith("#"):
            return False
        if reference[1:2] not in ("", "/"):
            return True  # an anchor, which the engine looks up
        at: Any = self._root
        for step in reference.split("/")[1:]:
            name = _POINTER_ESCAPE.sub(lambda found: "~/"[int(found[0][1])], unquote(step))
            if isinstance(at, dict) and name in at:
                at = at[name]
            elif isinstance(at, list) and name.isascii() and name.isdigit() and int(name[:9]) < len(at):
                at = at[int(name[:9])]
            else:
                return False
        return isinstance(at, dict | bool)

    def _fault(self, path: str, fault: str) -> InvalidRequest:
        where = f"at '{shown(path)}', " if path else ""
        return InvalidRequest(
            f"Invalid schema for '{self._place}': {where}{fault}.", code=self._code, param=self._place
        )


def check_schema(value: Any, place: str, code: str) -> None:
    """Raises InvalidRequest with ``code`` and ``place`` as param unless ``value`` is a JSON object that
    is a schema of draft 2020-12 within the bounds above. Unknown keywords are let be, as the draft says."""
    _Walk(value, place, code).visit(value, "", 1)


def check_size(value: Any, place: str) -> None:
    """All schemas at ``place`` together. Raises InvalidRequest above BYTES_MAX and PATTERNS_MAX."""
    text = orjson.dumps(value)
    if len(text) > BYTES_MAX:
        raise InvalidRequest(
            f"Invalid '{place}': larger than {BYTES_MAX} bytes of JSON.",
            code="object_above_max_size",
            param=place,
        )
    if text.count(b'"pattern') > PATTERNS_MAX:
        raise InvalidRequest(
            f"Invalid '{place}': its schemas hold more than {PATTERNS_MAX} patterns.",
            code="object_above_max_size",
            param=place,
        )
