"""Money through the whole path: what is charged is what the engine's own record says it produced.

Every ending of a request: complete, refused, client gone at every stage, engine killed in mid-stream,
filters killed before, in and after.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.harness.engines import Twin, twin
from tests.harness.gateway import MODEL, Gateway, request_body, until


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Twin]:
    options = ("--model", MODEL, "--tokens-per-s", "100")
    with twin(tmp_path_factory.mktemp("engine"), *options) as running:
        yield running


@pytest.fixture(scope="module")
def gateway(engine: Twin, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    running = Gateway(tmp_path_factory.mktemp("state"), engine=engine.url)
    yield running
    running.close()


def used(gateway: Gateway) -> int:
    """Tokens charged to the org this month, once nothing is held."""
    return int(gateway.settled()[("org", "month")]["used"])


def until_answered(gateway: Gateway) -> None:
    """Until the only engine, which Envoy leaves out for a moment after errors, is asked again."""

    def answers() -> bool:
        with gateway.client() as client:
            return client.post("/chat/completions", json=request_body("again")).status_code == 200

    until(answers, f"an answer\n{gateway.log_tails()}")


def test_a_complete_answer_costs_what_the_engine_says(gateway: Gateway) -> None:
    before = used(gateway)
    with gateway.client() as client:
        usage = client.post("/chat/completions", json=request_body("complete json")).json()["usage"]
    assert used(gateway) - before == usage["total_tokens"]


@pytest.mark.parametrize("asked", [True, False])
def test_a_complete_stream_costs_the_same_whether_usage_was_asked_or_not(
    gateway: Gateway, asked: bool
) -> None:
    before = used(gateway)
    body = request_body(f"complete stream {asked}", stream=True)
    if asked:
        body["stream_options"] = {"include_usage": True}
    with gateway.client() as client:
        answer = client.post("/chat/completions", json=body)
    assert answer.text.rstrip().endswith("data: [DONE]")
    assert ('"usage":{' in answer.text) == asked
    assert used(gateway) > before


def test_the_budget_is_right_when_the_answer_is_there(gateway: Gateway) -> None:
    """Settled before the last bytes: the next call of a careful client never meets its own old hold."""
    with gateway.client() as client:
        for number in range(5):
            client.post("/chat/completions", json=request_body(f"sequence {number}"))
            windows = client.get("/usage").json()["windows"]
            assert {window["held"] for window in windows} == {0}


@pytest.mark.parametrize("status", [400, 422])
def test_an_engines_refusal_costs_nothing(gateway: Gateway, engine: Twin, status: int) -> None:
    before = used(gateway)
    text = f"refused with {status}"
    engine.script(
        {"contains": text, "status": status, "body": {"object": "error", "message": "/srv/x.py no"}}
    )
    with gateway.client() as client:
        answer = client.post("/chat/completions", json=request_body(text))
    assert answer.status_code == 400
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
    assert "/srv" not in answer.text
    assert used(gateway) == before


def test_an_engine_that_always_fails_costs_nothing(gateway: Gateway, engine: Twin) -> None:
    before = used(gateway)
    engine.script({"contains": "always fails", "status": 500, "body": {"message": "boom"}})
    with gateway.client() as client:
        answer = client.post("/chat/completions", json=request_body("always fails"))
    assert answer.status_code >= 500
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
    assert used(gateway) == before
    until_answered(gateway)


@pytest.mark.parametrize("status", [302, 500])
def test_an_engines_error_without_a_body_has_openais_shape(
    gateway: Gateway, engine: Twin, status: int
) -> None:
    before = used(gateway)
    text = f"bodiless {status}"
    headers = {"location": "http://inside/", "set-cookie": "a=b"}
    engine.script({"contains": text, "status": status, "body": "", "headers": headers})
    with gateway.client() as client:
        answer = client.post("/chat/completions", json=request_body(text))
    assert answer.status_code == 502
    assert answer.json()["error"]["code"] == "bad_gateway"
    assert "set-cookie" not in answer.headers
    assert used(gateway) == before
    until_answered(gateway)


def test_queue_full_on_a_stream_is_repeated_not_shown(gateway: Gateway, engine: Twin) -> None:
    engine.script({"contains": "queue full once", "error_frame": True, "times": 1})
    with gateway.client() as client:
        answer = client.post("/chat/completions", json=request_body("queue full once", stream=True))
    assert answer.status_code == 200
    assert "error" not in answer.text
    assert answer.text.rstrip().endswith("data: [DONE]")


async def _leave(gateway: Gateway, body: dict[str, Any], *, after_events: int | None) -> None:
    """Send a request and close the connection after ``after_events`` events; None: while waiting."""
    async with gateway.async_client() as client:
        if after_events is None:
            with contextlib.suppress(TimeoutError, httpx.ReadTimeout):
                await client.post("/chat/completions", json=body, timeout=0.4)
            return
        async with client.stream("POST", "/chat/completions", json=body) as answer:
            assert answer.status_code == 200, await answer.aread()
            received = b""
            async for part in answer.aiter_raw():
                received += part
                if received.count(b"data: ") >= after_events:
                    return


async def test_a_client_that_leaves_a_stream_pays_what_was_produced(gateway: Gateway, engine: Twin) -> None:
    # The engine may still be out for the errors of the tests before.
    await asyncio.to_thread(until_answered, gateway)
    await asyncio.to_thread(gateway.settled)
    before = await asyncio.to_thread(used, gateway)
    known = len(engine.attempts())
    engine.script({"contains": "leaves early", "tokens_per_s": 8})
    await _leave(gateway, request_body("leaves early", stream=True, max_tokens=500), after_events=5)

    def gone() -> dict[str, Any] | None:
        # An attempt of the test before may be written down only now.
        fresh = engine.attempts()[known:]
        return next((attempt for attempt in fresh if attempt["outcome"] == "client_gone"), None)

    attempt = await asyncio.to_thread(until, gone, "the engine stopped producing")
    assert attempt["completion_tokens"] < 200
    charged = await asyncio.to_thread(used, gateway) - before
    truth = attempt["prompt_tokens"] + attempt["completion_tokens"]
    # What the engine produced in the second before it saw that the client had closed.
    assert truth - 8 <= charged <= truth


async def test_a_client_that_leaves_before_the_first_byte_is_settled(gateway: Gateway, engine: Twin) -> None:
    for stream in (False, True):
        text = f"leaves at once {stream}"
        engine.script({"contains": text, "delay_ms": 3000})
        await _leave(gateway, request_body(text, stream=stream), after_events=None)
        await asyncio.to_thread(gateway.settled)


def test_an_engine_killed_in_mid_stream_ends_the_stream_and_is_charged(
    gateway: Gateway, engine: Twin
) -> None:
    before = used(gateway)
    known = len(engine.attempts())
    engine.script({"contains": "cut in the middle", "cut_after_chunks": 5, "reset": True})
    body = request_body("cut in the middle", stream=True, max_tokens=50)
    received = ""
    with (
        gateway.client() as client,
        contextlib.suppress(httpx.RemoteProtocolError, httpx.ReadError),
        client.stream("POST", "/chat/completions", json=body) as answer,
    ):
        for part in answer.iter_text():
            received += part
    assert "data: [DONE]" not in received, "a broken stream must look broken"
    attempt = engine.attempts()[known]
    charged = used(gateway) - before
    truth = attempt["prompt_tokens"] + attempt["completion_tokens"]
    assert truth - 8 <= charged <= truth


async def test_filters_killed_in_mid_stream_lose_no_event_and_no_money(
    gateway: Gateway, engine: Twin
) -> None:
    engine.script({"contains": "filters die", "tokens_per_s": 8})  # they must die before its end
    body = request_body("filters die", stream=True, max_tokens=30)
    received = b""
    killed = False
    async with (
        gateway.async_client() as client,
        client.stream("POST", "/chat/completions", json=body) as answer,
    ):
        async for part in answer.aiter_raw():
            received += part
            if not killed and received.count(b"data: ") > 3:
                killed = True
                gateway.kill("ext-proc")
    assert received.rstrip().endswith(b"data: [DONE]")
    await asyncio.to_thread(gateway.until_ready)
    # The hold stays until it expires: charged in full then, never forgotten, never refunded early.
    windows = await asyncio.to_thread(gateway.usage)
    assert windows[("org", "month")]["held"] > 0


def test_frozen_filters_are_503_and_reach_no_engine(gateway: Gateway, engine: Twin) -> None:
    gateway.until_ready()
    until_answered(gateway)
    for part, code in (("ext-authz", "identity_unavailable"), ("ext-proc", "admission_unavailable")):
        known = len(engine.attempts())
        with gateway.frozen(part), gateway.client(asks_again=False) as client:
            answer = client.post("/chat/completions", json=request_body(f"frozen {part}"))
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, code)
        assert len(engine.attempts()) == known
        gateway.until_ready()
        until_answered(gateway)  # Envoy leaves them out for a moment


def test_a_frozen_ledger_is_503_and_reaches_no_engine(gateway: Gateway, engine: Twin) -> None:
    known = len(engine.attempts())
    with gateway.frozen("valkey-ledger"), gateway.client(asks_again=False) as client:
        answer = client.post("/chat/completions", json=request_body("frozen ledger"))
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "budget_unavailable")
    assert len(engine.attempts()) == known
    until_answered(gateway)


def test_a_frozen_cache_is_a_miss(gateway: Gateway) -> None:
    with gateway.frozen("valkey-cache"), gateway.client() as client:
        answer = client.post("/chat/completions", json=request_body("frozen cache", temperature=0))
    assert answer.status_code == 200
    assert answer.headers["x-tidegate-cache"] != "hit"


def test_killed_filters_come_back(gateway: Gateway) -> None:
    for part in ("ext-authz", "ext-proc", "bookkeeper", "valkey-ledger", "valkey-cache", "api"):
        gateway.kill(part)
        until_answered(gateway)
    gateway.until_ready()
