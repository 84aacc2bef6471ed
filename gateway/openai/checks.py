"""One value of a request against its rule; refusals read and are coded like OpenAI's.

Each check takes the value and its place (``messages[1].content``) and raises InvalidRequest with that
place as ``param``. ``bool`` is never a number, a float never an integer, and nothing is converted.
Checks are data, so that the table of fields is made from the same objects that judge requests.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final

from gateway.contract.errors import InvalidRequest, UnsupportedParameter
from gateway.openai.json_body import shown

Check = Callable[[Any, str], None]
"""Raises InvalidRequest when the value at that place is not what the parameter takes."""

_KINDS: Final[tuple[tuple[type, str], ...]] = (
    (bool, "a boolean"),
    (int, "an integer"),
    (float, "a decimal"),
    (str, "a string"),
    (list, "an array"),
    (dict, "an object"),
)


def kind_of(value: object) -> str:
    """``a string``, ``null``, ...: what a JSON value is, for a sentence."""
    for kind, name in _KINDS:
        if isinstance(value, kind):
            return name
    return "null"


def missing(place: str) -> InvalidRequest:
    """A required parameter is not there."""
    return InvalidRequest(
        f"Missing required parameter: '{place}'.", code="missing_required_parameter", param=place
    )


def wrong_type(value: object, place: str, expected: str) -> InvalidRequest:
    """The value is of another JSON type."""
    return InvalidRequest(
        f"Invalid type for '{place}': expected {expected}, but got {kind_of(value)} instead.",
        code="invalid_type",
        param=place,
    )


def invalid(place: str, message: str, code: str = "invalid_value") -> InvalidRequest:
    """``Invalid '<place>': <message>``."""
    return InvalidRequest(f"Invalid '{place}': {message}", code=code, param=place)


def unknown(place: str) -> InvalidRequest:
    """A field nobody knows."""
    return InvalidRequest(f"Unknown parameter: '{place}'.", code="unknown_parameter", param=place)


def unserved(place: str, reason: str) -> UnsupportedParameter:
    """OpenAI knows it, we do not serve it; ``reason`` completes "'<place>' ..."."""
    return UnsupportedParameter(f"Unsupported parameter: '{place}' {reason}", param=place)


def boolean(value: Any, place: str) -> None:
    """true or false."""
    if not isinstance(value, bool):
        raise wrong_type(value, place, "a boolean")


def any_object(value: Any, place: str) -> None:
    """Any JSON object."""
    if not isinstance(value, dict):
        raise wrong_type(value, place, "an object")


@dataclass(frozen=True, slots=True)
class Whole:
    """An integer between ``least`` and ``most``."""

    least: int
    most: int = 2**63 - 1

    def __call__(self, value: Any, place: str) -> None:
        """See Check."""
        if isinstance(value, float) and value.is_integer() and abs(value) >= 2**63:
            # orjson reads an integer beyond 64 bits as a float.
            raise invalid(place, "integer out of range.", "integer_above_max_value")
        if isinstance(value, bool) or not isinstance(value, int):
            raise wrong_type(value, place, "an integer")
        if value < self.least:
            raise invalid(
                place,
                f"integer below minimum value. Expected a value >= {self.least}, but got {value} instead.",
                "integer_below_min_value",
            )
        if value > self.most:
            raise invalid(
                place,
                f"integer above maximum value. Expected a value <= {self.most}, but got {value} instead.",
                "integer_above_max_value",
            )


@dataclass(frozen=True, slots=True)
class Number:
    """A number from ``least`` (or strictly above it) to ``most``."""

    least: float
    most: float
    above: bool = False

    def __call__(self, value: Any, place: str) -> None:
        """See Check."""
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise wrong_type(value, place, "a decimal")
        if value < self.least or (self.above and value == self.least):
            sign = ">" if self.above else ">="
            raise invalid(
                place,
                f"decimal below minimum value. Expected a value {sign} {self.least:g},"
                f" but got {value:g} instead.",
                "decimal_below_min_value",
            )
        if value > self.most:
            raise invalid(
                place,
                f"decimal above maximum value. Expected a value <= {self.most:g}, but got {value:g} instead.",
                "decimal_above_max_value",
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """A string of at most ``most`` characters; ``pattern`` is held against the whole of it."""

    most: int | None = None
    empty: bool = True
    pattern: re.Pattern[str] | None = None

    def __call__(self, value: Any, place: str) -> None:
        """See Check."""
        if not isinstance(value, str):
            raise wrong_type(value, place, "a string")
        if not value and not self.empty:
            raise invalid(place, "empty string. Expected a string of 1 or more characters.", "empty_string")
        if self.most is not None and len(value) > self.most:
            raise invalid(
                place,
                f"string too long. Expected a string with maximum length {self.most}, "
                f"but got a string with length {len(value)} instead.",
                "string_above_max_length",
            )
        if self.pattern is not None and not self.pattern.fullmatch(value):
            raise invalid(
                place,
                "string does not match pattern. Expected a string that matches the pattern"
                f" '^{self.pattern.pattern}$'.",
            )


@dataclass(frozen=True, slots=True)
class OneOf:
    """One of these strings."""

    values: tuple[str, ...]

    def __call__(self, value: Any, place: str) -> None:
        """See Check."""
        if not isinstance(value, str):
            raise wrong_type(value, place, f"one of {listed(self.values)}")
        if value not in self.values:
            raise InvalidRequest(
                f"Invalid value: '{shown(value)}'. Supported values are: {listed(self.values)}.",
                code="invalid_value",
                param=place,
            )


def listed(values: Collection[str]) -> str:
    """``'a', 'b'``."""
    return ", ".join(f"'{value}'" for value in values)


@dataclass(frozen=True, slots=True, kw_only=True)
class Array:
    """An array of ``least`` to ``most`` items, each held against ``item``."""

    item: Check
    least: int = 0
    most: int

    def __call__(self, value: Any, place: str) -> None:
        """See Check."""
        array_length(value, place, least=self.least, most=self.most)
        for index, entry in enumerate(value):
            self.item(entry, f"{place}[{index}]")


def array_length(value: Any, place: str, *, least: int, most: int) -> None:
    """The outside of an array."""
    if not isinstance(value, list):
        raise wrong_type(value, place, "an array")
    if len(value) < least:
        raise invalid(
            place,
            f"array too short. Expected an array with minimum length {least}, "
            f"but got an array with length {len(value)} instead.",
            "array_below_min_length" if value else "empty_array",
        )
    if len(value) > most:
        raise invalid(
            place,
            f"array too long. Expected an array with maximum length {most}, "
            f"but got an array with length {len(value)} instead.",
            "array_above_max_length",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Object:
    """An object of known fields only. ``nulls``: an optional field may be null."""

    fields: Mapping[str, Check]
    required: tuple[str, ...] = ()
    nulls: bool = True

    def __call__(self, value: Any, place: str) -> None:
        """See Check."""
        if not isinstance(value, dict):
            raise wrong_type(value, place, "an object")
        for name in self.required:
            if name not in value:
                raise missing(f"{place}.{name}")
        for name, entry in value.items():
            rule = self.fields.get(name)
            if rule is None:
                raise unknown(f"{place}.{shown(name)}")
            if entry is None and self.nulls and name not in self.required:
                continue
            rule(entry, f"{place}.{name}")


@dataclass(frozen=True, slots=True)
class Refused:
    """OpenAI's, never served; ``reason`` completes "Unsupported parameter: '<place>' ..."."""

    reason: str

    def __call__(self, value: Any, place: str) -> None:
        """See Check."""
        raise unserved(place, self.reason)


@dataclass(frozen=True, slots=True, kw_only=True)
class Variants:
    """Objects told apart by the string in ``tag``; a Refused one is refused at the tag."""

    tag: str
    by: Mapping[str, Check]

    def __call__(self, value: Any, place: str) -> None:
        """See Check."""
        any_object(value, place)
        here = f"{place}.{self.tag}"
        if value.get(self.tag) is None:
            raise missing(here)
        kind = value[self.tag]
        rule = self.by.get(kind) if isinstance(kind, str) else None
        if rule is None:
            served = (name for name, rule in self.by.items() if not isinstance(rule, Refused))
            OneOf(tuple(served))(kind, here)
        elif isinstance(rule, Refused):
            rule(kind, here)
        else:
            rule(value, place)


@dataclass(frozen=True, slots=True, kw_only=True)
class Either:
    """A string or something else, each with its own check; ``expected`` names both for a message."""

    text: Check
    other: Check
    kind: type
    expected: str

    def __call__(self, value: Any, place: str) -> None:
        """See Check."""
        if isinstance(value, str):
            self.text(value, place)
        elif isinstance(value, self.kind):
            self.other(value, place)
        else:
            raise wrong_type(value, place, self.expected)


@dataclass(frozen=True, slots=True, kw_only=True)
class Only:
    """Of what ``check`` lets through, only ``served`` is served; ``reason`` says so."""

    check: Check
    served: tuple[Any, ...]
    reason: str

    def __call__(self, value: Any, place: str) -> None:
        """See Check."""
        self.check(value, place)
        if value not in self.served:
            raise unserved(place, self.reason)


@dataclass(frozen=True, slots=True, kw_only=True)
class TextMap:
    """OpenAI's ``metadata``: at most ``most`` pairs of short strings."""

    most: int
    name_chars: int
    value_chars: int

    def __call__(self, value: Any, place: str) -> None:
        """See Check."""
        any_object(value, place)
        if len(value) > self.most:
            raise invalid(
                place, f"too many properties. Expected at most {self.most}.", "object_above_max_properties"
            )
        short = Text(most=self.value_chars)
        for name, entry in value.items():
            if len(name) > self.name_chars:
                raise invalid(
                    place, f"a key is longer than {self.name_chars} characters.", "string_above_max_length"
                )
            short(entry, f"{place}.{shown(name)}")
