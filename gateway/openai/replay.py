"""A stored completion as a fresh answer: JSON under a new id, or an SSE stream of the engine's shape."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from gateway.openai.answers import choices_of, index_of, read_json, write_json
from gateway.openai.sse import DONE, event_bytes

_CHUNK_KINDS: Final = {"chat.completion": "chat.completion.chunk", "text_completion": "text_completion"}
_DELTA_TEXTS: Final = ("reasoning_content", "refusal", "content")


class NotReplayable(ValueError):
    """The stored bytes are not a completion; the caller treats the look-up as a miss."""


def cached_answer_to_json(stored: bytes, *, answer_id: str) -> bytes:
    """The stored answer with ``answer_id`` in place of its id, if it has one. Raises NotReplayable."""
    answer = read_json(stored)
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
    """The stored completion as a whole event stream: for each choice the role, its content, its end; then
    usage if asked, then ``[DONE]``. Raises NotReplayable."""
    answer = read_json(stored)
    kind = _CHUNK_KINDS.get(str(answer.get("object"))) if answer is not None else None
    if answer is None or kind is None:
        raise NotReplayable("not a completion")
    usage = answer.get("usage")
    top = {
        "id": answer_id,
        "object": kind,
        "created": answer.get("created", 0),
        "model": answer.get("model", ""),
    }
    if answer.get("system_fingerprint") is not None:
        top["system_fingerprint"] = answer["system_fingerprint"]
    seen: dict[str, Any] = {}
    if continuous_usage_asked:
        seen["usage"] = usage
    elif usage_asked:
        seen["usage"] = None
    parts = _chat_parts if kind == "chat.completion.chunk" else _text_parts
    events = [
        event_bytes(_written({**top, "choices": [part], **seen}))
        for choice in choices_of(answer)
        for part in parts(choice)
    ]
    if not events:
        raise NotReplayable("a completion without choices")
    if usage_asked:
        events.append(event_bytes(_written({**top, "choices": [], "usage": usage})))
    events.append(event_bytes(DONE))
    return b"".join(events)


def _chat_parts(choice: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    message = choice.get("message")
    if not isinstance(message, dict):
        raise NotReplayable("a choice without message")
    index = index_of(choice)

    def part(delta: dict[str, Any], logprobs: object = None) -> dict[str, Any]:
        return {
            "index": index,
            "delta": delta,
            "logprobs": logprobs,
            "finish_reason": None,
            "matched_stop": None,
        }

    yield part({"role": "assistant", "content": ""})
    logprobs = choice.get("logprobs")
    for name in _DELTA_TEXTS:
        if message.get(name):
            yield part({name: message[name]}, logprobs if name == "content" else None)
    calls = message.get("tool_calls")
    for position, call in enumerate(calls if isinstance(calls, list) else ()):
        if not isinstance(call, dict):
            raise NotReplayable("a tool call that is no object")
        # Last, because SGLang's whole calls have an index of their own, which may be null.
        yield part({"tool_calls": [{**call, "index": position}]})
    if isinstance(message.get("function_call"), dict):
        yield part({"function_call": message["function_call"]})
    if logprobs and not message.get("content"):
        yield part({}, logprobs)
    yield {**part({}), **_ending(choice)}


def _text_parts(choice: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    text = choice.get("text")
    if not isinstance(text, str):
        raise NotReplayable("a choice without text")
    index = index_of(choice)
    if text or choice.get("logprobs"):
        yield {
            "index": index,
            "text": text,
            "logprobs": choice.get("logprobs"),
            "finish_reason": None,
            "matched_stop": None,
        }
    yield {"index": index, "text": "", "logprobs": None, **_ending(choice)}


def _ending(choice: Mapping[str, Any]) -> dict[str, Any]:
    return {"finish_reason": choice.get("finish_reason"), "matched_stop": choice.get("matched_stop")}
