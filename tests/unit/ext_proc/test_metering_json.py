"""The meter on answers that are no stream: JSON, whole and mended; what is no answer at all."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ext_proc.charge import Ended
from ext_proc.metering import Step
from gateway.openai.stored_answer import write_stored
from gateway.path import RESPONSE_BYTES_MAX
from tests.harness.openai_schema import validate
from tests.unit.ext_proc.engine_answers import (
    DONE,
    FINISH,
    FULL,
    JSON,
    STREAM,
    completion,
    event,
    figures,
    meter,
    run,
    usage,
)

EMBEDDINGS = orjson.dumps(
    {
        "object": "list",
        "model": "engine/e",
        "data": [{"object": "embedding", "index": 0, "embedding": [0.5]}],
        "usage": {
            "prompt_tokens": 5,
            "total_tokens": 5,
            "completion_tokens": 0,
            "prompt_tokens_details": None,
        },
    }
)


def test_a_json_answer_is_kept_back_until_it_is_whole_and_is_exact() -> None:
    body = completion()
    subject = meter(JSON)
    assert subject.feed(body[:10], at_s=101) == Step(forward=b"")
    assert subject.feed(body[10:], at_s=101) == Step(forward=b"")
    step = subject.end(at_s=103)
    assert (step.ends, step.failed) == (True, None)
    validate("chat.completion", orjson.loads(step.forward))
    assert figures(subject.charge()) == (18, False, False)
    reading = subject.reading
    assert (reading.finish_reason, reading.first_token_s, reading.seconds_per_output_token) == (
        "stop",
        3,
        None,
    )
    assert subject.answer() == write_stored(step.forward)


@given(st.lists(st.integers(0, 400), max_size=6).map(sorted))
def test_the_clients_bytes_do_not_depend_on_the_cut(cuts: list[int]) -> None:
    body = completion()
    subject = meter(JSON)
    forward = b""
    for start, stop in zip([0, *cuts], [*cuts, len(body)], strict=True):
        forward += subject.feed(body[start:stop], at_s=101).forward
    assert forward + subject.end(at_s=102).forward == run(body, meter(JSON))[1]


@pytest.mark.parametrize("used", [usage(14, 10**9), usage(10**9, 4), usage(0, 0)])
def test_what_no_context_holds_and_an_answer_of_nothing_are_not_believed(used: object) -> None:
    """Believed, one broken engine would spend a tenant's month, or give its answers away."""
    subject, _ = run(completion(used=used), meter(JSON, usage_max=16_384))
    assert figures(subject.charge()) == (1001, False, True), (
        "the prompt's bound, and a token for what is shown"
    )
    assert "usage_invalid" in subject.charge().detail["flags"]
    assert subject.answer() is None


def test_with_a_known_length_the_last_bytes_are_the_end() -> None:
    body = completion()
    subject = meter(JSON, content_length=len(body))
    assert subject.feed(body[:-1], at_s=101) == Step(forward=b"")
    step = subject.feed(body[-1:], at_s=101)
    assert step.ends
    assert subject.answer() == write_stored(step.forward)
    assert subject.charge().used.tokens == 18
    assert subject.end(at_s=102) == Step(forward=b"")
    assert subject.feed(b"more", at_s=103) == Step(forward=b""), "nothing follows a whole answer"


def test_usage_that_cannot_be_true_is_not_shown() -> None:
    subject, forward = run(completion(used={"prompt_tokens": -1}), meter(JSON))
    assert "usage" not in orjson.loads(forward)
    assert figures(subject.charge()) == (1001, False, True)
    assert subject.answer() is None


@pytest.mark.parametrize("body", [b"", b"junk", completion()[:-5], b"[1]", b'{"choices":'])
def test_what_is_no_json_object_is_no_answer_and_costs_the_hold(body: bytes) -> None:
    subject = meter(JSON)
    assert subject.feed(body, at_s=101) == Step(forward=b"")
    step = subject.end(at_s=102)
    assert step.failed is not None
    assert (step.forward, step.ends, step.failed.http_status) == (b"", True, 503)
    assert subject.ended is Ended.CUT
    assert figures(subject.charge()) == (0, True, False)
    assert subject.answer() is None


def test_json_cut_off_costs_the_hold() -> None:
    subject, forward = run(completion(), meter(JSON), cut=True)
    assert forward == b""
    assert subject.charge().unknown
    assert subject.answer() is None


@pytest.mark.parametrize(("finish", "says"), [("abort", "stopped"), ("eos", "none"), ("", "none")])
def test_an_end_that_openai_does_not_know_is_no_answer(finish: str, says: str) -> None:
    subject = meter(JSON)
    subject.feed(completion(finish), at_s=101)
    step = subject.end(at_s=102)
    assert step.failed is not None
    assert says in step.failed.message
    assert subject.ended is Ended.ERROR
    assert subject.charge().used.tokens == 18 if finish else True


def test_too_few_choices_are_not_stored() -> None:
    assert run(completion(choices=1), meter(JSON, choices=2))[0].answer() is None
    assert run(completion(choices=2), meter(JSON, choices=2))[0].answer() is not None


def test_embeddings() -> None:
    subject, forward = run(EMBEDDINGS, meter(JSON, endpoint="embeddings"))
    assert figures(subject.charge()) == (5, False, False)
    assert subject.answer() == write_stored(forward)
    validate("embeddings", orjson.loads(forward))
    assert orjson.loads(forward)["model"] == "m"


@pytest.mark.parametrize(
    "tokens", [{"tokens": [1, 2], "count": 2, "max_model_len": 9}, {"tokens": [[1], [2]], "count": [1, 1]}]
)
def test_tokens_cost_nothing_exactly(tokens: dict[str, Any]) -> None:
    subject, forward = run(orjson.dumps(tokens), meter(JSON, endpoint="tokenize"))
    assert orjson.loads(forward) == tokens
    charge = subject.charge()
    assert (figures(charge), charge.detail["flags"]) == ((0, False, False), "")
    assert subject.answer() is None
    cut, _ = run(b'{"tokens":', meter(JSON, endpoint="tokenize"), cut=True)
    assert not cut.charge().unknown


def test_an_error_in_a_json_200_costs_nothing() -> None:
    subject = meter(JSON)
    subject.feed(orjson.dumps(FULL), at_s=101)
    step = subject.end(at_s=102)
    assert step.failed is not None
    assert step.failed.code == "engine_overloaded"
    assert figures(subject.charge()) == (0, False, False)
    assert subject.ended is Ended.ERROR


def test_an_answer_too_large_to_mend_passes_flagged_and_costs_the_hold() -> None:
    subject = meter(JSON)
    piece = b"x" * (1024 * 1024)
    kept = RESPONSE_BYTES_MAX // len(piece)
    passed = [len(subject.feed(piece, at_s=101).forward) for _ in range(kept + 3)]
    assert passed == [0] * kept + [(kept + 1) * len(piece), len(piece), len(piece)], "not a byte is lost"
    assert subject.end(at_s=102) == Step(forward=b"", ends=True)
    assert subject.unmended
    assert subject.charge().unknown
    assert "answer_too_large" in subject.charge().detail["flags"]
    assert subject.answer() is None


def test_a_stream_too_large_to_keep_is_metered_to_the_end() -> None:
    subject = meter()
    piece = event({"content": "x" * 500_000}, usage(14, 100))
    for _ in range(RESPONSE_BYTES_MAX // len(piece) + 2):
        subject.feed(piece, at_s=101)
    subject.feed(FINISH + event(None, usage(14, 200)) + DONE, at_s=102)
    assert figures(subject.charge()) == (214, False, False)
    assert subject.answer() is None


@pytest.mark.parametrize(
    ("content_type", "stream"), [("text/html", False), ("", False), (STREAM, False), ("text/html", True)]
)
def test_another_kind_of_answer_than_was_asked_for_is_none_at_its_first_byte(
    content_type: str, stream: bool
) -> None:
    subject = meter(content_type, stream=stream)
    step = subject.feed(b"<", at_s=101)
    assert step.failed is not None
    assert (step.forward, step.ends) == (b"", True)
    assert subject.charge().unknown
    assert meter(content_type, stream=stream).end(at_s=101).failed is not None


def test_json_for_a_stream_is_no_answer_but_its_error_is_read() -> None:
    subject = meter(JSON, stream=True)
    subject.feed(completion(), at_s=101)
    failed = subject.end(at_s=102).failed
    assert failed is not None
    assert failed.code == "engine_unavailable"
    refused = meter(JSON, stream=True)
    refused.feed(orjson.dumps({**FULL, "code": 400}), at_s=101)
    failed = refused.end(at_s=102).failed
    assert failed is not None
    assert failed.http_status == 400
