"""Engines that are told to stop, die or lie, beside one that is well: no request is lost.

SGLang goes on taking requests while it drains (SIGTERM); only ``/ready`` says 503. So the health check
of mesh/base/engines.yaml is what takes it out.
"""

from __future__ import annotations

import itertools
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.harness.engines import Twin, twin
from tests.harness.gateway import MODEL, UNTIL_S, Gateway, until

CLIENTS = 6
WHILE_DRAINING = 40
AFTERWARDS = 100
"""Requests that must be answered after what happens has happened."""
LONG_TOKENS = 320
"""Of a stream, 20 in a second: it still runs when a slow machine has answered WHILE_DRAINING requests."""


@dataclass(frozen=True, kw_only=True)
class Stack:
    gateway: Gateway
    one: Twin
    other: Twin

    def ask(self, text: str, *, stream: bool = False, max_tokens: int = 5) -> httpx.Response:
        body = {
            "model": MODEL,
            "messages": [{"role": "user", "content": text}],
            "stream": stream,
            "max_tokens": max_tokens,
        }
        with self.gateway.client() as client:
            return client.post("/chat/completions", json=body)

    def ejections(self, kind: str) -> int:
        """How often outlier detection took an engine out."""
        return self._envoy(f"outlier_detection_ejections_enforced_{kind}")

    def healthy(self) -> int:
        """Engines that Envoy sends new requests to."""
        return self._envoy("membership_healthy")

    def _envoy(self, name: str) -> int:
        lines = httpx.get(f"{self.gateway.operators_url}/metrics/envoy").text.splitlines()
        (line,) = (line for line in lines if f"{name}{{" in line and "sglang" in line)
        return int(line.split()[-1])


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    with ExitStack() as running:
        options = ("--model", MODEL, "--tokens-per-s", "200")
        one, other = (running.enter_context(twin(tmp_path, *options, name=name)) for name in ("one", "other"))
        gateway = Gateway(tmp_path / "state", engine=f"{one.url},{other.url}")
        running.callback(gateway.close)
        yield Stack(gateway=gateway, one=one, other=other)


@dataclass(kw_only=True)
class Load:
    """Clients that ask again and again, JSON and, with ``streams``, streams in turn."""

    stack: Stack
    streams: bool
    answered: int = 0
    lost: list[str] = field(default_factory=list)
    _over: threading.Event = field(default_factory=threading.Event)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def client(self, number: int) -> None:
        for count in itertools.count():
            if self._over.is_set():
                return
            stream = self.streams and count % 2 == 0
            answer = self.stack.ask(f"client {number} asks {count}", stream=stream)
            whole = answer.text.rstrip().endswith("data: [DONE]") if stream else "usage" in answer.json()
            with self._lock:
                self.answered += 1
                if answer.status_code != 200 or not whole or "error" in answer.text:
                    self.lost.append(f"{answer.status_code} {answer.text[-300:]}")

    def until_answered(self, more: int) -> None:
        wanted = self.answered + more
        until(lambda: self.answered >= wanted or self.lost, f"{more} more answers")

    def over(self) -> None:
        self._over.set()


def under_load(stack: Stack, act: Callable[[Load], None], *, streams: bool = True) -> Load:
    """What clients see while ``act`` happens, and for AFTERWARDS more requests."""
    load = Load(stack=stack, streams=streams)
    with ThreadPoolExecutor(CLIENTS) as pool:
        clients = [pool.submit(load.client, number) for number in range(CLIENTS)]
        try:
            load.until_answered(CLIENTS)
            act(load)
            load.until_answered(AFTERWARDS)
        finally:
            load.over()
        for client in clients:
            client.result()
    return load


def test_a_drained_engine_finishes_its_streams_and_loses_nothing(stack: Stack) -> None:
    for engine in (stack.one, stack.other):
        engine.script({"contains": "long", "tokens_per_s": 20, "length": LONG_TOKENS})

    def drain(load: Load) -> None:
        with ThreadPoolExecutor(8) as pool:
            streams = [
                pool.submit(stack.ask, f"long {number}", stream=True, max_tokens=LONG_TOKENS)
                for number in range(8)
            ]
            until(lambda: len(long(stack.one)) + len(long(stack.other)) == 8, "8 streams begun")
            assert long(stack.one), "least-request balancing has spread them"
            os.kill(stack.one.pid, signal.SIGTERM)
            until(lambda: httpx.get(f"{stack.one.url}/ready").status_code == 503, "/ready says so")
            # It still takes what is sent to it, and answers it: SGLang does, and so does the twin.
            body = {"model": MODEL, "messages": [{"role": "user", "content": "late"}], "max_tokens": 5}
            late = httpx.post(f"{stack.one.url}/v1/chat/completions", json=body)
            assert late.status_code == 200 and late.json()["usage"]["completion_tokens"] > 0
            until(lambda: stack.healthy() == 1, "the health check has taken it out")
            load.until_answered(2 * CLIENTS)  # those that were on their way
            known = len(stack.one.attempts())
            load.until_answered(WHILE_DRAINING)
            assert len(stack.one.attempts()) == known, "new requests go to the other one"
            assert {attempt["outcome"] for attempt in long(stack.one)} == {"running"}
            answers = [stream.result() for stream in streams]
        assert [answer.text.rstrip().endswith("data: [DONE]") for answer in answers] == [True] * 8
        assert stack.one.process.wait(UNTIL_S) == 0, "it ends once its streams have"

    load = under_load(stack, drain)
    assert load.lost == [] and load.answered > WHILE_DRAINING + AFTERWARDS
    outcomes = {attempt.outcome for attempt in stack.one.recorded()}
    assert outcomes <= {"stop", "length"}, "whatever it took it answered whole"


def long(engine: Twin) -> list[dict[str, Any]]:
    """Its long streams that have begun."""
    return [attempt for attempt in engine.attempts() if attempt["planned_tokens"] == LONG_TOKENS]


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_an_engine_that_goes_before_a_health_check_sees_it_loses_nothing(
    stack: Stack, how: signal.Signals
) -> None:
    """Idle, so that SIGTERM ends it at once: connections are refused or reset, and Envoy tries the other."""

    def end(_: Load) -> None:
        os.kill(stack.one.pid, how)
        stack.one.process.wait(UNTIL_S)

    # A stream that a kill cuts in the middle cannot be mended; a JSON answer has not begun.
    load = under_load(stack, end, streams=how is signal.SIGTERM)
    assert load.lost == [] and load.answered > AFTERWARDS


def test_a_dead_engine_is_left_out(stack: Stack) -> None:
    stack.one.kill()
    numbers = itertools.count()

    def left_out() -> bool:
        assert stack.ask(f"beside a dead one {next(numbers)}").status_code == 200
        return stack.healthy() == 1

    until(left_out, "the dead engine left out")
    assert next(numbers) < 20, "after two refused connections, of about half the requests"


def test_a_lying_engine_is_left_out(stack: Stack) -> None:
    """``/ready`` says 200, every answer is an error: two of them are enough."""
    stack.one.script({"status": 500, "body": {"object": "error", "message": "CUDA error"}})
    seen: list[int] = []
    while seen.count(502) < 2:
        seen.append(stack.ask(f"beside a liar {len(seen)}").status_code)
        assert set(seen) <= {200, 502} and len(seen) < 100, seen
    until(lambda: stack.ejections("consecutive_5xx") > 0, "the lying engine ejected")
