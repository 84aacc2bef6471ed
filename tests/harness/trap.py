"""Real Envoy on the compiled policy, with sidecars that misbehave on demand and a pod that counts."""

from __future__ import annotations

import asyncio
import functools
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from mesh.compile import Endpoint, Target, compile_mesh
from mesh.compile.resources import Resources
from mesh.envoy_binary import ensure_envoy, envoy_path, validate
from mesh.kustomize import build
from tests.harness.gateway import MODEL, ROOT, UNTIL_S, free_ports
from tests.harness.scripted import ScriptedSidecar
from tests.harness.upstream import Pod, pod

ENVOYS = ("1.40.0", "1.39.3")
"""What runs locally, and Envoy's line that Istio 1.31 ships."""
HOST = "{}.tidegate.svc.cluster.local"

_VALIDATED: set[tuple[str, int]] = set()
"""What the configuration depends on, but for names of ports and sockets: once each, for it costs as much as
starting."""


@functools.cache
def policy() -> Resources:
    """mesh/base, built once."""
    return build(ROOT / "mesh" / "base")


def envoy_binary(version: str) -> Path:
    """The binary of ``version``."""
    return envoy_path() if version == ENVOYS[0] else ensure_envoy(version)


@dataclass
class TrapStack:
    """What a test drives: ask ``client``, change ``sidecar``, look at ``pod``."""

    sidecar: ScriptedSidecar
    pod: Pod
    client: httpx.AsyncClient
    port: int
    directory: Path

    async def chat(self, *, stream: bool = False, **options: Any) -> httpx.Response:
        """One chat completion."""
        body = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}], "stream": stream}
        return await self.client.post("/v1/chat/completions", json=body, **options)

    def reached(self) -> int:
        """How many requests the pod has seen."""
        return len(self.pod.requests)


async def _until_listening(port: int, process: asyncio.subprocess.Process) -> None:
    async with asyncio.timeout(UNTIL_S):
        while True:
            assert process.returncode is None, "Envoy ended"
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except ConnectionError:
                await asyncio.sleep(0.02)
                continue
            writer.close()
            return


@asynccontextmanager
async def trap_stack(directory: Path, version: str, *, dead_workers: int = 0) -> AsyncIterator[TrapStack]:
    """Everything up and answering; Envoy's log is shown when the test fails (pytest captures it).

    ``dead_workers``: so many more endpoints of the sidecars, at which nobody listens.
    """
    sidecar = ScriptedSidecar(directory / "s.sock")
    await sidecar.start()
    port = free_ports()
    async with pod() as serving:
        dead = (Endpoint(pipe=str(directory / f"dead-{number}.sock")) for number in range(dead_workers))
        side = (Endpoint(pipe=str(sidecar.path)), *dead)
        endpoints = {
            HOST.format("ext-authz"): side,
            HOST.format("ext-proc"): side,
            HOST.format("bookkeeper"): (Endpoint(pipe=str(directory / "nobody.sock")),),
            HOST.format("api"): (Endpoint(pipe=str(directory / "nobody.sock")),),
            HOST.format("sglang"): (Endpoint(address="127.0.0.1", port=serving.port),),
        }
        target = Target(
            node_id="trap",
            region="local",
            admin=Endpoint(pipe=str(directory / "admin.sock")),
            listeners={8080: ("127.0.0.1", port), 8081: ("127.0.0.1", port + 1)},
        )
        config = directory / "envoy.json"
        config.write_text(json.dumps(compile_mesh(policy(), endpoints, target).bootstrap))
        binary = envoy_binary(version)
        if (version, dead_workers) not in _VALIDATED:
            validate(config, binary)
            _VALIDATED.add((version, dead_workers))
        envoy = await asyncio.create_subprocess_exec(
            str(binary), "-c", str(config), "--concurrency", "1", "--disable-hot-restart", "-l", "error"
        )
        try:
            await _until_listening(port, envoy)
            headers = {"authorization": "Bearer x"}
            base_url = f"http://127.0.0.1:{port}"
            async with httpx.AsyncClient(base_url=base_url, headers=headers, timeout=UNTIL_S) as client:
                yield TrapStack(sidecar=sidecar, pod=serving, client=client, port=port, directory=directory)
        finally:
            if envoy.returncode is None:
                envoy.terminate()
            await envoy.wait()
            await sidecar.stop()
