"""Engines whose queues are full: told as such, tried elsewhere first, and never taken for broken.

The queues are filled past the gateway, with a priority above its own, so that it finds them full.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from tests.harness.engines import Twin, twin
from tests.harness.gateway import MODEL, Gateway, until

REQUESTS = 12
"""In a row; without the policy's care outlier detection left an engine out after two."""


@dataclass(frozen=True, kw_only=True)
class Stack:
    gateway: Gateway
    engines: tuple[Twin, Twin]

    def ask(self, text: str, *, stream: bool) -> httpx.Response:
        messages = [{"role": "user", "content": text}]
        body = {"model": MODEL, "messages": messages, "stream": stream, "max_tokens": 5}
        with self.gateway.client() as client:
            return client.post("/chat/completions", json=body)

    def outcomes(self, rid: str) -> list[set[str]]:
        """What became of the request on each engine."""
        return [{attempt["outcome"] for attempt in engine.attempts(rid)} for engine in self.engines]

    def ejections(self) -> int:
        name = "outlier_detection_ejections_enforced_total{"
        lines = httpx.get(f"{self.gateway.operators_url}/metrics/envoy").text.splitlines()
        (line,) = (line for line in lines if name in line and "sglang" in line)
        return int(line.split()[-1])


@contextmanager
def running_stack(tmp_path_factory: pytest.TempPathFactory, envoy: str | None = None) -> Iterator[Stack]:
    """``envoy``: its version, the product's own by default."""
    directory: Path = tmp_path_factory.mktemp("engines")
    options = ("--model", MODEL, "--max-running", "1", "--max-queued", "1")
    with ExitStack() as running:
        one, other = (
            running.enter_context(twin(directory, *options, name=name)) for name in ("one", "other")
        )
        state = tmp_path_factory.mktemp("state")
        gateway = Gateway(state, engine=f"{one.url},{other.url}", envoy=envoy)
        running.callback(gateway.close)
        yield Stack(gateway=gateway, engines=(one, other))


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with running_stack(tmp_path_factory) as running:
        yield running


def load(engine: Twin) -> tuple[int, int]:
    """Requests that run and that wait."""
    (found,) = httpx.get(f"{engine.url}/v1/loads").json()["loads"]
    return found["num_running_reqs"], found["num_waiting_reqs"]


@contextmanager
def occupied(engine: Twin, expected: tuple[int, int]) -> Iterator[None]:
    """With one request more, which makes ``expected`` its load."""
    content = json.dumps(
        {
            "model": MODEL,
            "messages": [{"role": "user", "content": "occupies"}],
            "stream": True,
            "max_tokens": 1000,
            "priority": 1000,
        }
    )
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {len(content)}\r\n"
    with socket.create_connection(("127.0.0.1", engine.port)) as connection:
        connection.sendall(f"{head}content-type: application/json\r\n\r\n{content}".encode())
        until(lambda: load(engine) == expected, f"a load of {expected}")
        yield


@contextmanager
def full(*engines: Twin) -> Iterator[None]:
    """One request running and one waiting on each, for as long as this lasts."""
    with ExitStack() as held:
        for engine in engines:
            engine.script({"contains": "occupies", "tokens_per_s": 5, "length": 900, "ttft_ms": 0})
            held.enter_context(occupied(engine, (1, 0)))
            held.enter_context(occupied(engine, (1, 1)))
        yield
    for engine in engines:
        _until_free(engine)


def _until_free(engine: Twin) -> None:
    until(lambda: load(engine) == (0, 0), "the engine is free")


@pytest.mark.parametrize("stream", [True, False])
def test_both_full_is_503_after_both_were_asked(stack: Stack, stream: bool) -> None:
    """A stream too: not a 200 with an error frame in it, as SGLang says it."""
    before = stack.ejections()
    with full(*stack.engines):
        for number in range(REQUESTS):
            answer = stack.ask(f"both full {stream} {number}", stream=stream)
            assert answer.status_code == 503
            assert answer.json()["error"]["code"] == "engine_overloaded", "and not that there is no engine"
            assert answer.headers["content-type"] == "application/json"
            assert answer.headers["x-tidegate-refusal"] == "engine_overloaded"
            assert int(answer.headers["retry-after"]) >= 1
            assert stack.outcomes(answer.headers["x-request-id"]) == [{"refused"}] * 2
    # The moment it is over the next one is answered: nobody was put out.
    assert stack.ask(f"free again {stream}", stream=stream).status_code == 200
    assert stack.ejections() == before
    assert stack.gateway.settled()


@pytest.mark.parametrize("stream", [True, False])
def test_one_full_is_answered_by_the_other(stack: Stack, stream: bool) -> None:
    before = stack.ejections()
    with full(stack.engines[0]):
        both = number = 0
        while both < 3:  # every second request meets the full one first
            number += 1
            assert number < 100, "the full one is not asked"
            answer = stack.ask(f"one full {stream} {number}", stream=stream)
            assert answer.status_code == 200
            refused, answered = stack.outcomes(answer.headers["x-request-id"])
            assert refused <= {"refused"} and answered <= {"stop", "length"} and answered
            both += bool(refused)
    assert stack.ejections() == before


def test_refusals_cost_nothing(stack: Stack) -> None:
    used = stack.gateway.settled()[("org", "month")]["used"]
    with full(*stack.engines):
        for stream in (True, False):
            assert stack.ask(f"costs nothing {stream}", stream=stream).status_code == 503
    assert stack.gateway.settled()[("org", "month")]["used"] == used
