"""One completion from the chunks of its stream, so that an answer is stored in one form, and how it was cut.

What the assembler does not understand it does not drop: such a stream has no completion, and is then
not cached.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from gateway.openai.answers import choices_of, index_of
from gateway.openai.pieces import TEXTS, Pieces

_KINDS: Final = {"chat.completion.chunk": "chat.completion", "text_completion": "text_completion"}
_CHOICE_KNOWN: Final = frozenset({"index", "delta", "text", "logprobs", "finish_reason", "matched_stop"})
_DELTA_KNOWN: Final = frozenset({"role", "tool_calls", *TEXTS})
_CALL_KNOWN: Final = frozenset({"index", "id", "type", "function"})
_FUNCTION_KNOWN: Final = frozenset({"name", "arguments"})
_TOP: Final = ("id", "created", "model", "system_fingerprint", "service_tier")


class _Choice:
    def __init__(self) -> None:
        self.texts: dict[str, list[str]] = {}
        self.calls: dict[int, dict[str, Any]] = {}
        self.logprobs: dict[str, list[Any]] = {}
        self.finish: str | None = None
        self.matched: Any = None


class Assembler:
    """Takes the chunks in order; ``completion`` is the whole, once each choice has ended, ``pieces`` its
    cuts."""

    def __init__(self) -> None:
        """Empty."""
        self._top: dict[str, Any] = {}
        self._kind = ""
        self._usage: Any = None
        self._choices: dict[int, _Choice] = {}
        self._strange = False
        self._pieces = Pieces()

    def add(self, chunk: Mapping[str, Any]) -> None:
        """One chunk. Never raises; a strange one spoils the completion."""
        if self._strange:
            return
        kind = _KINDS.get(str(chunk.get("object")))
        if kind is None or (self._kind and kind != self._kind):
            self._strange = True
            return
        self._kind = kind
        for name in _TOP:
            if name not in self._top and chunk.get(name) is not None:
                self._top[name] = chunk[name]
        if chunk.get("usage") is not None and chunk.get("choices") == []:
            self._usage = chunk["usage"]
            return
        try:
            choices = choices_of(chunk)
            for choice in choices:
                self._add_choice(self._choices.setdefault(index_of(choice), _Choice()), choice)
            self._pieces.add(chunk, choices)
        except (TypeError, ValueError, AttributeError, KeyError):
            self._strange = True

    def _add_choice(self, choice: _Choice, part: Mapping[str, Any]) -> None:
        if _strange(part, _CHOICE_KNOWN):
            raise ValueError("a field of a choice that we do not know")
        if part.get("text") is not None:
            _append(choice.texts, "text", part["text"])
        delta = part.get("delta") or {}
        if _strange(delta, _DELTA_KNOWN):
            raise ValueError("a field of a delta that we do not know")
        for name in TEXTS:
            if delta.get(name) is not None:
                _append(choice.texts, name, delta[name])
        for call in delta.get("tool_calls") or ():
            _add_call(choice.calls, call)
        for name, values in (part.get("logprobs") or {}).items():
            if isinstance(values, list):
                choice.logprobs.setdefault(name, []).extend(values)
            elif values is not None:
                raise TypeError("a list of log probabilities expected")
        if part.get("finish_reason") is not None:
            choice.finish = str(part["finish_reason"])
        if part.get("matched_stop") is not None:
            choice.matched = part["matched_stop"]

    def completion(self) -> dict[str, Any] | None:
        """As the engine would have answered without ``stream``; None if a choice has not ended, no
        usage came, or a chunk was not understood."""
        if self._strange or not self._choices or not isinstance(self._usage, dict):
            return None
        if any(choice.finish is None for choice in self._choices.values()):
            return None
        whole = self._chat if self._kind == "chat.completion" else _text
        if any(sorted(choice.calls) != list(range(len(choice.calls))) for choice in self._choices.values()):
            return None
        return {
            **self._top,
            "object": self._kind,
            "choices": [whole(index, choice) for index, choice in sorted(self._choices.items())],
            "usage": self._usage,
        }

    def pieces(self) -> bytes:
        """How the stream was cut, to be stored with its completion."""
        return self._pieces.to_bytes()

    @staticmethod
    def _chat(index: int, choice: _Choice) -> dict[str, Any]:
        content = "".join(choice.texts.get("content", ()))
        message: dict[str, Any] = {"role": "assistant", "content": content}
        if choice.calls:
            message["content"] = content or None
            message["tool_calls"] = [call for _, call in sorted(choice.calls.items())]
        for name in ("reasoning_content", "refusal"):
            if name in choice.texts:
                message[name] = "".join(choice.texts[name])
        return {"index": index, "message": message, **_ending(choice)}


def _text(index: int, choice: _Choice) -> dict[str, Any]:
    return {"index": index, "text": "".join(choice.texts.get("text", ())), **_ending(choice)}


def _ending(choice: _Choice) -> dict[str, Any]:
    return {
        "logprobs": choice.logprobs or None,
        "finish_reason": choice.finish,
        "matched_stop": choice.matched,
    }


def _strange(part: Mapping[str, Any], known: frozenset[str]) -> bool:
    """Whether ``part`` says something we would lose."""
    return not part.keys() <= known and any(part[name] is not None for name in part.keys() - known)


def _append(texts: dict[str, list[str]], name: str, value: object) -> None:
    if not isinstance(value, str):
        raise TypeError("text expected")
    texts.setdefault(name, []).append(value)


def _add_call(calls: dict[int, dict[str, Any]], part: dict[str, Any]) -> None:
    """Fragments of one call share its index; name and id come whole, arguments in pieces."""
    index = part["index"] if part.get("index") is not None else len(calls)
    function = part.get("function") or {}
    if _strange(part, _CALL_KNOWN) or _strange(function, _FUNCTION_KNOWN):
        raise ValueError("a field of a call that we do not know")
    if not isinstance(index, int):
        raise TypeError("the index of a call is a number")
    part["index"] = index
    call = calls.setdefault(
        index, {"id": None, "type": "function", "function": {"name": "", "arguments": ""}}
    )
    _once(call, "id", part.get("id"))
    _once(call["function"], "name", function.get("name"))
    call["function"]["arguments"] += function.get("arguments") or ""


def _once(holder: dict[str, Any], name: str, value: object) -> None:
    """Set it, or see it repeated: of a second one it is not known whether it is added or replaces."""
    if value and holder[name] and value != holder[name]:
        raise ValueError("a call of two names")
    holder[name] = value or holder[name]
