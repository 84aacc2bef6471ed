"""The yardstick itself: OpenAI's own examples pass, and each way to be wrong is found."""

from __future__ import annotations

import copy
from typing import Any

import orjson
import pytest

from tests.harness.openai_schema import KINDS, validate, validate_stream

USAGE = {"prompt_tokens": 19, "completion_tokens": 10, "total_tokens": 29}
TOP = {"id": "x", "created": 1_741_569_952, "model": "m"}
TOKEN = {"token": "a", "logprob": -0.5, "bytes": [97], "top_logprobs": []}
GOOD: dict[str, dict[str, Any]] = {
    "chat.completion": {
        **TOP,
        "object": "chat.completion",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "Hello!", "refusal": None},
                "logprobs": {"content": [TOKEN], "refusal": None},
                "finish_reason": "stop",
            }
        ],
        "usage": {**USAGE, "prompt_tokens_details": {"cached_tokens": 0}},
        "metadata": {"weight_version": "1"},
    },
    "chat.completion.chunk": {
        **TOP,
        "object": "chat.completion.chunk",
        "choices": [
            {
                "index": 0,
                "delta": {"role": "assistant", "content": "", "tool_calls": [{"index": 0, "id": "c"}]},
                "logprobs": None,
                "finish_reason": None,
            }
        ],
        "usage": None,
    },
    "text_completion": {
        **TOP,
        "object": "text_completion",
        "choices": [{"index": 0, "text": "a", "logprobs": None, "finish_reason": "length"}],
        "usage": USAGE,
    },
    "text_completion.chunk": {
        **TOP,
        "object": "text_completion",
        "choices": [{"index": 0, "text": "a", "logprobs": None, "finish_reason": None}],
        "usage": None,
    },
    "embeddings": {
        "object": "list",
        "model": "m",
        "data": [{"object": "embedding", "index": 0, "embedding": [0.5, -1.0]}],
        "usage": {"prompt_tokens": 8, "total_tokens": 8},
    },
    "model": {"id": "m", "object": "model", "created": 1, "owned_by": "us"},
    "model_list": {
        "object": "list",
        "data": [{"id": "m", "object": "model", "created": 1, "owned_by": "us"}],
    },
    "error": {"error": {"message": "no", "type": "t", "param": None, "code": "c"}},
}
ABSENT = object()
BAD: list[tuple[str, str, object]] = [
    ("chat.completion", "choices.0.message.refusal", ABSENT),
    ("chat.completion", "choices.0.logprobs", ABSENT),
    ("chat.completion", "choices.0.logprobs.refusal", ABSENT),
    ("chat.completion", "choices.0.finish_reason", "abort"),
    ("chat.completion", "choices.0.finish_reason", None),
    ("chat.completion", "choices.0.message.tool_calls", None),
    ("chat.completion", "usage.prompt_tokens_details", None),
    ("chat.completion", "metadata.weight_versions", []),
    ("chat.completion", "created", 1.5),
    ("chat.completion", "system_fingerprint", None),
    ("chat.completion.chunk", "choices.0.delta.tool_calls.0.index", ABSENT),
    ("chat.completion.chunk", "choices.0.delta.tool_calls.0.id", None),
    ("chat.completion.chunk", "choices.0.finish_reason", ABSENT),
    ("chat.completion.chunk", "choices.0.delta.role", None),
    ("text_completion", "choices.0.logprobs", ABSENT),
    ("text_completion", "choices.0.finish_reason", None),
    ("text_completion.chunk", "choices.0.finish_reason", "tool_calls"),
    ("embeddings", "data.0.embedding", [None]),
    ("embeddings", "usage", ABSENT),
    ("model", "owned_by", ABSENT),
    ("model_list", "data.0.object", "list"),
    ("error", "error.code", ABSENT),
    ("error", "error.code", 503),
]


@pytest.mark.parametrize("kind", KINDS)
def test_what_openai_answers_passes(kind: str) -> None:
    validate(kind, GOOD[kind])
    validate(kind, {**GOOD[kind], "vendor_extra": {"kept": True}})


@pytest.mark.parametrize(("kind", "path", "value"), BAD, ids=lambda part: str(part)[-30:])
def test_each_fault_is_found(kind: str, path: str, value: object) -> None:
    broken: Any = copy.deepcopy(GOOD[kind])
    *steps, last = path.split(".")
    place = broken
    for step in steps:
        place = place[int(step) if step.isdigit() else step]
    if value is ABSENT:
        del place[last]
    else:
        place[last] = value
    with pytest.raises((AssertionError, ValueError)):
        validate(kind, broken)


CHUNK = b"data: " + orjson.dumps(GOOD["chat.completion.chunk"]) + b"\n\n"
OTHER = CHUNK.replace(b'"id":"x"', b'"id":"y"')
ERROR = b"data: " + orjson.dumps(GOOD["error"]) + b"\n\n"
DONE = b"data: [DONE]\n\n"


@pytest.mark.parametrize("stream", [CHUNK + DONE, CHUNK + ERROR + DONE, b": hi\n\n" + CHUNK + DONE, DONE])
def test_a_whole_stream(stream: bytes) -> None:
    assert validate_stream("chat.completion.chunk", stream)[-1] == "[DONE]"


@pytest.mark.parametrize(
    "stream",
    [
        CHUNK,
        CHUNK + DONE + DONE,
        CHUNK + DONE + CHUNK,
        ERROR + CHUNK + DONE,
        ERROR + ERROR + DONE,
        CHUNK + OTHER + DONE,
        CHUNK + DONE[:-1],
        b"event: x\n" + CHUNK + DONE,
    ],
)
def test_streams_that_are_not(stream: bytes) -> None:
    with pytest.raises(AssertionError):
        validate_stream("chat.completion.chunk", stream)
