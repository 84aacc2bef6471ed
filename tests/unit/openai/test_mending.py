"""Every recorded answer of SGLang, as clients see it, is what OpenAI publishes; and each mend by itself."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import orjson
import pytest

from ext_proc.metering import Meter
from gateway.openai.answer_parts import Aborted, NotAnAnswer
from gateway.openai.mending import Mender, answer_id, system_fingerprint
from gateway.openai.replay import cached_answer_to_json, cached_answer_to_sse
from gateway.openai.terms import Endpoint
from tests.harness.openai_schema import validate, validate_stream
from tests.unit.ext_proc.engine_answers import bounds

RECORDINGS = Path(__file__).resolve().parents[3] / "inference" / "recordings"
KINDS = {"chat": "chat.completion", "text": "text_completion"}
ENDPOINTS = {"chat": Endpoint.CHAT, "text": Endpoint.COMPLETIONS, "tokenize": Endpoint.TOKENIZE}


def recorded() -> list[dict[str, Any]]:
    """The 200s of the paths that are metered."""
    found = [orjson.loads(path.read_bytes()) for path in sorted(RECORDINGS.glob("*.json"))]
    return [item for item in found if item["status"] == 200 and item["case"].split("-")[0] in ENDPOINTS]


def mender(endpoint: Endpoint = Endpoint.CHAT) -> Mender:
    return Mender(endpoint=endpoint.value, request_id="r-1", model="m", revision="1", created_s=7)


def meter_for(item: dict[str, Any], **changed: Any) -> Meter:
    endpoint = ENDPOINTS[item["case"].split("-")[0]]
    choices = len(set(re.findall(r'"index":(\d+),"(?:delta|message|text)"', item["text"])))
    plain: dict[str, Any] = {
        "content_type": item["headers"]["content-type"],
        "endpoint": endpoint.value,
        "mender": mender(endpoint),
        "bounds": bounds(prompt=10_000, completion=10_000, choices=max(1, choices)),
        "stream": "stream" in item["case"],
        "usage_asked": False,
        "continuous_usage_asked": False,
        "started_s": 0.0,
    }
    return Meter(**{**plain, **changed})


STREAMS = [item for item in recorded() if "stream" in item["case"]]
WHOLES = [item for item in recorded() if "stream" not in item["case"]]
FAILING = re.compile(r"aborted|queue-full|preempted")
"""Recordings of what is no answer, by their case."""


def test_there_are_recordings_of_each() -> None:
    assert len(STREAMS) >= 8
    assert len(WHOLES) >= 10


@pytest.mark.parametrize("item", WHOLES, ids=lambda item: item["case"])
def test_recorded_json(item: dict[str, Any]) -> None:
    subject = meter_for(item)
    subject.feed(item["text"].encode(), at_s=1)
    step = subject.end(at_s=2)
    kind = item["case"].split("-")[0]
    if FAILING.search(item["case"]):
        assert step.failed is not None
        assert step.failed.http_status == 503
    elif kind == "tokenize":
        assert orjson.loads(step.forward) == orjson.loads(item["text"])
    else:
        seen, said = orjson.loads(step.forward), orjson.loads(item["text"])
        validate(KINDS[kind], seen)
        assert (seen["id"], seen["model"]) == (answer_id(ENDPOINTS[kind].value, "r-1"), "m")
        assert seen["created"] == said["created"]
        for one, other in zip(seen["choices"], said["choices"], strict=True):
            same = {"finish_reason", "matched_stop", "text"} & other.keys()
            assert {name: one[name] for name in same} == {name: other[name] for name in same}
            assert one.get("message", {}).get("content") == other.get("message", {}).get("content")


@pytest.mark.parametrize("shown", [(False, False), (True, False), (True, True)], ids=str)
@pytest.mark.parametrize("item", STREAMS, ids=lambda item: item["case"])
def test_recorded_stream(item: dict[str, Any], shown: tuple[bool, bool]) -> None:
    subject = meter_for(item, usage_asked=shown[0], continuous_usage_asked=shown[1])
    forward = subject.feed(item["text"].encode(), at_s=1).forward + subject.end(at_s=2).forward
    kind = item["case"].split("-")[0]
    events = validate_stream(KINDS[kind] + ".chunk", forward)
    assert ("error" in events[-2]) == (bool(FAILING.search(item["case"])))
    chunks = [event for event in events[:-1] if "error" not in event]
    assert {chunk["id"] for chunk in chunks} <= {answer_id(ENDPOINTS[kind].value, "r-1")}
    if not shown[0]:
        assert all("usage" not in chunk for chunk in chunks)
    elif not shown[1]:
        assert all("usage" in chunk for chunk in chunks)


@pytest.mark.parametrize("item", [*STREAMS, *WHOLES], ids=lambda item: item["case"])
def test_recorded_answers_are_replayed_as_valid(item: dict[str, Any]) -> None:
    """As if none of them had been truncated: most were, and are not stored as they are."""
    subject = meter_for(item)
    subject.feed(item["text"].replace('"finish_reason":"length"', '"finish_reason":"stop"').encode(), at_s=1)
    subject.end(at_s=2)
    stored = subject.answer()
    kind = KINDS.get(item["case"].split("-")[0], "")
    complete = b'"usage":{' in item["text"].encode() and not FAILING.search(item["case"])
    complete = complete and item["case"] != "chat-no-tokens"
    assert (stored is not None) == (bool(kind) and complete)
    if stored is not None:
        validate(kind, orjson.loads(cached_answer_to_json(stored, answer_id="new")))
        for asked in (False, True):
            validate_stream(kind + ".chunk", cached_answer_to_sse(stored, answer_id="new", usage_asked=asked))


# --- each mend ---

WHOLE: dict[str, Any] = {
    "id": "e",
    "object": "x",
    "created": 5,
    "model": "engine",
    "choices": [{"index": 0, "message": {"role": None, "content": "a"}, "finish_reason": "stop"}],
}
TEXT: dict[str, Any] = {"choices": [{"index": 0, "text": "a", "logprobs": None, "finish_reason": "stop"}]}


def mended(endpoint: Endpoint = Endpoint.CHAT, **changed: Any) -> dict[str, Any]:
    answer = {**copy.deepcopy(WHOLE if endpoint is Endpoint.CHAT else TEXT), **changed}
    mender(endpoint).answer(answer)
    validate("chat.completion" if endpoint is Endpoint.CHAT else "text_completion", answer)
    return answer


def mended_choice(endpoint: Endpoint = Endpoint.CHAT, **changed: Any) -> dict[str, Any]:
    (first,) = (WHOLE if endpoint is Endpoint.CHAT else TEXT)["choices"]
    choice = mended(endpoint, choices=[{**copy.deepcopy(first), **changed}])["choices"][0]
    assert isinstance(choice, dict)
    return choice


def test_top() -> None:
    answer = mended()
    assert (answer["id"], answer["model"], answer["created"]) == ("chatcmpl-r-1", "m", 5)
    assert answer["system_fingerprint"] == system_fingerprint("m", "1")
    assert mended(created="x")["created"] == 7
    assert mended(Endpoint.COMPLETIONS)["id"] == "cmpl-r-1"
    assert "service_tier" not in mended(service_tier=["x"])
    assert mended(service_tier="default")["service_tier"] == "default"


def test_fingerprints() -> None:
    seen = {system_fingerprint(*pair) for pair in (("m", "1"), ("m", "2"), ("m1", ""), ("n", "1"))}
    assert len(seen) == 4
    assert all(len(text) == 13 and text.startswith("fp_") for text in seen)


@pytest.mark.parametrize(
    ("metadata", "kept"),
    [
        ({"weight_version": "d", "weight_versions": [1]}, {"weight_version": "d"}),
        ({"weight_versions": []}, None),
        ([], None),
        (None, None),
    ],
)
def test_metadata(metadata: Any, kept: Any) -> None:
    assert mended(metadata=metadata)["metadata"] == kept


def test_usage() -> None:
    plain = {"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 99}
    usage = mended(usage={**plain, "reasoning_tokens": 2, "prompt_tokens_details": None})["usage"]
    assert usage["total_tokens"] == 8
    assert usage["prompt_tokens_details"] == {"cached_tokens": 0}
    assert usage["completion_tokens_details"] == {"reasoning_tokens": 2}
    usage = mended(usage={**plain, "prompt_tokens_details": {"cached_tokens": 4, "audio_tokens": None}})[
        "usage"
    ]
    assert usage["prompt_tokens_details"] == {"cached_tokens": 4}
    for untrue in (None, 5, {}, {**plain, "prompt_tokens": -1}, {**plain, "completion_tokens": 1.5}):
        assert "usage" not in mended(usage=untrue)


def test_message() -> None:
    message = mended_choice()["message"]
    assert message == {"role": "assistant", "content": "a", "refusal": None}
    nulls = {"content": None, "tool_calls": None, "function_call": None, "annotations": None, "audio": None}
    assert mended_choice(message=nulls)["message"] == {"role": "assistant", "content": None, "refusal": None}


def test_tool_calls() -> None:
    calls = [{"id": None, "index": None, "function": {"name": "f", "arguments": {"a": 1}}}]
    (call,) = mended_choice(message={"content": None, "tool_calls": calls}, finish_reason="tool_calls")[
        "message"
    ]["tool_calls"]
    assert (call["id"], call["type"]) == ("call_r-1_0_0", "function")
    assert call["function"] == {"name": "f", "arguments": '{"a":1}'}


def test_chat_logprobs() -> None:
    token = {"token": "a", "logprob": None, "top_logprobs": [{"token": "b", "logprob": -1}]}
    logprobs = mended_choice(logprobs={"content": [token]})["logprobs"]
    assert logprobs["refusal"] is None
    assert logprobs["content"][0]["logprob"] == -9999.0
    assert logprobs["content"][0]["bytes"] is None
    assert mended_choice()["logprobs"] is None


def test_text_logprobs() -> None:
    logprobs = mended_choice(
        Endpoint.COMPLETIONS,
        logprobs={"tokens": ["a"], "token_logprobs": [None], "top_logprobs": [None], "text_offset": None},
    )["logprobs"]
    assert logprobs == {"tokens": ["a"], "token_logprobs": [0.0], "top_logprobs": [{}]}


CHUNK: dict[str, Any] = {"choices": [{"index": 0, "delta": {"content": "a"}, "finish_reason": None}]}


def test_chunks_of_one_stream_agree() -> None:
    subject = mender()
    seen = []
    for identity, created in (("a", 5), ("b", 6)):
        chunk = {**copy.deepcopy(CHUNK), "id": identity, "created": created}
        subject.chunk(chunk)
        seen.append((chunk["id"], chunk["created"], chunk["choices"][0]["logprobs"]))
    assert seen == [("chatcmpl-r-1", 5, None)] * 2


@pytest.mark.parametrize(
    ("delta", "becomes"),
    [
        (None, {}),
        ({"role": "assistant", "content": ""}, {"role": "assistant", "content": "", "refusal": None}),
        ({"role": None, "content": "a", "tool_calls": None}, {"content": "a"}),
        (
            {"tool_calls": [{"id": None, "type": None, "function": {"name": None, "arguments": "x"}}]},
            {"tool_calls": [{"function": {"arguments": "x"}, "index": 0}]},
        ),
        (
            {"tool_calls": [{"index": 2, "function": {"name": "f", "arguments": ""}}]},
            {
                "tool_calls": [
                    {
                        "index": 2,
                        "id": "call_r-1_0_2",
                        "type": "function",
                        "function": {"name": "f", "arguments": ""},
                    }
                ]
            },
        ),
    ],
)
def test_deltas(delta: Any, becomes: dict[str, Any]) -> None:
    chunk: dict[str, Any] = {"choices": [{"delta": delta}]}
    mender().chunk(chunk)
    validate("chat.completion.chunk", chunk)
    assert chunk["choices"][0]["delta"] == becomes


@pytest.mark.parametrize(
    "choice",
    [
        {"delta": 5},
        {"delta": {"content": 5}},
        {"delta": {"role": "robot"}},
        {"delta": {"role": []}},
        {"delta": {"tool_calls": {}}},
        {"delta": {"tool_calls": [{"id": 5}]}},
        {"delta": {"function_call": 5}},
        {"delta": {}, "finish_reason": "eos"},
        {"delta": {}, "finish_reason": ["stop"]},
        {"delta": {}, "index": -1},
        {"delta": {}, "index": True},
        {"delta": {}, "logprobs": {"content": [{}]}},
    ],
)
def test_what_cannot_be_a_chunk(choice: dict[str, Any]) -> None:
    with pytest.raises(NotAnAnswer):
        mender().chunk({"choices": [choice]})


def test_an_abort_is_told_from_other_nonsense() -> None:
    with pytest.raises(Aborted):
        mender().chunk({"choices": [{"delta": {}, "finish_reason": "abort"}]})
    with pytest.raises(Aborted):
        mended_choice(finish_reason="abort")


@pytest.mark.parametrize(
    "data",
    [
        None,
        [5],
        [{"embedding": [None]}],
        [{"embedding": [True]}],
        [{"embedding": {}}],
        [{"embedding": [1], "index": -1}],
    ],
)
def test_what_cannot_be_embeddings(data: Any) -> None:
    with pytest.raises(NotAnAnswer):
        mender(Endpoint.EMBEDDINGS).answer({"data": data, "usage": {"prompt_tokens": 1, "total_tokens": 1}})


def test_embeddings() -> None:
    usage = {"prompt_tokens": 3, "total_tokens": 3, "completion_tokens": 0, "prompt_tokens_details": None}
    for vector in ([0.5, 1], "AAAAPw=="):
        answer = {"model": "e", "data": [{"embedding": vector}], "usage": dict(usage)}
        mender(Endpoint.EMBEDDINGS).answer(answer)
        validate("embeddings", answer)
        assert answer["usage"] == {"prompt_tokens": 3, "total_tokens": 3}
    with pytest.raises(NotAnAnswer):
        mender(Endpoint.EMBEDDINGS).answer({"data": []})


def test_only_endpoints_that_stream_have_chunks() -> None:
    for endpoint in (Endpoint.EMBEDDINGS, Endpoint.TOKENIZE):
        with pytest.raises(NotAnAnswer):
            mender(endpoint).chunk(copy.deepcopy(CHUNK))
