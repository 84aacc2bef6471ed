"""What the tap could not see, or was not told, is charged provisionally; reconciling makes it exact by the
engine's own record, through the real Envoy, the books and the store."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import pytest

from gateway.bookkeeper.reconcile import events_since
from gateway.bookkeeper.reconcile_engines import TwinRecords
from gateway.bookkeeper.reconcile_run import Report, reconcile
from gateway.budget.redis_ledger import RedisLedger
from gateway.contract.clock import SystemClock
from gateway.contract.ids import RegionName
from mesh.local.layout import Layout, layout_of
from mesh.local.region import REGION
from tests.harness.engines import Twin, twin
from tests.harness.gateway import MODEL, Gateway, until
from tests.harness.held_answers import HeldAnswers

WORKERS = "ext-proc"


@dataclass(frozen=True, kw_only=True)
class Stack:
    gateway: Gateway
    engine: Twin
    relays: list[HeldAnswers]

    @property
    def place(self) -> Layout:
        return layout_of(self.gateway.state)

    def used(self) -> int:
        return int(self.gateway.settled()[("org", "month")]["used"])

    def produced(self, rid: str) -> int:
        """By the engine's record, once the attempt is over."""

        def ask() -> int | None:
            (attempt,) = self.engine.attempts(rid)
            over = attempt["outcome"] in ("stop", "length")
            return attempt["prompt_tokens"] + attempt["completion_tokens"] if over else None

        return until(ask, "the engine has told the end of its attempt")

    def streamed(self, text: str, seen: Callable[[int], None]) -> str:
        """The id of a request whose answer was read to ``[DONE]``; ``seen`` hears how many events there were
        so far."""
        body = {"model": MODEL, "stream": True, "max_tokens": 200, "seed": 1}
        body["messages"] = [{"role": "user", "content": text}]
        with (
            self.gateway.client() as client,
            client.stream("POST", "/chat/completions", json=body) as answer,
        ):
            events = []
            for line in answer.iter_lines():
                if line.startswith("data: "):
                    events.append(line)
                    seen(len(events))
            assert events[-1] == "data: [DONE]"
            return str(answer.headers["x-request-id"])

    def told(self, rid: str) -> tuple[dict[str, Any], dict[str, Any]]:
        """The settle and the access entry of a request, once they are in the books."""

        def ask() -> tuple[dict[str, Any], dict[str, Any]] | None:
            found: dict[str, dict[str, Any]] = {}
            for segment in sorted(self.place.books.glob("*.jsonl")):
                whole, _, _ = segment.read_text().rpartition("\n")
                events = [json.loads(line)["event"] for line in whole.splitlines()]
                found |= {event["type"]: event for event in events if event.get("request_id") == rid}
            both = "hold.settled" in found and "access" in found
            return (found["hold.settled"], found["access"]) if both else None

        return until(ask, "the settle and the access entry")

    def reconcile(self) -> Report:
        async def run() -> Report:
            ledger = RedisLedger.connect(f"unix://{self.place.socket('ledger')}")
            try:
                events = events_since(self.place.books, RegionName(REGION), 0)
                engines = [TwinRecords(self.engine.url)]
                return await reconcile(ledger, events, engines, SystemClock(), idle=True, prices={})
            finally:
                await ledger.aclose()

        return asyncio.run(run())

    def made_exact(self, rid: str, before: int) -> None:
        """What was charged is not what was produced, until it is reconciled, once."""
        truth = self.produced(rid)
        assert self.used() - before != truth
        report = self.reconcile()
        assert (report.corrected, report.changed, report.unknown, report.differing) == (1, 1, [], [])
        assert self.used() - before == truth
        until(lambda: self.reconcile().already == 0, "the correction in the books")
        assert (self.reconcile().changed, self.used() - before) == (0, truth)


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with ExitStack() as running:
        engine = running.enter_context(twin(tmp_path_factory.mktemp("engine"), "--model", MODEL))
        gateway = Gateway(tmp_path_factory.mktemp("state"), engine=engine.url)
        running.callback(gateway.close)
        place = layout_of(gateway.state)
        relays = [HeldAnswers(path) for path in sorted(place.run.glob(f"{WORKERS}-*.sock"))]
        for relay in relays:
            running.callback(relay.close)
        first = gateway.pid("envoy")
        gateway.kill("envoy")  # its connections went past the relays
        until(lambda: gateway.pids("envoy") not in ([], [first]), "another Envoy")
        gateway.until_ready()
        yield Stack(gateway=gateway, engine=engine, relays=relays)


def test_an_answer_that_goes_on_without_its_tap_is_made_exact(stack: Stack) -> None:
    """Envoy hears nothing of the tap for a second, which answers in time: it goes on without it, with the
    answer, and to the tap that looks as if the client had left. Each chunk gives the tap another second
    (seen on 1.40): so the engine pauses."""
    pause = {"stall_after_chunks": 12, "stall_ms": 1500}
    stack.engine.script({"contains": "goes on", "tokens_per_s": 15, "length": 16, **pause})
    before = stack.used()

    def hold_after_three(events: int) -> None:
        if events == 3:
            for relay in stack.relays:
                relay.hold()

    rid = stack.streamed("goes on", hold_after_three)
    for relay in stack.relays:
        relay.release()
    settled, access = stack.told(rid)
    assert (access["verdict"], access["context"].get("flags")) == ("200", None)
    # A machine so busy that the worker was late too makes the other of it: then the whole hold is charged.
    guess = (settled["reason"], settled["context"]["detail.ended"])
    assert guess in (("provisional", "cut"), ("unknown", "lost"))
    stack.made_exact(rid, before)


def test_an_answer_without_usage_is_made_exact(stack: Stack) -> None:
    stack.engine.script({"contains": "says nothing", "usage": "missing", "length": 30})
    before = stack.used()
    rid = stack.streamed("says nothing of its usage", lambda _: None)
    settled, _ = stack.told(rid)
    assert (settled["reason"], settled["context"]["detail.ended"]) == ("provisional", "complete")
    assert "usage_missing" in settled["context"]["detail.flags"].split(",")
    stack.made_exact(rid, before)
