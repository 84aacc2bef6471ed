"""Embedding requests: what SGLang refuses of them, and unit vectors by content. Pure."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from inference.twin.errors import EngineError, invalid
from inference.twin.prompt import keyed
from inference.twin.words import BYTES_PER_TOKEN

DIMENSIONS: Final = 384
EDGE_TOKENS: Final = 2
"""[CLS] and [SEP], which the tokenizer puts around a text, not around ids."""
_DIGEST_NUMBERS: Final = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Embedding:
    """A request: its inputs as texts (ids written out), and the tokens of all."""

    texts: tuple[str, ...]
    tokens: int
    encoding: str


def embedding(path: str, body: Mapping[str, Any], *, context: int, dimensions: bool) -> Embedding:
    """The request that ``body`` is. Without ``dimensions`` the model has one size only, as SGLang says of
    most. Raises EngineError."""
    given, encoding = body.get("input"), body.get("encoding_format") or "float"
    if "input" not in body:
        raise invalid(path, "missing", ("body", "input"), "Field required", dict(body))
    if encoding not in ("float", "base64"):
        raise EngineError(f"encoding_format must be either 'float' or 'base64', got {encoding!r}")
    if not given:
        raise EngineError("Input cannot be empty")
    alone = isinstance(given, str) or type(given[0]) is int
    items = [given] if alone else given
    for index, item in enumerate(items):
        _check(item, index, alone=alone)
    if body.get("dimensions") and not dimensions:
        raise EngineError(
            "Model '/model' does not support matryoshka representation, changing output dimensions will lead"
            " to poor results."
        )
    counts = [_tokens(item) for item in items]
    if max(counts) > context:
        raise EngineError(
            f"The input ({max(counts)} tokens) is longer than the model's context length ({context} tokens)."
        )
    texts = tuple(item if isinstance(item, str) else " ".join(map(str, item)) for item in items)
    return Embedding(texts=texts, tokens=sum(counts), encoding=encoding)


def _check(item: object, index: int, *, alone: bool) -> None:
    if isinstance(item, str):
        if not item.strip():
            place = "Input" if alone else f"Input at index {index}"
            raise EngineError(f"{place} cannot be empty or whitespace only")
    elif isinstance(item, list):
        for at, token in enumerate(item):
            if token < 0:
                raise EngineError(f"Token ID at index {at} must be non-negative")


def _tokens(item: str | list[int]) -> int:
    if isinstance(item, str):
        return len(keyed(item.encode())) // BYTES_PER_TOKEN + EDGE_TOKENS
    return len(item)


def vector(text: str, size: int) -> list[float]:
    """A unit vector of ``size`` from the text's words: equal texts are equal, shared words are near."""
    found = [0.0] * size
    for word in text.lower().split() or [text]:
        digest = hashlib.blake2b(word.encode(), digest_size=4 * _DIGEST_NUMBERS).digest()
        for at in range(0, 4 * _DIGEST_NUMBERS, 4):
            number = int.from_bytes(digest[at : at + 4], "big")
            found[number % size] += 1.0 if number & (1 << 31) else -1.0
    norm = math.sqrt(sum(value * value for value in found)) or 1.0
    return [value / norm for value in found]
