"""The corpus of odd and bad HTTP through real Envoy: each answered as its file says, and nothing else.

No 5xx but 501 for unknown transfer codings; nothing reserved for what is refused; the engine sees the
requests that were answered, byte for byte ours; one access entry for each request, also for bytes that never
became one.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest

from ext_proc.phases.routing import ENGINE_MAY_SEE
from tests.corpus.bench import Footprint, access_entries, spent
from tests.corpus.http import frames, wire
from tests.corpus.http.cases import FORGED, Case, Expected, Filling, cases
from tests.corpus.http.recorder import Recorder, recorder
from tests.corpus.http.wire import Answer
from tests.harness.engines import Twin, twin
from tests.harness.gateway import MODEL, Gateway, until
from tests.harness.patience import TRIES, busy

CASES_MIN = 400
CLIENTS = 8
WAITING = 12
"""More of them, whose connections end: Envoy closes one a second after it has given up on it."""
CHAT = json.dumps(
    {"model": MODEL, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 1}, separators=(",", ":")
)
GATEWAYS_OWN = {
    *("x-envoy-attempt-count", "x-envoy-expected-rq-timeout-ms", "accept-encoding"),
    *("x-tidegate-pool", "x-tidegate-stream", "x-tidegate-priority", "x-tidegate-hold"),
}
"""Headers that the engine sees beside those of a client."""
UNKNOWN_CODING = 501


@dataclass
class Bench:
    """A gateway before a recorded twin, after the whole corpus went through it."""

    gateway: Gateway
    engine: Twin
    recorder: Recorder
    before: Footprint
    spent_before: dict[str, tuple[int, int]]
    entries_before: int
    broken_before: int
    outcomes: dict[str, tuple[list[Answer], bool] | Exception] = field(default_factory=dict)
    again: Counter[str] = field(default_factory=Counter)
    """Cases that a busy machine made to be sent again, and how often."""
    dropped: set[str] = field(default_factory=set)
    """Ids of their requests, those too that were answered beside one that was refused."""

    def answers(self, case: Case) -> list[Answer]:
        """Of one case."""
        outcome = self.outcomes[case.name]
        if isinstance(outcome, Exception):
            raise outcome
        return outcome[0]

    def send(self, case: Case) -> None:
        """One case, on a connection of its own."""
        try:
            for _ in range(TRIES):
                self.outcomes[case.name] = answers, _ = self._exchange(case)
                if not any(busy(answer.headers) for answer in answers):
                    break
                self.again[case.name] += 1
                self.dropped |= {answer.headers["x-request-id"] for answer in answers if answer.status}
        except (OSError, ValueError) as error:
            self.outcomes[case.name] = error  # raised by the case's own test

    def times(self, case: Case) -> int:
        """How often it was sent."""
        return 1 + self.again[case.name]

    def _exchange(self, case: Case) -> tuple[list[Answer], bool]:
        port = self.gateway.port
        filling = Filling(key=self.gateway.api_key, host="127.0.0.1", port=port, chat=CHAT)
        if case.frames:
            return frames.exchange(port, frames.bytes_of(case, filling), len(case.expect), case.ends)
        return wire.exchange(port, case.segments(filling), case.expect, case.ends)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    with (
        twin(tmp_path_factory.mktemp("engine"), "--model", MODEL) as engine,
        recorder(engine.port) as recording,
    ):
        gateway = Gateway(
            tmp_path_factory.mktemp("http") / "state", engine=f"http://127.0.0.1:{recording.port}"
        )
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
        spent_before=spent(gateway),
        entries_before=len(access_entries(gateway, ())),
        broken_before=_broken_connections(gateway),
    )
    closed = [case for case in cases() if case.ends == "closed"]
    others = [case for case in cases() if case.ends != "closed"]
    with ThreadPoolExecutor(CLIENTS) as clients, ThreadPoolExecutor(WAITING) as waiting:
        sent = [waiting.submit(bench.send, case) for case in closed]
        sent += [clients.submit(bench.send, case) for case in others]
        for one in sent:
            one.result()
    return bench


def _broken_connections(gateway: Gateway) -> int:
    """Connections to the gateway's listener that Envoy ended for a breach of the protocol."""
    metrics = httpx.get(f"{gateway.operators_url}/metrics/envoy").text
    found = re.search(r"^envoy_http_\S*8080_downstream_cx_protocol_error\S* (\d+)$", metrics, re.MULTILINE)
    assert found is not None
    return int(found[1])


@pytest.mark.parametrize("case", cases(), ids=lambda case: case.name)
def test_the_answers_are_what_the_file_says(bench: Bench, case: Case) -> None:
    answers = bench.answers(case)
    assert [answer.status or answer.end for answer in answers] == [_status(one) for one in case.expect]
    for answer, expected in zip(answers, case.expect, strict=True):
        if answer.status:
            _is_as_expected(answer, expected)
    outcome = bench.outcomes[case.name]
    assert isinstance(outcome, tuple)
    assert outcome[1] == (case.ends == "closed")


def _status(expected: Expected) -> int | str:
    ended = f"reset {expected.reset}" if expected.reset else f"goaway {expected.goaway}"
    return expected.status or ended


def _is_as_expected(answer: Answer, expected: Expected) -> None:
    assert answer.status < 500 or answer.status == UNKNOWN_CODING
    assert answer.headers["x-request-id"]
    assert answer.headers.get("x-tidegate-refusal", "") == expected.code or not expected.code
    if expected.allow:
        assert answer.headers["allow"] == expected.allow
    assert expected.says in answer.body.decode()
    if expected.grpc:
        assert answer.headers["grpc-status"] != "0"
    elif expected.code and not expected.bodiless:
        assert answer.error.keys() == {"message", "type", "param", "code"}
        assert (answer.error["type"], answer.error["code"]) == ("invalid_request_error", expected.code)


def test_each_request_has_one_access_entry(bench: Bench) -> None:
    named = Counter(
        answer.headers["x-request-id"]
        for case in cases()
        for answer, expected in zip(bench.answers(case), case.expect, strict=False)
        if answer.status and not expected.logged
    )
    unnamed = Counter(logged for case in cases() for logged in bench.times(case) * case.logged)
    promised = named.total() + unnamed.total()

    def written() -> list[dict[str, Any]] | None:
        entries = access_entries(bench.gateway, named)[bench.entries_before :]
        entries = [entry for entry in entries if entry.get("request_id") not in bench.dropped]
        return entries if len(entries) >= promised else None

    entries = until(written, f"{promised} access entries")
    found = Counter(entry["request_id"] for entry in entries if entry.get("request_id") in named)
    assert {case.name for case in cases() if _without_entry(bench, case, found)} == set()
    assert found == named
    others = [entry for entry in entries if entry.get("request_id") not in named]
    assert Counter(f"{entry['verdict']} {entry['reason']}" for entry in others) == unnamed


def _without_entry(bench: Bench, case: Case, found: Counter[str]) -> bool:
    return any(
        answer.status and not expected.logged and found[answer.headers["x-request-id"]] != 1
        for answer, expected in zip(bench.answers(case), case.expect, strict=False)
    )


def test_every_broken_connection_is_an_entry_or_a_case_that_says_it_is_none(bench: Bench) -> None:
    """Envoy's flag DPE is on each entry of one; over HTTP/2 ``http2.`` stands for a stream alone."""
    entries = access_entries(bench.gateway, ())[bench.entries_before :]
    broken = [entry for entry in entries if "DPE" in entry["context"].get("flags", "")]
    logged = sum(not entry["reason"].startswith("http2.") for entry in broken)
    unlogged = sum(bench.times(case) for case in cases() if case.frames and "unlogged" in case.spec)
    assert _broken_connections(bench.gateway) - bench.broken_before == logged + unlogged


def test_the_engine_sees_the_requests_that_were_answered_and_no_other(bench: Bench) -> None:
    seen = [request for request in bench.recorder.requests() if request.request_id not in bench.dropped]
    expected = Counter(
        answer.headers["x-request-id"]
        for case in cases()
        if case.engine
        for answer in bench.answers(case)
        if answer.status == 200
    )
    assert expected.total() == sum(case.engine for case in cases())
    assert Counter(request.request_id for request in seen) == expected
    for request in seen:
        names = Counter(name for name, _ in request.headers)
        assert names.keys() <= ENGINE_MAY_SEE | GATEWAYS_OWN, request
        assert {name for name, times in names.items() if times > 1} <= {"tracestate"}, request
        assert (request.method, request.target) in {
            ("POST", "/v1/chat/completions"),
            ("POST", "/v1/completions"),
        }
        assert json.loads(request.body)["rid"] == request.request_id


def test_nothing_that_a_client_forged_is_believed_or_repeated(bench: Bench) -> None:
    toward_engines = b"".join(bytes(data) for data in bench.recorder.asked).lower()
    books = b"".join(file.read_bytes() for file in (bench.gateway.state / "books").rglob("*.jsonl"))
    logs = b"".join(file.read_bytes() for file in (bench.gateway.state / "logs").iterdir())
    answers = b"".join(
        b"".join([answer.body, *(value.encode("latin-1") for value in answer.headers.values())])
        for case in cases()
        for answer in bench.answers(case)
    )
    assert [FORGED in data.lower() for data in (toward_engines, books, logs, answers)] == [False] * 4


def test_only_what_was_answered_is_charged(bench: Bench) -> None:
    attempts = [attempt for attempt in bench.engine.recorded() if attempt.rid]
    tokens = sum(attempt.prompt_tokens + attempt.completion_tokens for attempt in attempts)
    after = spent(bench.gateway)
    assert tokens > 0
    assert {
        account: (used - bench.spent_before[account][0], held) for account, (used, held) in after.items()
    } == dict.fromkeys(after, (tokens, 0))


def test_the_processes_are_those_of_before_and_have_not_grown(bench: Bench) -> None:
    assert Footprint(bench.gateway).pids == bench.before.pids
    assert bench.before.grown_too_much() == {}


def test_the_corpus_is_as_long_as_promised_and_each_case_is_another() -> None:
    specs = {json.dumps([case.spec.get("send"), case.spec.get("frames")]) for case in cases()}
    assert len(specs) == len(cases()) >= CASES_MIN
