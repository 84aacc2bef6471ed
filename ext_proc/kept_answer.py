"""What of one answer may be repeated to somebody else, and in which form it is stored.

Never an answer that was truncated, filtered or refused, one without content, one whose texts are no texts, or
a tool call without a name or whose arguments are no JSON object: repeating it would make one failure
everybody's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from gateway.openai.answer_parts import NotAnAnswer
from gateway.openai.answers import choices_of, finish_of, read_json, write_json
from gateway.openai.assembly import Assembler
from gateway.openai.mending import Mender
from gateway.openai.stored_answer import write_stored

_WHOLE: Final = frozenset({"stop", "tool_calls", "function_call"})
"""Finish reasons of an answer that is all that the model would have said."""
_TEXTS: Final = ("content", "reasoning_content", "refusal", "text")


class KeptAnswer:
    """Keeps one answer for the cache: fed with a stream's chunks, or once with a whole answer, mended."""

    def __init__(self, mender: Mender) -> None:
        """Empty. ``mender``: that of the chunks; it makes what they add up to an answer."""
        self._mender = mender
        self._assembler = Assembler()
        self._answer: dict[str, Any] | None = None
        self._written: bytes | None = None
        self._read = False

    def chunk(self, chunk: dict[str, Any]) -> None:
        """The next chunk of a stream."""
        self._assembler.add(chunk)

    def whole(self, answer: dict[str, Any], written: bytes) -> None:
        """An answer that came as JSON, and its bytes."""
        self._answer, self._written, self._read = answer, written, True

    def repeatable(self, *, choices: int) -> bool:
        """Whether each of ``choices`` choices is there and whole. 0: an answer without any, as embeddings."""
        answer = self._completion()
        found = [] if answer is None else choices_of(answer)
        return answer is not None and len(found) == choices and all(_is_repeatable(one) for one in found)

    def texts(self) -> Iterator[str]:
        """Everything in it that the model wrote: content, reasoning, names and arguments of calls."""
        for choice in choices_of(self._completion() or {}):
            said = choice.get("message") or choice
            yield from (said[name] for name in _TEXTS if said.get(name))
            for function in _calls(said):
                yield from (text for text in (function.get("name"), function.get("arguments")) if text)

    def stored(self) -> bytes | None:
        """The value for the cache: the completion and how it was cut; None if there is no whole answer."""
        answer = self._completion()
        if answer is None:
            return None
        if self._written is not None:
            return write_stored(self._written)
        written = write_json(answer)
        return None if written is None else write_stored(written, self._assembler.pieces())

    def _completion(self) -> dict[str, Any] | None:
        if not self._read:
            self._read = True
            self._answer = self._assembled()
        return self._answer

    def _assembled(self) -> dict[str, Any] | None:
        completion = self._assembler.completion()
        if completion is None:
            return None
        try:
            self._mender.answer(completion)
        except NotAnAnswer:
            return None
        return completion


def _calls(said: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The functions called by a mended message."""
    calls = [call["function"] for call in said.get("tool_calls") or ()]
    return calls if said.get("function_call") is None else [*calls, said["function_call"]]


def _is_repeatable(choice: Mapping[str, Any]) -> bool:
    if finish_of(choice) not in _WHOLE:
        return False
    said = choice.get("message") or choice
    if said.get("refusal") or not all(isinstance(said.get(name) or "", str) for name in _TEXTS):
        return False
    calls = _calls(said)
    if calls:
        return all(
            function["name"] and read_json(function["arguments"].encode()) is not None for function in calls
        )
    content = said.get("content") if "message" in choice else said.get("text")
    return bool(content and content.strip())
