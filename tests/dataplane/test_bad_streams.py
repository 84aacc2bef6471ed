"""The stream corpus through the product: an engine that says anything, and what its client gets and pays.

Each answer is a well-formed stream, a typed error or a broken transfer, as its file says; nothing of the
engine's own words gets through; every hold is resolved as its file says; no filter ends or grows.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest

from gateway.budget.outbox import UNKNOWN_USAGE
from tests.corpus.streams.cases import StreamCase, stream_cases
from tests.corpus.streams.engine import PLAIN, CorpusEngine, corpus_engine
from tests.corpus.streams.seen import LEAK, ZERO, Answer, Charged, Seen, charged, fits, seen_in
from tests.harness.gateway import MODEL, Gateway, until

RECEIVE_S = 30.0
GROWTH_MAX = 96 * 1024 * 1024
"""Bytes that the filters together may grow by in a second round: what the first has left is no leak."""
PARTS = ("envoy", "ext-authz", "ext-proc", "bookkeeper", "api", "valkey")


@dataclass
class Bench:
    """The gateway on the corpus's engine, and the answers so far by case."""

    gateway: Gateway
    engine: CorpusEngine
    answers: dict[str, Answer] = field(default_factory=dict)

    def ask(self, case: StreamCase) -> Answer:
        """Send the case's request once; the second time its answer is remembered."""
        if case.name not in self.answers:
            self.answers[case.name] = self._asked(case)
            if self.answers[case.name].status != 200 or not self.answers[case.name].ended:
                self._until_the_engine_is_back()
        return self.answers[case.name]

    def _asked(self, case: StreamCase) -> Answer:
        enough = (b"hel" if case.writes() else b"\r\n\r\n") if case.end == "stay" else None
        return _ask(self.gateway, case.name, enough, lambda received: self._tell(case, received))

    def _tell(self, case: StreamCase, received: bytes) -> None:
        if case.after and case.after in received:
            self.engine.arrived.set()

    def _until_the_engine_is_back(self) -> None:
        """Envoy leaves an engine out for a moment after errors."""
        until(lambda: _ask(self.gateway, PLAIN, None).status == 200, "the engine is asked again")


def _ask(
    gateway: Gateway, text: str, enough: bytes | None, watch: Callable[[bytes], object] = bool
) -> Answer:
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
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    with corpus_engine() as engine:
        gateway = Gateway(tmp_path_factory.mktemp("streams") / "state", engine=engine.url)
        try:
            yield Bench(gateway=gateway, engine=engine)
        finally:
            gateway.close()


def _events(books: Path, request_id: str) -> list[dict[str, Any]]:
    found = [
        json.loads(line)["event"]
        for file in sorted(books.rglob("*.jsonl"))
        for line in file.read_text().splitlines(keepends=True)
        if request_id in line and line.endswith("\n")
    ]
    return [event for event in found if event.get("request_id") == request_id]


def _charge(bench: Bench, answer: Answer) -> Charged:
    """How the hold was resolved, by the books."""
    resolutions = ("hold.settled", "hold.voided", "hold.expired")

    def resolved() -> list[dict[str, Any]]:
        events = _events(bench.gateway.state / "books", answer.headers["x-request-id"])
        return [event for event in events if event["type"] in resolutions]

    (event,) = until(resolved, "the hold is resolved")
    if event["type"] != "hold.settled":
        assert event["type"] == "hold.voided"
        return ZERO
    flags = event["context"].get("detail.flags", "")
    used = int(event["amounts"].get("used", "0"))
    return charged(unknown=event.get("reason") == UNKNOWN_USAGE, used=used, flags=flags)


def _judged(bench: Bench, case: StreamCase) -> tuple[Seen, Charged]:
    answer = bench.ask(case)
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
    before = {part: bench.gateway.pids(part) for part in PARTS}
    resident = _resident(bench.gateway)
    bench.answers.clear()
    for case in stream_cases():
        bench.ask(case)
    assert {part: bench.gateway.pids(part) for part in PARTS} == before
    assert _resident(bench.gateway) - resident < GROWTH_MAX
    logs = b"".join(file.read_bytes() for file in (bench.gateway.state / "logs").glob("*.log"))
    assert LEAK not in logs, "the engine's own words are in a log"
    windows = bench.gateway.settled()
    assert {window["held"] for window in windows.values()} == {0}
