"""Secrets stay out of logs, metrics, events, config dumps and crash output.

Every test of this directory that starts the product ends with the same look (tests/harness/canary.py);
here are the ways in which it could go wrong without notice.
"""

from __future__ import annotations

import base64
import os
import signal
import threading
from itertools import product
from pathlib import Path

import httpx

from gateway.contract.clock import SystemClock
from mesh.local.credentials import mint_jwt
from tests.harness import canary
from tests.harness.engines import twin
from tests.harness.gateway import MODEL, UNTIL_S, Gateway, until

PARTS = ("envoy", "ext-proc", "ext-authz", "bookkeeper", "api", "valkey-ledger", "valkey-cache")


def test_the_look_finds_what_is_there(gateway: Gateway) -> None:
    """A secret in a log, in the books and in base64 is found; so a clean look means something."""
    assert canary.leaks(gateway) == []
    planted = gateway.state / "logs" / "planted.log"
    for text in (
        f"POST {canary.PROMPT}",
        f'{{"user":"{canary.EMAIL}"}}',
        base64.b64encode(b"x" + canary.PROMPT.encode() + b"yz").decode(),
        gateway.api_key,
        mint_jwt(gateway.state / "secrets", SystemClock()),
    ):
        planted.write_text(text)
        try:
            assert canary.leaks(gateway), text
        finally:
            planted.unlink()


def test_secrets_reach_every_stage_and_stay_nowhere(gateway: Gateway) -> None:
    ids = canary.send(gateway, MODEL)
    assert len(ids) == 2 * len(list(canary.requests(MODEL)))
    until(
        lambda: all(request_id in canary.books(gateway.state) for request_id in ids), "all are in the books"
    )
    assert canary.leaks(gateway) == []


def test_a_crash_writes_no_secret_and_no_core(tmp_path: Path) -> None:
    """Envoy prints what it was working on when it crashes, Python its stack; both while secrets are there."""
    with twin(tmp_path, "--model", MODEL, "--tokens-per-s", "40") as engine:
        gateway = Gateway(tmp_path / "state", engine=engine.url)
        try:
            for part, kind in product(PARTS, (signal.SIGABRT, signal.SIGSEGV)):
                _crash(gateway, part, kind)
            for log in (gateway.state / "logs").glob("*.log*"):
                assert canary.PROMPT not in log.read_text(errors="replace")
            told = "".join(log.read_text() for log in (gateway.state / "logs").glob("envoy.log*"))
            assert told.count("Caught ") == 2, "Envoy told of its crashes"
            assert [path for path in tmp_path.rglob("core*") if path.is_file()] == []
        finally:
            gateway.close()


def _crash(gateway: Gateway, part: str, kind: signal.Signals) -> None:
    """Ends ``part`` by ``kind`` in the middle of requests that carry secrets, and awaits its successor."""
    pids = gateway.pids(part)
    for pid in pids:
        limits = Path(f"/proc/{pid}/limits").read_text().splitlines()
        [core] = [line.split()[4:6] for line in limits if line.startswith("Max core file size")]
        assert core == ["0", "0"], f"{part} could leave a core file"
    began = threading.Event()
    sender = threading.Thread(target=_stream, args=(gateway, began))
    sender.start()
    assert began.wait(UNTIL_S)
    for pid in pids:
        os.kill(pid, kind)
    sender.join()
    until(lambda: set(gateway.pids(part)).isdisjoint(pids) and gateway.pids(part), f"{part} is back")
    gateway.until_ready()


def _stream(gateway: Gateway, began: threading.Event) -> None:
    body = {
        "model": MODEL,
        "messages": [{"role": "user", "content": canary.PROMPT}],
        "user": canary.EMAIL,
        "max_tokens": 20,
        "stream": True,
    }
    try:
        with gateway.client() as client, client.stream("POST", "/chat/completions", json=body) as answer:
            for _ in answer.iter_raw():
                began.set()
    except httpx.TransportError:
        return  # that is what a crash looks like from outside
