"""A file of question pairs: what was asked first, what is asked then, and whether one answer serves both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import orjson

from mesh.local.refusal import Refusal

PAIRS_MAX: Final = 1_000_000
"""Rows of a file, all of which are in memory."""
NO_CATEGORY: Final = "-"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """Messages as OpenAI has them; ``same``: the answer to the first may be served for the second.
    ``line``: where in the file, from 1."""

    first: Sequence[dict[str, Any]]
    then: Sequence[dict[str, Any]]
    same: bool
    category: str
    line: int


def read_pairs(file: Path) -> list[Pair]:
    """One JSON object a line: ``a`` and ``b`` (questions) or ``messages_a`` and ``messages_b`` (lists of
    messages), ``y`` (1 or 0), ``cat`` (optional); other members are ignored. Raises Refusal with the line."""
    pairs: list[Pair] = []
    with file.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            if len(pairs) == PAIRS_MAX:
                raise Refusal(f"{file}: more than {PAIRS_MAX} pairs", "split it")
            try:
                pairs.append(_pair(orjson.loads(line), number))
            except (KeyError, TypeError, ValueError) as error:
                raise Refusal(
                    f"{file}: line {number}: {error}",
                    'write {"a": "...", "b": "...", "y": 1, "cat": "..."}, or messages_a and messages_b',
                ) from error
    if not pairs:
        raise Refusal(f"{file}: no pairs", "one JSON object a line")
    return pairs


def _pair(row: Any, line: int) -> Pair:
    if not isinstance(row, dict):
        raise TypeError("no JSON object")
    if row.get("y") not in (0, 1):
        raise ValueError("y is neither 0 nor 1")
    return Pair(
        first=_messages(row, "a"),
        then=_messages(row, "b"),
        same=bool(row["y"]),
        category=str(row.get("cat", NO_CATEGORY)),
        line=line,
    )


def _messages(row: dict[str, Any], side: str) -> Sequence[dict[str, Any]]:
    found = row.get(f"messages_{side}")
    if found is None:
        text = row.get(side)
        if not isinstance(text, str):
            raise TypeError(f"neither {side} (a string) nor messages_{side} (a list)")
        return ({"role": "user", "content": text},)
    if not isinstance(found, list) or not found or not all(isinstance(message, dict) for message in found):
        raise TypeError(f"messages_{side} is no list of messages")
    return found
