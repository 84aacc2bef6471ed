"""One choice of a stored completion, given out again: first as it was cut, then what is left."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from gateway.openai.answers import index_of
from gateway.openai.pieces import HOLE
from gateway.openai.stored_answer import NotReplayable

_REST_OF_CHAT: Final = ("reasoning_content", "refusal", "content")
"""In the order in which an engine says them."""


class Cursor:
    """How much of a choice has been shown. Methods raise NotReplayable where the choice has no more."""

    def __init__(self, choice: Mapping[str, Any], *, chat: bool) -> None:
        """At its start. ``choice``: of a whole completion."""
        self._choice = choice
        self._chat = chat
        said = choice.get("message") if chat else choice
        if not isinstance(said, dict) or not (chat or isinstance(said.get("text"), str)):
            raise NotReplayable("a choice without message or text")
        self._said = said
        calls = said.get("tool_calls") or []
        if not isinstance(calls, list) or any(not isinstance(call, dict) for call in calls):
            raise NotReplayable("a tool call that is no object")
        self._calls: list[dict[str, Any]] = calls
        self._called: set[int] = set()
        self._logprobs: Mapping[str, Any] = choice.get("logprobs") or {}
        self._at: dict[object, int] = {}
        self._begun = self._ended = False

    # --- as it was cut ---

    def begin(self) -> None:
        """Something of it is shown, so that ``rest`` needs no opening."""
        self._begun = True

    def text(self, name: str, length: int) -> str:
        """The next ``length`` characters of a field."""
        whole = self._said.get(name)
        return str(self._slice(name, "" if whole is None else whole, length))

    def part(self, shape: Mapping[str, Any], numbers: Iterator[int]) -> dict[str, Any]:
        """The choice of a chunk: ``shape`` with its holes filled, their lengths taken from ``numbers``."""
        self.begin()
        self._ended = self._ended or shape.get("finish_reason") is not None
        found: dict[str, Any] = {}
        for name, value in shape.items():
            if name == "delta" and value is not None:
                found[name] = {key: self._member(key, inner, numbers) for key, inner in value.items()}
            elif name == "logprobs" and value is not None:
                found[name] = {key: self._tokens(key, inner, numbers) for key, inner in value.items()}
            else:
                found[name] = self._member(name, value, numbers)
        return found

    def _member(self, name: str, value: object, numbers: Iterator[int]) -> object:
        if value is HOLE:
            return self.text(name, next(numbers))
        if name == "tool_calls" and isinstance(value, list):
            return [self._call(call, numbers) for call in value]
        return value

    def _tokens(self, name: str, value: object, numbers: Iterator[int]) -> object:
        return (
            self._slice(("logprobs", name), self._logprobs[name], next(numbers)) if value is HOLE else value
        )

    def _call(self, shape: Mapping[str, Any], numbers: Iterator[int]) -> dict[str, Any]:
        position = shape["index"]
        call = self._calls[position]
        self._called.add(position)
        found = dict(shape)
        if found.get("id") is HOLE:
            found["id"] = call["id"]
        if found.get("function") is not None:
            function = found["function"] = dict(found["function"])
            if function.get("name") is HOLE:
                function["name"] = call["function"]["name"]
            if function.get("arguments") is HOLE:
                arguments = call["function"]["arguments"]
                function["arguments"] = self._slice(("call", position), arguments, next(numbers))
        return found

    def _slice(self, key: object, whole: Any, length: int) -> Any:
        start = self._at.get(key, 0)
        end = self._at[key] = start + length
        if end > len(whole):
            raise NotReplayable("pieces longer than what they were cut from")
        return whole[start:end]

    # --- what is left ---

    def rest(self) -> Iterator[dict[str, Any]]:
        """Each field that was not shown to its end as one piece, then the end. Of an answer that came as JSON
        this is all."""
        return self._rest_of_chat() if self._chat else self._rest_of_text()

    def _rest_of_chat(self) -> Iterator[dict[str, Any]]:
        if not self._begun:
            yield self._plain({"role": "assistant", "content": ""})
        logprobs = self._rest_of_logprobs()
        for name in _REST_OF_CHAT:
            if text := self._left(name, self._said.get(name)):
                own = name == "content"
                yield self._plain({name: text}, logprobs if own else None)
                logprobs = None if own else logprobs
        for position, call in enumerate(self._calls):
            if position not in self._called:
                # Last, because SGLang's whole calls have an index of their own, which may be null.
                yield self._plain({"tool_calls": [{**call, "index": position}]})
            elif text := self._left(("call", position), call["function"]["arguments"]):
                yield self._plain({"tool_calls": [{"index": position, "function": {"arguments": text}}]})
        if isinstance(self._said.get("function_call"), dict):
            yield self._plain({"function_call": self._said["function_call"]})
        if logprobs:
            yield self._plain({}, logprobs)
        if not self._ended:
            yield {**self._plain({}), **self._ending()}

    def _rest_of_text(self) -> Iterator[dict[str, Any]]:
        text, logprobs = self._left("text", self._said["text"]), self._rest_of_logprobs()
        plain = {"index": index_of(self._choice), "text": text, "logprobs": logprobs}
        if text or logprobs:
            yield {**plain, "finish_reason": None, "matched_stop": None}
        if not self._ended:
            yield {**plain, "text": "", "logprobs": None, **self._ending()}

    def _left(self, key: object, whole: Any) -> Any:
        return whole[self._at.get(key, 0) :] if whole else whole

    def _rest_of_logprobs(self) -> dict[str, Any] | None:
        left = {name: self._left(("logprobs", name), value) for name, value in self._logprobs.items()}
        return left if any(left.values()) else None

    def _plain(self, delta: dict[str, Any], logprobs: object = None) -> dict[str, Any]:
        return {
            "index": index_of(self._choice),
            "delta": delta,
            "logprobs": logprobs,
            "finish_reason": None,
            "matched_stop": None,
        }

    def _ending(self) -> dict[str, Any]:
        return {name: self._choice.get(name) for name in ("finish_reason", "matched_stop")}
