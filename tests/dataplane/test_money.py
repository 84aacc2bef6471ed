"""Money through the whole path: what is charged is what the engine's own record says it produced.

Every ending of a request: complete, refused, client gone at every stage, engine killed in mid-stream,
filters killed before, in and after; and 64 clients on an account with room for 1,000 tokens.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.budget.ledger import Adjustment, AdjustmentKind
from gateway.budget.redis_ledger import RedisLedger
from gateway.budget.window import UNLIMITED, Account, Window, WindowKind
from gateway.contract.ids import AccountId, HoldId, OrgId
from mesh.local.layout import layout_of
from tests.harness.engines import Twin, twin
from tests.harness.gateway import MODEL, Gateway, overlay, until

ROOM = 1_000
DRAWN_S = 60
"""A worker leases when it is asked ten times a second: a machine that does other things comes to it late."""


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


def request_body(text: str, *, stream: bool = False, max_tokens: int = 20, **more: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": text}]
    return {"model": MODEL, "messages": messages, "stream": stream, "max_tokens": max_tokens, **more}


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
    headers = {"authorization": f"Bearer {gateway.api_key}"}
    async with httpx.AsyncClient(base_url=gateway.base_url, headers=headers) as client:
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


def _answers(gateway: Gateway) -> bool:
    with gateway.client() as client:
        return client.post("/chat/completions", json=request_body("are you there?")).status_code == 200


async def test_a_client_that_leaves_a_stream_pays_what_was_produced(gateway: Gateway, engine: Twin) -> None:
    # The engine may still be out for the errors of the tests before.
    await asyncio.to_thread(until, lambda: _answers(gateway), "an engine takes requests")
    await asyncio.to_thread(gateway.settled)
    before = await asyncio.to_thread(used, gateway)
    known = len(engine.attempts())
    await _leave(gateway, request_body("leaves early", stream=True, max_tokens=500), after_events=5)

    def gone() -> dict[str, Any] | None:
        # An attempt of the test before may be written down only now.
        fresh = engine.attempts()[known:]
        return next((attempt for attempt in fresh if attempt["outcome"] == "client_gone"), None)

    attempt = await asyncio.to_thread(until, gone, "the engine stopped producing")
    assert attempt["completion_tokens"] < 200
    charged = await asyncio.to_thread(used, gateway) - before
    truth = attempt["prompt_tokens"] + attempt["completion_tokens"]
    # The engine may have produced a token or two that had not left it when the client closed.
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
    body = request_body("filters die", stream=True, max_tokens=60)
    headers = {"authorization": f"Bearer {gateway.api_key}"}
    received = b""
    killed = False
    async with (
        httpx.AsyncClient(base_url=gateway.base_url, headers=headers, timeout=30) as client,
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
    for part, code in (("ext-authz", "identity_unavailable"), ("ext-proc", "admission_unavailable")):
        known = len(engine.attempts())
        with gateway.frozen(part), gateway.client() as client:
            answer = client.post("/chat/completions", json=request_body(f"frozen {part}"))
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, code)
        assert len(engine.attempts()) == known
        gateway.until_ready()


def test_a_frozen_ledger_is_503_and_reaches_no_engine(gateway: Gateway, engine: Twin) -> None:
    known = len(engine.attempts())
    with gateway.frozen("valkey-ledger"), gateway.client() as client:
        answer = client.post("/chat/completions", json=request_body("frozen ledger"))
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "budget_unavailable")
    assert len(engine.attempts()) == known


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


def metric(gateway: Gateway, name: str) -> float:
    """Of all workers; 0 where it was never counted."""
    lines = httpx.get(f"{gateway.operators_url}/metrics").text.splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(f"{name} "))


def limited(directory: Path, tokens: int, leases: str = "{}") -> Path:
    """The policy of an org that may spend so many tokens."""
    budgets = f"""
version: 1
minimum_completion_tokens: 1
leases: {leases}
tiers:
  standard: {{priority: 0, priority_class: standard, key: {{}}}}
orgs:
  demo: {{tokens_per_month: {tokens}}}
"""
    return overlay(directory, {"budgets.yaml": budgets})


async def sixty_four_clients(gateway: Gateway, *, killed: bool = False) -> list[list[int]]:
    """Everybody asks until the budget is used up; while the filters are away they try again, as SDKs do. The
    statuses of each."""
    headers = {"authorization": f"Bearer {gateway.api_key}"}
    async with httpx.AsyncClient(base_url=gateway.base_url, headers=headers, timeout=30) as client:

        async def one(number: int) -> list[int]:
            statuses: list[int] = []
            while 429 not in statuses and len(statuses) < 200:
                body = request_body(f"c{number} t{len(statuses)}", max_tokens=15, stream=number % 2 == 0)
                with contextlib.suppress(httpx.HTTPError):
                    statuses.append((await client.post("/chat/completions", json=body)).status_code)
                    await asyncio.sleep(0.1 if statuses[-1] == 503 else 0)
            return statuses

        async def killer() -> None:
            for _ in range(3 if killed else 0):
                await asyncio.sleep(0.15)
                await asyncio.to_thread(gateway.kill, "ext-proc")

        results, _ = await asyncio.gather(asyncio.gather(*(one(number) for number in range(64))), killer())
    return results


def spent_since(engine: Twin, known: int) -> int:
    """By the engine's own record."""
    return sum(
        attempt["prompt_tokens"] + attempt["completion_tokens"] for attempt in engine.attempts()[known:]
    )


async def test_sixty_four_clients_never_overspend(engine: Twin, tmp_path: Path) -> None:
    """Room for 1,000 tokens, 64 clients, filters killed meanwhile; judged by the engine's own record."""
    mesh = limited(tmp_path / "mesh", ROOM)
    gateway = await asyncio.to_thread(Gateway, tmp_path / "state", engine=engine.url, mesh=mesh)
    known = len(engine.attempts())
    try:
        results = await sixty_four_clients(gateway, killed=True)
        assert spent_since(engine, known) <= ROOM
        assert 200 in [status for result in results for status in result]
        assert all(429 in result for result in results), "everybody was told in the end"
    finally:
        await asyncio.to_thread(gateway.close)


async def leave_room(gateway: Gateway) -> int:
    """Lower the org's limit so that ROOM tokens are left beside what is used and held; the limit."""
    org, month = OrgId("demo"), Window(kind=WindowKind.MONTH, limit=UNLIMITED)
    ledger = RedisLedger.connect(f"unix://{layout_of(gateway.state).socket('ledger')}")
    found = await ledger.standing(org, [Account(id=AccountId("org"), windows=(month,))])
    limit = next(one.used + one.held for one in found if one.kind is WindowKind.MONTH) + ROOM
    account = Account(id=AccountId("org"), windows=(replace(month, limit=limit),))
    lowered = Adjustment(
        id=HoldId("lowered"), kind=AdjustmentKind.SET, account=account, actor="test", reason="room"
    )
    await ledger.adjust(org, lowered)
    await ledger.aclose()
    return limit


async def test_leases_are_recalled_and_next_to_nothing_is_left_unspent(engine: Twin, tmp_path: Path) -> None:
    """64 clients served out of leases when there is room for 1,000 tokens more: what is left when the
    smallest request is refused would not have paid it."""
    mesh = limited(tmp_path / "mesh", 10_000_000, "{enabled: true, share: 2, requests_least: 1}")
    gateway = await asyncio.to_thread(Gateway, tmp_path / "state", engine=engine.url, mesh=mesh)
    known = len(engine.attempts())

    def drawn() -> bool:
        return metric(gateway, 'tidegate_leased_total{what="drawn"}') >= 64

    def smallest_until_refused() -> str:
        with gateway.client() as client:
            while True:
                answer = client.post("/chat/completions", json=request_body("x", max_tokens=1))
                if answer.status_code == 429:
                    return str(answer.json()["error"]["message"])

    try:
        asking = asyncio.create_task(sixty_four_clients(gateway))
        await asyncio.to_thread(until, drawn, "requests served out of leases", seconds=DRAWN_S)
        limit = await leave_room(gateway)
        assert all(429 in result for result in await asking), "everybody was told in the end"
        message = await asyncio.to_thread(smallest_until_refused)
        found = re.search(r"requested (\d+) or more", message)
        assert found is not None, message
        spent = spent_since(engine, known)
        assert limit - int(found[1]) < spent <= limit
    finally:
        await asyncio.to_thread(gateway.close)
