"""A real recall process of a test, with a real embedder, table and cache Valkey."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ext_proc.cache.policy import Profile
from ext_proc.cache.store import Lineage
from ext_proc.recall.client import RecallClient
from ext_proc.recall.words import Ask, RecallUnavailable, Remember, Reply
from gateway.contract.ids import ModelName, OrgId
from gateway.contract.units import UnixMillis
from gateway.sidecar import client
from tests.harness.embedders import EMBEDDERS
from tests.harness.valkey import StoreProcess, cache_store

START_S = 60.0
"""Three seconds on an idle machine, most of it LanceDB's import."""
ROOT = Path(__file__).resolve().parents[3]
PATIENT_S = 10.0
"""A deadline for tests of what is found, not of how fast."""
POLICY = """
version: 1
rules:
  - name: everyone
    mode: all
    profile: {profile}
"""
PARTITION = "a" * 64


def key(number: int) -> str:
    return f"{number:064x}"


def ask(text: str, number: int, *, org: str = "acme", partition: str = PARTITION) -> Ask:
    return Ask(
        org=OrgId(org),
        model=ModelName("chat"),
        partition=partition,
        asked=key(number),
        text=text,
        profile=Profile.STRICT,
        keep_s=60,
    )


def remember(number: int, *, org: str = "acme", partition: str = PARTITION, model: str = "chat") -> Remember:
    return Remember(
        org=OrgId(org),
        partition=partition,
        entry=key(number),
        expires_at=UnixMillis(int(time.time() * 1000) + 3_600_000),
        lineage=Lineage(request_id=f"r{number}", model=model, admitted_at=UnixMillis(1)),
    )


class RecallProcess:
    """``python -m ext_proc.recall.main``; ended by its pid. ``table`` outlives it."""

    def __init__(self, directory: Path, store: StoreProcess, *, profile: str = "strict") -> None:
        self.directory, self._store = directory, store
        self.socket, self.table = directory / "r.sock", directory / "table"
        self._log = directory / "recall.log"
        self.policy(profile)
        for name in ("pseudonym.key", "cache_salt.key"):
            (directory / name).write_text("0f" * 32 + "\n")
        self.process: subprocess.Popen[bytes] | None = None

    def policy(self, profile: str) -> None:
        (self.directory / "cache.yaml").write_text(POLICY.format(profile=profile))

    def start(self) -> None:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("TIDEGATE_")}
        environment |= {
            "PYTHONPATH": str(ROOT),
            "TIDEGATE_LISTEN": str(self.socket),
            "TIDEGATE_POLICY_DIR": str(self.directory),
            "TIDEGATE_SECRETS_DIR": str(self.directory),
            "TIDEGATE_CACHE_URL": self._store.url,
            "TIDEGATE_TABLE_URL": str(self.table),
            "TIDEGATE_MODELS_DIR": str(EMBEDDERS),
        }
        with self._log.open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", "ext_proc.recall.main"],
                env=environment,
                stdout=output,
                stderr=output,
            )

    async def serving(self) -> None:
        """It listens; whether it is ready to find is another matter."""
        deadline = time.monotonic() + START_S
        while not await client.serving(self.socket, timeout_s=0.5):
            self.alive(deadline)

    async def ready(self) -> None:
        """Embedder loaded, table read, purges known."""
        await self.serving()
        asked = RecallClient(self.socket, deadline_s=PATIENT_S)
        deadline = time.monotonic() + START_S
        try:
            while True:
                self.alive(deadline)
                try:
                    await asked.find(ask("Is anybody there?", 0, partition="0" * 64))
                except RecallUnavailable:
                    await asyncio.sleep(0.05)
                    continue
                if "recall.table_read" in self.log().rpartition("recall.loading")[2]:
                    return
                await asyncio.sleep(0.05)
        finally:
            await asked.aclose()

    def alive(self, deadline: float) -> None:
        assert self.process is not None
        assert self.process.poll() is None, self.log()
        assert time.monotonic() < deadline, self.log()

    def log(self) -> str:
        return self._log.read_text()

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        """SIGTERM; the exit code."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(30)


@contextmanager
def recall_process(*, profile: str = "strict", start: bool = True) -> Iterator[RecallProcess]:
    # /tmp and not pytest's tmp_path: a Unix socket's path holds at most 107 bytes.
    with cache_store() as store, tempfile.TemporaryDirectory(prefix="tg-recall-") as directory:
        process = RecallProcess(Path(directory), store, profile=profile)
        if start:
            process.start()
        try:
            yield process
        finally:
            if process.process is not None:
                process.kill()


class Patient(RecallClient):
    """Asks again what was late or refused: on a busy machine that says nothing of what is found."""

    async def find(self, asked: Ask) -> Reply:
        deadline = time.monotonic() + START_S
        while True:
            try:
                return await super().find(asked)
            except RecallUnavailable as unavailable:
                if str(unavailable) in ("down", "not_ready") or time.monotonic() > deadline:
                    raise
                await asyncio.sleep(0.02)
