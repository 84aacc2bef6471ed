"""A stored answer as a fresh one: JSON under a new id, or an SSE stream in the pieces of the first."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final

from gateway.openai.answers import choices_of, index_of, read_json, write_json
from gateway.openai.cursor import Cursor
from gateway.openai.pieces import HOLE, Counts, next_counts, read_pieces, skip_counts
from gateway.openai.sse import DONE, event_bytes
from gateway.openai.stored_answer import NotReplayable, read_stored

__all__ = ["NotReplayable", "cached_answer_to_json", "cached_answer_to_sse"]

_CHUNK_KINDS: Final = {"chat.completion": "chat.completion.chunk", "text_completion": "text_completion"}
_TOP: Final = ("system_fingerprint", "service_tier")
_MARK: Final = "\x00tidegate\x00"
"""Stands where a chunk's text will be; a chunk that has it elsewhere too is written field by field."""
_MARK_BYTES: Final = write_json(_MARK) or b""


def cached_answer_to_json(stored: bytes, *, answer_id: str) -> bytes:
    """The stored answer with ``answer_id`` in place of its id, if it has one. Raises NotReplayable."""
    answer = read_json(read_stored(stored)[0])
    if answer is None:
        raise NotReplayable("not a JSON object")
    if "id" in answer:
        answer["id"] = answer_id
    return _written(answer)


def _written(value: object) -> bytes:
    data = write_json(value)
    if data is None:
        raise NotReplayable("nested too deeply")
    return data


def cached_answer_to_sse(
    stored: bytes, *, answer_id: str, usage_asked: bool, continuous_usage_asked: bool = False
) -> bytes:
    """The stored completion as a whole event stream: the chunks of the stream it came in, or of an answer
    that came as JSON the role, each field and the end of each choice; then usage if asked, then ``[DONE]``.
    Continuous usage is what was reported then, never falling nor above the sum. Raises NotReplayable."""
    completion, pieces = read_stored(stored)
    answer = read_json(completion)
    kind = _CHUNK_KINDS.get(str(answer.get("object"))) if answer is not None else None
    if answer is None or kind is None:
        raise NotReplayable("not a completion")
    top = {
        "id": answer_id,
        "object": kind,
        "created": answer.get("created", 0),
        "model": answer.get("model", ""),
        **{name: answer[name] for name in _TOP if answer.get(name) is not None},
    }
    replay = _Replay(answer, top, usage_asked=usage_asked, continuous=continuous_usage_asked)
    try:
        events = [*(replay.recorded(pieces) if pieces else ()), *replay.rest()]
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, StopIteration) as failure:
        # All that reading by another's shapes can raise: whoever wrote this had other rules.
        raise NotReplayable("pieces that are not of this completion") from failure
    if not events:
        raise NotReplayable("a completion without choices")
    if usage_asked:
        events.append(event_bytes(_written({**top, "choices": [], "usage": answer.get("usage")})))
    events.append(event_bytes(DONE))
    return b"".join(events)


class _Replay:
    """The events of one stored completion but its last two."""

    def __init__(
        self, answer: dict[str, Any], top: dict[str, Any], *, usage_asked: bool, continuous: bool
    ) -> None:
        chat = top["object"] == "chat.completion.chunk"
        self._top = top
        self._usage = answer.get("usage")
        self._continuous = continuous
        self._seen: dict[str, Any] = {}
        if continuous:
            self._seen["usage"] = self._usage
        elif usage_asked:
            self._seen["usage"] = None
        self._cursors = {index_of(choice): Cursor(choice, chat=chat) for choice in choices_of(answer)}
        self._counts: dict[int, Counts] = {}

    def rest(self) -> Iterator[bytes]:
        """What the pieces have not shown."""
        for cursor in self._cursors.values():
            for part in cursor.rest():
                yield event_bytes(_written({**self._top, "choices": [part], **self._seen}))

    def recorded(self, pieces: bytes) -> list[bytes]:
        """The chunks that were remembered, in their order."""
        shapes, numbers = read_pieces(pieces)
        writers = [self._writer(shape) for shape in shapes]
        return [writers[number](numbers) for number in numbers]

    def _writer(self, shape: dict[str, Any]) -> Callable[[Iterator[int]], bytes]:
        """What makes an event of a shape, taking from the numbers what belongs to it."""
        choices = shape["choices"]
        first = index_of(choices[0]) if choices else 0
        reported = shape.get("usage") is HOLE

        def whole(numbers: Iterator[int]) -> bytes:
            parts = [self._cursors[index_of(choice)].part(choice, numbers) for choice in choices]
            chunk = {**self._top, "choices": parts}
            if not self._continuous:
                chunk |= self._seen
                if reported:
                    skip_counts(numbers)
            elif "usage" in shape:
                chunk["usage"] = self._reported(first, numbers) if reported else None
            return event_bytes(_written(chunk))

        plain = None if self._continuous and reported else _text_of(choices)
        if plain is None:
            return whole
        name, marked = plain
        usage = self._seen if not self._continuous else {"usage": None} if "usage" in shape else {}
        around = event_bytes(_written({**self._top, "choices": [marked], **usage})).split(_MARK_BYTES)
        if len(around) != 2:
            return whole
        before, after = around
        cursor = self._cursors[first]
        cursor.begin()

        def text(numbers: Iterator[int]) -> bytes:
            said = _written(cursor.text(name, next(numbers)))
            if reported:
                skip_counts(numbers)
            return before + said + after

        return text

    def _reported(self, index: int, numbers: Iterator[int]) -> dict[str, Any]:
        """The cumulative usage of a chunk, in the form of the last one, which it never exceeds."""
        counts = self._counts[index] = next_counts(numbers, self._counts.get(index, Counts()))
        usage = dict(self._usage or {})
        usage["prompt_tokens"] = counts.prompt
        usage["completion_tokens"] = min(counts.completion, usage["completion_tokens"])
        usage["total_tokens"] = counts.prompt + usage["completion_tokens"]
        _within(usage, "prompt_tokens_details", "cached_tokens", counts.cached)
        _within(usage, "completion_tokens_details", "reasoning_tokens", counts.reasoning)
        if "reasoning_tokens" in usage:
            usage["reasoning_tokens"] = counts.reasoning
        return usage


def _within(usage: dict[str, Any], name: str, count: str, value: int) -> None:
    if isinstance(usage.get(name), dict):
        usage[name] = {**usage[name], count: value}


def _text_of(choices: list[dict[str, Any]]) -> tuple[str, dict[str, Any]] | None:
    """The field that a chunk's one choice brings, and the choice with a mark there; None if it brings more,
    or ends: those are few, while the rest is written at half the cost."""
    if len(choices) != 1 or choices[0].get("finish_reason") is not None or choices[0].get("logprobs"):
        return None
    holder = choices[0] if choices[0].get("delta") is None else choices[0]["delta"]
    holes = [name for name, value in holder.items() if value is HOLE]
    if len(holes) != 1 or holder.get("tool_calls"):
        return None
    marked = {**holder, holes[0]: _MARK}
    return holes[0], marked if holder is choices[0] else {**choices[0], "delta": marked}
