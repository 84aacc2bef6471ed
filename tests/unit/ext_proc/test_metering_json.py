"""The meter on answers that are no stream: JSON, errors, other things."""

from __future__ import annotations

import orjson
import pytest

from ext_proc.metering import ERROR_BYTES_MAX, Ended, Step
from gateway.path import RESPONSE_BYTES_MAX
from tests.unit.ext_proc.engine_answers import (
    DONE,
    FINISH,
    FULL,
    JSON,
    completion,
    event,
    figures,
    meter,
    run,
    usage,
)

# --- JSON ---


def test_a_json_answer_passes_untouched_and_is_exact() -> None:
    body = completion()
    subject = meter(JSON)
    assert not subject.edits
    assert subject.feed(body[:10], at_s=101) == Step(forward=body[:10])
    assert subject.feed(body[10:], at_s=101) == Step(forward=body[10:])
    assert subject.end(at_s=103) == Step(forward=b"", ends=True)
    assert figures(subject.charge()) == (18, False, False)
    assert (subject.finish_reason, subject.first_token_s, subject.seconds_per_output_token) == (
        "stop",
        3,
        None,
    )
    assert subject.answer() == body


@pytest.mark.parametrize("used", [usage(14, 10**9), usage(10**9, 4), usage(0, 0)])
def test_what_no_context_holds_and_an_answer_of_nothing_cost_the_hold(used: object) -> None:
    """Believed, one broken engine would spend a tenant's month, or give its answers away."""
    subject, _ = run(completion(used=used), meter(JSON, usage_max=16_384))
    assert figures(subject.charge()) == (0, True, False)
    assert "usage_invalid" in subject.charge().detail["flags"]
    assert subject.answer() is None


def test_with_a_known_length_the_last_bytes_are_the_end() -> None:
    body = completion()
    subject = meter(JSON, content_length=len(body))
    assert not subject.feed(body[:-1], at_s=101).ends
    assert subject.feed(body[-1:], at_s=101) == Step(forward=body[-1:], ends=True)
    assert subject.charge().used == 18
    assert subject.end(at_s=102) == Step(forward=b"")


@pytest.mark.parametrize(
    "body", [b"", b"junk", completion()[:-5], b"[1]", completion(used={"prompt_tokens": -1})]
)
def test_json_that_tells_nothing_costs_the_hold(body: bytes) -> None:
    subject, forward = run(body, meter(JSON))
    assert forward == body
    assert figures(subject.charge()) == (0, True, False)
    assert subject.answer() is None


def test_json_cut_off_costs_the_hold() -> None:
    subject, _ = run(completion(), meter(JSON), cut=True)
    assert subject.charge().unknown
    assert subject.answer() is None


@pytest.mark.parametrize(
    ("finish", "by_length", "stored"),
    [
        ("stop", True, True),
        ("tool_calls", False, True),
        ("length", True, True),
        ("length", False, False),
        ("abort", True, False),
        ("content_filter", True, False),
        ("", True, False),
    ],
)
def test_only_untruncated_answers_are_stored(finish: str, by_length: bool, stored: bool) -> None:
    subject, _ = run(completion(finish), meter(JSON, length_is_complete=by_length))
    assert (subject.answer() is not None) == stored


def test_too_few_choices_are_not_stored() -> None:
    assert run(completion(choices=1), meter(JSON, choices=2))[0].answer() is None
    assert run(completion(choices=2), meter(JSON, choices=2))[0].answer() is not None


def test_embeddings() -> None:
    body = orjson.dumps({"object": "list", "data": [], "usage": {"prompt_tokens": 5, "total_tokens": 5}})
    subject, _ = run(body, meter(JSON, endpoint="embeddings"))
    assert figures(subject.charge()) == (5, False, False)
    assert subject.answer() == body


def test_an_error_in_a_json_200_costs_nothing() -> None:
    subject, _ = run(orjson.dumps(FULL), meter(JSON))
    assert figures(subject.charge()) == (0, False, False)
    assert subject.ended is Ended.ERROR


def test_an_answer_too_large_to_keep_passes_and_costs_the_hold() -> None:
    subject = meter(JSON)
    piece = b"x" * (1024 * 1024)
    for _ in range(RESPONSE_BYTES_MAX // len(piece) + 1):
        assert subject.feed(piece, at_s=101).forward == piece
    subject.end(at_s=102)
    assert subject.charge().unknown
    assert "answer_too_large" in subject.charge().detail["flags"]


def test_a_stream_too_large_to_keep_is_metered_to_the_end() -> None:
    subject = meter()
    piece = event({"content": "x" * 500_000}, usage(14, 100))
    for _ in range(RESPONSE_BYTES_MAX // len(piece) + 2):
        subject.feed(piece, at_s=101)
    subject.feed(FINISH + event(None, usage(14, 200)) + DONE, at_s=102)
    assert figures(subject.charge()) == (214, False, False)
    assert subject.answer() is None


def test_another_content_type_is_passed_and_costs_the_hold() -> None:
    subject, forward = run(completion(), meter("text/html"))
    assert forward == completion()
    assert subject.charge().unknown


# --- error statuses ---


def test_an_error_answer_is_rewritten() -> None:
    flat = {"object": "error", "message": 'File "/opt/sglang/x.py", line 3', "code": 400}
    subject = meter(JSON, status=400)
    assert subject.edits
    assert subject.feed(orjson.dumps(flat), at_s=101) == Step(forward=b"")
    step = subject.end(at_s=102)
    assert step.ends
    error = orjson.loads(step.forward)["error"]
    assert (error["type"], error["code"]) == ("invalid_request_error", "invalid_request")
    assert "/opt" not in step.forward.decode()
    assert figures(subject.charge()) == (0, False, False)
    assert subject.answer() is None


def test_an_endless_error_answer_fills_no_memory() -> None:
    subject = meter(JSON, status=500)
    for _ in range(40):
        assert subject.feed(b"x" * ERROR_BYTES_MAX, at_s=101).forward == b""
    assert orjson.loads(subject.end(at_s=102).forward)["error"]["code"] == "bad_gateway"
