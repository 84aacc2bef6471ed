"""The corpus of bodies through real Envoy: each refusal typed, before anything is reserved or asked.

The bad ones go first: after them nothing is used, nothing held and no engine asked. Then the few that are
taken, for what the engine gets of them.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest

from tests.corpus.bench import Footprint, access_entries, events, spent
from tests.corpus.bodies.cases import MODELS, Case, cases
from tests.corpus.http.cases import FORGED
from tests.corpus.http.recorder import Recorder, Seen, recorder
from tests.harness.engines import Twin, twin
from tests.harness.gateway import MODEL, Gateway, overlay, until
from tests.harness.patience import given_up

BAD = [case for case in cases() if case.expect.status != 200]
GOOD = [case for case in cases() if case.expect.status == 200]
CLIENTS = 8
JSON = {"content-type": "application/json"}


@dataclass
class Bench:
    """A gateway before a recorded twin, and what became of each body."""

    gateway: Gateway
    engine: Twin
    recorder: Recorder
    before: Footprint
    entries_before: int
    spent_before: dict[str, tuple[int, int]]
    spent_after_bad: dict[str, tuple[int, int]] = field(default_factory=dict)
    seen_after_bad: list[Seen] = field(default_factory=list)
    answers: dict[str, httpx.Response] = field(default_factory=dict)

    def send(self, some: Iterable[Case]) -> None:
        """Each once, over a few kept connections."""
        with self.gateway.client() as client:

            def ask(case: Case) -> None:
                path = case.endpoint.path.removeprefix("/v1")
                self.answers[case.name] = client.post(path, content=case.body, headers=JSON)

            with ThreadPoolExecutor(CLIENTS) as clients:
                list(clients.map(ask, some))


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    mesh = overlay(tmp_path_factory.mktemp("policy") / "mesh", {"models.yaml": MODELS.read_text()})
    state = tmp_path_factory.mktemp("bodies") / "state"
    with (
        twin(tmp_path_factory.mktemp("engine"), "--model", MODEL) as engine,
        recorder(engine.port) as recording,
    ):
        gateway = Gateway(state, engine=f"http://127.0.0.1:{recording.port}", mesh=mesh)
        try:
            yield _after_the_corpus(gateway, engine, recording)
        finally:
            gateway.close()


def _after_the_corpus(gateway: Gateway, engine: Twin, recording: Recorder) -> Bench:
    bench = Bench(
        gateway=gateway,
        engine=engine,
        recorder=recording,
        before=Footprint(gateway),
        entries_before=len(access_entries(gateway, ())),
        spent_before=spent(gateway),
    )
    bench.send(BAD)
    bench.spent_after_bad, bench.seen_after_bad = spent(gateway), recording.requests()
    bench.send(GOOD)
    return bench


@pytest.mark.parametrize("case", BAD, ids=lambda case: case.name)
def test_the_refusal_is_what_the_file_says(bench: Bench, case: Case) -> None:
    answer, expected = bench.answers[case.name], case.expect
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (
        expected.status,
        expected.code,
        expected.param,
    )
    assert error.keys() == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error"
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-tidegate-refusal"] == expected.code


@pytest.mark.parametrize("case", GOOD, ids=lambda case: case.name)
def test_the_engine_gets_what_the_file_says(bench: Bench, case: Case) -> None:
    answer = bench.answers[case.name]
    assert answer.status_code == 200, answer.text
    request_id = answer.headers["x-request-id"]
    (seen,) = [one for one in bench.recorder.requests() if one.request_id == request_id]
    sent: dict[str, Any] = json.loads(seen.body)
    assert {name: sent.get(name) for name in case.engine} == case.engine
    assert FORGED not in seen.body
    if case.endpoint.generates:
        assert sent["rid"] == request_id


def test_nothing_is_used_held_or_asked_for_a_refused_body(bench: Bench) -> None:
    assert bench.spent_after_bad == bench.spent_before
    assert bench.seen_after_bad == []


def test_what_was_taken_is_charged_as_the_engine_counted(bench: Bench) -> None:
    attempts = bench.engine.recorded()
    tokens = sum(attempt.prompt_tokens + attempt.completion_tokens for attempt in attempts)
    after = spent(bench.gateway)
    used = {account: used - bench.spent_before[account][0] for account, (used, _) in after.items()}
    assert tokens > 0
    assert used == dict.fromkeys(after, tokens)


def test_each_body_has_one_access_entry_and_a_refused_one_the_event_of_its_refusal(bench: Bench) -> None:
    named = {answer.headers["x-request-id"] for answer in bench.answers.values()}
    codes = {bench.answers[case.name].headers["x-request-id"]: case.expect.code for case in BAD}
    assert len(named) == len(cases())

    def entries() -> list[dict[str, Any]]:
        """Without those of a busy machine, which was asked again."""
        found = access_entries(bench.gateway, named)[bench.entries_before :]
        return [entry for entry in found if entry["request_id"] not in given_up]

    def written() -> list[dict[str, Any]] | None:
        found = events(bench.gateway)
        refused = {event["request_id"] for event in found if event["type"] == "request.refused"}
        return found if len(entries()) >= len(named) and codes.keys() <= refused else None

    found = until(written, f"{len(named)} access entries and {len(codes)} refusals")
    assert Counter(entry["request_id"] for entry in entries()) == dict.fromkeys(named, 1)
    others = [event for event in found if event.get("request_id") in codes and event["type"] != "access"]
    assert {event["type"] for event in others} == {"request.refused"}
    assert {event["request_id"]: event["context"]["code"] for event in others} == codes
    assert len(others) == len(BAD)


def test_the_processes_are_those_of_before_and_have_not_grown(bench: Bench) -> None:
    assert Footprint(bench.gateway).pids == bench.before.pids
    assert bench.before.grown_too_much() == {}
