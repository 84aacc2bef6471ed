"""An engine's answer made true to OpenAI's API reference: same content, OpenAI's fields, types and words.

Answers are mended in place, because the meter has parsed them anyway and owns them: a chunk of a stream
costs no second parse and no copy. What cannot be made an answer of the endpoint is NotAnAnswer, never
something half right. Source of the shapes: OpenAI's API reference; of what has to be mended: recordings
of SGLang 0.5.23 (``message.refusal`` absent, ``logprobs`` without ``refusal``, details null, lists in
``metadata``, an id for each choice of one stream).
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from typing import Any, Final

from gateway.openai.answer_parts import (
    NUMBERS,
    NotAnAnswer,
    check_finish,
    check_tokens,
    drop_nulls,
    is_count,
    is_text_or_null,
    mend_call,
    mend_function,
    mend_index,
    mend_logprobs,
    mend_metadata,
    mend_text_choice,
    mend_usage,
    objects,
    usage_of,
)
from gateway.openai.terms import Endpoint

_ID_PREFIXES: Final = {Endpoint.CHAT.value: "chatcmpl-", Endpoint.COMPLETIONS.value: "cmpl-"}
_CHAT_FINISHES: Final = frozenset({"stop", "length", "tool_calls", "content_filter", "function_call"})
_PLAIN_DELTA: Final = frozenset({"content", "reasoning_content"})
"""A delta of these alone needs no look at its other fields: nearly every chunk."""
_ROLES: Final = ("developer", "system", "user", "assistant", "tool")
_TIERS: Final = ("auto", "default", "flex", "scale", "priority", None)
"""Tuples: what an engine sends is looked for in them by equality, because it need not be hashable."""
_FINGERPRINT_DIGITS: Final = 10
_FINGERPRINTS_MAX: Final = 1024
"""Models times revisions of a catalogue, and room."""


def answer_id(endpoint: str, request_id: str) -> str:
    """The id clients see: ``chatcmpl-<request id>``, ``cmpl-<request id>``; plain where OpenAI has none."""
    return _ID_PREFIXES.get(endpoint, "") + request_id


@lru_cache(maxsize=_FINGERPRINTS_MAX)
def system_fingerprint(model: str, revision: str) -> str:
    """``fp_`` and 10 hex digits of what answers: another revision has another one."""
    covered = f"{len(model)}:{model}{revision}".encode()
    return "fp_" + hashlib.sha256(covered).hexdigest()[:_FINGERPRINT_DIGITS]


class Mender:
    """Mends one answer: ``answer`` a whole one, ``chunk`` each of a stream. Both raise NotAnAnswer."""

    def __init__(self, *, endpoint: str, request_id: str, model: str, revision: str, created_s: int) -> None:
        """``endpoint``: an Endpoint's value; ``model``: the catalogue's name; ``created_s``: Unix seconds,
        used where the engine names no time."""
        self._endpoint = endpoint
        self._suffix = request_id
        self._id = answer_id(endpoint, request_id)
        self._model = model
        self._fingerprint = system_fingerprint(model, revision)
        self._created: int | None = None
        self._created_s = created_s
        self._chat = endpoint == Endpoint.CHAT.value

    def chunk(self, chunk: dict[str, Any]) -> None:
        """Mend a stream's chunk. ``usage`` is made right where present; whether it is shown is not decided
        here."""
        choices = chunk.get("choices")
        if type(choices) is not list or self._endpoint not in _ID_PREFIXES:
            raise NotAnAnswer("choices")
        self._mend_top(chunk, "chat.completion.chunk" if self._chat else "text_completion")
        if not choices:
            mend_usage(chunk)
            return
        part = self._chat_part if self._chat else mend_text_choice
        for choice in choices:
            if type(choice) is not dict:
                raise NotAnAnswer("choices")
            mend_index(choice)
            part(choice)

    def answer(self, answer: dict[str, Any]) -> None:
        """Mend a whole answer."""
        if self._endpoint == Endpoint.EMBEDDINGS.value:
            self._embeddings(answer)
        elif self._endpoint == Endpoint.TOKENIZE.value:
            check_tokens(answer)
        else:
            self._completion(answer)

    def _completion(self, answer: dict[str, Any]) -> None:
        choices = answer.get("choices")
        if type(choices) is not list or not choices:
            raise NotAnAnswer("choices")
        self._mend_top(answer, "chat.completion" if self._chat else "text_completion")
        mend_usage(answer)
        if answer.get("usage", 0) is None:
            del answer["usage"]
        for choice in choices:
            if type(choice) is not dict:
                raise NotAnAnswer("choices")
            mend_index(choice)
            if self._chat:
                self._message(choice)
                check_finish(choice, _CHAT_FINISHES)
                mend_logprobs(choice)
            else:
                mend_text_choice(choice)
            if choice["finish_reason"] is None:
                raise NotAnAnswer("finish_reason")

    def _mend_top(self, answer: dict[str, Any], kind: str) -> None:
        if self._created is None:
            created = answer.get("created")
            self._created = created if is_count(created) else self._created_s
        answer["id"] = self._id
        answer["object"] = kind
        answer["created"] = self._created
        answer["model"] = self._model
        answer["system_fingerprint"] = self._fingerprint
        if "metadata" in answer:
            mend_metadata(answer)
        if "service_tier" in answer and answer["service_tier"] not in _TIERS:
            del answer["service_tier"]

    # --- chat ---

    def _chat_part(self, choice: dict[str, Any]) -> None:
        delta = choice.get("delta")
        if delta is None:
            delta = choice["delta"] = {}
        elif type(delta) is not dict:
            raise NotAnAnswer("delta")
        content = delta.get("content")
        if content is not None and type(content) is not str:
            raise NotAnAnswer("delta.content")
        if not delta.keys() <= _PLAIN_DELTA:
            self._rare_delta(delta, choice["index"])
        check_finish(choice, _CHAT_FINISHES)
        mend_logprobs(choice)

    def _rare_delta(self, delta: dict[str, Any], index: int) -> None:
        drop_nulls(delta, "role", "tool_calls", "function_call")
        if "role" in delta:
            if delta["role"] not in _ROLES:
                raise NotAnAnswer("delta.role")
            delta.setdefault("refusal", None)
        if not is_text_or_null(delta.get("refusal")):
            raise NotAnAnswer("delta.refusal")
        if "function_call" in delta:
            mend_function(delta["function_call"])
        for position, call in enumerate(objects(delta.get("tool_calls", []), "delta.tool_calls")):
            if call.get("index") is None:
                call["index"] = position
            mend_index(call)
            drop_nulls(call, "id", "type", "function")
            if not isinstance(call.get("id", ""), str):
                raise NotAnAnswer("delta.tool_calls.id")
            if "type" in call:
                call["type"] = "function"
            if "function" in call:
                mend_function(call["function"])
                if "name" in call["function"]:
                    call.setdefault("id", self._call_id(index, call["index"]))
                    call.setdefault("type", "function")

    def _message(self, choice: dict[str, Any]) -> None:
        message = choice.get("message")
        if type(message) is not dict:
            raise NotAnAnswer("message")
        message["role"] = "assistant"
        for name in ("content", "refusal"):
            if not is_text_or_null(message.setdefault(name, None)):
                raise NotAnAnswer(f"message.{name}")
        drop_nulls(message, "tool_calls", "function_call", "annotations", "audio")
        if "audio" in message:
            raise NotAnAnswer("message.audio: not asked for")
        objects(message.get("annotations", []), "message.annotations")
        if "function_call" in message:
            mend_call(message["function_call"])
        for position, call in enumerate(objects(message.get("tool_calls", []), "message.tool_calls")):
            if call.get("id") is None:
                call["id"] = self._call_id(choice["index"], position)
            if type(call["id"]) is not str:
                raise NotAnAnswer("message.tool_calls.id")
            call["type"] = "function"
            mend_call(call.get("function"))

    def _call_id(self, choice: int, position: int) -> str:
        return f"call_{self._suffix}_{choice}_{position}"

    # --- embeddings ---

    def _embeddings(self, answer: dict[str, Any]) -> None:
        for item in objects(answer.get("data"), "data"):
            item["object"] = "embedding"
            mend_index(item)
            vector = item.get("embedding")
            if type(vector) is not str and not (
                type(vector) is list and NUMBERS.issuperset(map(type, vector))
            ):
                raise NotAnAnswer("data.embedding")
        usage = usage_of(answer)
        if usage is None:
            raise NotAnAnswer("usage")
        answer["object"] = "list"
        answer["model"] = self._model
        answer["usage"] = {"prompt_tokens": usage.prompt, "total_tokens": usage.total}
