"""The stream corpus through the product: an engine that says anything, and what its client gets and pays.

Each answer is a well-formed stream, a typed error or a broken transfer, as its file says; nothing of the
engine's own words gets through; every hold is resolved as its file says; no filter ends or grows.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest

from gateway.budget.outbox import UNKNOWN_USAGE
from tests.corpus.streams.cases import StreamCase, stream_cases
from tests.corpus.streams.engine import CorpusEngine, corpus_engine
from tests.corpus.streams.seen import LEAK, ZERO, Answer, Charged, Seen, charged, fits, seen_in
from tests.harness.gateway import MODEL, Gateway, until
from tests.harness.patience import patiently

RECEIVE_S = 30.0
GROWTH_MAX = 96 * 1024 * 1024
"""Bytes that the filters together may grow by in a second round: what the first has left is no leak."""
PARTS = ("envoy", "ext-authz", "ext-proc", "bookkeeper", "api", "valkey")
RESOLUTIONS = ("hold.settled", "hold.voided", "hold.expired")
CLIENTS = 4
PODS = 32
"""All of them the one engine: Envoy leaves a pod out for a second after two errors in a row, and a case that
is next to many that end in errors must find another."""
CASE_TEST = "test_the_client_and_the_charge_are_what_its_file_says"


@dataclass
class Bench:
    """The gateway on the corpus's engine, the answers so far by case, and what the books say of them."""

    gateway: Gateway
    engine: CorpusEngine
    pids: dict[str, list[int]]
    outcomes: dict[str, Answer | Exception] = field(default_factory=dict)
    resolutions: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    def ask_all(self, cases: Iterable[StreamCase]) -> None:
        """Every case, several at a time; what goes wrong is kept for the case's own test."""
        with ThreadPoolExecutor(CLIENTS) as clients:
            list(clients.map(self._ask, cases))

    def answer(self, case: StreamCase) -> Answer:
        """Of one case."""
        outcome = self.outcomes[case.name]
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def resolved(self, request_id: str) -> list[dict[str, Any]]:
        """The events that ended the request's hold. The books are read anew when they had none."""
        if request_id not in self.resolutions:
            self.resolutions = _resolutions(self.gateway.state / "books")
        return self.resolutions.get(request_id, [])

    def _ask(self, case: StreamCase) -> None:
        enough = (b"hel" if case.writes() else b"\r\n\r\n") if case.end == "stay" else None
        arrived = self.engine.arrived[case.name]
        arrived.clear()

        def tell(received: bytes) -> None:
            if case.after and case.after in received:
                arrived.set()

        try:
            self.outcomes[case.name] = patiently(
                lambda: _ask(self.gateway, case.name, enough, tell), lambda answer: answer.headers
            )
        except (OSError, ValueError, LookupError) as error:
            self.outcomes[case.name] = error  # raised by the case's own test


def _ask(gateway: Gateway, text: str, enough: bytes | None, watch: Callable[[bytes], None]) -> Answer:
    """One streaming request; the client leaves once ``enough`` has come. ``watch`` sees what has."""
    body = json.dumps(
        {
            "model": MODEL,
            "messages": [{"role": "user", "content": text}],
            "stream": True,
            "stream_options": {"include_usage": True},
            "max_tokens": 64,
        }
    ).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1:{gateway.port}\r\nconnection: close\r\n"
    head += f"authorization: Bearer {gateway.api_key}\r\ncontent-type: application/json\r\n"
    received = b""
    with socket.create_connection(("127.0.0.1", gateway.port), RECEIVE_S) as connection:
        connection.sendall(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
        while piece := connection.recv(1 << 20):
            received += piece
            watch(received)
            if enough is not None and enough in received:
                break
    return _read(received)


def _read(received: bytes) -> Answer:
    top, _, rest = received.partition(b"\r\n\r\n")
    lines = top.decode("latin-1").split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines[1:])
    ended, body = len(rest) == int(headers.get("content-length", "-1")), rest
    if headers.get("transfer-encoding") == "chunked":
        ended, body = _unchunked(rest)
    return Answer(status=int(lines[0].split(" ")[1]), headers=headers, body=body, ended=ended)


def _unchunked(data: bytes) -> tuple[bool, bytes]:
    """Whether the last chunk came, and the bytes of those that did."""
    pieces = []
    at = 0
    while (line_end := data.find(b"\r\n", at)) > 0:
        size = int(data[at:line_end], 16)
        pieces.append(data[line_end + 2 : line_end + 2 + size])
        at = line_end + 4 + size
        if size == 0:
            return True, b"".join(pieces)
    return False, b"".join(pieces)


@pytest.fixture(scope="module")
def bench(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """After every case that this run has a test for."""
    tested = {item.name for item in request.session.items if item.path == request.path}
    cases = [case for case in stream_cases() if f"{CASE_TEST}[{case.name}]" in tested]
    with corpus_engine(PODS) as engine:
        gateway = Gateway(tmp_path_factory.mktemp("streams") / "state", engine=engine.urls)
        try:
            running = Bench(gateway=gateway, engine=engine, pids=_pids(gateway))
            running.ask_all(cases)
            yield running
        finally:
            gateway.close()


def _pids(gateway: Gateway) -> dict[str, list[int]]:
    return {part: gateway.pids(part) for part in PARTS}


def _resolutions(books: Path) -> dict[str, list[dict[str, Any]]]:
    """The events that end holds, by request."""
    found: dict[str, list[dict[str, Any]]] = {}
    for file in sorted(books.rglob("*.jsonl")):
        whole, _, _ = file.read_text().rpartition("\n")  # the last line may be half written
        for event in (json.loads(line).get("event", {}) for line in whole.splitlines()):
            if event.get("type") in RESOLUTIONS:
                found.setdefault(event["request_id"], []).append(event)
    return found


def _charge(bench: Bench, answer: Answer) -> Charged:
    """How the hold was resolved, by the books."""
    request_id = answer.headers["x-request-id"]
    (event,) = until(lambda: bench.resolved(request_id), "the hold is resolved")
    if event["type"] != "hold.settled":
        assert event["type"] == "hold.voided"
        return ZERO
    flags = event["context"].get("detail.flags", "")
    used = int(event["amounts"].get("used", "0"))
    return charged(unknown=event.get("reason") == UNKNOWN_USAGE, used=used, flags=flags)


def _judged(bench: Bench, case: StreamCase) -> tuple[Seen, Charged]:
    answer = bench.answer(case)
    assert not any(LEAK.decode() in value for value in answer.headers.values()), answer.headers
    assert answer.headers["x-request-id"]
    return seen_in(answer), _charge(bench, answer)


@pytest.mark.parametrize("case", stream_cases(), ids=lambda case: case.name)
def test_the_client_and_the_charge_are_what_its_file_says(bench: Bench, case: StreamCase) -> None:
    seen, charge = _judged(bench, case)
    assert any(fits(expected, seen, charge) for expected in case.expected), (seen, charge)


def _resident(gateway: Gateway) -> int:
    return sum(psutil.Process(pid).memory_info().rss for pid in gateway.pids("ext-proc"))


def test_the_corpus_ends_no_process_and_fills_none(bench: Bench) -> None:
    """Every case once more."""
    resident = _resident(bench.gateway)
    bench.outcomes.clear()
    bench.ask_all(stream_cases())
    assert {name: error for name, error in bench.outcomes.items() if isinstance(error, Exception)} == {}
    assert _pids(bench.gateway) == bench.pids
    assert _resident(bench.gateway) - resident < GROWTH_MAX
    logs = b"".join(file.read_bytes() for file in (bench.gateway.state / "logs").glob("*.log"))
    assert LEAK not in logs, "the engine's own words are in a log"
    windows = bench.gateway.settled()
    assert {window["held"] for window in windows.values()} == {0}
