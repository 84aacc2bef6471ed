"""The shape of an answer: its fields, their order and types, and the values that are part of the contract."""

from __future__ import annotations

import json
import re
from itertools import groupby
from typing import Any

FIXED = {
    "object",
    "role",
    "index",
    "finish_reason",
    "type",
    "code",
    "param",
    "owned_by",
    "parent",
    "weight_version",
}
"""Fields whose value is compared, not only their type."""


def shape(value: Any, key: str = "") -> Any:
    """JSON with its free values replaced by the names of their types."""
    if isinstance(value, dict):
        return {name: shape(item, name) for name, item in value.items()}
    if isinstance(value, list):
        shapes = [shape(item) for item in value]
        return [kept for place, kept in enumerate(shapes) if kept not in shapes[:place]]
    if key in FIXED:
        return value
    if key == "message":
        return re.sub(r"\d+", "0", value).split("\n")[0]
    if isinstance(value, bool) or value is None:
        return value
    return type(value).__name__


def events(text: str) -> list[Any]:
    """The shapes of a stream's events in order; equal neighbours count as one."""
    found = [event.removeprefix("data: ") for event in text.split("\n\n") if event]
    shapes = [event if event == "[DONE]" else shape(json.loads(event)) for event in found]
    return [kept for kept, _ in groupby(shapes)]


def body(content_type: str, text: str) -> Any:
    """The shape of a body."""
    if content_type.startswith("text/event-stream"):
        return events(text)
    if content_type.startswith("application/json"):
        return shape(json.loads(text))
    return text


def series(text: str) -> dict[str, set[str]]:
    """Metric names of an exposition and the label names each has."""
    found: dict[str, set[str]] = {}
    for line in text.splitlines():
        if matched := re.match(r"(sglang:\w+)(?:\{([^}]*)\})? ", line):
            found.setdefault(matched[1], set()).update(re.findall(r'(\w+)="', matched[2] or ""))
    return found
