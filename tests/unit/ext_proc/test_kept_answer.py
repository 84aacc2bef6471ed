"""What is never stored, whatever form it came in, and who is asked before something is."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import orjson
import pytest

from ext_proc.cache.personal_data import CHARS_MAX
from ext_proc.charge import Ended
from ext_proc.phases.settlement import settled
from ext_proc.vocabulary import Deed, Land, Settle, Store
from gateway.openai.stored_answer import read_stored
from tests.unit.ext_proc.engine_answers import (
    DONE,
    FINISH,
    FRAME,
    JSON,
    WHOLE,
    completion,
    event,
    meter,
    run,
    usage,
    words,
)
from tests.unit.ext_proc.tapped import PLACE, record

CLOSING = event(None, usage(14, 4)) + DONE


def function(arguments: Any, name: str = "add") -> dict[str, Any]:
    return {"name": name, "arguments": arguments}


def calls(*arguments: Any) -> dict[str, Any]:
    made = [
        {"index": index, "id": f"c{index}", "type": "function", "function": function(text)}
        for index, text in enumerate(arguments)
    ]
    return {"content": None, "tool_calls": made}


def whole(message: dict[str, Any], finish: str = "stop") -> bytes:
    answer = orjson.loads(completion(finish))
    answer["choices"][0]["message"] = {"role": "assistant", **message}
    return orjson.dumps(answer)


def streamed(message: dict[str, Any], finish: str = "stop") -> bytes:
    return event({"role": "assistant", **message}, usage(14, 4)) + event({}, finish=finish) + CLOSING


def answered(message: dict[str, Any], finish: str = "stop", **changed: Any) -> set[bool]:
    """Whether it is stored, as JSON and as a stream."""
    as_json, _ = run(whole(message, finish), meter(JSON, **changed))
    as_stream, _ = run(streamed(message, finish), meter(**changed))
    assert as_json.ended is as_stream.ended is Ended.COMPLETE
    return {as_json.answer() is not None, as_stream.answer() is not None}


@pytest.mark.parametrize(
    ("message", "finish", "stored"),
    [
        ({"content": "hi"}, "stop", True),
        ({"content": "hi"}, "tool_calls", True),
        ({"content": "hi"}, "length", False),
        ({"content": "hi"}, "content_filter", False),
        ({"content": ""}, "stop", False),
        ({"content": None}, "stop", False),
        ({"content": " \n"}, "stop", False),
        ({"content": "", "reasoning_content": "hm"}, "stop", False),
        ({"content": "hi", "reasoning_content": "hm"}, "stop", True),
        ({"content": "hi", "reasoning_content": 5}, "stop", False),
        ({"content": "hi", "refusal": ""}, "stop", True),
        ({"content": "hi", "refusal": "I cannot"}, "stop", False),
        ({"content": None, "refusal": "I cannot"}, "stop", False),
        (calls('{"a":1}'), "tool_calls", True),
        (calls('{"a":1}', "{}"), "tool_calls", True),
        (calls('{"a":1}'), "length", False),
        (calls('{"a":'), "tool_calls", False),
        (calls('{"a":1}', '{"a":1}}'), "tool_calls", False),
        (calls("[1]"), "tool_calls", False),
        (calls(""), "tool_calls", False),
    ],
)
def test_only_what_is_whole_is_stored(message: dict[str, Any], finish: str, stored: bool) -> None:
    assert answered(message, finish) == {stored}


def test_a_streamed_call_that_was_never_named_is_not_stored() -> None:
    nameless = {"index": 0, "id": "c0", "type": "function", "function": {"name": None, "arguments": "{}"}}
    subject, _ = run(streamed({"content": None, "tool_calls": [nameless]}, "tool_calls"))
    assert (subject.ended, subject.answer()) == (Ended.COMPLETE, None)


def test_an_old_function_call_is_stored_if_its_arguments_are_json() -> None:
    for arguments, stored in (("{}", True), ("{", False)):
        body = whole({"content": None, "function_call": function(arguments)}, "function_call")
        assert (run(body, meter(JSON))[0].answer() is not None) == stored


@pytest.mark.parametrize(("text", "stored"), [("hi", True), ("", False), (" ", False)])
def test_a_text_completion_without_text_is_not_stored(text: str, stored: bool) -> None:
    choice = {"index": 0, "text": text, "logprobs": None, "finish_reason": "stop"}
    body = orjson.dumps({"object": "text_completion", "choices": [choice], "usage": usage(14, 4)})
    assert (run(body, meter(JSON, endpoint="completions"))[0].answer() is not None) == stored


def test_one_choice_that_is_not_whole_keeps_all_out() -> None:
    said = event({"content": "a"}, usage(14, 3), index=0) + event({"content": "b"}, usage(14, 5), index=1)
    for finish, stored in (("stop", True), ("length", False)):
        ends = event({}, index=0, finish="stop") + event({}, index=1, finish=finish)
        subject, _ = run(said + ends + event(None, usage(14, 12)) + DONE, meter(choices=2))
        assert (subject.answer() is not None) == stored


@pytest.mark.parametrize(
    "stream",
    [
        words("hel", "lo") + FRAME + event(None, usage(14, 4)) + DONE,
        words("hel", "lo") + FINISH + FRAME + event(None, usage(14, 4)) + DONE,
        words("hel", "lo") + event(None, usage(14, 4)) + DONE,
        words("hel", "lo") + FINISH + event(None, usage(14, 4)),
        words("hel", "lo") + FINISH + DONE,
        b"",
    ],
    ids=["error", "error at the end", "no finish", "no [DONE]", "no usage", "nothing"],
)
def test_a_stream_that_failed_or_did_not_end_is_not_stored(stream: bytes) -> None:
    subject, _ = run(stream)
    assert subject.answer() is None
    assert list(subject.answer_texts()) == []


def test_nothing_is_kept_of_an_answer_that_nobody_will_store() -> None:
    assert run(WHOLE, meter(keep_answer=False))[0].answer() is None
    assert run(completion(), meter(JSON, keep_answer=False))[0].answer() is None


# --- who is asked ---

SAID = {**calls('{"card":"4111"}'), "content": "so", "reasoning_content": "hm"}
TEXTS = ["so", "hm", "add", '{"card":"4111"}']


def test_the_texts_of_an_answer_are_all_that_the_model_wrote() -> None:
    for subject, _ in (run(whole(SAID), meter(JSON)), run(streamed(SAID))):
        assert list(subject.answer_texts()) == TEXTS
        stored = subject.answer()
        assert stored is not None
        assert orjson.loads(read_stored(stored)[0])["choices"][0]["message"]["content"] == "so"


def test_of_a_truncated_answer_there_are_no_texts() -> None:
    assert list(run(whole(SAID, "length"), meter(JSON))[0].answer_texts()) == []


MARIA = "Write to maria.sanchez@acme-widgets.com"


@pytest.mark.parametrize("detectors", [("email",), ()])
def test_an_answer_in_which_a_detector_finds_something_is_not_stored(detectors: tuple[str, ...]) -> None:
    place = replace(PLACE, detectors=detectors).to_text()
    for subject in (run(whole({"content": MARIA}), meter(JSON))[0], run(streamed({"content": MARIA}))[0]):
        deeds = settled(record(cache_key=place), subject, upstream="")
        assert_kept(deeds, kept=not detectors)


def test_the_detectors_bound_is_one_of_the_whole_answer() -> None:
    half = "word " * (CHARS_MAX // 10 + 1)
    message = {"content": half, "reasoning_content": half}
    for detectors in (("email",), ()):
        place = replace(PLACE, detectors=detectors).to_text()
        subject = run(whole(message), meter(JSON))[0]
        assert_kept(settled(record(cache_key=place), subject, upstream=""), kept=not detectors)


def assert_kept(deeds: tuple[Deed, ...], *, kept: bool) -> None:
    assert any(isinstance(deed, Settle) for deed in deeds), "it is charged either way"
    assert any(isinstance(deed, Store) for deed in deeds) is kept
    assert any(isinstance(deed, Land) for deed in deeds) is not kept
