"""Two real ext_authz processes over Unix sockets: one answer whoever is asked, reload, outage, end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from ext_authz.keys.api_keys import create_api_key, revoke_api_key
from gateway.contract.clock import SystemClock
from gateway.contract.ids import KeyId
from gateway.sidecar import client, wire
from mesh.local.credentials import Credentials, demo_principal, ensure_credentials

ROOT = Path(__file__).parents[3]
CLOCK = SystemClock()
WITHIN_S = 10.0


def _environment(directory: Path, socket: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("TIDEGATE_")}
    return kept | {
        "TIDEGATE_LISTEN": str(socket),
        "TIDEGATE_POLICY_DIR": str(directory / "policy"),
        "TIDEGATE_SECRETS_DIR": str(directory / "secrets"),
        "PYTHONPATH": str(ROOT),
    }


def _spawn(directory: Path, socket: Path) -> subprocess.Popen[bytes]:
    with (directory / f"{socket.stem}.log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "ext_authz.main"],
            env=_environment(directory, socket),
            cwd=directory,
            stdout=log,
            stderr=subprocess.STDOUT,
        )


@dataclass
class Workers:
    """Two workers on one policy and secrets directory."""

    directory: Path
    credentials: Credentials
    sockets: tuple[Path, Path]
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    async def check(self, worker: int, *bearer: str) -> Any:
        request = wire.CheckRequest()
        for token in bearer:
            request.attributes.request.http.header_map.headers.add(
                key="authorization", raw_value=f"Bearer {token}".encode()
            )
        reply = await client.call(
            self.sockets[worker], wire.AUTH_CHECK, request.SerializeToString(), timeout_s=5
        )
        return wire.CheckResponse.FromString(reply)

    async def until(self, worker: int, token: str, status: int) -> None:
        """Ask until the answer has ``status`` (0 is an allow). Raises TimeoutError."""
        async with asyncio.timeout(WITHIN_S):
            seen = -1
            while seen != status:
                seen = int((await self.check(worker, token)).denied_response.status.code)
                await asyncio.sleep(0.02)


async def _ready(socket: Path, process: subprocess.Popen[bytes]) -> None:
    async with asyncio.timeout(WITHIN_S):
        while not await client.serving(socket, timeout_s=0.5):
            assert process.poll() is None, "the worker ended"
            await asyncio.sleep(0.05)


@pytest.fixture
async def workers(tmp_path: Path) -> AsyncIterator[Workers]:
    (tmp_path / "policy").mkdir()
    (tmp_path / "policy" / "auth.yaml").write_bytes((ROOT / "mesh/base/policy/auth.yaml").read_bytes())
    made = Workers(
        directory=tmp_path,
        credentials=ensure_credentials(tmp_path / "secrets", CLOCK),
        sockets=(tmp_path / "a.sock", tmp_path / "b.sock"),
    )
    try:
        made.processes = [_spawn(tmp_path, socket) for socket in made.sockets]
        for socket, process in zip(made.sockets, made.processes, strict=True):
            await _ready(socket, process)
        yield made
    finally:
        for process in made.processes:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            process.wait(10)


async def test_one_life_of_two_workers(workers: Workers) -> None:
    """One story in one test: starting two interpreters is the dear part."""
    secrets, made = workers.directory / "secrets", workers.credentials

    for worker in (0, 1):
        for token in (made.api_key, made.jwt):
            response = await workers.check(worker, token)
            assert response.WhichOneof("http_response") == "ok_response"
            assert response.dynamic_metadata["principal"]["org"] == "demo"
        assert (await workers.check(worker)).denied_response.status.code == 401
        assert (await workers.check(worker, made.jwt, made.jwt)).denied_response.status.code == 401
        assert (await workers.check(worker, made.jwt[:-4] + "AAAA")).denied_response.status.code == 401

    # A new key opens on both within a second or so, a revoked one is refused on both.
    fresh = create_api_key(secrets / "api_keys.json", demo_principal(key=KeyId("ci")))
    for worker in (0, 1):
        await workers.until(worker, fresh, 0)
    revoke_api_key(secrets / "api_keys.json", "ci")
    for worker in (0, 1):
        async with asyncio.timeout(1):
            await workers.until(worker, fresh, 401)

    # The key set gone: no longer a 200 from the token cache, not a 401 either; API keys go on.
    jwks = (secrets / "jwks.json").read_bytes()
    (secrets / "jwks.json").unlink()
    for worker in (0, 1):
        await workers.until(worker, made.jwt, 503)
        assert (await workers.check(worker, made.api_key)).WhichOneof("http_response") == "ok_response"
    (secrets / "jwks.json").write_bytes(jwks)
    await workers.until(0, made.jwt, 0)

    # A bad policy keeps the last good one; a good one takes effect.
    policy = workers.directory / "policy" / "auth.yaml"
    policy.write_text("issuers: nonsense")
    await asyncio.sleep(0.6)
    await workers.until(0, made.jwt, 0)
    policy.write_text("api_keys: api_keys.json\n")
    for worker in (0, 1):
        await workers.until(worker, made.jwt, 401)

    # Garbage is an RPC error, never an answer that could be an allow.
    with pytest.raises(client.CallFailed, match="INTERNAL"):
        await client.call(workers.sockets[0], wire.AUTH_CHECK, b"\xff\xff\xff")

    # kill -9 of one leaves the other; a successor takes over the dead one's socket.
    workers.processes[0].kill()
    await asyncio.to_thread(workers.processes[0].wait, 10)
    assert (await workers.check(1, made.api_key)).WhichOneof("http_response") == "ok_response"
    workers.processes[0] = await asyncio.to_thread(_spawn, workers.directory, workers.sockets[0])
    await _ready(workers.sockets[0], workers.processes[0])
    assert (await workers.check(0, made.api_key)).WhichOneof("http_response") == "ok_response"

    for process in workers.processes:
        process.send_signal(signal.SIGTERM)
    for process in workers.processes:
        assert await asyncio.to_thread(process.wait, 10) == 0

    logs = b"".join((workers.directory / f"{name}.log").read_bytes() for name in ("a", "b"))
    for secret in (made.api_key, made.jwt, fresh):
        assert secret.encode() not in logs
    assert b"policy.refused" in logs


@pytest.mark.parametrize(
    ("changes", "policy", "message"),
    [
        ({"TIDEGATE_SECRETS_DIR": None}, "api_keys: k.json", b"TIDEGATE_SECRETS_DIR: is required"),
        ({"TIDEGATE_SURPRISE": "1"}, "api_keys: k.json", b"TIDEGATE_SURPRISE: no such setting"),
        ({}, "issuers: 3", b"auth.yaml:1: issuers"),
    ],
)
def test_worker_that_cannot_start_says_why(
    tmp_path: Path, changes: dict[str, str | None], policy: str, message: bytes
) -> None:
    (tmp_path / "policy").mkdir()
    (tmp_path / "policy" / "auth.yaml").write_text(policy)
    environment = {**_environment(tmp_path, tmp_path / "a.sock"), **changes}
    ended = subprocess.run(
        [sys.executable, "-m", "ext_authz.main"],
        env={name: value for name, value in environment.items() if value is not None},
        capture_output=True,
        timeout=30,
    )
    assert ended.returncode == 2
    assert message in ended.stderr
    assert b"Traceback" not in ended.stderr
