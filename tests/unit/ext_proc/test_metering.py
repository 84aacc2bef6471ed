"""The meter: exact or flagged, in every ending; what the client sees; what may be stored."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import orjson
import pytest

from ext_proc.charge import Ended
from ext_proc.metering import Meter, Step
from gateway.budget.admission import AdmissionRecord, Verdict
from gateway.budget.measure import Amounts
from gateway.contract.ids import KeyId, OrgId, RequestId
from gateway.contract.units import TOKENS_MAX, Tokens
from gateway.openai.sse import KEEP_ALIVE
from gateway.openai.stored_answer import read_stored
from tests.harness.openai_schema import validate, validate_stream
from tests.unit.ext_proc.engine_answers import (
    DONE,
    FINISH,
    FRAME,
    JSON,
    WHOLE,
    completion,
    event,
    figures,
    meter,
    run,
    shown,
    usage,
    words,
)

LATE = {
    "object": "chat.completion.chunk",
    "created": 1,
    "model": "m",
    "choices": [{"index": 0, "delta": {"content": "late"}}],
}

# --- streams ---


def test_a_whole_stream_is_exact() -> None:
    subject, forward = run(WHOLE)
    charge = subject.charge()
    assert figures(charge) == (18, False, False)
    assert dict(charge.detail) == {
        "prompt": "14",
        "completion": "4",
        "cached": "13",
        "finish_reason": "stop",
        "ended": "complete",
        "flags": "",
    }
    chunks = shown(forward)
    assert len(chunks) == 5
    assert all("usage" not in chunk for chunk in chunks[:-1])
    assert forward.endswith(DONE)
    stored = subject.answer()
    assert stored is not None
    answer = orjson.loads(read_stored(stored)[0])
    assert answer["choices"][0]["message"] == {"role": "assistant", "content": "hello", "refusal": None}
    validate("chat.completion", answer)
    assert answer["usage"]["completion_tokens"] == 4


def test_usage_asked_is_shown_as_openai_does() -> None:
    _, forward = run(WHOLE, meter(usage_asked=True))
    assert [chunk["usage"] and chunk["usage"]["completion_tokens"] for chunk in shown(forward)[:-1]] == [
        None,
        None,
        None,
        None,
        4,
    ]


def test_each_event_is_data_alone_and_comments_pass() -> None:
    odd = b": hi\n\nretry: 5\n\nid: 4\nevent: x\ndata: " + orjson.dumps(LATE)[:-1] + b"\r\ndata: }\r\n\r\n"
    subject, forward = run(
        WHOLE.replace(DONE, odd + DONE), meter(usage_asked=True, continuous_usage_asked=True)
    )
    chunks = validate_stream("chat.completion.chunk", forward)
    assert KEEP_ALIVE in forward
    assert b"hi" not in forward
    assert b"retry" not in forward
    assert chunks[-2]["choices"][0]["delta"] == {"content": "late"}
    assert all(chunk["usage"]["prompt_tokens"] == 14 for chunk in chunks[:3])
    assert subject.charge().used.tokens == 18


def test_settle_stands_before_the_last_bytes() -> None:
    subject = meter()
    first = subject.feed(WHOLE.removesuffix(DONE), at_s=101)
    assert not first.ends
    assert subject.ended is Ended.OPEN
    last = subject.feed(DONE + b": bye\n\n", at_s=102)
    assert last == Step(forward=DONE, ends=True), "nothing follows [DONE]"
    assert subject.charge().used.tokens == 18
    after = subject.feed(DONE + event(None, usage(99, 99)), at_s=103)
    assert after == Step(forward=b"")
    assert subject.end(at_s=104) == Step(forward=b"")
    assert figures(subject.charge()) == (18, False, False)
    assert subject.duration_s == 2


@pytest.mark.parametrize("cut", range(0, len(WHOLE), 3))
def test_any_cut_of_the_bytes_gives_the_same(cut: int) -> None:
    subject = meter()
    forward = subject.feed(WHOLE[:cut], at_s=1).forward + subject.feed(WHOLE[cut:], at_s=2).forward
    assert forward == run(WHOLE)[1]
    assert subject.charge() == run(WHOLE)[0].charge()
    assert subject.answer() == run(WHOLE)[0].answer()


def test_a_cut_stream_is_charged_what_it_reported() -> None:
    subject, _ = run(words("a", "b", "c"), cut=True)
    assert figures(subject.charge()) == (20, False, True)
    assert subject.charge().detail["ended"] == "cut"
    assert subject.answer() is None


def test_a_stream_that_stops_without_done_was_stopped_by_its_engine() -> None:
    subject, forward = run(words("a") + b"data: {unfini")
    assert subject.ended is Ended.STOPPED
    events = validate_stream("chat.completion.chunk", forward)
    assert events[-2]["error"]["code"] == "engine_unavailable", "to the SDKs a mere end is a whole answer"
    assert figures(subject.charge()) == (16, False, True)


@pytest.mark.parametrize("stream", [b"", b": ping\n\n"])
def test_of_what_nothing_was_seen_costs_the_whole_hold(stream: bytes) -> None:
    charge = run(stream, cut=True)[0].charge()
    assert figures(charge) == (0, True, False)
    assert "usage_missing" in charge.detail["flags"]


ROLE = event({"role": "assistant", "content": ""})
FIVE = b"".join(event({"content": text}) for text in ("a", "b", "c", "d", "e"))


@pytest.mark.parametrize(
    ("stream", "completion"),
    [
        (ROLE, 0),
        (ROLE + FIVE, 5),
        (ROLE + FIVE + DONE, 5),
        (ROLE + event({"content": "x" * 41}), 11),
        (ROLE + event({"reasoning_content": "ponder"}), 2),
        (ROLE + event({"tool_calls": [{"index": 0, "function": {"arguments": "{}"}}]}), 12),
        (ROLE + event({"content": "x" * 4001}), 1000),
        (event({"content": "a"}, index=0) + event({"content": "b"}, index=0) * 2000, 1000),
    ],
)
def test_what_was_shown_and_not_reported_is_estimated_within_the_hold(stream: bytes, completion: int) -> None:
    """The prompt at its bound; a token for each piece, or for four characters where that is more."""
    charge = run(stream, cut=True)[0].charge()
    assert figures(charge) == (1000 + completion, False, True)
    flags = charge.detail["flags"].split(",")
    assert {"estimated", "usage_missing"} <= set(flags)


def test_a_choice_that_reports_and_one_that_does_not() -> None:
    sent = event({"content": "a"}, usage(14, 7), index=0) + event({"content": "b"}, index=1) * 3
    assert run(sent, meter(choices=2), cut=True)[0].charge().used.completion_tokens == 7
    far_too_low = event({"content": "a"}, usage(14, 1)) * 9
    charge = run(far_too_low, cut=True)[0].charge()
    assert (charge.used.completion_tokens, charge.detail["flags"]) == (9, "estimated,usage_invalid")


@pytest.mark.parametrize("bad", [-1, 2.5, 4.0, "4", 2**63, TOKENS_MAX + 1, True, [], {}])
def test_usage_that_cannot_be_true_is_not_believed(bad: Any) -> None:
    subject, _ = run(words("a", "b") + FINISH + event(None, usage(14, bad)) + DONE)
    assert figures(subject.charge()) == (18, False, True)
    assert "usage_invalid" in subject.charge().detail["flags"]
    assert subject.answer() is None
    subject, _ = run(event({"content": "a"}) + event(None, usage(14, bad)) + DONE)
    assert figures(subject.charge()) == (1001, False, True), "the prompt at its bound"


def test_two_closing_sums_are_flagged_and_the_larger_counts() -> None:
    subject, _ = run(words("a") + FINISH + event(None, usage(14, 9)) + event(None, usage(14, 4)) + DONE)
    assert figures(subject.charge()) == (23, False, True)
    assert "usage_repeated" in subject.charge().detail["flags"]


def test_choices_of_one_prompt() -> None:
    """SGLang: content chunks count their own choice, the last chunk all of them; the prompt once."""
    stream = (
        event({"content": "a"}, usage(14, 3), index=0)
        + event({"content": "b"}, usage(14, 5), index=1)
        + event({"content": "c"}, usage(14, 6), index=0)
    )
    assert run(stream, meter(choices=2), cut=True)[0].charge().used.tokens == 14 + 6 + 5
    ends = event({}, None, index=0, finish="stop") + event({}, None, index=1, finish="tool_calls")
    subject, _ = run(stream + ends + event(None, usage(14, 12)) + DONE, meter(choices=2))
    assert figures(subject.charge()) == (26, False, False)
    assert subject.reading.finish_reason == "stop,tool_calls"
    assert subject.answer() is not None
    assert run(stream + ends + event(None, usage(14, 12)) + DONE, meter(choices=3))[0].answer() is None


def test_a_batch_of_prompts_that_is_cut_adds_up() -> None:
    stream = event({"content": "a"}, usage(10, 3), index=0) + event({"content": "b"}, usage(20, 5), index=1)
    subject, _ = run(stream, meter(choices=2, endpoint="completions"), cut=True)
    assert figures(subject.charge()) == (38, False, True)


def test_time() -> None:
    opening = event({"role": "assistant", "content": ""}, usage(14, 0))
    assert run(opening)[0].reading.first_token_s is None
    subject = meter()
    subject.feed(opening, at_s=100.5)
    subject.feed(event({"content": "a"}, usage(14, 1)), at_s=101.0)
    subject.feed(event({"content": "b"}, usage(14, 3)), at_s=102.0)
    subject.feed(event(None, usage(14, 5)) + DONE, at_s=105.0)
    reading = subject.reading
    assert (reading.first_token_s, reading.seconds_per_output_token, subject.duration_s) == (1.0, 0.25, 5.0)
    assert meter().duration_s is None


# --- errors inside a 200 ---


def test_overload_as_a_200_is_no_answer() -> None:
    subject = meter()
    step = subject.feed(b": hi\n\n" + FRAME, at_s=101)
    assert step.failed is not None
    assert (step.failed.http_status, step.failed.code) == (503, "engine_overloaded")
    last = subject.feed(event(None, usage(0, 0)) + DONE, at_s=101)
    assert last == Step(forward=DONE, ends=True), "SGLang's usage of zeros is not shown"
    validate_stream("chat.completion.chunk", step.forward + last.forward)
    assert subject.ended is Ended.ERROR
    assert figures(subject.charge()) == (0, False, False)
    assert subject.charge().detail["flags"] == "error:engine_overloaded"
    assert subject.answer() is None


def test_an_opening_error_alone_costs_nothing() -> None:
    charge = run(FRAME)[0].charge()
    assert figures(charge) == (0, False, False)
    assert "usage_missing" in charge.detail["flags"]


def test_an_error_in_mid_stream_is_charged_what_was_produced() -> None:
    """Recorded: a pre-empted stream ends with a closing usage whose prompt is 0."""
    subject = meter()
    step = subject.feed(words("a", "b") + FRAME + event(None, usage(0, 66)) + DONE + DONE, at_s=101)
    assert step.failed is None
    assert step.ends
    events = validate_stream("chat.completion.chunk", step.forward)
    assert events[-2]["error"]["code"] == "engine_overloaded"
    assert subject.ended is Ended.ERROR
    assert figures(subject.charge()) == (80, False, True)
    assert subject.answer() is None


def test_a_last_report_that_no_context_holds_leaves_those_before_it() -> None:
    subject, _ = run(words("a", "b") + event(None, usage(14, 10**9)) + DONE, meter(usage_max=2000))
    assert figures(subject.charge()) == (18, False, True)
    assert "usage_invalid" in subject.charge().detail["flags"]
    nothing = event({"content": "a"}, usage(0, 0)) + event(None, usage(0, 0)) + DONE
    assert figures(run(nothing)[0].charge()) == (1001, False, True)


# --- anything ---


def test_for_record() -> None:
    record = AdmissionRecord(
        decision=Verdict.METERED,
        request_id=RequestId("r"),
        org=OrgId("o"),
        key=KeyId("k"),
        endpoint="chat.completions",
        clamp="5",
        usage_asked=True,
        usage_max=Tokens(17),
        held=Amounts.of(12, 5, micro_usd=3),
        prompt_bound=Tokens(12),
        completion_max=Tokens(5),
        price="1,1,1,0",
    )
    subject = Meter.for_record(record, content_type=JSON, content_length=None, started_s=0)
    _, forward = run(completion("length"), subject)
    assert orjson.loads(forward)["id"] == "chatcmpl-r"
    assert subject.answer() is None
    charge = subject.charge()
    assert "usage_invalid" in charge.detail["flags"], "18 tokens where 17 fit"
    assert charge.used == Amounts.of(12, 1, micro_usd=1)
    with pytest.raises(ValueError, match="price"):
        Meter.for_record(
            replace(record, price="-1,0,0,0"), content_type=JSON, content_length=None, started_s=0
        )
