"""The meter as second wall: an engine that goes past max_tokens, and what is charged within the hold."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ext_proc.charge import Ended
from ext_proc.metering import Meter
from gateway.budget.measure import Amounts
from tests.harness.openai_schema import validate, validate_stream
from tests.unit.ext_proc.engine_answers import DONE, FINISH, JSON, completion, event, meter, run, usage

ROLE = event({"role": "assistant", "content": ""})


def counted(*counts: int, index: int = 0, prompt: int = 14) -> bytes:
    """A piece of content for each report of so many tokens so far."""
    return b"".join(event({"content": f" {count}"}, usage(prompt, count), index=index) for count in counts)


def fed(sent: bytes, **changed: Any) -> tuple[Meter, bytes]:
    subject = meter(**{"completion": 5, "usage_asked": True, **changed})
    return subject, subject.feed(sent, at_s=101.0).forward


def text_of(chunks: list[Any], index: int = 0) -> str:
    parts = [choice for chunk in chunks[:-1] for choice in chunk["choices"] if choice["index"] == index]
    return "".join(part["delta"].get("content") or "" for part in parts)


def test_the_end_is_written_where_the_engine_goes_on() -> None:
    subject = meter(completion=5, usage_asked=True)
    first = subject.feed(ROLE + counted(1, 2, 3, 4, 5), at_s=101.0)
    assert not first.ends
    step = subject.feed(counted(6, 7), at_s=102.0)
    assert step.ends
    chunks = validate_stream("chat.completion.chunk", first.forward + step.forward)
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks[-4:-2]] == [None, "length"]
    assert chunks[-2]["usage"] | {"prompt_tokens_details": 0, "completion_tokens_details": 0} == {
        "prompt_tokens": 14,
        "completion_tokens": 5,
        "total_tokens": 19,
        "prompt_tokens_details": 0,
        "completion_tokens_details": 0,
    }
    assert subject.ended is Ended.LIMIT
    charge = subject.charge()
    assert (charge.used, charge.unknown, charge.estimated) == (Amounts.of(14, 5), False, False)
    assert (charge.detail["finish_reason"], charge.detail["flags"]) == ("length", "over_limit")
    assert subject.answer() is None


def test_what_follows_the_end_is_swallowed_and_counted_apart() -> None:
    subject, _ = fed(ROLE + counted(5, 6))
    charged = subject.charge()
    assert subject.wasted.total == 1
    rest = subject.feed(counted(7, 8, 70) + FINISH, at_s=103.0)
    assert (rest.forward, rest.ends) == (b"", False)
    last = subject.end(at_s=104.0)
    assert (last.forward, last.ends, last.failed) == (b"", False, None)
    assert subject.charge() == charged
    assert (subject.wasted.prompt, subject.wasted.completion) == (0, 65)
    subject.cut(at_s=105.0)
    assert subject.ended is Ended.LIMIT
    assert subject.duration_s == 1.0


def test_a_chunk_that_crosses_the_limit_is_shown_and_one_beyond_is_not() -> None:
    assert text_of(validate_stream("chat.completion.chunk", fed(ROLE + counted(4, 6))[1])) == " 4 6"
    assert text_of(validate_stream("chat.completion.chunk", fed(ROLE + counted(5, 6))[1])) == " 5"


@pytest.mark.parametrize("asked", [False, True])
def test_usage_is_shown_only_if_asked_for(asked: bool) -> None:
    _, forward = fed(ROLE + counted(5, 6), usage_asked=asked)
    assert (b'"usage":{' in forward) is asked
    _, forward = fed(ROLE + counted(5, 6), usage_asked=True, continuous_usage_asked=True)
    chunks = validate_stream("chat.completion.chunk", forward)
    assert chunks[-3]["usage"]["completion_tokens"] == 5


def test_every_choice_that_is_open_ends() -> None:
    sent = ROLE + counted(2, index=2) + counted(3, 5, 6, index=0) + counted(4, index=1)
    done = event({}, None, index=1, finish="stop")
    subject, forward = fed(done + sent, choices=3)
    ends = [
        (choice["index"], choice["finish_reason"])
        for chunk in validate_stream("chat.completion.chunk", forward)[:-1]
        for choice in chunk["choices"]
        if choice["finish_reason"]
    ]
    assert ends == [(1, "stop"), (0, "length"), (2, "length")]
    assert subject.charge().used == Amounts.of(14, 5 + 2)
    assert subject.charge().detail["finish_reason"] == "length,stop"


def test_a_finish_that_is_not_shown_is_not_the_answers() -> None:
    late = event({"content": "x"}, usage(14, 6), finish="stop")
    subject, forward = fed(ROLE + counted(5) + late)
    chunks = validate_stream("chat.completion.chunk", forward)
    assert chunks[-3]["choices"][0]["finish_reason"] == "length"
    assert subject.charge().detail["finish_reason"] == "length"


def test_completions_end_in_their_own_form() -> None:
    def part(text: str, count: int) -> bytes:
        choice = {"index": 0, "text": text, "logprobs": None, "finish_reason": None}
        chunk = {"id": "e", "object": "text_completion", "created": 1, "model": "e", "choices": [choice]}
        return b"data: " + orjson.dumps({**chunk, "usage": usage(14, count)}) + b"\n\n"

    _, forward = fed(part("a", 5) + part("b", 6), endpoint="completions")
    chunks = validate_stream("text_completion.chunk", forward)
    assert [choice["text"] for chunk in chunks[:-1] for choice in chunk["choices"]] == ["a", ""]


def test_without_reports_a_piece_is_a_token() -> None:
    pieces = b"".join(event({"content": "word"}) for _ in range(9))
    subject, forward = fed(ROLE + pieces)
    assert text_of(validate_stream("chat.completion.chunk", forward)) == "word" * 5
    charge = subject.charge()
    assert (charge.used, charge.estimated) == (Amounts.of(1000, 5), True)
    assert subject.wasted.completion == 4


def test_a_report_that_leaps_past_the_limit_is_not_believed() -> None:
    subject, forward = fed(ROLE + counted(1, 900, 901) + FINISH + event(None, usage(14, 901)) + DONE)
    assert subject.ended is Ended.COMPLETE, "an engine that misreports has not gone past its limit"
    assert text_of(validate_stream("chat.completion.chunk", forward)) == " 1 900 901"
    charge = subject.charge()
    assert charge.used.completion_tokens <= 5
    assert "usage_invalid" in charge.detail["flags"]


@given(
    st.lists(st.integers(0, 60), max_size=12),
    st.integers(1, 20),
    st.lists(st.integers(0, 3000), max_size=4).map(sorted),
)
def test_no_stream_is_charged_above_its_hold_and_every_one_ends_well(
    counts: list[int], limit: int, cuts: list[int]
) -> None:
    most = max([0, *counts])
    finish = event({}, usage(14, most), finish="stop")
    sent = ROLE + counted(*counts) + finish + event(None, usage(14, most)) + DONE
    subject = meter(completion=limit, usage_asked=True)
    forward = b""
    for start, stop in zip([0, *cuts], [*cuts, len(sent)], strict=True):
        forward += subject.feed(sent[start:stop], at_s=101.0).forward
    forward += subject.end(at_s=102.0).forward
    chunks = validate_stream("chat.completion.chunk", forward)
    assert subject.charge().used.completion_tokens <= limit
    assert chunks[-2]["usage"]["completion_tokens"] <= max(limit, most)
    assert forward.endswith(DONE)
    assert forward.count(DONE) == 1
    if subject.ended is Ended.LIMIT:
        spent = subject.charge().used.completion_tokens + subject.wasted.completion
        assert spent >= most


# --- whole answers, prompts, prices ---


def test_json_past_the_limit_goes_on_whole_and_costs_the_hold() -> None:
    subject, forward = run(completion(used=usage(14, 40)), meter(JSON, completion=5))
    answer = orjson.loads(forward)
    validate("chat.completion", answer)
    assert answer["choices"][0]["message"]["content"] == "hi"
    assert answer["usage"]["completion_tokens"] == 5, "what the client is told is what it pays"
    assert subject.charge().used == Amounts.of(14, 5)
    assert (subject.charge().detail["flags"], subject.charge().estimated) == ("over_limit", False)
    assert subject.wasted.completion == 35
    assert subject.answer() is None


def test_a_prompt_above_its_bound_costs_the_bound() -> None:
    subject, forward = run(completion(), meter(JSON, prompt=10))
    assert subject.charge().used == Amounts.of(10, 4)
    assert subject.charge().detail["flags"] == "prompt_over_bound"
    assert orjson.loads(forward)["usage"]["total_tokens"] == 14
    assert subject.wasted.total == 0, "a report that cannot be true is no waste either"


def test_money_has_a_price_for_cached_tokens_and_is_rounded_up_once() -> None:
    """11 tokens at 2.5, 3 at 0.25 and 4 at 10 micro-USD: 27.5 + 0.75 + 40 + 7."""
    price = "2500000,250000,10000000,7"
    subject, _ = run(completion(), meter(JSON, price=price))
    charge = subject.charge()
    assert charge.used == Amounts.of(14, 4, micro_usd=76)
    assert charge.detail["price"] == price
    failed, _ = run(orjson.dumps({"object": "error", "message": "x", "code": 503}), meter(JSON, price=price))
    assert failed.charge().used == Amounts()


def test_money_never_exceeds_the_hold() -> None:
    dear = meter(JSON, price="1000000,9000000,1000000,0", prompt=14, completion=4)
    assert run(completion(), dear)[0].charge().used == Amounts.of(14, 4, micro_usd=18)


def test_several_prompts_and_choices_share_one_hold() -> None:
    answer = orjson.loads(completion(choices=4))
    answer["object"] = "text_completion"
    for choice in answer["choices"]:
        choice["text"] = choice.pop("message")["content"]
    answer["usage"] = usage(60, 4 * 5)
    subject, _ = run(orjson.dumps(answer), meter(JSON, endpoint="completions", choices=4, completion=5))
    assert subject.charge().used == Amounts.of(60, 20)
    assert subject.charge().detail["flags"] == ""


def test_what_an_attempt_without_an_answer_reported_is_waste() -> None:
    subject, _ = run(completion("abort", used=usage(14, 9)), meter(JSON))
    assert subject.error is not None
    error = b'data: {"error":{"message":"x","type":"X","param":null,"code":503}}\n\n'
    subject, _ = run(error + event(None, usage(14, 3)) + DONE)
    assert subject.charge().used == Amounts()
    assert subject.wasted.total == 17
