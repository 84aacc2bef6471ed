"""Engines stop when nobody waits any more, through real Envoy, and the money agrees.

The twins stand behind relays that make them as deaf as SGLang (see tests/harness/relay.py): what stops
one before its answer has begun is ``/abort_request``, or nothing.
"""

from __future__ import annotations

import json
import select
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from tests.harness.engines import Twin, twin
from tests.harness.gateway import MODEL, UNTIL_S, Gateway, until
from tests.harness.patched import patched
from tests.harness.patience import BUSY, PAUSE_S, TRIES
from tests.harness.relay import deaf

SLOW: dict[str, Any] = {"tokens_per_s": 20, "length": 800}
"""A rule's pace: 40 seconds, far longer than it takes to stop an engine."""


@dataclass(frozen=True, kw_only=True)
class Stack:
    gateway: Gateway
    engines: tuple[Twin, Twin]
    addresses: tuple[str, str]
    """Where Envoy finds them."""

    def script(self, *rules: dict[str, Any]) -> None:
        for engine in self.engines:
            engine.script(*rules)

    def attempts(self, rid: str | None = None) -> list[dict[str, Any]]:
        """On both engines, each with the ``address`` where it was."""
        found = [
            {**attempt, "address": address}
            for engine, address in zip(self.engines, self.addresses, strict=True)
            for attempt in engine.attempts(rid)
        ]
        return sorted(found, key=lambda attempt: int(attempt["start_ms"]))

    def events(self, rid: str) -> dict[str, list[dict[str, Any]]]:
        """What the books say of the request, by type."""
        found: dict[str, list[dict[str, Any]]] = {}
        for event in self.gateway.events():
            if event.get("request_id") == rid:
                found.setdefault(event["type"], []).append(event)
        return found

    def metric(self, name: str, labels: str) -> float:
        """One of Tidegate's own counters; 0 while it has not been counted."""
        lines = httpx.get(f"{self.gateway.operators_url}/metrics").text.splitlines()
        found = [line for line in lines if line.startswith(f"{name}{{{labels}}}")]
        return float(found[0].split()[-1]) if found else 0.0

    def told(self) -> float:
        """How many aborts engines have been told."""
        return self.metric("tidegate_engine_aborts_total", 'result="told"')

    def until_told(self, before: float) -> None:
        """One abort more than ``before``, and no other. It is counted when the engine has answered to it:
        after the engine has stopped."""
        until(lambda: self.told() > before, "the abort is counted")
        assert self.told() - before == 1

    def used(self) -> int:
        return int(self.gateway.settled()[("org", "month")]["used"])


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    times = {
        "/spec/http/0/retries/perTryTimeout": "2s",
        "/spec/http/0/retries/attempts": 1,
        "/spec/http/1/timeout": "5s",
    }
    mesh = patched(tmp_path_factory.mktemp("policy") / "mesh", "VirtualService", "openai", times)
    directory = tmp_path_factory.mktemp("engines")
    with ExitStack() as running:
        one, other = (
            running.enter_context(twin(directory, "--model", MODEL, name=name)) for name in ("one", "other")
        )
        addresses = [f"127.0.0.1:{running.enter_context(deaf(engine.port))}" for engine in (one, other)]
        urls = ",".join(f"http://{address}" for address in addresses)
        gateway = Gateway(tmp_path_factory.mktemp("state"), engine=urls, mesh=mesh)
        running.callback(gateway.close)
        yield Stack(gateway=gateway, engines=(one, other), addresses=(addresses[0], addresses[1]))


def request_body(text: str, *, stream: bool = False, **more: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": text}]
    return {"model": MODEL, "messages": messages, "stream": stream, "max_tokens": 1000, **more}


def asking(stack: Stack, body: dict[str, Any]) -> socket.socket:
    """A connection on which the request has been sent; an engine has it."""
    known = len(stack.attempts())
    for _ in range(TRIES):
        connection = sent(stack.gateway, body)

        def told(connection: socket.socket = connection) -> bool:
            return len(stack.attempts()) > known or answered(connection)

        until(told, "it is on its way or refused")
        if len(stack.attempts()) > known:
            return connection
        with closing(connection):
            head = connection.recv(65_536).decode()
        assert any(f"x-tidegate-refusal: {code}\r\n" in head for code in BUSY), head
        time.sleep(PAUSE_S)
    raise AssertionError(head)


def answered(connection: socket.socket) -> bool:
    """Whether there is something to read."""
    return bool(select.select([connection], [], [], 0)[0])


def sent(gateway: Gateway, body: dict[str, Any]) -> socket.socket:
    """A connection on which the request has been sent."""
    content = json.dumps(body).encode()
    head = (
        "POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
        f"authorization: Bearer {gateway.api_key}\r\ncontent-length: {len(content)}\r\n\r\n"
    )
    connection = socket.create_connection(("127.0.0.1", gateway.port), timeout=UNTIL_S)
    connection.sendall(head.encode() + content)
    return connection


def begun(stack: Stack, known: int, *, tokens: int = 1) -> dict[str, Any]:
    """The attempt after the ``known`` ones, once it has produced something."""

    def ask() -> dict[str, Any] | None:
        fresh = stack.attempts()[known:]
        return fresh[-1] if fresh and fresh[-1]["completion_tokens"] >= tokens else None

    return until(ask, "an attempt that produces")


def ended(stack: Stack, attempt: dict[str, Any]) -> dict[str, Any]:
    """The attempt, once it is over."""

    def ask() -> dict[str, Any] | None:
        found = [one for one in stack.attempts(attempt["rid"]) if one["address"] == attempt["address"]]
        return found[-1] if found[-1]["outcome"] != "running" else None

    return until(ask, "the engine stopped")


def resolved(stack: Stack, rid: str, kind: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The one resolution of the hold, which is a ``kind``, and the access entry."""

    def ask() -> dict[str, list[dict[str, Any]]] | None:
        found = stack.events(rid)
        return found if kind in found and "access" in found else None

    events = until(ask, f"{kind} and the access entry in the books")
    endings = [event for name in events for event in events[name] if name.startswith("hold.")]
    assert [event["type"] for event in endings] == ["hold.granted", kind]
    (access,) = events["access"]
    return endings[1], access


def test_a_json_request_whose_client_leaves_is_aborted(stack: Stack) -> None:
    stack.script({"contains": "leaves", **SLOW})
    known, told, before = len(stack.attempts()), stack.told(), stack.used()
    with closing(asking(stack, request_body("leaves a JSON answer"))):
        running = begun(stack, known)
    attempt = ended(stack, running)
    assert attempt["outcome"] == "abort"
    assert attempt["completion_tokens"] < attempt["planned_tokens"] / 2
    settled, access = resolved(stack, attempt["rid"], "hold.settled")
    assert (access["verdict"], access["context"]["upstream"]) == ("0", attempt["address"])
    assert "DC" in access["context"]["flags"].split(",")
    # Nobody saw what it produced: the whole hold, flagged, and once.
    assert settled["reason"] == "unknown"
    assert stack.used() - before == int(settled["amounts"]["used"]) >= attempt["completion_tokens"]
    stack.until_told(told)


def test_a_stream_that_never_began_is_aborted(stack: Stack) -> None:
    """Queued, or in prefill: SGLang sends the headers with the first token. No token, so none to see."""
    stack.script({"contains": "never began", "ttft_ms": 30_000})
    known, told = len(stack.attempts()), stack.told()
    with closing(asking(stack, request_body("never began", stream=True))):
        running = begun(stack, known, tokens=0)
    attempt = ended(stack, running)
    assert (attempt["outcome"], attempt["completion_tokens"]) == ("abort", 0)
    resolved(stack, attempt["rid"], "hold.settled")
    stack.until_told(told)


def test_a_route_timeout_aborts(stack: Stack) -> None:
    stack.script({"contains": "times out", **SLOW})
    known, told, before = len(stack.attempts()), stack.told(), stack.used()
    with stack.gateway.client() as client:
        answer = client.post("/chat/completions", json=request_body("times out"))
    assert answer.status_code == 504
    (fresh,) = stack.attempts()[known:]
    attempt = ended(stack, fresh)
    assert attempt["outcome"] == "abort" and attempt["rid"] == answer.headers["x-request-id"]
    assert attempt["completion_tokens"] < attempt["planned_tokens"] / 2
    settled, access = resolved(stack, attempt["rid"], "hold.settled")
    assert (access["verdict"], access["context"]["upstream"]) == ("504", attempt["address"])
    # It worked until our side gave up, and nobody saw how much: not free, and corrected by its own record.
    assert settled["reason"] == "unknown"
    stack.until_told(told)
    assert stack.used() - before == int(settled["amounts"]["used"]) >= attempt["completion_tokens"]


def test_the_last_try_of_a_stream_without_a_first_token_is_aborted(stack: Stack) -> None:
    stack.script({"contains": "no first token", "ttft_ms": 30_000})
    known, told = len(stack.attempts()), stack.told()
    with stack.gateway.client() as client:
        answer = client.post("/chat/completions", json=request_body("no first token", stream=True))
    assert answer.status_code == 504
    first, last = stack.attempts()[known:]
    assert first["rid"] == last["rid"]
    assert ended(stack, last)["outcome"] == "abort"
    stack.until_told(told)
    # The engine of an earlier try finds out by itself: as both have one id, and may be on one engine, an
    # abort of the first could end the second, for which somebody still waits.
    elsewhere = [one for one in stack.attempts(last["rid"]) if one["address"] != last["address"]]
    assert {one["outcome"] for one in elsewhere} <= {"running"}


def test_complete_answers_and_refusals_are_never_aborted(stack: Stack) -> None:
    refusal = {"object": "error", "message": "no", "type": "BadRequestError", "code": 400}
    stack.script({"contains": "refused", "status": 400, "body": refusal})
    known, told = len(stack.attempts()), stack.told()
    with stack.gateway.client() as client:
        for number in range(20):
            text = "refused" if number % 5 == 0 else "complete"
            body = request_body(f"{text} {number}", stream=number % 2 == 0, max_tokens=5)
            client.post("/chat/completions", json=body)
    rids = {attempt["rid"] for attempt in stack.attempts()[known:]}
    until(lambda: all("access" in stack.events(rid) for rid in rids), "every access entry in the books")
    outcomes = {attempt["outcome"] for attempt in stack.attempts()[known:]}
    assert len(rids) == 20 and outcomes <= {"stop", "length", "scripted"}
    assert stack.told() == told


def test_a_stream_whose_client_leaves_ends_by_itself_and_costs_what_was_seen(stack: Stack) -> None:
    """Envoy closes the connection and SGLang sees it while it writes: no abort is needed, and none sent."""
    stack.script({"contains": "leaves", **SLOW, "tokens_per_s": 8})
    known, told, before = len(stack.attempts()), stack.told(), stack.used()
    with closing(asking(stack, request_body("leaves a stream", stream=True))) as connection:
        received = b""
        while received.count(b"data: ") < 5:
            part = connection.recv(65_536)
            assert part, received
            received += part
        (running,) = stack.attempts()[known:]
    attempt = ended(stack, running)
    assert attempt["outcome"] == "client_gone"
    settled, access = resolved(stack, attempt["rid"], "hold.settled")
    assert (access["verdict"], settled["reason"]) == ("200", "provisional")
    truth = attempt["prompt_tokens"] + attempt["completion_tokens"]
    # What the engine produced in the second before it saw that nobody listens.
    assert truth - 8 <= stack.used() - before <= truth
    assert stack.told() == told


def test_after_a_retry_the_engine_that_has_it_is_told(stack: Stack) -> None:
    body = {"object": "error", "message": "The request queue is full.", "type": "503", "code": 503}
    full, free = stack.engines
    full.script({"contains": "tried", "status": 503, "body": body})
    free.script({"contains": "tried", **SLOW})
    for number in range(20):  # every second request meets the full one first
        told, known = stack.told(), len(free.attempts())
        with closing(asking(stack, request_body(f"tried {number}"))):

            def running(known: int = known) -> dict[str, Any] | None:
                fresh = free.attempts()[known:]
                return fresh[0] if fresh and fresh[0]["completion_tokens"] else None

            rid = until(running, "the free engine producing")["rid"]
        attempt = ended(stack, {"rid": rid, "address": stack.addresses[1]})
        assert attempt["outcome"] == "abort"
        _, access = resolved(stack, rid, "hold.settled")
        assert access["context"]["upstream"] == attempt["address"]
        stack.until_told(told)
        refused = full.attempts(rid)
        if refused:
            break
    assert [one["outcome"] for one in refused] == ["scripted"] * (int(access["attempt"]) - 1) != []
