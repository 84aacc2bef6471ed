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

from inference.twin.errors import EngineError

DONE: Final = b"data: [DONE]\n\n"
_NO_END: Final = '"logprobs":null,"finish_reason":null,"matched_stop":null}'
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
        self._rest = (
            f',"object":"chat.completion.chunk","created":{created},'
            f'"model":{orjson.dumps(model).decode()},"choices":['
        )

    def _frame(self, identity: str, choice: str, counted: Json | None) -> bytes:
        tail = "" if counted is None else f',"usage":{orjson.dumps(counted).decode()}'
        shown = orjson.dumps(identity).decode()
        return f'data: {{"id":{shown}{self._rest}{choice}]{tail}}}\n\n'.encode()

    def role(self, identity: str, index: int) -> bytes:
        """The first event of a choice."""
        return self._frame(identity, _choice(index, ',"role":"assistant","content":""'), None)

    def content(
        self, identity: str, index: int, text: str, counted: Json | None, logprobs: Json | None
    ) -> bytes:
        """New text of a choice, with its own cumulative usage if the client asked for that."""
        delta = f',"content":{orjson.dumps(text).decode()}' if text else ""
        return self._frame(identity, _choice(index, delta, logprobs=logprobs), counted)

    def parsed(
        self, identity: str, index: int, text: str | None, call: Json | None, counted: Json | None
    ) -> bytes:
        """New text or a part of a call, out of SGLang's parser of calls: other fields, in another order."""
        delta: Json = {"role": None, "content": text, "reasoning_content": None}
        if call is not None:
            delta["tool_calls"] = [call]
        choice = f'{{"index":{index},"delta":{orjson.dumps(delta).decode()},{_NO_END}'
        tail = "null" if counted is None else orjson.dumps(counted).decode()
        shown = orjson.dumps(identity).decode()
        return f'data: {{"id":{shown}{self._rest}{choice}],"usage":{tail}}}\n\n'.encode()

    def finish(self, identity: str, index: int, reason: str, matched: object) -> bytes:
        """The end of a choice."""
        ended = f'"finish_reason":"{reason}","matched_stop":{orjson.dumps(matched).decode()}}}'
        choice = f'{{"index":{index},"delta":{{"reasoning_content":null}},"logprobs":null,{ended}'
        return self._frame(identity, choice, None)

    def usage(self, identity: str, counted: Json) -> bytes:
        """The usage event of the whole request."""
        return self._frame(identity, "", counted)


def _choice(index: int, delta: str, *, logprobs: Json | None = None) -> str:
    told = "null" if logprobs is None else orjson.dumps(logprobs).decode()
    return (
        f'{{"index":{index},"delta":{{"reasoning_content":null{delta}}},"logprobs":{told},'
        '"finish_reason":null,"matched_stop":null}'
    )


def call_part(index: int, identity: str | None, name: str | None, arguments: str) -> Json:
    """A call, or a part of one: identity and name come only with its first."""
    return {
        "id": identity,
        "index": index,
        "type": "function",
        "function": {"name": name, "arguments": arguments},
    }


class TextFrames:
    """Events of one ``/v1/completions`` stream."""

    def __init__(self, model: str, created: int) -> None:
        """``created`` in seconds since 1970."""
        self._model, self._created = model, created

    def _frame(self, identity: str, choices: list[Json], counted: Json | None) -> bytes:
        return event(
            {
                "id": identity,
                "object": "text_completion",
                "created": self._created,
                "model": self._model,
                "choices": choices,
                "usage": counted,
            }
        )

    def content(self, identity: str, choice: Json, counted: Json | None) -> bytes:
        """New text of a choice; the last one carries the finish reason."""
        return self._frame(identity, [choice], counted)

    def usage(self, identity: str, counted: Json) -> bytes:
        """The usage event; here SGLang leaves fields without a value out."""
        present = {name: value for name, value in counted.items() if value is not None}
        return self._frame(identity, [], present)


def _metadata(tokens: int) -> Json:
    version = "default"
    return {
        "weight_version": version,
        "weight_versions": [{"version": version, "start": 0, "end": tokens}],
    }


def chat_choice(
    index: int, text: str, calls: list[Json], finish: str, matched: object, logprobs: Json | None
) -> Json:
    """A choice of a chat answer."""
    message: Json = {"role": "assistant", "content": text, "reasoning_content": None}
    if calls:
        message["tool_calls"] = calls
    return {
        "index": index,
        "message": message,
        "logprobs": logprobs,
        "finish_reason": finish,
        "matched_stop": matched,
    }


def text_choice(index: int, text: str, finish: str | None, matched: object, logprobs: Json | None) -> Json:
    """A choice of a ``/v1/completions`` answer or chunk."""
    return {
        "index": index,
        "text": text,
        "logprobs": logprobs,
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


def tokenized(tokens: object, count: object, context: int) -> Json:
    """The answer of ``/v1/tokenize``."""
    return {"tokens": tokens, "count": count, "max_model_len": context}


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


def load(
    *,
    now_s: float,
    running: int,
    waiting: int,
    waiting_tokens: int,
    used_tokens: int,
    capacity_tokens: int,
    max_running: int,
) -> Json:
    """One rank's entry of ``/v1/loads``. What the twin has no engine for is 0."""
    return {
        "timestamp": now_s,
        "dp_rank": 0,
        "num_running_reqs": running,
        "num_waiting_reqs": waiting,
        "num_waiting_uncached_tokens": waiting_tokens,
        "num_used_tokens": used_tokens,
        "num_total_tokens": used_tokens,
        "num_active_tokens": used_tokens,
        "num_prealloc_ready_tokens": 0,
        "max_total_num_tokens": capacity_tokens,
        "max_running_requests": max_running,
        "token_usage": used_tokens / capacity_tokens,
        "gen_throughput": 0.0,
        "cache_hit_rate": 0.0,
        "utilization": running / max_running,
        "total_prefill_uncached_tokens": 0,
        "total_prefill_busy_us": 0,
        "decode_moments": [0.0] * 6,
        "memory": {"weight_gb": 0.0, "kv_cache_gb": 0.0, "graph_gb": 0.0, "token_capacity": capacity_tokens},
        "disaggregation": {
            "mode": "null",
            "prefill_bootstrap_queue_reqs": 0,
            "prefill_inflight_queue_reqs": 0,
            "decode_prealloc_queue_reqs": 0,
            "decode_transfer_queue_reqs": 0,
            "decode_retracted_queue_reqs": 0,
            "kv_transfer_speed_gb_s": 0.0,
            "kv_transfer_latency_ms": 0.0,
        },
        "queues": {"waiting": waiting, "grammar": 0, "paused": 0, "retracted": 0, "prealloc_ready": 0},
    }
