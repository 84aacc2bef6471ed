"""What no engine should send: the meter never raises, and what the client gets is valid events or a typed
error, however the bytes were cut."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ext_proc.charge import Ended
from gateway.openai.sse import EVENT_BYTES_MAX
from tests.harness.openai_schema import validate, validate_stream
from tests.unit.ext_proc.engine_answers import (
    DONE,
    FINISH,
    FRAME,
    JSON,
    STREAM,
    WHOLE,
    completion,
    event,
    meter,
    run,
    usage,
    words,
)

PARTS = [
    WHOLE,
    FRAME,
    DONE,
    FINISH,
    words("a"),
    event({"content": "x"}, finish="abort"),
    event(None, usage(1, -1)),
    event(None, usage(2**63, 0)),
    event(None, 7),
    b'data: {"choices":[{"index":0,"delta":{"content":"a"},"x":'
    + b"[" * 300
    + b"]" * 300
    + b'}],"usage":{}}\n\n',
    b'data: {"choices":{"a":1}}\n\n',
    b'data: {"choices":[5,null]}\n\n',
    b'data: {"choices":null}\n\n',
    b'\xef\xbb\xbfdata: {"choices":[]}\r\n\r\n',
    b"data: {\n\n",
    b"\r\n",
    b": ping\n\n",
    b"data:\xff\xfe\n\n",
]


@settings(max_examples=300)
@given(
    st.lists(st.sampled_from(PARTS) | st.binary(max_size=30), max_size=8),
    st.sampled_from([STREAM, JSON, "text/html", ""]),
    st.booleans(),
    st.booleans(),
    st.sampled_from(["chat.completions", "completions", "embeddings", "tokenize"]),
)
@example(PARTS, STREAM, True, True, "chat.completions")
def test_a_meter_never_raises(
    chunks: list[bytes], content_type: str, stream: bool, cut: bool, endpoint: str
) -> None:
    subject = meter(content_type, stream=stream, endpoint=endpoint)
    ends = [subject.feed(chunk, at_s=101).ends for chunk in chunks]
    if cut:
        subject.cut(at_s=102)
    else:
        ends.append(subject.end(at_s=102).ends)
    charge = subject.charge()
    assert subject.ended is not Ended.OPEN
    assert sum(ends) <= 1
    assert charge.used.prompt_tokens <= 1000
    assert charge.used.completion_tokens <= 1000
    assert charge.used.tokens == charge.used.prompt_tokens + charge.used.completion_tokens
    assert not (charge.unknown and charge.used.tokens)
    assert subject.wasted.total >= 0
    assert all(isinstance(value, str) for value in charge.detail.values())
    subject.answer()


@settings(max_examples=300)
@given(
    st.lists(st.sampled_from(PARTS) | st.binary(max_size=30), max_size=8).map(b"".join),
    st.lists(st.integers(0, 3000), max_size=6).map(sorted),
    st.booleans(),
)
@example(WHOLE, [1, 2, 3], True)
def test_any_stream_in_any_pieces_is_the_same_valid_stream(sent: bytes, cuts: list[int], asked: bool) -> None:
    subject = meter(usage_asked=asked)
    forward = b""
    for start, stop in zip([0, *cuts], [*cuts, len(sent)], strict=True):
        forward += subject.feed(sent[start:stop], at_s=101).forward
    forward += subject.end(at_s=102).forward
    assert forward == run(sent, meter(usage_asked=asked))[1]
    validate_stream("chat.completion.chunk", forward)


JSON_VALUES: Any = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)
FIELDS = st.sampled_from(
    [
        "id", "object", "created", "model", "choices", "usage", "metadata", "service_tier", "index",
        "system_fingerprint", "message", "delta", "text", "logprobs", "finish_reason", "role", "content",
        "refusal",
        "tool_calls", "function_call", "annotations", "audio", "type", "function", "name", "arguments",
        "token", "logprob", "bytes", "top_logprobs", "tokens", "token_logprobs", "text_offset",
        "prompt_tokens", "completion_tokens", "total_tokens", "prompt_tokens_details", "cached_tokens",
        "completion_tokens_details", "data", "embedding",
    ]
)  # fmt: skip
TOKEN = {
    "token": "a",
    "logprob": -1.5,
    "bytes": [97],
    "top_logprobs": [{"token": "b", "logprob": -2, "bytes": None}],
}
CALL = {"id": "call_1", "index": 0, "type": "function", "function": {"name": "f", "arguments": "{}"}}
FULL_CHOICE = {
    "index": 0,
    "message": {"role": "assistant", "content": "a", "tool_calls": [CALL]},
    "delta": {"role": "assistant", "content": "a", "tool_calls": [CALL]},
    "text": "a",
    "logprobs": {
        "content": [TOKEN],
        "tokens": ["a"],
        "token_logprobs": [None, -1.0],
        "top_logprobs": [None, {"a": -1.0}],
        "text_offset": [0],
    },
    "finish_reason": "stop",
}
ANSWER = {
    "id": "e",
    "created": 1,
    "model": "e",
    "choices": [FULL_CHOICE],
    "usage": usage(14, 4, 3),
    "metadata": {"weight_version": "d", "weight_versions": []},
    "data": [{"index": 0, "embedding": [1, 0.5]}],
}


def changed(value: Any, field: str, put: Any, drop: bool) -> Any:
    """``value`` with every ``field`` in it replaced or left out."""
    if isinstance(value, list):
        return [changed(item, field, put, drop) for item in value]
    if not isinstance(value, dict):
        return value
    return {
        name: put if name == field else changed(item, field, put, drop)
        for name, item in value.items()
        if not (drop and name == field)
    }


KINDS = {"chat.completions": "chat.completion", "completions": "text_completion", "embeddings": "embeddings"}


@settings(max_examples=400)
@given(FIELDS, JSON_VALUES, st.booleans(), st.sampled_from(sorted(KINDS)), st.booleans())
def test_one_field_of_any_type_gives_a_valid_answer_or_a_typed_error(
    field: str, put: Any, drop: bool, endpoint: str, streamed: bool
) -> None:
    odd = orjson.dumps(changed(ANSWER, field, put, drop))
    if streamed and endpoint != "embeddings":
        _, forward = run(b"data: " + odd + b"\n\n" + DONE, meter(endpoint=endpoint, usage_asked=True))
        validate_stream(KINDS[endpoint] + ".chunk", forward)
        return
    subject = meter(JSON, endpoint=endpoint)
    subject.feed(odd, at_s=101)
    step = subject.end(at_s=102)
    if step.failed is None:
        validate(KINDS[endpoint], orjson.loads(step.forward))
    else:
        assert step.forward == b""


@pytest.mark.parametrize("endpoint", sorted(KINDS))
def test_a_full_answer_is_mended_not_refused(endpoint: str) -> None:
    _, forward = run(orjson.dumps(ANSWER), meter(JSON, endpoint=endpoint))
    validate(KINDS[endpoint], orjson.loads(forward))


def test_an_event_too_large_to_read_ends_the_stream_as_an_error() -> None:
    huge = b"data: " + b"x" * (EVENT_BYTES_MAX + 10) + b"\n\n"
    subject, forward = run(words("a") + huge + WHOLE)
    events = validate_stream("chat.completion.chunk", forward)
    assert events[-2]["error"]["code"] == "engine_unavailable"
    assert subject.charge().used.tokens == 18, "the usage after it is still read"


def test_usage_twice_and_two_ends_are_one_of_each() -> None:
    last = event(None, usage(14, 4))
    _, forward = run(words("a") + FINISH + last + DONE + last + DONE, meter(usage_asked=True))
    assert [bool(chunk["usage"]) for chunk in validate_stream("chat.completion.chunk", forward)[:-1]][
        -2:
    ] == [
        False,
        True,
    ]


def test_a_stream_of_nothing_is_no_answer() -> None:
    for sent in (DONE, event(None, usage(14, 0)) + DONE, b""):
        subject = meter()
        step = subject.feed(sent, at_s=101)
        failed = step.failed or subject.end(at_s=102).failed
        assert failed is not None
        assert failed.http_status == 503
    assert run(completion(), meter())[1].count(b"error") > 0, "no events at all in it"
