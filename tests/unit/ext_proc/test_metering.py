"""The meter: exact or flagged, in every ending; what the client sees; what may be stored."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ext_proc.metering import Ended, Meter, Step
from gateway.contract.admission import AdmissionRecord, Verdict
from gateway.contract.ids import KeyId, OrgId, RequestId
from gateway.contract.units import TOKENS_MAX, Tokens
from gateway.openai.sse import SseParser
from tests.unit.ext_proc.engine_answers import (
    DONE,
    FINISH,
    FRAME,
    JSON,
    STREAM,
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
    answer = orjson.loads(stored)
    assert answer["choices"][0]["message"] == {"role": "assistant", "content": "hello"}
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


def test_unedited_events_keep_their_bytes() -> None:
    odd = b': hi\n\ndata:  {"choices" : [ ]}\r\n\r\nid: 4\ndata: junk\n\n'
    subject, forward = run(
        WHOLE.replace(DONE, odd + DONE), meter(usage_asked=True, continuous_usage_asked=True)
    )
    assert forward == WHOLE.replace(DONE, odd + DONE)
    assert subject.charge().used == 18
    assert subject.answer() is None


def test_settle_stands_before_the_last_bytes() -> None:
    subject = meter()
    first = subject.feed(WHOLE.removesuffix(DONE), at_s=101)
    assert not first.ends
    assert subject.ended is Ended.OPEN
    last = subject.feed(DONE + b": bye\n\n", at_s=102)
    assert last == Step(forward=DONE + b": bye\n\n", ends=True)
    assert subject.charge().used == 18
    after = subject.feed(DONE + event(None, usage(99, 99)), at_s=103)
    assert not after.ends
    assert after.forward.startswith(DONE)
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


def test_a_stream_that_stops_without_done_was_cut() -> None:
    subject, forward = run(words("a") + b"data: {unfini")
    assert subject.ended is Ended.CUT
    assert forward.endswith(b"data: {unfini")
    assert figures(subject.charge()) == (16, False, True)


@pytest.mark.parametrize(
    "stream", [b"", b": ping\n\n", event({"content": "a"}), event({"content": "a"}) + DONE]
)
def test_nothing_reported_costs_the_whole_hold(stream: bytes) -> None:
    for cut in (True, False):
        charge = run(stream, cut=cut)[0].charge()
        assert figures(charge) == (0, True, False)
        assert charge.detail["flags"] == "usage_missing"


@pytest.mark.parametrize("bad", [-1, 2.5, 4.0, "4", 2**63, TOKENS_MAX + 1, True, [], {}])
def test_usage_that_cannot_be_true_is_not_believed(bad: Any) -> None:
    subject, _ = run(words("a", "b") + FINISH + event(None, usage(14, bad)) + DONE)
    assert figures(subject.charge()) == (18, False, True)
    assert "usage_invalid" in subject.charge().detail["flags"]
    assert subject.answer() is None
    subject, _ = run(event({"content": "a"}) + event(None, usage(14, bad)) + DONE)
    assert subject.charge().unknown


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
    assert run(stream, meter(choices=2), cut=True)[0].charge().used == 14 + 6 + 5
    ends = event({}, None, index=0, finish="stop") + event({}, None, index=1, finish="length")
    subject, _ = run(stream + ends + event(None, usage(14, 12)) + DONE, meter(choices=2))
    assert figures(subject.charge()) == (26, False, False)
    assert subject.finish_reason == "length,stop"
    assert subject.answer() is not None
    assert run(stream + ends + event(None, usage(14, 12)) + DONE, meter(choices=3))[0].answer() is None


def test_a_batch_of_prompts_that_is_cut_adds_up() -> None:
    stream = event({"content": "a"}, usage(10, 3), index=0) + event({"content": "b"}, usage(20, 5), index=1)
    subject, _ = run(stream, meter(choices=2, endpoint="completions"), cut=True)
    assert figures(subject.charge()) == (38, False, True)


def test_time() -> None:
    opening = event({"role": "assistant", "content": ""}, usage(14, 0))
    assert run(opening)[0].first_token_s is None
    subject = meter()
    subject.feed(opening, at_s=100.5)
    subject.feed(event({"content": "a"}, usage(14, 1)), at_s=101.0)
    subject.feed(event({"content": "b"}, usage(14, 3)), at_s=102.0)
    subject.feed(event(None, usage(14, 5)) + DONE, at_s=105.0)
    assert (subject.first_token_s, subject.seconds_per_output_token, subject.duration_s) == (1.0, 0.25, 5.0)
    assert meter().duration_s is None


# --- errors inside a 200 ---


def test_overload_as_a_200_is_an_opening_error() -> None:
    subject = meter()
    step = subject.feed(b": hi\n\n" + FRAME, at_s=101)
    assert step.opening_error is not None
    assert (step.opening_error.http_status, step.opening_error.code) == (503, "engine_overloaded")
    assert orjson.loads(SseParser().feed(step.forward)[1].data or b"")["error"]["code"] == "engine_overloaded"
    last = subject.feed(event(None, usage(0, 0)) + DONE, at_s=101)
    assert last.ends
    assert last.opening_error is None
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
    step = subject.feed(words("a", "b") + FRAME + event(None, usage(0, 66)) + DONE, at_s=101)
    assert step.opening_error is None
    assert step.ends
    assert subject.ended is Ended.ERROR
    assert figures(subject.charge()) == (80, False, True)
    assert subject.answer() is None


def test_a_last_report_that_no_context_holds_leaves_those_before_it() -> None:
    subject, _ = run(words("a", "b") + event(None, usage(14, 10**9)) + DONE, meter(usage_max=2000))
    assert figures(subject.charge()) == (18, False, True)
    assert "usage_invalid" in subject.charge().detail["flags"]
    nothing = event({"content": "a"}, usage(0, 0)) + event(None, usage(0, 0)) + DONE
    assert run(nothing)[0].charge().unknown


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
    )
    subject = Meter.for_record(record, status=200, content_type=JSON, content_length=None, started_s=0)
    assert run(completion("length"), subject)[0].answer() is None
    assert subject.charge().unknown, "18 tokens where 17 fit"


PARTS = [
    WHOLE,
    FRAME,
    DONE,
    FINISH,
    words("a"),
    event(None, usage(1, -1)),
    event(None, usage(2**63, 0)),
    event(None, 7),
    b'data: {"choices":[{"index":0,"delta":{"content":"a"},"x":'
    + b"[" * 300
    + b"]" * 300
    + b'}],"usage":{}}\n\n',
    b'data: {"choices":{"a":1}}\n\n',
    b'data: {"choices":[5,null]}\n\n',
    b"data: {\n\n",
    b"\r\n",
    b"data:\xff\xfe\n\n",
]


@given(
    st.lists(st.sampled_from(PARTS) | st.binary(max_size=30), max_size=8),
    st.sampled_from([STREAM, JSON, "text/html", ""]),
    st.sampled_from([200, 204, 400, 503]),
    st.booleans(),
)
@example(PARTS, STREAM, 200, True)
def test_a_meter_never_raises(chunks: list[bytes], content_type: str, status: int, cut: bool) -> None:
    subject = meter(content_type, status=status)
    ends = [subject.feed(chunk, at_s=101).ends for chunk in chunks]
    if cut:
        subject.cut(at_s=102)
    else:
        ends.append(subject.end(at_s=102).ends)
    charge = subject.charge()
    assert subject.ended is not Ended.OPEN
    assert sum(ends) <= 1
    assert 0 <= charge.used <= 2 * TOKENS_MAX
    assert not (charge.unknown and charge.used)
    assert all(isinstance(value, str) for value in charge.detail.values())
    subject.answer()
