"""A stored answer in both forms: JSON to SSE and back without loss."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.chat import ChatCompletionChunk

from gateway.openai.assembly import Assembler
from gateway.openai.replay import NotReplayable, cached_answer_to_json, cached_answer_to_sse
from gateway.openai.sse import DONE, SseParser
from gateway.openai.stored_answer import write_stored

USAGE = {"prompt_tokens": 14, "total_tokens": 20, "completion_tokens": 6, "prompt_tokens_details": None}
CALLS = [
    {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a":1}'}},
    {"id": "c2", "type": "function", "function": {"name": "sub", "arguments": ""}},
]


def sse_to_completion(chunks: Iterable[Mapping[str, Any]]) -> dict[str, Any] | None:
    """The completion that ``chunks`` (parsed data of the events, without ``[DONE]``) add up to."""
    assembler = Assembler()
    for chunk in chunks:
        assembler.add(chunk)
    return assembler.completion()


def chat_completion(*messages: dict[str, Any], finish: str = "stop", logprobs: Any = None) -> dict[str, Any]:
    return {
        "id": "abc",
        "created": 1795228536,
        "model": "m",
        "object": "chat.completion",
        "choices": [
            {
                "index": index,
                "message": {"role": "assistant", **message},
                "logprobs": logprobs,
                "finish_reason": finish,
                "matched_stop": None,
            }
            for index, message in enumerate(messages)
        ],
        "usage": USAGE,
    }


def text_completion(*texts: str) -> dict[str, Any]:
    return {
        "id": "abc",
        "created": 1795228536,
        "model": "m",
        "object": "text_completion",
        "choices": [
            {"index": index, "text": text, "logprobs": None, "finish_reason": "stop", "matched_stop": 2}
            for index, text in enumerate(texts)
        ],
        "usage": USAGE,
    }


def chunks_of(stream: bytes) -> list[dict[str, Any]]:
    parser = SseParser()
    events = parser.feed(stream)
    assert parser.flush() == []
    data = [event.data for event in events if event.data is not None]
    assert data[-1] == DONE
    return [orjson.loads(item) for item in data[:-1]]


def round_trip(answer: dict[str, Any]) -> dict[str, Any] | None:
    stream = cached_answer_to_sse(write_stored(orjson.dumps(answer)), answer_id="abc", usage_asked=True)
    return sse_to_completion(chunks_of(stream))


@pytest.mark.parametrize(
    "answer",
    [
        chat_completion({"content": "hello"}),
        chat_completion({"content": ""}, finish="length"),
        chat_completion({"content": "one"}, {"content": "two 🎈"}),
        chat_completion({"content": None, "tool_calls": CALLS}, finish="tool_calls"),
        chat_completion({"content": "so", "tool_calls": CALLS[:1], "reasoning_content": "hm"}),
        chat_completion({"content": "hi"}, logprobs={"content": [{"token": "hi", "logprob": -0.1}]}),
        text_completion("once"),
        text_completion("a", "", "c"),
    ],
)
def test_round_trip(answer: dict[str, Any]) -> None:
    assert round_trip(answer) == answer


@given(st.lists(st.text(max_size=20), min_size=1, max_size=4), st.booleans())
def test_round_trip_of_any_text(texts: list[str], chat: bool) -> None:
    answer = chat_completion(*({"content": text} for text in texts)) if chat else text_completion(*texts)
    assert round_trip(answer) == answer


def test_the_shape_of_a_replayed_stream() -> None:
    stored = write_stored(orjson.dumps(chat_completion({"content": "hello"})))
    plain = chunks_of(cached_answer_to_sse(stored, answer_id="new", usage_asked=False))
    assert [chunk["choices"][0]["delta"] for chunk in plain] == [
        {"role": "assistant", "content": ""},
        {"content": "hello"},
        {},
    ]
    assert [chunk["choices"][0]["finish_reason"] for chunk in plain] == [None, None, "stop"]
    assert {chunk["id"] for chunk in plain} == {"new"}
    assert {chunk["object"] for chunk in plain} == {"chat.completion.chunk"}
    assert all("usage" not in chunk for chunk in plain)
    asked = chunks_of(cached_answer_to_sse(stored, answer_id="new", usage_asked=True))
    assert [chunk["usage"] for chunk in asked] == [None, None, None, USAGE]
    assert asked[-1]["choices"] == []
    continuous = chunks_of(
        cached_answer_to_sse(stored, answer_id="new", usage_asked=False, continuous_usage_asked=True)
    )
    assert [chunk["usage"] for chunk in continuous] == [USAGE] * 3


def test_json_under_a_new_id() -> None:
    stored = write_stored(orjson.dumps(chat_completion({"content": "hello"})))
    fresh = orjson.loads(cached_answer_to_json(stored, answer_id="new"))
    assert fresh == {**chat_completion({"content": "hello"}), "id": "new"}
    embedding = b'{"object":"list","data":[]}'
    assert cached_answer_to_json(write_stored(embedding), answer_id="new") == embedding


@pytest.mark.parametrize(
    "stored",
    [
        b"",
        b"junk",
        b"[]",
        b'{"object":"list","data":[]}',
        b'{"object":"chat.completion","choices":[]}',
        b'{"object":"chat.completion","choices":[{}]}',
        b'{"object":"chat.completion","choices":[{"message":{"tool_calls":[1]}}]}',
        b'{"object":"text_completion","choices":[{"text":5}]}',
        b'{"object":"chat.completion","choices":[{"message":{"content":' + b"[" * 300 + b"]" * 300 + b"}}]}",
    ],
)
def test_what_cannot_be_replayed_says_so(stored: bytes) -> None:
    with pytest.raises(NotReplayable):
        cached_answer_to_sse(write_stored(stored), answer_id="new", usage_asked=True)


def chunk(**choice: Any) -> dict[str, Any]:
    return {"id": "abc", "object": "chat.completion.chunk", "choices": [{"index": 0, **choice}]}


LAST = {"object": "chat.completion.chunk", "choices": [], "usage": USAGE}
END = chunk(delta={}, finish_reason="stop")


def test_tool_calls_in_fragments() -> None:
    def piece(index: int, **call: Any) -> dict[str, Any]:
        return chunk(delta={"tool_calls": [{"index": index, **call}]})

    whole = sse_to_completion(
        [
            chunk(delta={"role": "assistant", "content": None}),
            piece(0, id="c1", type="function", function={"name": "add", "arguments": ""}),
            piece(0, function={"arguments": '{"a"'}),
            piece(1, id="c2", type="function", function={"name": "sub", "arguments": ""}),
            piece(0, function={"name": None, "arguments": ":1}"}),
            chunk(delta={}, finish_reason="tool_calls"),
            LAST,
        ]
    )
    assert whole is not None
    assert whole["choices"][0]["message"] == {"role": "assistant", "content": None, "tool_calls": CALLS}


@pytest.mark.parametrize(
    "chunks",
    [
        [],
        [LAST],
        [chunk(delta={"content": "a"}), LAST],
        [chunk(delta={"content": "a"}), END],
        [chunk(delta={"content": "a", "video": "b"}), END, LAST],
        [chunk(delta={"content": 5}), END, LAST],
        [chunk(delta="x"), END, LAST],
        [chunk(delta={}, extra=1), END, LAST],
        [chunk(delta={"tool_calls": [5]}), END, LAST],
        [chunk(delta={"tool_calls": [{"index": "0"}]}), END, LAST],
        [chunk(delta={"tool_calls": [{"index": 1, "id": "c"}]}), END, LAST],
        [chunk(delta={"tool_calls": [{"index": 0, "mood": "c"}]}), END, LAST],
        [chunk(delta={"tool_calls": [{"index": 0, "function": {"mood": "c"}}]}), END, LAST],
        [chunk(delta={"tool_calls": [{"index": 0, "id": name}]}) for name in "cd"] + [END, LAST],
        [chunk(delta={}, logprobs={"content": "abc"}), END, LAST],
        [chunk(delta={}, logprobs=[1]), END, LAST],
        [{"object": "other", "choices": []}, END, LAST],
        [END, {"object": "text_completion", "choices": []}, LAST],
        [END, {**LAST, "usage": 5}],
    ],
)
def test_what_is_not_understood_is_not_stored(chunks: list[dict[str, Any]]) -> None:
    assert sse_to_completion(chunks) is None


def test_the_sdk_reads_a_replayed_stream() -> None:
    answer = chat_completion({"content": "so", "tool_calls": CALLS}, finish="tool_calls")
    stream = cached_answer_to_sse(write_stored(orjson.dumps(answer)), answer_id="new", usage_asked=True)
    chunks = [ChatCompletionChunk.model_validate(part, strict=True) for part in chunks_of(stream)]
    calls = [call for part in chunks for choice in part.choices for call in choice.delta.tool_calls or ()]
    assert [call.index for call in calls] == [0, 1]
    assert chunks[-1].usage is not None
