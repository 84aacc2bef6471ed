"""The real SGLang, started once: what the gateway relies on, and that the recordings are still true."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import Iterator

import httpx
import pytest

from inference.cases import CASES, QUEUED_MAX, RUNNING_MAX, Case
from inference.record import Recorded, ask, recorded
from tests.contract.inference.shape import body
from tests.harness.engines import Engine, real_sglang

NOTICED_S = 3.0
"""SGLang looks for a closed client every second, on a machine that may be busy."""
CHECKED = (
    "chat-stop",
    "chat-stream-continuous",
    "chat-stream-queue-full",
    "bad-context",
    "bad-list",
    "models",
)
"""One of each kind; all of them take half a minute."""


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    limits = ["--max-running-requests", str(RUNNING_MAX), "--max-queued-requests", str(QUEUED_MAX)]
    with real_sglang(tmp_path_factory.mktemp("sglang"), *limits, port=port) as running:
        yield running


def client(engine: Engine) -> httpx.Client:
    return httpx.Client(base_url=engine.url, timeout=60, trust_env=False)


def answered(engine: Engine, case: Case) -> Recorded:
    async def asked() -> Recorded:
        async with httpx.AsyncClient(base_url=engine.url, timeout=60, trust_env=False) as http:
            return await ask(http, case)

    return asyncio.run(asked())


def running(http: httpx.Client) -> int:
    [load] = http.get("/v1/loads").json()["loads"]
    return int(load["num_running_reqs"]) + int(load["num_waiting_reqs"])


def until_running(http: httpx.Client, wanted: int, within_s: float) -> None:
    deadline = time.monotonic() + within_s
    while running(http) != wanted:
        assert time.monotonic() < deadline, f"still {running(http)} requests"
        time.sleep(0.1)


def test_it_speaks_english(engine: Engine) -> None:
    question = {"role": "user", "content": "What is the capital of France?"}
    with client(engine) as http:
        asked = {"model": "m", "messages": [question], "temperature": 0, "max_tokens": 30}
        answer = http.post("/v1/chat/completions", json=asked).json()
    assert "Paris" in answer["choices"][0]["message"]["content"]
    assert answer["choices"][0]["finish_reason"] == "stop"


@pytest.mark.parametrize("case", [case for case in CASES if case.name in CHECKED], ids=lambda c: c.name)
def test_the_recordings_are_true(engine: Engine, case: Case) -> None:
    live, kept = answered(engine, case), recorded(case.name)
    assert (live.status, live.headers) == (kept.status, kept.headers)
    content_type = kept.headers["content-type"]
    assert json.dumps(body(content_type, live.text)) == json.dumps(body(content_type, kept.text))


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_ends_its_generation(engine: Engine, stream: bool) -> None:
    asked = {
        "model": "m",
        "messages": [{"role": "user", "content": "Write a story."}],
        "max_tokens": 3000,
        "ignore_eos": True,
        "stream": stream,
    }
    with client(engine) as watching:
        until_running(watching, 0, NOTICED_S)
        leaving = socket.create_connection(("127.0.0.1", engine.port))
        content = json.dumps(asked).encode()
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(content)}\r\n"
        leaving.sendall(head.encode() + b"Content-Type: application/json\r\n\r\n" + content)
        until_running(watching, 1, 10)
        leaving.close()
        until_running(watching, 0, NOTICED_S)
