"""Reading answers: usage, errors, what a client is shown."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.contract.units import TOKENS_MAX
from gateway.openai.answers import (
    InvalidUsage,
    choices_of,
    error_frame,
    finish_of,
    index_of,
    read_json,
    read_usage,
    show_usage,
    write_json,
)
from gateway.openai.engine_errors import engine_error, frame_error

USAGE = {"prompt_tokens": 14, "completion_tokens": 6, "prompt_tokens_details": {"cached_tokens": 13}}
CONTENT = {"choices": [{"index": 0, "delta": {"content": "a"}}], "usage": USAGE}
LAST = {"choices": [], "usage": USAGE}


def test_usage() -> None:
    usage = read_usage({"usage": USAGE})
    assert usage is not None
    assert (usage.prompt, usage.completion, usage.cached, usage.total) == (14, 6, 13, 20)
    embedding = read_usage({"usage": {"prompt_tokens": 5, "total_tokens": 5}})
    assert embedding is not None
    assert (embedding.prompt, embedding.completion) == (5, 0)
    assert read_usage({}) is None
    assert read_usage({"usage": None}) is None
    more = read_usage({"usage": {**USAGE, "prompt_tokens_details": {"cached_tokens": 99}}})
    assert more is not None
    assert more.cached == 14


@pytest.mark.parametrize("count", [-1, 1.0, 2.5, "5", True, None, 2**63, TOKENS_MAX + 1, [], {}])
@pytest.mark.parametrize("field", ["prompt_tokens", "completion_tokens"])
def test_counts_that_cannot_be_true(count: object, field: str) -> None:
    with pytest.raises(InvalidUsage):
        read_usage({"usage": {**USAGE, field: count}})


@pytest.mark.parametrize(
    "usage",
    [
        7,
        "x",
        {},
        {"prompt_tokens": 5, "total_tokens": 4},
        {"prompt_tokens": TOKENS_MAX, "completion_tokens": 1},
        {**USAGE, "prompt_tokens_details": {"cached_tokens": -1}},
    ],
)
def test_usage_that_is_none(usage: object) -> None:
    with pytest.raises(InvalidUsage):
        read_usage({"usage": usage})


@pytest.mark.parametrize(
    ("asked", "continuous", "content", "last"),
    [
        (False, False, {"choices": CONTENT["choices"]}, None),
        (True, False, {"choices": CONTENT["choices"], "usage": None}, LAST),
        (True, True, CONTENT, LAST),
        (False, True, CONTENT, None),
    ],
)
def test_what_the_client_is_shown(
    asked: bool, continuous: bool, content: dict[str, Any], last: dict[str, Any] | None
) -> None:
    def show(chunk: dict[str, Any]) -> dict[str, Any] | None:
        edited = dict(chunk)
        return edited if show_usage(edited, usage_asked=asked, continuous_usage_asked=continuous) else None

    assert show(CONTENT) == content
    assert show(LAST) == last
    bare = {"choices": [{"index": 0, "text": "a"}]}
    null = {**bare, "usage": None}
    assert show(bare) == (null if asked and not continuous else bare)
    assert show(null) == (null if asked or continuous else bare)


def test_a_last_chunk_that_reports_nothing_is_shown_as_any_other() -> None:
    chunk: dict[str, Any] = {"choices": [], "usage": None}
    assert show_usage(chunk, usage_asked=False, continuous_usage_asked=False)
    assert chunk == {"choices": []}


def test_finish_and_index() -> None:
    assert finish_of({"finish_reason": "stop"}) == "stop"
    assert finish_of({"finish_reason": 5}) == ""
    assert index_of({"index": 3}) == 3
    assert [index_of({"index": odd}) for odd in (-1, True, "1", None, 10**9)] == [0] * 5


FLAT = {"object": "error", "message": "m", "type": "t", "param": None, "code": 503}


def test_error_frames() -> None:
    assert error_frame({"error": FLAT}) == FLAT
    assert error_frame(FLAT) == FLAT
    assert error_frame({"error": "Unauthorized"}) == {"message": "Unauthorized"}
    assert error_frame({"error": None, "choices": []}) is None
    assert error_frame(CONTENT) is None


@pytest.mark.parametrize(
    ("status", "message", "expected"),
    [
        (400, "temperature must be a non-negative finite number, got -1.0.", (400, "invalid_request")),
        (
            400,
            "The input (6009 tokens) is longer than the model's context length (4096 tokens).",
            (400, "context_length_exceeded"),
        ),
        (
            400,
            "Requested token count exceeds the model's maximum context length of 4096 tokens. "
            "You requested a total of 100014 tokens: 14 and 100000.",
            (400, "context_length_exceeded"),
        ),
        (400, "Duplicate request ID detected: 0b3c", (503, "engine_overloaded")),
        (422, "x", (400, "invalid_request")),
        (401, "Unauthorized", (502, "bad_gateway")),
        (404, "Not Found", (502, "bad_gateway")),
        (408, "", (504, "timeout")),
        (413, "", (413, "content_too_large")),
        (429, "", (503, "engine_unavailable")),
        (500, "range() arg 3 must not be zero", (502, "bad_gateway")),
        (503, "The request queue is full.", (503, "engine_overloaded")),
        (503, "The request is aborted by a higher priority request.", (503, "engine_overloaded")),
        (503, "Request waiting timeout reached.", (503, "engine_overloaded")),
        (503, "Server is starting", (503, "engine_loading")),
        (503, "", (503, "engine_unavailable")),
        (504, "", (504, "timeout")),
    ],
)
@pytest.mark.parametrize("nested", [True, False])
def test_engine_errors(status: int, message: str, expected: tuple[int, str], nested: bool) -> None:
    frame = {**FLAT, "message": message, "code": status}
    error = engine_error(status, orjson.dumps({"error": frame} if nested else frame))
    assert (error.http_status, error.code) == expected
    assert (error.retry_after_s is not None) == (error.http_status == 503)


def test_context_errors_name_the_figures() -> None:
    frame = {"message": "The input (6009 tokens) is longer than the model's context length (4096 tokens)."}
    assert "4096" in frame_error(frame, status=400).message
    assert "6009" in frame_error(frame, status=400).message


@pytest.mark.parametrize(
    "message",
    [
        "1 validation error: {'loc': ('body', 5)} File \"/opt/venv/sglang/srt/http_server.py\", line 88",
        "Traceback (most recent call last)",
        "see /usr/lib/python3/x",
        "C:\\models\\x",
        "at 0x7fffdeadbeef",
        "two\nlines",
        "x" * 1000,
        "",
    ],
)
def test_no_text_of_the_servers_inside_leaves(message: str) -> None:
    error = engine_error(400, orjson.dumps({**FLAT, "message": message, "code": 400}))
    assert error.message.startswith("The model's engine refused")


@pytest.mark.parametrize(
    "body", [b"", b"<html>", b"[1]", b'{"detail":"Not Found"}', b'{"error":[[]]}', b"\xff"]
)
def test_an_answer_that_is_no_error_object(body: bytes) -> None:
    assert engine_error(500, body).http_status == 502
    assert engine_error(503, body).code == "engine_unavailable"
    assert engine_error(400, body).code == "invalid_request"


def test_params_are_kept_when_they_are_names() -> None:
    assert frame_error({"message": "bad value", "param": "top_p"}, status=400).param == "top_p"
    assert frame_error({"message": "bad value", "param": "a b\r\n"}, status=400).param is None


def test_json_too_deep_to_write() -> None:
    deep = read_json(b'{"a":' + b"[" * 300 + b"]" * 300 + b"}")
    assert deep is not None
    assert write_json(deep) is None


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "choices",
                    "usage",
                    "delta",
                    "index",
                    "prompt_tokens",
                    "error",
                    "message",
                    "code",
                    "content",
                    "object",
                ]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=10,
)


@given(st.dictionaries(st.sampled_from(["choices", "usage", "error", "object"]), JSON), st.integers(400, 599))
def test_strange_answers_never_raise(answer: dict[str, Any], status: int) -> None:
    choices_of(answer)
    show_usage(dict(answer), usage_asked=True, continuous_usage_asked=False)
    frame = error_frame(answer)
    if frame is not None:
        assert 400 <= frame_error(frame, status=status).http_status <= 504
    try:
        usage = read_usage(answer)
    except InvalidUsage:
        return
    assert usage is None or 0 <= usage.cached <= usage.prompt <= usage.total <= TOKENS_MAX
