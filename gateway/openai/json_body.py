"""Bytes from a client to one JSON object, strictly.

Python's ``json`` takes NaN, UTF-16, a BOM, lone surrogates and 1e999, and dies with RecursionError
on deep nesting; orjson refuses these, but like ``json`` keeps the last of two equal keys, which lets a
body mean one model to us and another to the next reader. So: bound the shape, orjson, then look for
doubles. (Measured in the project's research on reliability and security, 5.4.)
"""

from __future__ import annotations

import json
import re
from typing import Any, Final

import orjson

from gateway.contract.errors import InvalidRequest

DEPTH_MAX: Final = 64
"""Nesting of arrays and objects; a JSON Schema in a tool rarely passes 20."""
CONTAINERS_MAX: Final = 65_536
"""Arrays and objects in one body: an empty one costs 3 bytes on the wire and some 64 in memory."""
STRINGS_MAX: Final = 262_144
"""Strings in one body, keys included, for the same reason."""
_QUOTES_UNSEEN: Final = 16_384
"""Below so many quote marks (and DEPTH_MAX brackets) no bound can be passed: no scan needed."""
_TOKEN: Final = re.compile(rb'"(?:[^"\\]++|\\.)*+"|[\[{]|[\]}]|"', re.DOTALL)
"""Strings whole, so that brackets in them do not count; a lone quote is an unterminated string.
Possessive, so that no input makes it look twice at a byte."""
_SHOWN_CHARS: Final = 64


def shown(text: str) -> str:
    """A client's word as it may stand in an error message: short and printable."""
    cut = text if len(text) <= _SHOWN_CHARS else text[:_SHOWN_CHARS] + "..."
    return "".join(char if char.isprintable() else "?" for char in cut)


def _invalid(message: str, code: str = "invalid_json") -> InvalidRequest:
    return InvalidRequest(message, code=code)


def check_shape(body: bytes) -> None:
    """Refuse JSON that is nested or divided beyond the bounds, before anything is built from it."""
    brackets = body.count(b"{") + body.count(b"[")
    if brackets <= DEPTH_MAX and body.count(b'"') <= _QUOTES_UNSEEN:
        return
    depth = containers = strings = 0
    for match in _TOKEN.finditer(body):
        first = body[match.start()]
        if first == 0x22:
            strings += 1
            if match.end() - match.start() == 1:
                raise _invalid("The body is not valid JSON: a string does not end.")
            if strings > STRINGS_MAX:
                raise _invalid(f"The body holds more than {STRINGS_MAX} strings.", "body_too_complex")
        elif first in b"[{":
            depth += 1
            containers += 1
            if depth > DEPTH_MAX:
                raise _invalid(f"The body is nested deeper than {DEPTH_MAX} levels.", "body_too_complex")
            if containers > CONTAINERS_MAX:
                raise _invalid(
                    f"The body holds more than {CONTAINERS_MAX} arrays and objects.", "body_too_complex"
                )
        else:
            depth -= 1


def _single(pairs: list[tuple[str, Any]]) -> None:
    seen: set[str] = set()
    for key, _ in pairs:
        if key in seen:
            raise _invalid(f"The key '{shown(key)}' stands twice in one object.", "duplicate_key")
        seen.add(key)


def _pairs(pairs: list[tuple[str, Any]]) -> None:
    if len(pairs) > 1:
        _single(pairs)


_DOUBLES: Final = json.JSONDecoder(object_pairs_hook=_pairs)


def read_object(body: bytes) -> dict[str, Any]:
    """The JSON object in ``body``. Raises InvalidRequest (400), nothing else."""
    if not body:
        raise _invalid("The body is empty; send a JSON object.")
    check_shape(body)
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise _invalid(
            "The body is not valid JSON in UTF-8"
            f" (line {error.lineno}, column {error.colno}); NaN, Infinity and byte order marks are not JSON."
        ) from error
    if not isinstance(value, dict):
        raise _invalid("The body must be a JSON object.")
    try:
        # Only the hook matters; the text is known to be valid, bounded JSON here.
        _DOUBLES.decode(body.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise _invalid("The body is not valid JSON: a number is too long.") from error
    return value
