"""A stream replayed from the cache has the chunks of the first: the same deltas in the same order, whatever
of usage the second client asks for."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise, product
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.lib.streaming.chat import ChatCompletionStreamState
from openai.types.chat import ChatCompletionChunk

from ext_proc.metering import Meter
from gateway.openai import pieces
from gateway.openai.answers import write_json
from gateway.openai.mending import answer_id
from gateway.openai.replay import NotReplayable, cached_answer_to_json, cached_answer_to_sse
from gateway.openai.stored_answer import read_stored, write_stored
from tests.unit.ext_proc.engine_answers import DONE, FINISH, completion, event, meter, run, usage, words
from tests.unit.openai.test_mending import ENDPOINTS, FAILING, STREAMS, meter_for
from tests.unit.openai.test_replay import chunks_of

ASKED = list(product((False, True), repeat=2))
"""Usage at the end, continuous usage."""
CLOSING = b'data: {"object":"%s","choices":[],"usage":{"prompt_tokens":40,"completion_tokens":90}}\n\n'
WHOLE_STREAMS = [item for item in STREAMS if not FAILING.search(item["case"])]


def untruncated(item: Mapping[str, Any]) -> bytes:
    """A recording as it would be with enough tokens, and with the usage that we ask every engine for."""
    text = str(item["text"]).replace('"finish_reason":"length"', '"finish_reason":"stop"').encode()
    if b'"choices":[],' in text:
        return text
    kind = b"text_completion" if item["case"].startswith("text") else b"chat.completion.chunk"
    return text.replace(DONE, CLOSING % kind + DONE)


def as_seen(stream: bytes, subject: Meter) -> tuple[bytes, bytes | None]:
    """What the first client sees, and what is stored."""
    _, forward = run(stream, subject)
    return forward, subject.answer()


@pytest.mark.parametrize("asked", ASKED, ids=str)
@pytest.mark.parametrize("item", WHOLE_STREAMS, ids=lambda item: item["case"])
def test_a_recorded_stream_is_replayed_as_it_was(item: dict[str, Any], asked: tuple[bool, bool]) -> None:
    shown = {"usage_asked": asked[0], "continuous_usage_asked": asked[1]}
    forward, stored = as_seen(untruncated(item), meter_for(item, **shown))
    assert stored is not None
    identity = answer_id(ENDPOINTS[item["case"].split("-")[0]].value, "r-1")
    replay = cached_answer_to_sse(stored, answer_id=identity, **shown)
    assert chunks_of(replay) == chunks_of(forward)


# --- generated streams ---

TEXT = st.text(max_size=8)
DELTAS: st.SearchStrategy[dict[str, Any]] = st.one_of(
    st.fixed_dictionaries({"content": TEXT}),
    st.fixed_dictionaries({"content": TEXT, "reasoning_content": st.none()}),
    st.fixed_dictionaries({"reasoning_content": TEXT, "content": st.none()}),
    st.fixed_dictionaries({"content": TEXT, "reasoning_content": TEXT}),
    st.just({}),
)


def called(index: int, *, opens: bool, arguments: str) -> dict[str, Any]:
    named = {"name": f"f{index}", "arguments": arguments}
    function = named if opens else {"name": None, "arguments": arguments}
    call = {"index": index, "function": function}
    return {
        "tool_calls": [{"id": f"c{index}", "type": "function", **call} if opens else {"id": None, **call}]
    }


@st.composite
def streams(draw: st.DrawFn) -> tuple[bytes, int]:
    """Of one to three choices, interleaved, with continuous usage in some chunks, calls at the end."""
    choices = draw(st.integers(1, 3))
    made = [0] * choices
    stream = b"".join(
        event({"role": "assistant", "content": ""}, index=index) for index in range(choices)
    ) + b"".join(event({"content": "said "}, usage(14, 1), index=index) for index in range(choices))
    for index, delta, reports in draw(
        st.lists(st.tuples(st.integers(0, choices - 1), DELTAS, st.booleans()), max_size=20)
    ):
        made[index] += 1
        used = usage(14, 2 * made[index] + 1, draw(st.integers(0, 14))) if reports else None
        stream += event(delta, used, index=index)
    for index in range(choices):
        cuts = sorted(draw(st.lists(st.integers(0, 9), max_size=3)))
        arguments = '{"a":"b🎈"}'
        for position in range(draw(st.integers(0, 2))):
            stream += event(called(position, opens=True, arguments=""), index=index)
            for start, end in pairwise([0, *cuts, len(arguments)]):
                stream += event(called(position, opens=False, arguments=arguments[start:end]), index=index)
        stream += event({}, index=index, finish="stop")
    total = sum(2 * count + 1 for count in made) + 200
    return stream + event(None, usage(14, total, 3)) + DONE, choices


def subject_for(choices: int, asked: tuple[bool, bool]) -> Meter:
    return meter(choices=choices, usage_asked=asked[0], continuous_usage_asked=asked[1])


def accumulated(chunks: list[dict[str, Any]]) -> list[tuple[str, list[tuple[str, str, str]]]]:
    """Content and calls of each choice by the rules of OpenAI's SDK."""
    state = ChatCompletionStreamState()
    for chunk in chunks:
        state.handle_chunk(ChatCompletionChunk.model_validate(chunk))
    found = []
    for choice in state.current_completion_snapshot.choices:
        calls = [
            (call.id, call.function.name, call.function.arguments) for call in choice.message.tool_calls or ()
        ]
        found.append((choice.message.content or "", calls))
    return found


@given(streams(), st.sampled_from(ASKED))
def test_any_stream_is_replayed_as_it_was(made: tuple[bytes, int], asked: tuple[bool, bool]) -> None:
    stream, choices = made
    forward, stored = as_seen(stream, subject_for(choices, asked))
    assert stored is not None
    replay = cached_answer_to_sse(
        stored, answer_id="chatcmpl-r-1", usage_asked=asked[0], continuous_usage_asked=asked[1]
    )
    chunks = chunks_of(replay)
    assert chunks == chunks_of(forward)
    whole = orjson.loads(cached_answer_to_json(stored, answer_id="new"))
    assert accumulated(chunks) == said_in(whole)
    assert stored == as_seen(stream, subject_for(choices, (False, False)))[1], "whoever asked first"


def said_in(whole: dict[str, Any]) -> list[tuple[str, list[tuple[str, str, str]]]]:
    return [
        (
            choice["message"]["content"] or "",
            [
                (call["id"], call["function"]["name"], call["function"]["arguments"])
                for call in choice["message"].get("tool_calls", ())
            ],
        )
        for choice in whole["choices"]
    ]


@given(streams())
def test_json_as_a_stream_adds_up_to_itself(made: tuple[bytes, int]) -> None:
    stream, choices = made
    _, stored = as_seen(stream, subject_for(choices, (False, False)))
    assert stored is not None
    as_json, recorded = read_stored(stored)
    assert recorded
    replay = cached_answer_to_sse(write_stored(as_json), answer_id="new", usage_asked=True)
    assert accumulated(chunks_of(replay)) == said_in(orjson.loads(as_json))


# --- bounds ---


@pytest.mark.parametrize("bound", ["PIECES_MAX", "SHAPES_MAX"])
def test_what_comes_after_the_bound_is_one_piece_for_each_field(
    monkeypatch: pytest.MonkeyPatch, bound: str
) -> None:
    monkeypatch.setattr(pieces, bound, 2)
    stream = words("one ", "two ", "three ") + event({"reasoning_content": "so"}) + event({"content": "four"})
    _, stored = as_seen(stream + FINISH + event(None, usage(14, 9)) + DONE, meter())
    assert stored is not None
    chunks = chunks_of(cached_answer_to_sse(stored, answer_id="new", usage_asked=False))
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    said = [delta["content"] for delta in deltas if delta.get("content")]
    assert said == (
        ["one ", "two three four"] if bound == "PIECES_MAX" else ["one ", "two ", "three ", "four"]
    )
    assert [delta["reasoning_content"] for delta in deltas if delta.get("reasoning_content")] == ["so"]
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)


def test_a_call_that_was_cut_by_the_bound_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "PIECES_MAX", 2)
    stream = b"".join(
        event(called(index, opens=opens, arguments=piece))
        for index, opens, piece in ((0, True, ""), (0, False, '{"a"'), (0, False, ":1}"), (1, True, "{}"))
    )
    ends = event({}, finish="tool_calls") + event(None, usage(14, 40)) + DONE
    _, stored = as_seen(stream + ends, meter())
    assert stored is not None
    chunks = chunks_of(cached_answer_to_sse(stored, answer_id="new", usage_asked=False))
    assert accumulated(chunks) == [("", [("c0", "f0", '{"a":1}'), ("c1", "f1", "{}")])]
    assert len(chunks) == 5


def test_a_chunk_costs_few_bytes() -> None:
    """Three: its shape, its length, its step of usage."""
    texts = [f"word {number} " for number in range(500)]
    stream = words(*texts) + FINISH + event(None, usage(14, 1000)) + DONE
    _, stored = as_seen(stream, meter(completion=2000))
    assert stored is not None
    as_json, recorded = read_stored(stored)
    assert len(recorded) < 3 * 500 + 400
    assert len(as_json) < len("".join(texts)) + 600


def test_usage_never_falls_and_ends_at_the_sum() -> None:
    """Also where the engine's own did: the pieces are read by themselves."""
    subject = pieces.Pieces()
    for count in (3, 5, 4, 90):
        choices = [{"index": 0, "delta": {"content": "x"}}]
        subject.add({"choices": choices, "usage": usage(14, count)}, choices)
    whole = orjson.loads(completion())
    whole["choices"][0]["message"]["content"] = "xxxx"
    stored = write_stored(write_json(whole) or b"", subject.to_bytes())
    chunks = chunks_of(
        cached_answer_to_sse(stored, answer_id="new", usage_asked=True, continuous_usage_asked=True)
    )
    assert [chunk["usage"]["completion_tokens"] for chunk in chunks] == [3, 4, 4, 4, 4, 4]
    assert [chunk["usage"]["total_tokens"] for chunk in chunks[:-2]] == [17, 18, 18, 18]


# --- what is not of this form ---


def a_stored_stream() -> bytes:
    _, stored = as_seen(words("hel", "lo") + FINISH + event(None, usage(14, 4, 13)) + DONE, meter())
    assert stored is not None
    return stored


def test_another_version_and_a_value_without_one_are_misses() -> None:
    stored = a_stored_stream()
    for other in (completion(), b"", stored[:3], stored[:3] + b"\x02" + stored[4:], stored[:-1], stored[:11]):
        with pytest.raises(NotReplayable):
            cached_answer_to_sse(other, answer_id="new", usage_asked=True)
        with pytest.raises(NotReplayable):
            cached_answer_to_json(other, answer_id="new")


@given(st.integers(0, len(a_stored_stream()) - 1), st.integers(1, 255))
def test_a_damaged_value_is_a_miss(place: int, change: int) -> None:
    damaged = bytearray(a_stored_stream())
    damaged[place] ^= change
    for read in (cached_answer_to_json, cached_answer_to_sse):
        with pytest.raises(NotReplayable):
            read(bytes(damaged), answer_id="new", **({"usage_asked": True} if "sse" in read.__name__ else {}))


@given(st.binary(max_size=40), st.integers(0, 400), st.sampled_from(ASKED))
def test_pieces_that_fit_no_completion_are_a_miss_or_a_stream(
    junk: bytes, place: int, asked: tuple[bool, bool]
) -> None:
    """A checksum made right over wrong pieces: nothing but NotReplayable is raised."""
    as_json, recorded = read_stored(a_stored_stream())
    stored = write_stored(as_json, recorded[:place] + junk + recorded[place + len(junk) :])
    try:
        replay = cached_answer_to_sse(
            stored, answer_id="new", usage_asked=asked[0], continuous_usage_asked=asked[1]
        )
    except NotReplayable:
        return
    assert chunks_of(replay)[0]["id"] == "new"
