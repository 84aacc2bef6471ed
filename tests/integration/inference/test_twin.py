"""The twin as a process: its record, its faults, its queue, its end."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.harness.engines import Twin, twin

CHAT = "/v1/chat/completions"
SOON_S = 60.0
"""For what takes milliseconds, on a machine that is slow and busy."""


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Twin]:
    limits = ["--max-running", "2", "--max-queued", "1", "--health-ms", "5", "--tokens-per-s", "500"]
    with twin(tmp_path_factory.mktemp("twin"), *limits) as running:
        yield running


@pytest.fixture(autouse=True)
def _no_script(request: pytest.FixtureRequest) -> None:
    if "engine" in request.fixturenames:
        request.getfixturevalue("engine").script()


def asked(text: str, **fields: Any) -> dict[str, Any]:
    return {"model": "m", "messages": [{"role": "user", "content": text}], **fields}


def client(engine: Twin) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=engine.url, timeout=SOON_S, trust_env=False)


def endless(rid: str, **fields: Any) -> dict[str, Any]:
    return asked("on and on", rid=rid, stream=True, ignore_eos=True, max_tokens=5000, **fields)


async def until(ask: Callable[[], bool]) -> None:
    async with asyncio.timeout(SOON_S):
        while True:
            if await asyncio.to_thread(ask):
                return
            await asyncio.sleep(0.005)


def outcome(engine: Twin, rid: str) -> str:
    found = engine.attempts(rid)
    return str(found[-1]["outcome"]) if found else ""


def is_running(engine: Twin, rid: str) -> bool:
    return outcome(engine, rid) == "running"


def contents(raw: str) -> list[str]:
    events = [json.loads(line[6:]) for line in raw.splitlines() if line.startswith("data: {")]
    deltas = [event["choices"][0]["delta"].get("content") for event in events if event.get("choices")]
    return [text for text in deltas if text]


async def test_the_same_question_has_the_same_answer_with_and_without_stream(engine: Twin) -> None:
    async with client(engine) as http:
        first = (await http.post(CHAT, json=asked("same"))).json()
        second = (await http.post(CHAT, json=asked("same"))).json()
        stream = (await http.post(CHAT, json=asked("same", stream=True))).text
    text = first["choices"][0]["message"]["content"]
    assert text == second["choices"][0]["message"]["content"] == "".join(contents(stream))
    assert second["usage"]["prompt_tokens_details"]["cached_tokens"] == first["usage"]["prompt_tokens"] - 1


async def test_a_client_that_leaves_stops_production_and_the_record_is_exact(engine: Twin) -> None:
    seen = 0
    async with client(engine) as http, http.stream("POST", CHAT, json=endless("leaver")) as answer:
        async for line in answer.aiter_lines():
            seen += line.startswith("data: ")
            if seen == 12:
                break
    await until(lambda: outcome(engine, "leaver") == "client_gone")
    [attempt] = engine.attempts("leaver")
    assert 12 <= attempt["completion_tokens"] < 2000
    [kept] = [entry for entry in engine.recorded() if entry.rid == "leaver"]
    assert kept.completion_tokens == attempt["completion_tokens"]


async def test_abort_request_ends_a_stream_with_its_usage(engine: Twin) -> None:
    options = {"include_usage": True}
    async with client(engine) as http:
        answering = asyncio.create_task(http.post(CHAT, json=endless("ender", stream_options=options)))
        await until(lambda: outcome(engine, "ender") == "running")
        await http.post("/abort_request", json={"rid": "ender"})
        text = (await answering).text
    assert '"finish_reason":"abort"' in text
    events = [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]
    assert events[-1]["usage"]["completion_tokens"] == engine.attempts("ender")[0]["completion_tokens"]


async def test_full_queue_higher_priority_and_preemption(engine: Twin) -> None:
    async with client(engine) as http:
        low = []
        for number in range(3):
            low.append(asyncio.create_task(http.post(CHAT, json=endless(f"low{number}", priority=0))))
            await until(partial(is_running, engine, f"low{number}"))
        refused = await http.post(CHAT, json=asked("too much", priority=0))
        assert (refused.status_code, refused.json()["type"]) == (503, "503")
        high = await http.post(CHAT, json=asked("urgent", rid="high", priority=100))
        assert high.status_code == 200
        evicted = (await low[2]).text
        assert "aborted by a higher priority request" in evicted
        assert outcome(engine, "low2") == "evicted"
        for task in low:
            task.cancel()
        await asyncio.gather(*low, return_exceptions=True)
    await until(lambda: all(outcome(engine, f"low{n}") == "client_gone" for n in (0, 1)))


async def test_scripted_answers(engine: Twin) -> None:
    engine.script(
        {"contains": "busy", "status": 429, "body": {"why": "x"}, "headers": {"retry-after": "3"}},
        {"contains": "frame", "error_frame": "boom"},
        {"contains": "junk", "junk": "<html>"},
        {"contains": "none", "usage": "missing"},
        {"contains": "less", "usage": {"completion_tokens": -7}},
        {"contains": "over", "extra_tokens": 9},
        {"contains": "once", "status": 503, "skip": 1, "times": 1},
        {"contains": "text", "text": "exactly this"},
    )
    async with client(engine) as http:
        busy = await http.post(CHAT, json=asked("busy"))
        assert (busy.status_code, busy.json(), busy.headers["retry-after"]) == (429, {"why": "x"}, "3")
        assert '"message": "boom"' in (await http.post(CHAT, json=asked("frame", stream=True))).text
        assert (await http.post(CHAT, json=asked("junk"))).text == "<html>"
        assert "usage" not in (await http.post(CHAT, json=asked("none"))).json()
        assert (await http.post(CHAT, json=asked("less"))).json()["usage"]["completion_tokens"] == -7
        over = (await http.post(CHAT, json=asked("over", max_tokens=3))).json()
        assert over["usage"]["completion_tokens"] == 12
        assert [(await http.post(CHAT, json=asked("once"))).status_code for _ in range(3)] == [200, 503, 200]
        literal = (await http.post(CHAT, json=asked("text"))).json()
        assert literal["choices"][0]["message"]["content"] == "exactly this"


@pytest.mark.parametrize("chunks", [0, 3])
@pytest.mark.parametrize("stream", [True, False])
async def test_a_cut_connection(engine: Twin, chunks: int, stream: bool) -> None:
    engine.script({"contains": "cut me", "cut_after_chunks": chunks})
    rid, got = f"cut-{chunks}-{stream}", ""
    async with client(engine) as http:
        with pytest.raises(httpx.RemoteProtocolError):
            async with http.stream("POST", CHAT, json=asked("cut me", rid=rid, stream=stream)) as answer:
                async for text in answer.aiter_text():
                    got += text
    assert len(contents(got)) == (chunks if stream else 0)
    [attempt] = engine.attempts(rid)
    assert (attempt["outcome"], attempt["completion_tokens"]) == ("cut", chunks)


async def test_a_stall_a_delay_and_a_split(engine: Twin) -> None:
    engine.script(
        {"contains": "stall", "stall_after_chunks": 2, "stall_ms": 150},
        {"contains": "delay", "delay_ms": 100},
        {"contains": "split", "split_at": -3},
    )
    async with client(engine) as http:
        for text, at_least in (("stall", 0.15), ("delay", 0.1)):
            started = time.monotonic()
            whole = await http.post(CHAT, json=asked(text, stream=True))
            assert time.monotonic() - started >= at_least
            assert whole.text.endswith("data: [DONE]\n\n")
        plain = contents((await http.post(CHAT, json=asked("split", stream=True))).text)
        engine.script({"contains": "split", "split_every": 7, "head_pause_ms": 20})
        assert contents((await http.post(CHAT, json=asked("split", stream=True))).text) == plain
        engine.script()
        assert contents((await http.post(CHAT, json=asked("split", stream=True))).text) == plain


def test_the_record_survives_a_kill_and_goes_on_after_it(tmp_path: Path) -> None:
    with twin(tmp_path, "--tokens-per-s", "400") as running:
        with (
            httpx.Client(base_url=running.url, timeout=10, trust_env=False) as http,
            http.stream("POST", CHAT, json=endless("victim")) as answer,
        ):
            seen = 0
            for line in answer.iter_lines():
                seen += '"content":"' in line and '"role"' not in line
                if seen == 20:
                    running.kill()  # here: leaving the loop closes the connection
                    break
        [attempt] = running.recorded()
        assert (attempt.rid, attempt.outcome) == ("victim", "killed")
        assert seen <= attempt.completion_tokens
    with twin(tmp_path) as running:
        httpx.post(running.url + CHAT, json=asked("again", rid="next"), trust_env=False)
        assert [(a.rid, a.outcome) for a in running.recorded()] == [("victim", "killed"), ("next", "stop")]


async def test_sigterm_drains(tmp_path: Path) -> None:
    with twin(tmp_path, "--tokens-per-s", "20") as running:  # four seconds, in which it still listens
        async with client(running) as http:
            long = asyncio.create_task(
                http.post(CHAT, json=asked("long", rid="long", ignore_eos=True, max_tokens=80))
            )
            await until(lambda: outcome(running, "long") == "running")
            running.process.send_signal(signal.SIGTERM)
            async with asyncio.timeout(SOON_S):
                while (await http.get("/ready")).status_code == 200:
                    pass
            late = await http.post(CHAT, json=asked("late", max_tokens=2))
            assert late.status_code == 200
            assert (await long).json()["usage"]["completion_tokens"] == 80
        assert await asyncio.to_thread(running.process.wait, SOON_S) == 0


async def test_usage_that_comes_twice(engine: Twin) -> None:
    engine.script({"contains": "twice", "usage": "double"})
    options = {"stream_options": {"include_usage": True}}
    async with client(engine) as http:
        text = (await http.post(CHAT, json=asked("twice", stream=True, **options))).text
    assert text.count('"choices":[],"usage":{') == 2


async def test_a_client_that_leaves_unanswered_goes_unnoticed_for_a_while(tmp_path: Path) -> None:
    options = ("--notice-ms", "300", "--tokens-per-s", "100")
    with twin(tmp_path, *options) as running:
        async with client(running) as http:
            body = asked("leaves", rid="leaver", ignore_eos=True, max_tokens=5000)
            leaving = asyncio.create_task(http.post(CHAT, json=body))
            await until(lambda: is_running(running, "leaver"))
            leaving.cancel()
            await asyncio.gather(leaving, return_exceptions=True)
        await until(lambda: outcome(running, "leaver") == "client_gone")
        [attempt] = running.attempts("leaver")
        assert attempt["completion_tokens"] >= 20


async def test_unknown_rule_fields_are_refused(engine: Twin) -> None:
    async with client(engine) as http:
        answer = await http.post("/__script", json=[{"contians": "typo"}])
    assert answer.status_code == 400
    assert "contians" in answer.json()["error"]
