"""SGLang's JSON: answers, chunks, usage, errors, field by field as 0.5.23 writes them. Pure.

Held to recordings of the real server by tests/contract/inference.
"""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Sequence
from typing import Any, Final

import orjson

from inference.twin.request import EngineError

DONE: Final = b"data: [DONE]\n\n"
Json = dict[str, Any]


def usage(prompt: int, completion: int, cached: int | None) -> Json:
    """SGLang's usage object; ``cached`` is None where it reports no details."""
    return {
        "prompt_tokens": prompt,
        "total_tokens": prompt + completion,
        "completion_tokens": completion,
        "prompt_tokens_details": None if cached is None else {"cached_tokens": cached},
        "reasoning_tokens": 0,
        "completion_tokens_details": None,
    }


def event(document: Json) -> bytes:
    """One server-sent event."""
    return b"data: " + orjson.dumps(document) + b"\n\n"


def flat_error(error: EngineError) -> Json:
    """The error shape of every path but ``/v1/models/{id}``."""
    return {
        "object": "error",
        "message": error.message,
        "type": error.type,
        "param": None,
        "code": error.status,
    }


def error_event(error: EngineError) -> bytes:
    """The frame that follows a 200 when a stream fails; written by json.dumps there, hence the spaces."""
    return f"data: {json.dumps({'error': flat_error(error)})}\n\n".encode()


class ChatFrames:
    """Builds the events of one chat stream; what does not change is encoded once."""

    def __init__(self, model: str, created: int) -> None:
        """``created`` in seconds since 1970."""
        self._model = orjson.dumps(model).decode()
        self._created = created

    def _head(self, identity: str) -> str:
        return (
            f'data: {{"id":{orjson.dumps(identity).decode()},"object":"chat.completion.chunk",'
            f'"created":{self._created},"model":{self._model},"choices":['
        )

    def _choice(self, index: int, delta: str, finish: str | None, matched: object) -> str:
        return (
            f'{{"index":{index},"delta":{{"reasoning_content":null{delta}}},"logprobs":null,'
            f'"finish_reason":{orjson.dumps(finish).decode()},'
            f'"matched_stop":{orjson.dumps(matched).decode()}}}]'
        )

    def role(self, identity: str, index: int) -> bytes:
        """The first event of a choice."""
        choice = self._choice(index, ',"role":"assistant","content":""', None, None)
        return f"{self._head(identity)}{choice}}}\n\n".encode()

    def content(self, identity: str, index: int, text: str, counted: Json | None) -> bytes:
        """New text of a choice, with its own cumulative usage if the client asked for that."""
        choice = self._choice(index, f',"content":{orjson.dumps(text).decode()}', None, None)
        tail = "" if counted is None else f',"usage":{orjson.dumps(counted).decode()}'
        return f"{self._head(identity)}{choice}{tail}}}\n\n".encode()

    def finish(self, identity: str, index: int, reason: str, matched: object) -> bytes:
        """The end of a choice."""
        return f"{self._head(identity)}{self._choice(index, '', reason, matched)}}}\n\n".encode()

    def usage(self, identity: str, counted: Json) -> bytes:
        """The usage event of the whole request."""
        return f'{self._head(identity)}],"usage":{orjson.dumps(counted).decode()}}}\n\n'.encode()


class TextFrames:
    """Events of one ``/v1/completions`` stream."""

    def __init__(self, model: str, created: int) -> None:
        """``created`` in seconds since 1970."""
        self._model, self._created = model, created

    def _frame(self, identity: str, choices: list[Json], counted: Json | None) -> Json:
        return {
            "id": identity,
            "object": "text_completion",
            "created": self._created,
            "model": self._model,
            "choices": choices,
            "usage": counted,
        }

    def content(
        self, identity: str, index: int, text: str, finish: str | None, matched: object, counted: Json | None
    ) -> bytes:
        """New text of a choice; the last one carries the finish reason."""
        choice = {
            "index": index,
            "text": text,
            "logprobs": None,
            "finish_reason": finish,
            "matched_stop": matched,
        }
        return event(self._frame(identity, [choice], counted))

    def usage(self, identity: str, counted: Json) -> bytes:
        """The usage event; here SGLang leaves fields without a value out."""
        present = {name: value for name, value in counted.items() if value is not None}
        return event(self._frame(identity, [], present))


def _metadata(tokens: int) -> Json:
    version = "default"
    return {
        "weight_version": version,
        "weight_versions": [{"version": version, "start": 0, "end": tokens}],
    }


def chat_choice(index: int, text: str, finish: str, matched: object) -> Json:
    """A choice of a chat answer."""
    return {
        "index": index,
        "message": {"role": "assistant", "content": text, "reasoning_content": None},
        "logprobs": None,
        "finish_reason": finish,
        "matched_stop": matched,
    }


def text_choice(index: int, text: str, finish: str, matched: object) -> Json:
    """A choice of a ``/v1/completions`` answer."""
    return {
        "index": index,
        "text": text,
        "logprobs": None,
        "finish_reason": finish,
        "matched_stop": matched,
    }


def answer(
    kind: str, identity: str, created: int, model: str, choices: list[Json], counted: Json | None, tokens: int
) -> Json:
    """A whole answer; ``tokens`` are those of its first choice. ``counted`` None leaves usage out."""
    document: Json = {
        "id": identity,
        "object": "chat.completion" if kind == "chat" else "text_completion",
        "created": created,
        "model": model,
        "choices": choices,
        "usage": counted,
        "metadata": _metadata(tokens),
    }
    if counted is None:
        del document["usage"]
    return document


def embeddings(model: str, vectors: Sequence[Sequence[float]], encoding: str, tokens: int) -> Json:
    """The answer of ``/v1/embeddings``; ``encoding`` is ``float`` or ``base64`` (float32, little-endian)."""

    def shown(vector: Sequence[float]) -> object:
        if encoding != "base64":
            return list(vector)
        return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode("ascii")

    data = [
        {"embedding": shown(vector), "index": i, "object": "embedding"} for i, vector in enumerate(vectors)
    ]
    return {"data": data, "model": model, "object": "list", "usage": usage(tokens, 0, None)}


def model_card(name: str, created: int, context: int) -> Json:
    """One entry of ``/v1/models``."""
    return {
        "id": name,
        "object": "model",
        "created": created,
        "owned_by": "sglang",
        "root": name,
        "parent": None,
        "max_model_len": context,
    }
