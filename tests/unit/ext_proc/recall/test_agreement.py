"""Two answers: the same, another, or neither can be told."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from ext_proc.recall.agreement import READ_CHARS_MAX, Answer, Verdict, agreement, read_answer

LONG = (
    "You can return any unused item within 30 days of delivery. Open your orders, choose the item and print "
    "the label. We refund the price once the parcel has reached our warehouse, usually within a week."
)
REWORDED = (
    "Any unused item can be returned within 30 days of delivery. Choose the item in your orders, print the "
    "label and send the parcel. Once it has reached our warehouse, we refund the price within a week."
)
OTHER = (
    "Photosynthesis turns light, water and carbon dioxide into sugar and oxygen. It happens in the "
    "chloroplasts of green plants, where chlorophyll catches the light that drives the whole reaction."
)


@pytest.mark.parametrize(
    ("first", "second", "verdict", "reason"),
    [
        ("Paris.", "  paris. ", "agree", "equal"),
        ("Paris", "The capital is Paris.", "agree", "words"),
        ("Paris", "Lyon", "disagree", "words"),
        ("It is 42.", "42", "agree", "words"),
        ("1,500 dollars", "1500 dollars", "agree", "words"),
        ("30 days", "14 days", "disagree", "number"),
        ("On 2024-05-01", "On 2024-06-01", "disagree", "number"),
        ("Yes.", "No.", "disagree", "polarity"),
        ("Yes, you can.", "No, that is not possible.", "disagree", "polarity"),
        ("Ja, das geht.", "Nein, das geht nicht.", "disagree", "polarity"),
        ("Yes", "Yes, certainly.", "agree", "words"),
        ("Dogs may enter the park.", "Dogs may not enter the park.", "disagree", "negation"),
        ("Dogs can enter the park.", "Dogs can't enter the park.", "disagree", "negation"),
        ("Use the red button", "Use the red lever", "unsure", "short"),
        ("東京です。", "東京です", "agree", "words"),
        ('{"a": 1, "b": [2]}', '{"b":[2],"a":1}', "agree", "json"),
        (LONG, REWORDED, "agree", "overlap"),
        (LONG, OTHER, "disagree", "topic"),
        (LONG, REWORDED.replace("30 days", "14 days"), "disagree", "number"),
        (LONG, REWORDED.replace("can be", "can not be"), "disagree", "negation"),
        (LONG, REWORDED.replace("a week", "8 days"), "unsure", "mixed"),
        (LONG, REWORDED.replace("unused", "used"), "disagree", "prefix"),
        (LONG, REWORDED.replace("item can", "item from Sweden can"), "unsure", "mixed"),
        ("Yes. " + LONG, "No. " + LONG, "disagree", "polarity"),
    ],
)
def test_texts(first: str, second: str, verdict: str, reason: str) -> None:
    for one, other in ((first, second), (second, first)):
        found = agreement(Answer(text=one), Answer(text=other))
        assert (found.verdict.value, found.reason) == (verdict, reason)


@pytest.mark.parametrize(
    ("first", "second", "verdict", "reason"),
    [
        ([("f", '{"a":1,"b":2}')], [("f", '{"b":2, "a":1}')], "agree", "tool_calls"),
        ([("f", "{}"), ("g", "{}")], [("g", "{}"), ("f", "{}")], "agree", "tool_calls"),
        ([("f", '{"city":"Rome"}')], [("f", '{"city":"Oslo"}')], "disagree", "tool_calls"),
        ([("f", "{}")], [("g", "{}")], "disagree", "tool_calls"),
        ([("f", "{}")], [("f", "{}"), ("f", "{}")], "disagree", "tool_calls"),
        ([("f", "{}")], [], "disagree", "tool_calls"),
        ([("f", "not json")], [("f", "not json")], "agree", "tool_calls"),
        (
            [("f", '{"q":["how to mend a bike"]}')],
            [("f", '{"q":["mending of a bike"]}')],
            "unsure",
            "tool_arguments",
        ),
        ([("f", "{}")] * 65, [("f", "{}")] * 65, "unsure", "too_many"),
    ],
)
def test_tool_calls(first: Any, second: Any, verdict: str, reason: str) -> None:
    for one, other in ((first, second), (second, first)):
        found = agreement(Answer(text="", calls=tuple(one)), Answer(text="", calls=tuple(other)))
        assert (found.verdict.value, found.reason) == (verdict, reason)


def test_what_is_not_whole_says_nothing() -> None:
    for first, second in ((False, True), (True, False)):
        found = agreement(Answer(text="30 days", whole=first), Answer(text="14 days", whole=second))
        assert (found.verdict, found.reason) == (Verdict.UNSURE, "truncated")


def test_only_the_beginning_is_read() -> None:
    tail = "x" * READ_CHARS_MAX
    assert agreement(Answer(text=tail + " yes"), Answer(text=tail + " no")).reason == "equal"
    deep = "[" * 100_000
    found = agreement(Answer(text=deep + "1"), Answer(text="[" + deep))
    assert found.verdict is Verdict.AGREE  # neither is JSON, and the parts that are read are equal


def test_deep_json_is_text() -> None:
    deep = "[" * 400 + "]" * 400
    found = agreement(Answer(text="", calls=(("f", deep),)), Answer(text="", calls=(("f", "[]"),)))
    assert found.verdict is Verdict.DISAGREE
    assert agreement(Answer(text=deep), Answer(text="[1]")).verdict is not Verdict.AGREE


def choice(**fields: Any) -> bytes:
    return orjson.dumps({"choices": [{"index": 0, "finish_reason": "stop", **fields}]})


def test_completions_are_read() -> None:
    assert read_answer(choice(message={"content": "a"})) == Answer(text="a")
    assert read_answer(choice(text="b")) == Answer(text="b")
    assert read_answer(choice(message={"content": "a"}, finish_reason="length")) == Answer(
        text="a", whole=False
    )
    assert read_answer(choice(message={"content": None, "refusal": "I can't"})) == Answer(
        text="", whole=False
    )
    calls = [{"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}, 7]
    assert read_answer(choice(message={"content": None, "tool_calls": calls})) == Answer(
        text="", calls=(("f", "{}"), ("", ""))
    )


@pytest.mark.parametrize(
    "body",
    [b"", b"null", b"[]", b"{}", b"<html>", b'{"choices":7}', b'{"choices":[]}', b'{"choices":[{},{}]}',
     b'{"choices":[7]}', b'{"choices":[{"message":7}]}', b'{"error":{"message":"x"}}', b"\xff\xfe"],
)  # fmt: skip
def test_rubbish_is_no_answer(body: bytes) -> None:
    assert read_answer(body) is None
