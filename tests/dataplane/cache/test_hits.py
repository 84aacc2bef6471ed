"""What is answered from the cache, and how: by every kind of likeness, as JSON and as a stream."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.dataplane.cache.served import Cached, Said
from tests.harness.gateway import until

ENTRY_CHARS = 64
TOOL: dict[str, Any] = {
    "type": "function",
    "function": {"name": "get_tariff", "parameters": {"type": "object", "properties": {"zone": {}}}},
}


def chunks(text: str) -> list[dict[str, Any]]:
    """The events of a stream, without what is another one's in each answer."""
    events = [line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: ")]
    assert events.pop() == "[DONE]"
    return [
        {name: value for name, value in json.loads(event).items() if name not in ("id", "created")}
        for event in events
    ]


def test_the_same_question_is_answered_with_the_same_answer(cached: Cached) -> None:
    first = cached.kept("Which herbs grow well in shade?")
    assert first.cache.startswith("miss ")
    again = cached.ask("Which herbs grow well in shade?")
    assert (again.status, again.cache, again.content) == (200, "hit exact", first.content)
    assert again.body["usage"] == first.body["usage"]
    assert again.body["id"] != first.body["id"]
    assert len(again.entry) == ENTRY_CHARS
    assert 0 <= int(again.headers["age"]) < 60
    assert "x-tidegate-cache-similarity" not in again.headers
    assert cached.reached_engine(first)
    assert not cached.reached_engine(again)


def test_the_same_canonical_text_needs_no_model(cached: Cached) -> None:
    first = cached.kept("How do I reset my password?")
    entry = cached.peek("How do I reset my password?").entry
    for other in ("how can I reset my password", "Please tell me how to reset my password"):
        said = cached.found(other, "hit canonical")
        assert (said.entry, said.content) == (entry, first.content)


def test_the_same_words_in_another_order_are_found_by_recall(cached: Cached) -> None:
    first = cached.kept("How do I install Python on Windows?")
    said = cached.found("On Windows, how do I install Python?", "hit semantic")
    assert said.content == first.content
    assert said.entry == cached.peek("How do I install Python on Windows?").entry
    assert 0.8 <= float(said.headers["x-tidegate-cache-similarity"]) <= 1
    finds = cached.metric("tidegate_recall_finds_total", result="found")
    assert finds >= 1


@pytest.mark.parametrize(
    ("stored", "asked", "guard"),
    [
        ("How many litres are in 3 gallons?", "How many litres are in 4 gallons?", "number"),
        ("Which plants are toxic for cats?", "Which plants are not toxic for cats?", "negation"),
    ],
)
def test_a_guarded_near_pair_is_a_miss_with_its_reason(
    cached: Cached, stored: str, asked: str, guard: str
) -> None:
    cached.kept(stored)
    said = cached.found(asked, f"miss guard.{guard}")
    assert (said.status, said.body["error"]["code"]) == (504, "not_cached")
    assert f"near guard.{guard}" in said.headers["x-tidegate-cache-trace"]
    assert not cached.ask(asked, late=True).cache.startswith("hit")


def test_a_trace_shows_no_word_of_a_question(cached: Cached) -> None:
    cached.kept("How do gooseberries ripen in Norway?")
    said = cached.peek("How do unripe gooseberries ripen in Norway?")
    for word in ("gooseberr", "norway", "ripe"):
        assert word not in said.headers["x-tidegate-cache-trace"].lower()


def test_another_conversation_or_caller_is_another_question(cached: Cached) -> None:
    question = "Where does the Danube begin?"
    cached.kept(question)
    earlier = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    for fields in (
        {"messages": [*earlier, {"role": "user", "content": question}]},
        {"messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": question}]},
        {"temperature": 0.1},
        {"max_tokens": 199},
        {"org": "other"},
    ):
        assert cached.peek(question, **fields).status == 504, fields


def test_an_org_whose_rule_is_off_is_never_answered(cached: Cached) -> None:
    for _ in range(2):
        assert cached.ask("What is a fjord?", org="uncached", temperature=0).cache == "bypass mode_off"


@pytest.mark.parametrize("first_stream", [True, False])
def test_json_and_streams_share_an_entry(cached: Cached, first_stream: bool) -> None:
    question = f"How do tides work near Bergen {'often' if first_stream else 'rarely'}?"
    usage = {"include_usage": True}
    first = cached.kept(question, **({"stream": True, "stream_options": usage} if first_stream else {}))

    def forms() -> tuple[Said, Said, Said] | None:
        """Of one stored answer: a second one may have been stored, and a worker may remember the first."""
        json_form = cached.ask(question)
        stream = cached.ask(question, stream=True)
        with_usage = cached.ask(question, stream=True, stream_options=usage)
        assert {json_form.cache, stream.cache, with_usage.cache} == {"hit exact"}
        same = chunks(with_usage.text)[-1]["usage"] == json_form.body["usage"]
        return (json_form, stream, with_usage) if same else None

    json_form, stream, with_usage = until(forms, "the forms of one answer")
    told = chunks(stream.text)
    said = "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in told)
    assert said == json_form.content
    assert all(chunk.get("usage") is None for chunk in told)
    last = chunks(with_usage.text)[-1]
    assert (last["choices"], last["usage"]) == ([], json_form.body["usage"])
    if first_stream:
        assert chunks(with_usage.text) == chunks(first.text)


def streamed(*deltas: dict[str, Any], finish: str) -> dict[str, Any]:
    """A scripted engine's whole stream."""
    base = {"id": "x", "object": "chat.completion.chunk", "created": 1, "model": "smollm2-135m"}
    usage = {"prompt_tokens": 20, "completion_tokens": len(deltas), "total_tokens": 20 + len(deltas)}
    events = [{**base, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]} for delta in deltas]
    events.append({**base, "choices": [{"index": 0, "delta": {}, "finish_reason": finish}]})
    events.append({**base, "choices": [], "usage": usage})
    body = "".join(f"data: {json.dumps(event)}\n\n" for event in events) + "data: [DONE]\n\n"
    return {"junk": body, "stream": True}


def test_a_replayed_stream_has_the_reasoning_and_the_tool_calls_in_their_pieces(cached: Cached) -> None:
    def call(arguments: str, **first: Any) -> dict[str, Any]:
        return {"tool_calls": [{"index": 0, **first, "function": {"arguments": arguments}}]}

    named = call("")
    named["tool_calls"][0] |= {"id": "call_7", "type": "function"}
    named["tool_calls"][0]["function"]["name"] = "get_tariff"
    deltas: tuple[dict[str, Any], ...] = (
        {"role": "assistant", "content": "", "reasoning_content": None},
        *({"reasoning_content": text} for text in ("Zones ", "matter", " here.")),
        *({"content": text} for text in ("Let me ", "look.")),
        *(named, call('{"zo'), call('ne": "B"'), call("}")),
    )
    cached.engine.script({"contains": "tariff of zone B", **streamed(*deltas, finish="tool_calls")})
    fields: dict[str, Any] = {"tools": [TOOL], "stream": True, "stream_options": {"include_usage": True}}
    first = cached.kept("What is the tariff of zone B?", **fields)
    again = cached.ask("What is the tariff of zone B?", **fields)
    assert again.cache == "hit exact"
    assert chunks(again.text) == chunks(first.text)
    message = cached.ask("What is the tariff of zone B?", tools=[TOOL]).body["choices"][0]["message"]
    assert message["reasoning_content"] == "Zones matter here."
    assert message["content"] == "Let me look."
    assert json.loads(message["tool_calls"][0]["function"]["arguments"]) == {"zone": "B"}


def test_the_official_client_reads_a_replayed_stream(cached: Cached) -> None:
    question = "Why is the sea salty?"
    first = cached.kept(question)
    with cached.sdk() as client:
        stream = client.chat.completions.create(
            model="smollm2-135m",
            messages=[{"role": "user", "content": question}],
            max_tokens=200,
            stream=True,
        )
        assert stream.response.headers["x-tidegate-cache"] == "hit"
        said = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
    assert said == first.content
