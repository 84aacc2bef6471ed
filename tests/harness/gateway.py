"""The product as a user starts it, for dataplane tests: ``tidegate up --detach`` in a state of its own."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import httpx
import psutil

from gateway.contract.clock import SystemClock
from mesh.local.layout import layout_of
from mesh.local.running import bring_down
from tests.harness import canary
from tests.harness.patience import Patient, async_patient

T = TypeVar("T")
ROOT = Path(__file__).resolve().parents[2]
MODEL = "smollm2-135m"
UNTIL_S = 60.0
"""How long a test waits for something that takes milliseconds, or a second of processes' starts, on a machine
that is slow and busy."""
_given: set[int] = set()
"""Ports that ``free_ports`` has given away: between that and their listener nobody else gets them."""


def free_ports(low: int = 20_000, high: int = 32_000) -> int:
    """A port P such that P and P + 1 were free a moment ago (the operators' listener is P + 1).

    Below 32768, where Linux takes the ports of outgoing connections from.
    """
    for _ in range(200):
        port = random.randrange(low, high)
        with socket.socket() as first, socket.socket() as second:
            try:
                first.bind(("127.0.0.1", port))
                second.bind(("127.0.0.1", port + 1))
            except OSError:
                continue
        if _given.isdisjoint((port, port + 1)):
            _given.update((port, port + 1))
            return port
    raise AssertionError("no two neighbouring free ports")


def until(ask: Callable[[], T | None], what: str, *, seconds: float = UNTIL_S) -> T:
    """Ask again until the answer is true; fails the test with ``what``."""
    deadline = time.monotonic() + seconds
    while True:
        answer = ask()
        if answer:
            return answer
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.02)


def request_body(text: str, *, stream: bool = False, max_tokens: int = 20, **more: Any) -> dict[str, Any]:
    """A chat completion's: ``text`` from the user, and ``more`` fields."""
    messages = [{"role": "user", "content": text}]
    return {"model": MODEL, "messages": messages, "stream": stream, "max_tokens": max_tokens, **more}


def overlay(directory: Path, files: Mapping[str, str]) -> Path:
    """A kustomize overlay on mesh/base whose policy files are replaced by ``files``."""
    directory.mkdir(parents=True)
    for name, text in files.items():
        (directory / name).write_text(text)
    kustomization = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "buildMetadata": ["originAnnotations"],
        "resources": [os.path.relpath(ROOT / "mesh" / "base", directory.resolve())],
        "generatorOptions": {"disableNameSuffixHash": True},
        "configMapGenerator": [
            {"name": "tidegate-policy", "namespace": "tidegate", "behavior": "merge", "files": sorted(files)}
        ],
    }
    (directory / "kustomization.yaml").write_text(json.dumps(kustomization))
    return directory


class Gateway:
    """A running gateway. Processes are reached by part name, as ``tidegate status`` has it.

    Started by the command line; stopped by what ``tidegate down`` calls, without a process that imports for
    a second first (test_detach has that).
    """

    def __init__(
        self, state: Path, *, engine: str, mesh: Path | None = None, envoy: str | None = None
    ) -> None:
        """Starts it; ``engine`` is ``twin``, ``sglang`` or URLs. Fails the test with the output."""
        self.state, self.port = state, free_ports()
        options = ["--engine", engine, "--port", str(self.port)]
        options += ["--mesh", str(mesh)] if mesh else []
        options += ["--envoy", envoy] if envoy else []
        shown = re.search(r"^ *API key +(tg-\S+)$", self.tidegate("up", "--detach", *options), re.MULTILINE)
        assert shown is not None
        self.api_key = shown[1]
        self.base_url = f"http://127.0.0.1:{self.port}/v1"
        self.operators_url = f"http://127.0.0.1:{self.port + 1}"

    def tidegate(self, *arguments: str, check: bool = True) -> str:
        """Run one command on this gateway's state; its standard output."""
        command = [sys.executable, "-m", "mesh", *arguments, "--state", str(self.state)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=240)
        assert done.returncode == 0 or not check, (
            f"{command}\n{done.stdout}\n{done.stderr}\n{self.log_tails()}"
        )
        return done.stdout

    def log_tails(self, lines: int = 15) -> str:
        """The last lines of every part's log, for a failing test."""
        tails = [
            f"--- {log.name}\n" + "\n".join(log.read_text(errors="replace").splitlines()[-lines:])
            for log in sorted((self.state / "logs").glob("*.log"))
        ]
        return "\n".join(tails)

    def status(self) -> dict[str, Any]:
        """``tidegate status --json``."""
        loaded: dict[str, Any] = json.loads((self.state / "status.json").read_text())
        return loaded

    def part(self, name: str) -> dict[str, Any]:
        """One part of the status."""
        found: dict[str, Any] = next(part for part in self.status()["parts"] if part["name"] == name)
        return found

    def pid(self, name: str) -> int:
        """The part's process."""
        return int(self.part(name)["pid"])

    def pids(self, prefix: str) -> list[int]:
        """Every worker's process, such as of ``ext-proc``; those just restarting have none."""
        parts = [part for part in self.status()["parts"] if part["name"].startswith(prefix)]
        return [int(part["pid"]) for part in parts if part["pid"] is not None]

    def kill(self, prefix: str) -> None:
        """SIGKILL every worker of ``prefix``."""
        for pid in self.pids(prefix):
            if psutil.pid_exists(pid):
                os.kill(pid, signal.SIGKILL)

    @contextmanager
    def frozen(self, prefix: str) -> Iterator[None]:
        """SIGSTOP every worker of ``prefix`` for a while."""
        pids = self.pids(prefix)
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in pids:
                if psutil.pid_exists(pid):
                    os.kill(pid, signal.SIGCONT)

    def until_ready(self) -> None:
        """Until every part is up again."""
        until(lambda: self.status()["state"] == "ready", "all parts ready\n" + self.log_tails())

    def client(self, *, asks_again: bool = True) -> httpx.Client:
        """A plain HTTP client with the gateway's key; ``asks_again`` of a busy machine."""
        headers = {"authorization": f"Bearer {self.api_key}"}
        transport = Patient(verify=False) if asks_again else httpx.HTTPTransport(verify=False)
        return httpx.Client(base_url=self.base_url, headers=headers, timeout=30, transport=transport)

    def async_client(self, **options: Any) -> httpx.AsyncClient:
        """The same, for asyncio, with ``options`` of httpx.AsyncClient; it always asks again."""
        return async_patient(
            base_url=self.base_url, **{"headers": {"authorization": f"Bearer {self.api_key}"}, **options}
        )

    def events(self) -> list[dict[str, Any]]:
        """Every event in the books so far. The last line may be half written."""
        return [
            json.loads(line)["event"]
            for segment in sorted((self.state / "books").rglob("*.jsonl"))
            for line in segment.read_text().splitlines(keepends=True)
            if line.endswith("\n") and '"event"' in line
        ]

    def usage(self) -> dict[tuple[str, str], dict[str, Any]]:
        """``/v1/usage`` by account and window."""
        with self.client() as client:
            windows = client.get("/usage").json()["windows"]
        return {(window["account"], window["window"]): window for window in windows}

    def settled(self) -> dict[tuple[str, str], dict[str, Any]]:
        """The usage once nothing is held any more."""

        def ask() -> dict[tuple[str, str], dict[str, Any]] | None:
            usage = self.usage()
            return usage if all(window["held"] == 0 for window in usage.values()) else None

        return until(ask, "every hold resolved")

    def close(self) -> None:
        """Send secrets through what still runs, stop it, and look for them in all that it left."""
        found = canary.sent_and_found(self, MODEL)
        assert bring_down(layout_of(self.state), SystemClock(), lambda text: None) == 0
        assert found == [], "secrets were written down"
