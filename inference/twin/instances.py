"""Values that follow a JSON schema, the same for the same schema and chooser: what an answer bound to a form
consists of. Pure.

Supported is what OpenAI's structured outputs support, but for ``pattern``; a keyword that restricts and is
not known is refused, as xgrammar refuses what it cannot compile.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from typing import Any, Final

from inference.twin.errors import EngineError

DEPTH_MAX: Final = 8
"""Schemas that refer to themselves end here, where the schema lets them."""
_OPTIONAL_DEPTH: Final = 2
"""Down to here properties that are not required are there too."""
_WORDS: Final = ("tide", "gate", "harbour", "café", "lock", "ship", "rain", "lamp", "bread", "salt")
_FORMATS: Final = {
    "date-time": "2026-01-02T03:04:05Z",
    "date": "2026-01-02",
    "time": "03:04:05Z",
    "duration": "PT5M",
    "email": "ada@example.com",
    "hostname": "example.com",
    "ipv4": "192.0.2.1",
    "ipv6": "2001:db8::1",
    "uuid": "4c2a8a3e-5f3b-4d0e-9a55-6b2a1f0c7d9e",
    "uri": "https://example.com/a",
}
_TYPES: Final = ("object", "array", "string", "integer", "number", "boolean", "null")
_RESTRICTING: Final = frozenset(
    (
        *("pattern", "patternProperties", "propertyNames", "contains"),
        *("not", "if", "then", "else", "dependentRequired"),
    )
)


def _refused(what: str) -> EngineError:
    where = "[12:00:00] /project/cpp/json_schema_converter.cc:4175"
    return EngineError(f"Failed to compile json grammar: {where}: {what}\n")


def instance(schema: object, chooser: random.Random) -> Any:
    """A value that ``schema`` allows. Raises EngineError for a schema that no answer can be bound to."""
    return _Maker(schema, chooser).make(schema, 0)


class _Maker:
    def __init__(self, root: object, chooser: random.Random) -> None:
        self._root, self._chooser = root, chooser

    def make(self, schema: object, depth: int) -> Any:
        if schema is True:
            return self._word()
        if not isinstance(schema, Mapping):
            raise _refused("Schema should be an object or bool")
        if unknown := sorted(_RESTRICTING & schema.keys()):
            raise _refused(f"The twin makes no instance of {unknown[0]!r}")
        if "$ref" in schema:
            return self.make(self._referred(schema["$ref"]), depth + 1)
        for name in ("const", "default"):
            if name in schema:
                return schema[name]
        if "enum" in schema:
            return self._chooser.choice(schema["enum"])
        for name in ("anyOf", "oneOf"):
            if name in schema:
                return self._alternative(schema, name, depth)
        if "allOf" in schema:
            return self.make(self._merged(schema), depth)
        return self._typed(schema, depth)

    def _referred(self, reference: str) -> object:
        found: Any = self._root
        for step in reference.removeprefix("#").strip("/").split("/"):
            if not step:
                continue
            name = step.replace("~1", "/").replace("~0", "~")
            if not isinstance(found, Mapping) or name not in found:
                raise _refused(f"Cannot find field {name} in {reference}")
            found = found[name]
        return found

    def _alternative(self, schema: Mapping[str, Any], name: str, depth: int) -> Any:
        rest = {key: value for key, value in schema.items() if key != name}
        options = schema[name]
        # Deep down the shortest way out: null, where it is allowed.
        chosen = (
            min(options, key=lambda option: len(str(option)))
            if depth >= DEPTH_MAX // 2
            else self._chooser.choice(options)
        )
        return self.make({**rest, **chosen} if isinstance(chosen, Mapping) else chosen, depth + 1)

    def _merged(self, schema: Mapping[str, Any]) -> dict[str, Any]:
        merged: dict[str, Any] = {key: value for key, value in schema.items() if key != "allOf"}
        for part in schema["allOf"]:
            if "$ref" in part:
                part = self._referred(part["$ref"])
            for key, value in part.items():
                if key == "properties":
                    merged[key] = {**merged.get(key, {}), **value}
                elif key == "required":
                    merged[key] = [*merged.get(key, []), *value]
                else:
                    merged[key] = value
        return merged

    def _typed(self, schema: Mapping[str, Any], depth: int) -> Any:
        kind = schema.get("type")
        if isinstance(kind, list):
            kind = kind[0] if depth < DEPTH_MAX else kind[-1]
        if kind is None:
            kind = next(
                (name for key, name in (("properties", "object"), ("items", "array")) if key in schema), None
            )
        match kind:
            case None:
                return self._word()
            case "null":
                return None
            case "boolean":
                return self._chooser.random() < 0.5
            case "integer" | "number":
                return self._number(schema, kind)
            case "string":
                return self._string(schema)
            case "array":
                return self._array(schema, depth)
            case "object":
                return self._object(schema, depth)
            case _:
                raise _refused(f'Unsupported type "{kind}"')

    def _word(self) -> str:
        return self._chooser.choice(_WORDS)

    def _string(self, schema: Mapping[str, Any]) -> str:
        if (known := _FORMATS.get(schema.get("format", ""))) is not None:
            return known
        least, most = schema.get("minLength", 0), schema.get("maxLength", 64)
        text = f"{self._word()} {self._word()}"
        while len(text) < least:
            text += f" {self._word()}"
        return text[:most]

    def _number(self, schema: Mapping[str, Any], kind: str) -> int | float:
        step = schema.get("multipleOf", 1)
        least = schema.get("minimum", schema.get("exclusiveMinimum"))
        most = schema.get("maximum", schema.get("exclusiveMaximum"))
        if least is None:
            least = most - 100 if most is not None else 0
        if most is None:
            most = least + 100
        lowest, highest = -(-least // step), most // step
        if "exclusiveMinimum" in schema and lowest * step == least:
            lowest += 1
        if "exclusiveMaximum" in schema and highest * step == most:
            highest -= 1
        if lowest > highest:
            if kind == "integer":
                raise _refused("The range of the integer is empty")
            return float(least + most) / 2
        value = self._chooser.randint(int(lowest), int(highest)) * step
        return int(value) if kind == "integer" else value

    def _array(self, schema: Mapping[str, Any], depth: int) -> list[Any]:
        made = [self.make(item, depth + 1) for item in schema.get("prefixItems", ())]
        least = schema.get("minItems", 0 if depth >= DEPTH_MAX else 1)
        if schema.get("items") is False:
            return made
        while len(made) < min(least, schema.get("maxItems", least)):
            made.append(self.make(schema.get("items", True), depth + 1))
        return made

    def _object(self, schema: Mapping[str, Any], depth: int) -> dict[str, Any]:
        properties, required = schema.get("properties", {}), schema.get("required", ())
        made = {
            name: self.make(value, depth + 1)
            for name, value in properties.items()
            if name in required or depth < _OPTIONAL_DEPTH
        }
        for name in required:
            if name not in made:
                made[name] = self.make(schema.get("additionalProperties", True), depth + 1)
        return made


def check_parameters(index: int, schema: object) -> None:
    """What SGLang checks of a tool's ``parameters`` before it looks at anything else. Raises EngineError."""
    for found in _types(schema):
        kinds = found if isinstance(found, list) else [found]
        if not all(kind in _TYPES for kind in kinds):
            raise EngineError(
                f"Tool {index} function has invalid 'parameters' schema: {found!r} is not valid under any of"
                " the given schemas"
            )


def _types(schema: object) -> list[object]:
    if isinstance(schema, list):
        return [found for item in schema for found in _types(item)]
    if not isinstance(schema, Mapping):
        return []
    found = [schema["type"]] if "type" in schema and not isinstance(schema["type"], Mapping) else []
    return found + [kind for value in schema.values() for kind in _types(value)]


def check_regex(pattern: str) -> None:
    """Raises EngineError for a pattern that does not compile."""
    try:
        re.compile(pattern)
    except re.error as error:
        where = "[12:00:00] /project/cpp/regex_converter.cc:83"
        message = f"Regex parsing error at position {error.pos}: {error.msg}.\n"
        raise EngineError(f"Failed to compile regex grammar: {where}: {message}") from None
