"""Calls from Envoy to the sidecars: dead workers, many long streams, an access log that survives Envoy."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from pathlib import Path

import pytest

from tests.harness.engines import twin
from tests.harness.gateway import MODEL, Gateway, until
from tests.harness.trap import ENVOYS, TrapStack, trap_stack

STREAMS = 1_100
"""More than Envoy's default circuit breaker of 1,024, in which a stream counts for its whole life."""
OPENED_AT_ONCE = 20
"""The sidecar lives in this process, as large as it may have become, and has a second for each answer."""


@pytest.mark.parametrize("version", ENVOYS)
async def test_a_dead_worker_costs_no_request(tmp_path: Path, version: str) -> None:
    """Without retries of side calls half of these fail: one endpoint of two is dead."""
    async with trap_stack(tmp_path, version, dead_workers=1) as stack:
        answers = [await stack.chat() for _ in range(20)]
    assert {answer.status_code for answer in answers} == {200}


async def _open_stream(stack: TrapStack) -> asyncio.StreamWriter:
    """One client of a stream that has begun."""
    body = json.dumps({"model": "m", "messages": [], "stream": True}).encode()
    head = "POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer x\r\n"
    reader, writer = await asyncio.open_connection("127.0.0.1", stack.port)
    writer.write(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
    line = await reader.readline()
    assert line.split()[1] == b"200", line
    await reader.readuntil(b"data: ")
    return writer


@pytest.mark.parametrize("version", ENVOYS)
async def test_more_streams_than_envoys_default_breaker(tmp_path: Path, version: str) -> None:
    async with trap_stack(tmp_path, version) as stack:
        stack.pod.hold = asyncio.Event()
        writers: list[asyncio.StreamWriter] = []
        for start in range(0, STREAMS, OPENED_AT_ONCE):
            batch = min(OPENED_AT_ONCE, STREAMS - start)
            writers += await asyncio.gather(*(_open_stream(stack) for _ in range(batch)))
        assert stack.sidecar.streams.count("tap") == STREAMS
        assert (await stack.chat()).status_code == 200, "and there is room for one more"
        stack.pod.hold.set()
        for writer in writers:
            writer.close()


def test_an_access_log_that_survives_envoys_death(tmp_path: Path) -> None:
    """A file log loses what was not flushed; entries sent over gRPC are in the books."""
    with twin(tmp_path, "--model", MODEL) as engine:
        gateway = Gateway(tmp_path / "state", engine=engine.url)
        try:
            ids: set[str] = set()
            with gateway.client() as client:
                for _ in range(20):
                    ids.add(client.get("/models").headers["x-request-id"])

            def recorded() -> set[str]:
                return {event["request_id"] for event in gateway.events() if event["type"] == "access"}

            until(lambda: ids <= recorded(), "every entry is in the books")
            old = gateway.pid("envoy")
            os.kill(old, signal.SIGKILL)
            until(lambda: gateway.part("envoy")["pid"] not in (None, old), "Envoy is started again")
            gateway.until_ready()
            with gateway.client() as client:
                for _ in range(20):
                    ids.add(client.get("/models").headers["x-request-id"])
            until(lambda: ids <= recorded(), "the new Envoy's entries stand beside the old one's")
        finally:
            gateway.close()
