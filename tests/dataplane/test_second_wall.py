"""Engines that ignore max_tokens, through real Envoy: the client's stream ends where it was told, the engine
is stopped, the hold is what is paid, and the rest is booked as waste."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from ext_proc.phases.tap import SWALLOWED_MAX
from tests.harness.api_keys import sdk
from tests.harness.engines import Twin, twin
from tests.harness.gateway import MODEL, Gateway, overlay, until
from tests.harness.openai_schema import validate, validate_stream

ROOM = 1_200
"""Of the org, in the month: the tests before the last use less than a third of it."""
TOLD = 20
"""max_tokens of every request here."""
RUNAWAY: dict[str, Any] = {"extra_tokens": 20_000, "tokens_per_s": 100, "ttft_ms": 0}
"""A rule's: goes on for two hundred seconds; a stream must be stopped within SWALLOWED_MAX, five of them."""
CLOSED_S = 10
"""Envoy closes a connection a second after it has given up on it, and a busy machine looks at it later."""
CLIENTS = 20
BUDGETS = f"""
version: 1
minimum_completion_tokens: 1
tiers:
  standard: {{priority: 0, priority_class: standard, key: {{}}}}
orgs:
  demo: {{tokens_per_month: {ROOM}}}
"""


@dataclass(frozen=True, kw_only=True)
class Stack:
    gateway: Gateway
    engine: Twin

    def attempt(self, rid: str) -> dict[str, Any]:
        """The engine's own record of the request, once it has stopped."""

        def ask() -> dict[str, Any] | None:
            found = self.engine.attempts(rid)
            return found[-1] if found and found[-1]["outcome"] != "running" else None

        return until(ask, "the engine stopped")

    def events(self, kind: str) -> dict[str, dict[str, Any]]:
        """The books' events of ``kind`` by request."""
        return {event["request_id"]: event for event in self.gateway.events() if event["type"] == kind}

    def booked(self, rid: str, kind: str) -> dict[str, Any]:
        """The event of ``kind`` about the request, once it is in the books."""
        return until(lambda: self.events(kind).get(rid), f"{kind} in the books")


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    mesh = overlay(tmp_path_factory.mktemp("policy") / "mesh", {"budgets.yaml": BUDGETS})
    with ExitStack() as running:
        engine = running.enter_context(twin(tmp_path_factory.mktemp("engine"), "--model", MODEL))
        engine.script(RUNAWAY)
        gateway = Gateway(tmp_path_factory.mktemp("state"), engine=engine.url, mesh=mesh)
        running.callback(gateway.close)
        yield Stack(gateway=gateway, engine=engine)


def asked(text: str, **more: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": text}]
    return {"model": MODEL, "messages": messages, "max_tokens": TOLD, **more}


def test_a_stream_past_its_limit_ends_well_and_its_engine_is_stopped(stack: Stack) -> None:
    body = asked("on and on", stream=True, stream_options={"include_usage": True})
    with stack.gateway.client() as client:
        answer = client.post("/chat/completions", json=body)  # a transfer that is broken off would raise
    chunks = validate_stream("chat.completion.chunk", answer.text.encode())
    assert [one["choices"][0]["finish_reason"] for one in chunks[-4:-2]] == [None, "length"]
    assert chunks[-2]["usage"]["completion_tokens"] == TOLD
    rid = answer.headers["x-request-id"]
    attempt = stack.attempt(rid)
    assert attempt["outcome"] == "abort"
    assert attempt["completion_tokens"] <= TOLD + SWALLOWED_MAX
    settled, waste = stack.booked(rid, "hold.settled"), stack.booked(rid, "attempt.wasted")
    assert int(settled["amounts"]["used"]) == attempt["prompt_tokens"] + TOLD
    assert settled["context"]["detail.flags"] == "over_limit"
    assert waste["reason"] == "over_limit"
    assert int(waste["context"]["completion"]) == attempt["completion_tokens"] - TOLD


def test_the_sdk_takes_it_for_a_whole_answer(stack: Stack) -> None:
    with sdk(stack.gateway, stack.gateway.api_key) as client:
        stream = client.chat.completions.create(**asked("with the SDK"), stream=True)
        chunks = list(stream)
    assert [choice.finish_reason for chunk in chunks[-2:] for choice in chunk.choices] == [None, "length"]
    attempt = stack.attempt(chunks[0].id.removeprefix("chatcmpl-"))
    assert attempt["outcome"] in ("client_gone", "abort")
    assert attempt["completion_tokens"] <= TOLD + SWALLOWED_MAX


def test_an_engine_that_cannot_be_told_is_broken_off_behind_the_end(stack: Stack) -> None:
    """Of several choices SGLang knows no id of ours."""
    received = b""
    with stack.gateway.client() as client, pytest.raises(httpx.RemoteProtocolError):  # noqa: SIM117
        with client.stream("POST", "/chat/completions", json=asked("two of", n=2, stream=True)) as answer:
            rid = answer.headers["x-request-id"]
            for part in answer.iter_bytes():
                received += part
    chunks = validate_stream("chat.completion.chunk", received)
    ends = [choice["index"] for one in chunks[-3:-1] for choice in one["choices"] if choice["finish_reason"]]
    assert sorted(ends) == [0, 1]
    attempt = stack.attempt(rid)
    assert attempt["outcome"] == "client_gone"
    assert attempt["completion_tokens"] <= 2 * (TOLD + CLOSED_S * RUNAWAY["tokens_per_s"]) + SWALLOWED_MAX
    settled = stack.booked(rid, "hold.settled")
    assert int(settled["amounts"]["used"]) <= attempt["prompt_tokens"] + 2 * TOLD


def test_json_past_its_limit_costs_the_hold(stack: Stack) -> None:
    stack.engine.script({"contains": "in one piece", "extra_tokens": 30}, RUNAWAY)
    with stack.gateway.client() as client:
        answer = client.post("/chat/completions", json=asked("in one piece"))
    validate("chat.completion", answer.json())
    assert answer.json()["usage"]["completion_tokens"] == TOLD
    rid = answer.headers["x-request-id"]
    attempt = stack.attempt(rid)
    assert attempt["completion_tokens"] == TOLD + 30
    assert int(stack.booked(rid, "attempt.wasted")["context"]["completion"]) == 30
    settled = stack.booked(rid, "hold.settled")
    assert int(settled["amounts"]["used"]) == attempt["prompt_tokens"] + TOLD


async def test_twenty_such_streams_at_once_overspend_nothing(stack: Stack) -> None:
    known = len(stack.engine.attempts())
    async with stack.gateway.async_client(timeout=60) as client:

        async def one(number: int) -> list[str]:
            """Ask until the budget is used up."""
            rids: list[str] = []
            while True:
                body = asked(f"client {number}, {len(rids)}", stream=True)
                answer = await client.post("/chat/completions", json=body)
                if answer.status_code == 429:
                    return rids
                assert answer.text.endswith("data: [DONE]\n\n")
                rids.append(answer.headers["x-request-id"])

        answered = [rid for rids in await asyncio.gather(*map(one, range(CLIENTS))) for rid in rids]
    used = int((await asyncio.to_thread(stack.gateway.settled))[("org", "month")]["used"])
    assert used <= ROOM
    assert len(answered) >= CLIENTS / 2
    attempts = [stack.attempt(rid) for rid in answered]
    assert len(stack.engine.attempts()) - known == len(answered), "nothing was tried twice"
    assert max(one["completion_tokens"] for one in attempts) <= TOLD + SWALLOWED_MAX
    assert all(stack.booked(rid, "attempt.wasted") for rid in answered[-1:])
    granted, settled = stack.events("hold.granted"), stack.events("hold.settled")
    charged = {rid: int(event["amounts"]["used"]) for rid, event in settled.items()}
    for rid, attempt in zip(answered, attempts, strict=True):
        # The last of them were told less than they asked for.
        told = int(granted[rid]["amounts"]["held_completion_tokens"])
        assert charged[rid] == attempt["prompt_tokens"] + told <= attempt["prompt_tokens"] + TOLD
    assert used == sum(charged.values()), "to the token"
