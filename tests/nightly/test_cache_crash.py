"""Kills of the recall process, the cache's store and the filters while clients ask through the real gateway:
every answer is one to its own question, nobody goes without an answer or a reason, and the table is readable
after each kill. (test_recall_crash.py looks at what a killed recall has kept.)"""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import httpx
import psutil
import pytest

from tests.harness.embedders import EMBEDDERS
from tests.harness.engines import Twin, twin
from tests.harness.gateway import MODEL, Gateway, overlay, until

KILLS: Final = 50
OTHERS_ONE_IN: Final = 5
"""Kills with which the store dies too, and others with which all filters do."""
CLIENTS: Final = 3
PLACES: Final = ("Bergen", "Cadiz", "Delft", "Esbjerg", "Faro", "Gdansk", "Haarlem", "Izola")
THINGS: Final = ("ferry", "bakery", "museum", "harbour", "library", "market", "station", "theatre")
FORMS: Final = (
    "Where is the {thing} of {place}?",
    "where is the {thing} of {place}",
    "Hello, where is the {thing} of {place}? Thanks!",
)
"""Of one question."""
CACHE: Final = """
version: 1
rules:
  - {name: all, mode: all, profile: strict, share: org, ttl_seconds: 30, verify_share: 0.001}
"""
"""Answers end within the test, so that new ones are written all the time."""


def request(text: str) -> dict[str, Any]:
    return {"model": MODEL, "messages": [{"role": "user", "content": text}], "max_tokens": 200}


def content(answer: httpx.Response) -> str:
    found: str = answer.json()["choices"][0]["message"]["content"]
    return found


class Clients:
    """Ask until they are told to stop; ``wrong`` and ``lost`` say what should not have come."""

    def __init__(self, gateway: Gateway, right: Mapping[tuple[str, str], frozenset[str]]) -> None:
        """``right``: for each question the answers of an engine to its forms."""
        self._gateway, self._right = gateway, right
        self._over = threading.Event()
        self.seen, self.wrong, self.lost = Counter[str](), list[str](), list[str]()

    def _run(self, seed: int) -> None:
        draw, questions = random.Random(seed), sorted(self._right)
        with self._gateway.client() as client:
            while not self._over.is_set():
                question = draw.choice(questions)
                text = draw.choice(FORMS).format(thing=question[0], place=question[1])
                try:
                    answer = client.post("/chat/completions", json=request(text))
                except httpx.TransportError as error:
                    self.lost.append(repr(error))
                    continue
                self._look(answer, question)

    def _look(self, answer: httpx.Response, question: tuple[str, str]) -> None:
        if answer.status_code != 200:
            code = answer.headers.get("x-tidegate-refusal", "")
            self.seen[code] += 1
            if not code:  # not told by a rule
                self.lost.append(f"{answer.status_code} {answer.text}")
            return
        self.seen[answer.headers.get("x-tidegate-cache-kind", answer.headers["x-tidegate-cache"])] += 1
        if content(answer) not in self._right[question]:
            self.wrong.append(f"{question}: {answer.headers} {content(answer)}")

    @contextmanager
    def asking(self) -> Iterator[None]:
        threads = [threading.Thread(target=self._run, args=(seed,)) for seed in range(CLIENTS)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._over.set()
            for thread in threads:
                thread.join()


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Twin]:
    with twin(tmp_path, "--model", MODEL) as running:
        yield running


@pytest.fixture
def gateway(engine: Twin, tmp_path: Path) -> Iterator[Gateway]:
    EMBEDDERS.mkdir(parents=True, exist_ok=True)
    state = tmp_path / "state"
    state.mkdir()
    (state / "embedders").symlink_to(EMBEDDERS)
    running = Gateway(state, engine=engine.url, mesh=overlay(tmp_path / "mesh", {"cache.yaml": CACHE}))
    yield running
    running.close()


def answers_of(engine: Twin) -> dict[tuple[str, str], frozenset[str]]:
    """What the engine says to each form of each question; never the same to two questions."""
    with httpx.Client(base_url=engine.url, timeout=30, trust_env=False) as client:

        def said(text: str) -> str:
            return content(client.post("/v1/chat/completions", json=request(text)))

        found = {
            (thing, place): frozenset(said(form.format(thing=thing, place=place)) for form in FORMS)
            for thing in THINGS
            for place in PLACES
        }
    assert len(frozenset[str]().union(*found.values())) == sum(map(len, found.values()))
    return found


def killed(gateway: Gateway, part: str) -> None:
    """SIGKILL to every process of it that there is just now."""
    for pid in gateway.pids(part):
        if psutil.pid_exists(pid):
            os.kill(pid, signal.SIGKILL)


def until_started(gateway: Gateway, times: int) -> None:
    """Until recall has read its table so often."""
    log = gateway.state / "logs" / "recall.log"
    until(lambda: log.read_text().count('"recall.table_read"') >= times, f"recall's start {times}")


def test_kills_while_clients_ask(gateway: Gateway, engine: Twin, capsys: pytest.CaptureFixture[str]) -> None:
    clients, draw = Clients(gateway, answers_of(engine)), random.Random(50)
    with clients.asking():
        for kill in range(KILLS):
            until_started(gateway, kill + 1)
            time.sleep(draw.uniform(0.1, 1.5))  # rows are written once a second: now in the middle of it
            if kill % OTHERS_ONE_IN == 1:
                killed(gateway, "valkey-cache")
            if kill % OTHERS_ONE_IN == 3:
                killed(gateway, "ext-proc")
            killed(gateway, "recall")
        until_started(gateway, KILLS + 1)
        gateway.until_ready()
        hits = clients.seen["canonical"]
        until(lambda: clients.seen["canonical"] > hits, "likeness is served again")
    with capsys.disabled():
        print(f"\n{KILLS} kills: {dict(clients.seen)}")
    assert clients.wrong == []
    assert clients.lost == []
    log = (gateway.state / "logs" / "recall.log").read_text()
    assert "quarantined" not in log and "not_loaded" not in log
