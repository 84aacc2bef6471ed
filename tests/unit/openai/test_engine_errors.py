"""What engines refuse, as clients read it: the field at fault, and never a path, a stack or a prompt."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest

from gateway.openai.engine_errors import engine_error, not_an_answer, stopped
from gateway.openai.error_body import error_body
from gateway.openai.terms import Endpoint
from tests.harness.openai_schema import validate

RECORDINGS = Path(__file__).resolve().parents[3] / "inference" / "recordings"
PARAMS = {
    "bad-adapter": None,
    "bad-call-arguments": "messages",
    "bad-image": "messages",
    "bad-json-schema-type": "response_format",
    "bad-prompt-empty": "messages",
    "bad-prompt-missing": "prompt",
    "bad-regex": "regex",
    "bad-tool-schema": "tools",
    "bad-tool-unknown": "tool_choice",
    "bad-tools-and-format": "tool_choice",
    "bad-tools-missing": "tools",
    "bad-context": "messages",
    "bad-context-stream": "messages",
    "bad-json": None,
    "bad-list": None,
    "bad-max-tokens-negative": "max_tokens",
    "bad-max-tokens-text": "max_tokens",
    "bad-messages-empty": "messages",
    "bad-messages-missing": "messages",
    "bad-priority": "priority",
    "bad-prompt-too-long": "messages",
    "bad-temperature": "temperature",
    "bad-top-p": "top_p",
}


def flat(message: object) -> bytes:
    """SGLang's error."""
    return orjson.dumps({"object": "error", "message": message, "type": "x", "param": None, "code": 400})


@pytest.mark.parametrize("case", sorted(path.stem for path in RECORDINGS.glob("bad-*.json")))
def test_recorded_refusals_name_their_field_and_tell_nothing(case: str) -> None:
    item = orjson.loads((RECORDINGS / f"{case}.json").read_bytes())
    error = engine_error(item["status"], item["text"].encode())
    body = error_body(error)
    validate("error", orjson.loads(body))
    if case in PARAMS:
        assert error.param == PARAMS[case]
    assert error.http_status == (502 if item["status"] == 500 else 400)
    for telling in (b"sglang", b".py", b"/v1", b"line ", b"input", b"cpp"):
        assert telling not in body.replace(b"Input should", b"")


@pytest.mark.parametrize(
    ("endpoint", "param"),
    [
        (Endpoint.CHAT, "messages"),
        (Endpoint.COMPLETIONS, "prompt"),
        (Endpoint.EMBEDDINGS, "input"),
        (Endpoint.TOKENIZE, "prompt"),
    ],
)
def test_what_is_too_long_is_the_endpoints_field(endpoint: Endpoint, param: str) -> None:
    text = "The input (6009 tokens) is longer than the model's context length (4096 tokens)."
    error = engine_error(400, flat(text), endpoint=endpoint.value)
    assert (error.code, error.param) == ("context_length_exceeded", param)
    assert "4096" in error.message
    assert "6009" in error.message


@pytest.mark.parametrize(
    ("loc", "param"),
    [
        ("('body', 'messages', 0, 'content')", "messages[0].content"),
        ("('body', 'tools', 11, 'function', 'name')", "tools[11].function.name"),
        ("('body', 1)", None),
        ("('query', 'x')", None),
        ("('body', '/etc/x')", None),
    ],
)
def test_the_place_of_a_validation_error(loc: str, param: str | None) -> None:
    text = f"1 validation error:\n  {{'type': 'x', 'loc': {loc}, 'msg': 'Bad', 'input': 'secret'}}"
    error = engine_error(400, flat(text))
    assert error.param == param
    assert "secret" not in error.message


@pytest.mark.parametrize(
    "message",
    [
        "Invalid regex: (my secret pattern",
        "The prompt 'my secret' has no tokens.",
        "secret must be kept",
        "temperature must be /opt/secret",
        "top_k must be " + "secret" * 100,
        5,
        None,
    ],
)
def test_sentences_that_are_not_known_are_not_shown(message: Any) -> None:
    error = engine_error(400, flat(message))
    assert error.http_status == 400
    assert "secret" not in error.message


def test_what_is_no_answer_may_be_tried_again() -> None:
    for error in (not_an_answer(), stopped()):
        assert (error.http_status, error.code) == (503, "engine_unavailable")
        assert error.retry_after_s
