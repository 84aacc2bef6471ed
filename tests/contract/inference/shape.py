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
    "mode",
}
"""Fields whose value is compared, not only their type."""


def shape(value: Any, key: str = "") -> Any:
    """JSON with its free values replaced by the names of their types."""
    if isinstance(value, dict):
        if key == "top_logprobs":
            # Of a completion: tokens are the names.
            return {"token": type(next(iter(value.values()))).__name__}
        return {name: shape(item, name) for name, item in value.items()}
    if isinstance(value, list):
        shapes = [shape(item, key if key == "top_logprobs" else "") for item in value]
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


def series(text: str) -> dict[str, set[frozenset[str]]]:
    """Metric names of an exposition, and the sets of label names that each comes with."""
    found: dict[str, set[frozenset[str]]] = {}
    for line in text.splitlines():
        if matched := re.match(r"(sglang:\w+)(?:\{([^}]*)\})? ", line):
            labels = frozenset(re.findall(r'(\w+)="', matched[2] or ""))
            found.setdefault(matched[1], set()).add(labels)
    return found
