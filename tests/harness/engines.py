"""Engines as processes: the deterministic twin, and the real SGLang."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from inference.sglang.install import ensure_environment, ensure_model
from inference.sglang.launch import command
from inference.twin.truth import Attempt, read

ROOT = Path(__file__).resolve().parents[2]
TOOLS = ROOT / ".tidegate" / "tools"
"""Where ``tidegate up`` keeps SGLang too: one installation per checkout."""
TWIN_START_S = 60.0
"""A second on an idle machine."""
SGLANG_START_S = 240.0
"""20 s on an idle machine; its imports are slow on a busy one."""
STOP_S = 15.0


@dataclass(slots=True, kw_only=True)
class Engine:
    """A running engine; ``log`` is its output."""

    process: subprocess.Popen[bytes]
    port: int
    log: Path

    @property
    def url(self) -> str:
        """Base URL without a slash at its end."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """The process that is supervised."""
        return self.process.pid

    def log_tail(self, lines: int = 40) -> str:
        """The end of its output, for a failing test."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def kill(self) -> None:
        """SIGKILL to it and what it started."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def stop(self) -> int:
        """SIGTERM, then SIGKILL after STOP_S; the exit code."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                self.kill()
        self.kill()
        return self.process.returncode


@dataclass(slots=True, kw_only=True)
class Twin(Engine):
    """A twin with its record and its script."""

    truth: Path

    def script(self, *rules: dict[str, Any]) -> None:
        """Puts these rules in force, instead of those before."""
        httpx.post(f"{self.url}/__script", json=list(rules), trust_env=False).raise_for_status()

    def attempts(self, rid: str | None = None) -> list[dict[str, Any]]:
        """The attempts of its life, from its own mouth."""
        asked = httpx.get(f"{self.url}/__attempts", params={"rid": rid} if rid else {}, trust_env=False)
        found: list[dict[str, Any]] = asked.json()["attempts"]
        return found

    def recorded(self) -> list[Attempt]:
        """The attempts of the record on disk; true also after a kill."""
        return read(self.truth)


def started(argv: list[str], log: Path, environment: dict[str, str]) -> subprocess.Popen[bytes]:
    """A process in a session of its own, which ends with it; its output goes to ``log``."""
    with log.open("wb") as output:
        return subprocess.Popen(
            argv,
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **environment},
            start_new_session=True,
        )


def until_ready(engine: Engine, within_s: float) -> None:
    """Until it can answer. Raises AssertionError with the end of its output."""
    deadline = time.monotonic() + within_s
    with httpx.Client(base_url=engine.url, timeout=2, trust_env=False) as client:
        while True:
            try:
                if client.get("/ready").status_code == 200:
                    return
            except httpx.HTTPError:
                pass  # not listening yet
            ended = engine.process.poll() is not None
            if ended or time.monotonic() > deadline:
                raise AssertionError(
                    f"the engine {'ended' if ended else 'is not ready'}\n{engine.log_tail()}"
                )
            time.sleep(0.01 if within_s == TWIN_START_S else 0.25)


def _listening_port(process: subprocess.Popen[bytes], log: Path) -> int:
    deadline = time.monotonic() + TWIN_START_S
    while True:
        for line in log.read_text().splitlines():
            if '"twin.listening"' in line:
                return int(json.loads(line)["port"])
        if process.poll() is not None or time.monotonic() > deadline:
            raise AssertionError(f"the twin does not listen\n{log.read_text()}")
        time.sleep(0.01)


@contextmanager
def twin(directory: Path, *options: str, port: int = 0, name: str = "twin") -> Iterator[Twin]:
    """A twin with these command line options; its log and record are in ``directory``.

    A second one with the same ``directory`` and ``name`` goes on with the same record.
    """
    log, record = directory / f"{name}.log", directory / f"{name}-truth.jsonl"
    argv = [
        sys.executable,
        "-m",
        "inference.twin.main",
        "--port",
        str(port),
        "--truth",
        str(record),
        *options,
    ]
    process = started(argv, log, {"PYTHONPATH": str(ROOT)})
    engine = Twin(process=process, port=port, log=log, truth=record)
    try:
        engine.port = _listening_port(process, log)
        until_ready(engine, TWIN_START_S)
        yield engine
    finally:
        engine.stop()


@contextmanager
def real_sglang(
    directory: Path, *options: str, port: int, served_name: str = "smollm2-135m"
) -> Iterator[Engine]:
    """The real SGLang with SmolLM2, installed first if it is not; its log is in ``directory``."""
    python = ensure_environment(TOOLS, lambda text: None)
    model = ensure_model(TOOLS, lambda text: None)
    argv, environment = command(python, model, port, served_name)
    log = directory / "sglang.log"
    engine = Engine(process=started([*argv, *options], log, environment), port=port, log=log)
    try:
        until_ready(engine, SGLANG_START_S)
        yield engine
    finally:
        engine.stop()
