"""How a stream was cut: for each chunk which fields of which choices grew, and by how much.

The texts stand once, in the assembled completion. Here a chunk is the number of its shape (its choices with
holes where texts and lists of log probabilities were; a stream has a handful of shapes), the lengths of what
filled the holes, in characters or entries, and its cumulative usage as a step: about three bytes in all, as
LEB128 numbers. Everything that is no text stays in the shape, nulls included, so that a replay has the very
deltas of the original.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

import orjson

from gateway.openai.answers import index_of

PIECES_MAX: Final = 16_384
"""Chunks of one stream that are remembered: as many as tokens in the longest of usual answers, some 50 KB.
What comes later is merged: a replay shows the rest of each field as one piece."""
SHAPES_MAX: Final = 1_024
"""128 choices with a few shapes each, and room; a stream of more is merged as above."""
SHAPES_BYTES_MAX: Final = 128 * 1024
"""Of all shapes of a stream, so that one which repeats long constants fills no memory."""
HOLE: Final = True
"""Stands in a shape where a text or a list was: nothing else there is ever true."""
TEXTS: Final = ("content", "reasoning_content", "refusal")
_LENGTH_BYTES: Final = 4
_NO_USAGE: Final = 0
_NULL_USAGE: Final = 1
_USAGE: Final = 2


class Counts(NamedTuple):
    """A cumulative usage, in tokens."""

    prompt: int = 0
    completion: int = 0
    cached: int = 0
    reasoning: int = 0


class Pieces:
    """Fed with the chunks of a stream in order, after each was understood as a chunk."""

    def __init__(self) -> None:
        """None yet."""
        self._shapes: dict[object, int] = {}
        self._templates: list[bytes] = []
        self._templates_bytes = 0
        self._numbers = bytearray()
        self._count = 0
        self._counts: dict[int, list[int]] = {}
        """By choice, in the order of Counts."""

    def add(self, chunk: Mapping[str, Any], choices: list[dict[str, Any]]) -> None:
        """One chunk and its choices, whose texts are texts and whose log probabilities are lists."""
        if self._count >= PIECES_MAX:
            return
        lengths: list[int] = []
        usage = chunk.get("usage")
        counts = _counts_of(usage) if usage is not None else None
        kind = (
            _USAGE if counts is not None else _NULL_USAGE if usage is None and "usage" in chunk else _NO_USAGE
        )
        key = _plain_key(choices[0], kind, lengths) if len(choices) == 1 else None
        shape = None if key is None else self._shapes.get(key)
        if shape is None:
            lengths.clear()
            shape = self._new_shape(key, [_template(choice, lengths) for choice in choices], kind)
            if shape is None:
                self._count = PIECES_MAX
                return
        self._count += 1
        numbers = self._numbers
        for number in (shape, *lengths):
            if number < 128:
                numbers.append(number)
            else:
                _append(numbers, number)
        if counts is not None:
            self._add_counts(index_of(choices[0]) if choices else 0, counts)

    def _new_shape(self, key: object, choices: list[dict[str, Any]], kind: int) -> int | None:
        template: dict[str, Any] = {"choices": choices}
        if kind != _NO_USAGE:
            template["usage"] = HOLE if kind == _USAGE else None
        written = orjson.dumps(template)
        shape = self._shapes.get(written)
        if shape is None:
            self._templates_bytes += len(written)
            if len(self._templates) >= SHAPES_MAX or self._templates_bytes > SHAPES_BYTES_MAX:
                return None
            shape = self._shapes[written] = len(self._templates)
            self._templates.append(written)
        if key is not None:
            self._shapes[key] = shape
        return shape

    def _add_counts(self, index: int, counts: tuple[int, int, int, int]) -> None:
        """A step of completion tokens, and the other three where they have changed. Never a step back: what
        is replayed is cumulative."""
        prompt, completion, cached, reasoning = counts
        before = self._counts.setdefault(index, [0, 0, 0, 0])
        step = max(0, completion - before[1])
        changed = prompt != before[0] or cached != before[2] or reasoning != before[3]
        _append(self._numbers, step << 1 | changed)
        if changed:
            for number in (prompt, cached, reasoning):
                _append(self._numbers, number)
        before[:] = prompt, before[1] + step, cached, reasoning

    def to_bytes(self) -> bytes:
        """As stored: length of the shapes' JSON in 4 bytes, the shapes, then the numbers to the end."""
        shapes = b"[" + b",".join(self._templates) + b"]"
        return len(shapes).to_bytes(_LENGTH_BYTES) + shapes + bytes(self._numbers)


def read_pieces(data: bytes) -> tuple[list[dict[str, Any]], Iterator[int]]:
    """The shapes, and all numbers in order. Raises ValueError for what is not of this form, as do the
    numbers where they break off."""
    start = _LENGTH_BYTES + int.from_bytes(data[:_LENGTH_BYTES])
    shapes = orjson.loads(data[_LENGTH_BYTES:start])
    if not isinstance(shapes, list) or len(shapes) > SHAPES_MAX:
        raise ValueError("shapes expected")
    return shapes, _numbers(data[start:])


def next_counts(numbers: Iterator[int], before: Counts) -> Counts:
    """The usage that follows ``before`` in the same choice. Raises StopIteration where the numbers end."""
    step, changed = divmod(next(numbers), 2)
    if not changed:
        return before._replace(completion=before.completion + step)
    prompt, cached, reasoning = next(numbers), next(numbers), next(numbers)
    return Counts(prompt, before.completion + step, cached, reasoning)


def skip_counts(numbers: Iterator[int]) -> None:
    """Pass over a usage that nobody asked for. Raises as ``next_counts`` does."""
    if next(numbers) & 1:
        next(numbers), next(numbers), next(numbers)


def _append(numbers: bytearray, number: int) -> None:
    while number > 127:
        numbers.append(number & 127 | 128)
        number >>= 7
    numbers.append(number)


def _numbers(data: bytes) -> Iterator[int]:
    """Nearly always each byte is a number: no piece is longer than 127 characters, and none leaps."""
    return iter(data) if data.isascii() else _long_numbers(data)


def _long_numbers(data: bytes) -> Iterator[int]:
    value = shift = 0
    for octet in data:
        if octet < 128:
            yield value | octet << shift
            value = shift = 0
        else:
            value |= (octet & 127) << shift
            shift += 7
    if shift:
        raise ValueError("a number that breaks off")


def _counts_of(usage: Mapping[str, Any]) -> tuple[int, int, int, int] | None:
    """The numbers of Counts; None for what is no usage: such an answer is not stored anyway."""
    prompt, completion = usage.get("prompt_tokens"), usage.get("completion_tokens")
    details = usage.get("prompt_tokens_details")
    cached = (details.get("cached_tokens") or 0) if details else 0
    details = usage.get("completion_tokens_details")
    reasoning = (details.get("reasoning_tokens") if details else usage.get("reasoning_tokens")) or 0
    if not (type(prompt) is type(completion) is type(cached) is type(reasoning) is int):
        return None
    if prompt < 0 or completion < 0 or cached < 0 or reasoning < 0:
        return None
    return prompt, completion, cached, reasoning


def _plain_key(choice: dict[str, Any], kind: int, lengths: list[int]) -> tuple[object, ...] | None:
    """What tells the shape of a chunk that only brings text, nearly every one; None for any other."""
    if choice.get("finish_reason") is not None or choice.get("logprobs") is not None:
        return None
    delta, text = choice.get("delta"), choice.get("text")
    if choice.get("matched_stop") is not None or (delta is None) == (text is None):
        return None
    if delta is None:
        lengths.append(len(choice["text"]))
        return (kind, choice.get("index"), *choice)
    if "role" in delta or "tool_calls" in delta:
        return None
    lengths.extend([len(value) for value in delta.values() if value is not None])
    return (kind, choice.get("index"), len(choice), *choice, *delta, *map(type, delta.values()))


def _template(choice: Mapping[str, Any], lengths: list[int]) -> dict[str, Any]:
    """The choice with holes, and the lengths of what was in them, in the order of its fields."""
    found: dict[str, Any] = {}
    for name, value in choice.items():
        if name == "delta" and value is not None:
            found[name] = _delta_template(value, lengths)
        elif name == "logprobs" and value is not None:
            found[name] = _holes(value, tuple(value), lengths)
        elif name == "text" and value is not None:
            lengths.append(len(value))
            found[name] = HOLE
        else:
            found[name] = value
    return found


def _holes(holder: Mapping[str, Any], names: tuple[str, ...], lengths: list[int]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in holder.items():
        if name in names and value is not None:
            lengths.append(len(value))
            found[name] = HOLE
        else:
            found[name] = value
    return found


def _delta_template(delta: Mapping[str, Any], lengths: list[int]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in delta.items():
        if name == "tool_calls" and value is not None:
            found[name] = [_call_template(call, lengths) for call in value]
        elif name in TEXTS and value is not None:
            lengths.append(len(value))
            found[name] = HOLE
        else:
            found[name] = value
    return found


def _call_template(call: Mapping[str, Any], lengths: list[int]) -> dict[str, Any]:
    """Of a call's id and name nothing is measured: they come whole."""
    found = {**call, "id": HOLE} if call.get("id") else dict(call)
    function = call.get("function")
    if function is not None:
        found["function"] = _holes(function, ("arguments",), lengths)
        if function.get("name"):
            found["function"]["name"] = HOLE
    return found
