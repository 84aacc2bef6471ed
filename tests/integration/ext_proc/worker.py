"""A real ext_proc worker of a test, and Envoy's part of the conversation with it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc.aio
import orjson

from gateway.contract import headers as names
from gateway.sidecar import client, wire
from tests.unit.ext_proc.asked import HEADERS, PRINCIPAL, SAY

START_S = 60.0
"""A second on an idle machine."""
ROOT = Path(__file__).resolve().parents[3]
MODELS = """
models:
  - name: chat
    revision: r1
    context_tokens: 1000
    max_completion_tokens: 600
    template_tokens_base: 10
    template_tokens_per_message: 5
    endpoints: [chat.completions]
"""
BUDGETS = """
version: 1
tiers:
  standard: {priority: 5, priority_class: normal}
orgs:
  acme: {tokens_per_month: 10000}
"""
EOF: Any = grpc.aio.EOF  # type: ignore[attr-defined]  # the stubs forget it


def write_policy(directory: Path) -> None:
    (directory / "models.yaml").write_text(MODELS)
    (directory / "budgets.yaml").write_text(BUDGETS)
    for name in ("pseudonym.key", "cache_salt.key"):
        (directory / name).write_text("0f" * 32 + "\n")


class Worker:
    """``python -m ext_proc.main``; ended by its pid."""

    def __init__(self, directory: Path, name: str, *, ledger_url: str, cache_url: str) -> None:
        self.socket = directory / f"{name}.sock"
        self._log = directory / f"{name}.log"
        metrics = directory / "metrics"
        metrics.mkdir(exist_ok=True)
        environment = {name: value for name, value in os.environ.items() if not name.startswith("TIDEGATE_")}
        environment |= {
            "PYTHONPATH": str(ROOT),
            "PROMETHEUS_MULTIPROC_DIR": str(metrics),
            "TIDEGATE_LISTEN": str(self.socket),
            "TIDEGATE_POLICY_DIR": str(directory),
            "TIDEGATE_SECRETS_DIR": str(directory),
            "TIDEGATE_LEDGER_URL": ledger_url,
            "TIDEGATE_CACHE_URL": cache_url,
        }
        with self._log.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", "ext_proc.main"], env=environment, stdout=output, stderr=output
            )

    async def ready(self) -> None:
        deadline = time.monotonic() + START_S
        while not await client.serving(self.socket, timeout_s=0.5):
            assert self.process.poll() is None, self.log()
            assert time.monotonic() < deadline, self.log()

    def log(self) -> str:
        return self._log.read_text()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


class Stream:
    """One ext_proc stream, as Envoy opens it."""

    def __init__(self, call: Any) -> None:
        self.call = call

    async def send(self, request: Any) -> None:
        await self.call.write(request.SerializeToString())

    async def read(self) -> Any:
        reply = await self.call.read()
        return EOF if reply is EOF else wire.ProcessingResponse.FromString(reply)

    async def ask(self, request: Any) -> Any:
        await self.send(request)
        return await self.read()


@asynccontextmanager
async def stream(worker: Worker, role: str) -> AsyncIterator[Stream]:
    """A stream of the filter ``role``; cancelled at the end unless it has ended itself."""
    async with client.channel(worker.socket) as channel:
        call = channel.stream_stream(wire.EXT_PROC_PROCESS)(metadata=((names.FILTER_ROLE, role),))
        try:
            yield Stream(call)
        finally:
            call.cancel()


def request_headers(request_id: str) -> Any:
    metadata = wire.Metadata()
    metadata.filter_metadata[names.NS_PRINCIPAL].update({names.PRINCIPAL_KEY: PRINCIPAL})
    found = {**HEADERS, "x-request-id": request_id}
    pairs = [wire.HeaderValue(key=name, raw_value=value.encode()) for name, value in found.items()]
    return wire.ProcessingRequest(
        request_headers=wire.HttpHeaders(headers=wire.HeaderMap(headers=pairs)), metadata_context=metadata
    )


def request_body(**changed: Any) -> Any:
    return wire.ProcessingRequest(request_body=wire.HttpBody(body=orjson.dumps({**SAY, **changed})))


def response_headers(decision: Any, status: int = 200, kind: str = "text/event-stream") -> Any:
    """As Envoy sends them, with the metadata that ``decision`` (admit's reply) brought."""
    metadata = wire.Metadata()
    written = decision.dynamic_metadata.fields[names.NS_ADMIT].struct_value
    metadata.filter_metadata[names.NS_ADMIT].CopyFrom(written)
    pairs = [
        wire.HeaderValue(key=":status", raw_value=str(status).encode()),
        wire.HeaderValue(key="content-type", raw_value=kind.encode()),
    ]
    return wire.ProcessingRequest(
        response_headers=wire.HttpHeaders(headers=wire.HeaderMap(headers=pairs)), metadata_context=metadata
    )


def response_body(data: bytes, *, end: bool = False) -> Any:
    return wire.ProcessingRequest(response_body=wire.HttpBody(body=data, end_of_stream=end))


async def admit(worker: Worker, request_id: str, **changed: Any) -> Any:
    """admit's deciding reply; the stream must then end cleanly."""
    async with stream(worker, "admit") as asked:
        first = await asked.ask(request_headers(request_id))
        assert first.WhichOneof("response") == "request_headers"
        decision = await asked.ask(request_body(**changed))
        assert await asked.read() is EOF
        assert await asked.call.code() is grpc.StatusCode.OK
        return decision
