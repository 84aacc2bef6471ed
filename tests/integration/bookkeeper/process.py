"""A real bookkeeper process beside a real store, and what its books hold."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import orjson

from gateway.bookkeeper import verify
from gateway.budget.ledger import HoldRequest
from gateway.budget.redis_connection import connect
from gateway.budget.redis_ledger import RedisLedger
from gateway.budget.window import Account, Standing, Window, WindowKind
from gateway.contract.ids import AccountId, HoldId, OrgId
from gateway.contract.units import Millis, Tokens
from gateway.events.chain import read_line
from gateway.events.event import Event
from gateway.events.recovery import OWN_TYPES
from gateway.events.segment import segments_of
from gateway.sidecar.client import serving
from tests.harness.valkey import StoreProcess

T = TypeVar("T")
ROOT = Path(__file__).resolve().parents[3]
UNTIL_S = 60.0
"""For what takes milliseconds, or a second of a process's start, on a machine that is slow and busy."""
ORG = OrgId("acme")
ACCOUNT = Account(
    id=AccountId("org"), windows=(Window(kind=WindowKind.MONTH, limit=Tokens(10**9)),)
)  # a minute could end in the middle of a test
PATIENT = Millis(5000)
"""A test's own ledger calls are not about deadlines."""


async def until(ask: Callable[[], Awaitable[T | None]], what: str) -> T:
    """Ask again until the answer is true."""
    deadline = time.monotonic() + UNTIL_S
    while True:
        answer = await ask()
        if answer:
            return answer
        assert time.monotonic() < deadline, f"not within {UNTIL_S} s: {what}"
        await asyncio.sleep(0.02)


def want(hold: str, *, ttl: int = 900_000, units: int = 100) -> HoldRequest:
    return HoldRequest(
        hold=HoldId(hold),
        org=ORG,
        accounts=(ACCOUNT,),
        fixed=Tokens(0),
        choices=1,
        units_wanted=Tokens(units),
        units_min=Tokens(1),
        ttl=Millis(ttl),
        policy_version=1,
        context={"request_id": hold},
    )


class Bookkeeper:
    """``program`` is started as a module, with the environment of a real one."""

    def __init__(
        self, directory: Path, store: StoreProcess, *, program: str = "gateway.bookkeeper.main"
    ) -> None:
        """Does not start it."""
        self.books, self.socket, self.log = directory / "books", directory / "b.sock", directory / "log"
        self._program, self._store = program, store
        self._process: subprocess.Popen[bytes] | None = None
        self.client = connect(store.url, timeout=PATIENT)
        self.ledger = RedisLedger(self.client)

    def start(self) -> None:
        own = {
            "TIDEGATE_LISTEN": str(self.socket),
            "TIDEGATE_LEDGER_URL": self._store.url,
            "TIDEGATE_BOOKS_DIR": str(self.books),
        }
        command = [sys.executable, "-P", "-m", self._program]
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(
                command, env={**os.environ, **own, "PYTHONPATH": str(ROOT)}, stdout=output, stderr=output
            )

    def files_at_most(self, octets: int) -> None:
        """It cannot write a file beyond ``octets`` from now on (EFBIG, after half a line), as on a disk that
        is full for the longest of its files alone."""
        assert self._process is not None
        resource.prlimit(self._process.pid, resource.RLIMIT_FSIZE, (octets, resource.RLIM_INFINITY))

    async def serves(self) -> None:
        await until(lambda: serving(self.socket), "bookkeeper serving")

    def kill(self) -> None:
        """SIGKILL and reap; nothing when it does not run."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def stop(self) -> int:
        """SIGTERM; the exit code."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        return self.ended()

    def ended(self) -> int:
        """The exit code, once it has one."""
        assert self._process is not None
        code = self._process.wait(UNTIL_S)
        self._process = None
        return code

    async def close(self) -> None:
        self.kill()
        await self.ledger.aclose()

    def said(self) -> list[str]:
        """Events of the log, in order."""
        lines = [orjson.loads(line) for line in self.log.read_bytes().splitlines() if line.startswith(b"{")]
        return [str(line["event"]) for line in lines]

    def events(self) -> list[Event]:
        """Of the books, without their own. The last line may be in the making."""
        found = []
        for _, path in segments_of(self.books):
            whole, _, _ = path.read_bytes().rpartition(b"\n")
            found += [read_line(line + b"\n").event for line in whole.split(b"\n") if line]
        return [event for event in found if event.type not in OWN_TYPES]

    async def has(self, count: int) -> list[Event]:
        """The events once there are ``count``."""

        async def ask() -> list[Event] | None:
            found = self.events()
            return found if len(found) >= count else None

        return await until(ask, f"{count} events in the books")

    async def standing(self) -> Standing:
        return (await self.ledger.standing(ORG, [ACCOUNT]))[0]

    async def verified(self) -> int:
        """Exit code of ``tidegate ledger verify``."""
        arguments = ["--books", str(self.books), "--ledger", self._store.url]
        return await asyncio.to_thread(verify.main, arguments)
