"""One value of a request against its rule; refusals read and are coded like OpenAI's.

Each check takes the value and its place (``messages[1].content``) and raises InvalidRequest with that
place as ``param``. ``bool`` is never a number, a float never an integer, and nothing is converted.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
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
    """OpenAI knows it, we do not serve it; ``reason`` completes "'<place>' is not supported: ..."."""
    return UnsupportedParameter(f"Unsupported parameter: '{place}' {reason}", param=place)


def boolean(value: Any, place: str) -> None:
    """true or false."""
    if not isinstance(value, bool):
        raise wrong_type(value, place, "a boolean")


def whole(least: int, most: int = 2**63 - 1) -> Check:
    """An integer between ``least`` and ``most``."""

    def check(value: Any, place: str) -> None:
        if isinstance(value, float) and value.is_integer() and abs(value) >= 2**63:
            # orjson reads an integer beyond 64 bits as a float.
            raise invalid(place, "integer out of range.", "integer_above_max_value")
        if isinstance(value, bool) or not isinstance(value, int):
            raise wrong_type(value, place, "an integer")
        if value < least:
            raise invalid(
                place,
                f"integer below minimum value. Expected a value >= {least}, but got {value} instead.",
                "integer_below_min_value",
            )
        if value > most:
            raise invalid(
                place,
                f"integer above maximum value. Expected a value <= {most}, but got {value} instead.",
                "integer_above_max_value",
            )

    return check


def number(least: float, most: float, *, above: bool = False) -> Check:
    """A number from ``least`` (or strictly above it) to ``most``."""

    def check(value: Any, place: str) -> None:
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise wrong_type(value, place, "a decimal")
        if value < least or (above and value == least):
            sign = ">" if above else ">="
            raise invalid(
                place,
                f"decimal below minimum value. Expected a value {sign} {least:g}, but got {value:g} instead.",
                "decimal_below_min_value",
            )
        if value > most:
            raise invalid(
                place,
                f"decimal above maximum value. Expected a value <= {most:g}, but got {value:g} instead.",
                "decimal_above_max_value",
            )

    return check


def text(*, most: int | None = None, empty: bool = True) -> Check:
    """A string of at most ``most`` characters."""

    def check(value: Any, place: str) -> None:
        if not isinstance(value, str):
            raise wrong_type(value, place, "a string")
        if not value and not empty:
            raise invalid(place, "empty string. Expected a string of 1 or more characters.", "empty_string")
        if most is not None and len(value) > most:
            raise invalid(
                place,
                f"string too long. Expected a string with maximum length {most}, "
                f"but got a string with length {len(value)} instead.",
                "string_above_max_length",
            )

    return check


def one_of(*values: str) -> Check:
    """One of these strings."""

    def check(value: Any, place: str) -> None:
        if not isinstance(value, str):
            raise wrong_type(value, place, f"one of {_listed(values)}")
        if value not in values:
            raise InvalidRequest(
                f"Invalid value: '{shown(value)}'. Supported values are: {_listed(values)}.",
                code="invalid_value",
                param=place,
            )

    return check


def _listed(values: Collection[str]) -> str:
    return ", ".join(f"'{value}'" for value in values)


def array(item: Check, *, least: int = 0, most: int) -> Check:
    """An array of ``least`` to ``most`` items, each held against ``item``."""

    def check(value: Any, place: str) -> None:
        array_length(value, place, least=least, most=most)
        for index, entry in enumerate(value):
            item(entry, f"{place}[{index}]")

    return check


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


def obj(fields: Mapping[str, Check], *, required: Collection[str] = (), nulls: bool = False) -> Check:
    """An object of known fields only. ``nulls``: an optional field may be null."""
    needed = tuple(required)

    def check(value: Any, place: str) -> None:
        if not isinstance(value, dict):
            raise wrong_type(value, place, "an object")
        for name in needed:
            if name not in value:
                raise missing(f"{place}.{name}")
        for name, entry in value.items():
            rule = fields.get(name)
            if rule is None:
                raise unknown(f"{place}.{shown(name)}")
            if entry is None and nulls and name not in needed:
                continue
            rule(entry, f"{place}.{name}")

    return check


def any_object(value: Any, place: str) -> None:
    """Any JSON object (a JSON Schema, a function's parameters)."""
    if not isinstance(value, dict):
        raise wrong_type(value, place, "an object")


def text_map(*, most: int, name_chars: int, value_chars: int) -> Check:
    """OpenAI's ``metadata``: at most ``most`` pairs of short strings."""
    short = text(most=value_chars)

    def check(value: Any, place: str) -> None:
        any_object(value, place)
        if len(value) > most:
            raise invalid(
                place, f"too many properties. Expected at most {most}.", "object_above_max_properties"
            )
        for name, entry in value.items():
            if len(name) > name_chars:
                raise invalid(
                    place, f"a key is longer than {name_chars} characters.", "string_above_max_length"
                )
            short(entry, f"{place}.{shown(name)}")

    return check
