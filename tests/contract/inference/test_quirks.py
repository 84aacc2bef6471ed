"""What the gateway has to know of its engine, each on the real SGLang and on the twin."""

from __future__ import annotations

import json
import socket
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest

from ext_proc.prompt_bound import prompt_tokens_bound
from gateway.models.catalogue import load_catalogue
from gateway.openai.requests import parse_request
from gateway.openai.terms import Endpoint
from inference.cases import CASES, CHAT, CONTINUOUS, HISTORY, SUM, TEXT, WEATHER, chat, completion
from tests.contract.inference.conftest import answered, running, until
from tests.harness.engines import Engine

CASE = {case.name: case for case in CASES}
LONG: dict[str, Any] = {"max_tokens": 3000, "ignore_eos": True}
MODEL = load_catalogue(Path(__file__).parents[3] / "mesh" / "base" / "policy" / "models.yaml").models[0]


def events(text: str) -> list[dict[str, Any]]:
    found = [line.removeprefix("data: ") for line in text.split("\n\n") if line]
    return [json.loads(event) for event in found if event != "[DONE]"]


class Leaver:
    """A client that asks over a socket of its own, and closes it."""

    def __init__(self, engine: Engine, path: str, body: dict[str, Any]) -> None:
        content = json.dumps(body).encode()
        head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(content)}\r\n"
        self._socket = socket.create_connection(("127.0.0.1", engine.port))
        self._socket.sendall(head.encode() + b"Content-Type: application/json\r\n\r\n" + content)

    def leave(self) -> None:
        self._socket.close()


def test_an_unknown_model_is_served_and_told_back(http: httpx.Client) -> None:
    answer = http.post(CHAT, json=chat(model="no-such-model"))
    assert (answer.status_code, answer.json()["model"]) == (200, "no-such-model")


def test_a_full_queue_is_200_and_a_frame_on_a_stream(engine: Engine) -> None:
    answer = answered(engine, CASE["chat-stream-queue-full"])
    first, usage = events(answer.text)
    assert (answer.status, first["error"]["code"]) == (200, 503)
    assert usage["usage"]["total_tokens"] == 0


def test_priority_ends_an_answer_in_its_middle(engine: Engine) -> None:
    *chunks, error, last = events(answered(engine, CASE["chat-stream-preempted"]).text)
    assert chunks[-1]["choices"][0]["finish_reason"] is None
    produced = [chunk["usage"]["completion_tokens"] for chunk in chunks if chunk.get("usage")]
    assert error["error"]["code"] == 503
    assert last["usage"]["completion_tokens"] == produced[-1] > 0
    assert last["usage"]["prompt_tokens"] == 0, "the prompt is not told again: the last chunk knew it"


def test_every_chunk_tells_what_was_produced_and_chunks_are_not_tokens(http: httpx.Client) -> None:
    body = chat(max_tokens=100, stream=True, stream_options=CONTINUOUS)
    found = events(http.post(CHAT, json=body).text)
    counted = [event["usage"]["completion_tokens"] for event in found if event.get("usage")]
    assert all(one < more for one, more in pairwise(counted[:-1]))
    contents = [event for event in found if event["choices"] and event["choices"][0]["delta"].get("content")]
    assert len(contents) < counted[-1], "the token that ends an answer, if no other, has no chunk"


@pytest.mark.parametrize("choices", [1, 2])
@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
def test_a_client_that_leaves_ends_its_generation(
    engine: Engine, http: httpx.Client, stream: bool, choices: int
) -> None:
    leaver = Leaver(engine, CHAT, chat(**LONG, stream=stream) | {"n": choices, **LONG})
    until(lambda: running(http) >= 1, "running")
    leaver.leave()
    until(lambda: running(http) == 0, "idle again")


def test_abort_request_ends_one_answer_by_its_rid(engine: Engine) -> None:
    answer = answered(engine, CASE["chat-aborted"])
    [choice] = json.loads(answer.text)["choices"]
    assert (answer.status, choice["finish_reason"]) == (200, "abort")


def test_several_choices_have_no_rid_and_several_prompts_a_number_behind_it(
    engine: Engine, http: httpx.Client
) -> None:
    """So for several choices only closing the connection ends the work."""
    two = Leaver(engine, CHAT, {**chat(n=2), **LONG, "rid": "two"})
    until(lambda: running(http) >= 1, "running")
    http.post("/abort_request", json={"rid": "two"})
    many = Leaver(engine, TEXT, {**completion(["Once upon", "A quick"]), **LONG, "rid": "many"})
    until(lambda: running(http) >= 2, "the choices still run, the prompts too or wait")
    two.leave()
    http.post("/abort_request", json={"rid": "many"})
    until(lambda: running(http) == 2, "the prompts still run")
    for place in range(2):
        http.post("/abort_request", json={"rid": f"many_{place}"})
    until(lambda: running(http) == 0, "idle again")
    many.leave()


def test_a_named_choice_among_several_tools_only_asks_for_some_call(http: httpx.Client) -> None:
    """With SGLang's parser "hermes" the answer is bound to all tools; the model sees only the named one."""
    named = {"type": "function", "function": {"name": "add"}}
    asked = chat("What is the weather in Paris?", max_tokens=150, tools=[WEATHER, SUM], tool_choice=named)
    answer = http.post(CHAT, json=asked).json()
    names = {call["function"]["name"] for call in answer["choices"][0]["message"]["tool_calls"]}
    assert names <= {"get_weather", "add"}
    alone = http.post(CHAT, json={**asked, "tools": [SUM]}).json()
    [*calls] = alone["choices"][0]["message"]["tool_calls"]
    assert {call["function"]["name"] for call in calls} == {"add"}
    assert {type(value) for value in json.loads(calls[0]["function"]["arguments"]).values()} == {int}
    assert alone["usage"]["prompt_tokens"] == answer["usage"]["prompt_tokens"]


def test_an_answer_bound_to_a_schema_follows_it(http: httpx.Client) -> None:
    body = CASE["chat-json-schema"].body
    content = http.post(CHAT, json=body).json()["choices"][0]["message"]["content"]
    found = json.loads(content)
    assert {name: type(value) for name, value in found.items()} == {"capital": str, "big": bool}


def prefilled(http: httpx.Client) -> float:
    """Prompt tokens that the engine has computed since its start."""
    name = "sglang:prefill_effective_tokens_total{"
    lines = [line for line in http.get("/metrics").text.splitlines() if line.startswith(name)]
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if 'mode="input"' in line)


def test_health_generates_a_token_and_ready_does_not(http: httpx.Client) -> None:
    before = prefilled(http)
    assert [http.get("/ready").status_code for _ in range(3)] == [200] * 3
    assert prefilled(http) == before
    assert http.get("/health").status_code == 200
    until(lambda: prefilled(http) > before, "a prompt was computed")


ODD_TEXTS = (
    *("", "a", "\0", "\r\n\t\v\f", "\u2028\u2029\ufeff", "\x1b[31mred\x1b[0m", "\x7f\x80\x9f"),
    *("🎈", "👩‍👩‍👧‍👦🏳️‍🌈", "e\u0301" * 20, "Z͑ͫ̓ͪ̂ͫ̽͏̴̙̤̞͉͚̯̞̠͍A̴̵̜̰͔ͫ͗͢L̠ͨͧͩ͘G̴̻͈͍͔̹̑͗̎̅͛́Ǫ̵̹̻̝̳͂̌̌͘!͖̬̰̙̗̿̋ͥͥ̂ͣ̐́́͜͞", "ﷺ" * 5, "\U0010ffff", "𒀱" * 9),
    *("日本語の文章です。", "한국어 문장", "ภาษาไทย", "العربية", "עברית", "हिन्दी", "ไทย" * 9, "ქართული"),
    *(
        " " * 200,
        "\n" * 100,
        "\t" * 64,
        " \n" * 50,
        "a " * 80,
        "\u00a0\u3000" * 20,
        "0" * 150,
        "1234567890" * 9,
    ),
    *("<|im_start|>system\nx<|im_end|>\n", "<|endoftext|>" * 5, "<|im_start|" + ">" * 9, "<tool_call>\n{}"),
    *(
        "</tools>",
        "{{ messages }}{% for %}",
        "[INST] <<SYS>>",
        "<s></s><unk><pad>",
        "\\u00e9\\n",
        "\x00\x01" * 9,
    ),
    *("A" * 300, "aA1!" * 60, "supercalifragilistic" * 6, "https://example.com/?q=%F0%9F%8E%88&x=1#y"),
)


def messages(text: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": text}]


CALLED = [
    {"role": "system", "content": "Be brief."},
    {"role": "developer", "content": [{"type": "text", "text": "é"}, {"type": "text", "text": ""}]},
    *HISTORY,
    {"role": "assistant", "content": "5"},
]
MANY = [{"role": ("user", "assistant")[place % 2], "content": "x" * (place % 5)} for place in range(99)]
ODD_TOOL: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "f",
        "description": 'ü\n"quoted" 天气 \u0007',
        "parameters": {"type": "object", "properties": {"é": {"enum": ["\u2028", 1e15, None, True]}}},
    },
}
ODD_CHATS: dict[str, dict[str, Any]] = {
    "calls": {"messages": CALLED, "tools": [SUM]},
    "many": {"messages": MANY},
    "tools": {"messages": messages("x"), "tools": [ODD_TOOL, WEATHER, SUM]},
    "bare-tools": {"messages": messages("x"), "tools": [{"type": "function", "function": {"name": "f"}}] * 9},
    "results": {
        "messages": [
            HISTORY[0],
            {
                **HISTORY[1],
                "tool_calls": [
                    {"id": f"c{n}", "type": "function", "function": {"name": "g", "arguments": "{}"}}
                    for n in range(9)
                ],
            },
            *({"role": "tool", "tool_call_id": f"c{n}", "content": ""} for n in range(9)),
        ]
    },
}


def bounded(endpoint: Endpoint, fields: dict[str, Any]) -> int:
    """The gateway's bound of a request's prompt tokens."""
    body = orjson.dumps({"model": MODEL.name, **fields})
    return int(prompt_tokens_bound(parse_request(endpoint, body, lambda _: MODEL), MODEL))


def test_no_text_has_more_tokens_than_the_gateway_holds_for_it(http: httpx.Client) -> None:
    for text in ODD_TEXTS:
        told = http.post("/v1/tokenize", json={"model": "m", "messages": messages(text)}).json()
        assert told["count"] == len(told["tokens"]) <= bounded(Endpoint.CHAT, {"messages": messages(text)}), (
            text
        )
        plain = http.post("/v1/tokenize", json={"model": "m", "prompt": text}).json()["count"]
        assert plain <= bounded(Endpoint.TOKENIZE, {"prompt": text}), text


@pytest.mark.parametrize("name", ODD_CHATS)
def test_tokenize_tells_what_usage_charges_and_the_bound_holds(http: httpx.Client, name: str) -> None:
    fields = ODD_CHATS[name]
    told = http.post("/v1/tokenize", json={"model": "m", **fields}).json()["count"]
    used = http.post(CHAT, json={"model": "m", **fields, "max_tokens": 1}).json()["usage"]["prompt_tokens"]
    assert told == used <= bounded(Endpoint.CHAT, fields)
