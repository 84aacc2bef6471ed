"""Readiness asked in each part's own protocol: ready, not yet, wrong, silent, nobody there."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from gateway.sidecar.health import HealthBoard
from gateway.sidecar.server import Sidecar
from mesh.local.probes import GrpcHealth, HttpOk, Probe, ValkeyPing, is_ready
from tests.harness.listening import listening
from tests.harness.valkey import ledger_store


def probes(socket: Path) -> list[Probe]:
    return [ValkeyPing(socket=socket), GrpcHealth(socket=socket), HttpOk(where=socket, path="/ready")]


async def test_nobody_there_is_not_ready(tmp_path: Path) -> None:
    for probe in probes(tmp_path / "none.sock"):
        assert not await is_ready(probe)


@pytest.mark.parametrize(
    "answer", [b"", b"-LOADING Valkey is loading the dataset in memory\r\n", b"HTTP/1.1 503 Busy\r\n\r\n"]
)
async def test_a_wrong_answer_is_not_ready(answer: bytes, tmp_path: Path) -> None:
    async def reply(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(16)
        writer.write(answer)
        writer.close()

    async with listening(reply, tmp_path / "s.sock"):
        for probe in probes(tmp_path / "s.sock"):
            assert not await is_ready(probe)


async def test_silence_is_not_ready(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mesh.local.probes.PROBE_S", 0.05)

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.Event().wait()

    async with listening(silent, tmp_path / "s.sock"):
        for probe in probes(tmp_path / "s.sock"):
            assert not await is_ready(probe)


async def test_a_valkey_that_answers_is_ready() -> None:
    with ledger_store() as store:
        assert await is_ready(ValkeyPing(socket=store.socket))
        store.kill()
        assert not await is_ready(ValkeyPing(socket=store.socket))


async def test_a_sidecar_is_ready_while_its_dependencies_are(tmp_path: Path) -> None:
    health, answers = HealthBoard(), [False]

    async def dependency() -> bool:
        return answers[0]

    health.register("ledger", dependency)
    sidecar = Sidecar(tmp_path / "s.sock", {}, {}, health)
    await sidecar.start()
    try:
        assert not await is_ready(GrpcHealth(socket=tmp_path / "s.sock"))
    finally:
        await sidecar.stop(0)
    serving = Sidecar(tmp_path / "t.sock", {}, {}, HealthBoard())
    await serving.start()
    try:
        assert await is_ready(GrpcHealth(socket=tmp_path / "t.sock"))
    finally:
        await serving.stop(0)


async def test_http_over_a_port(tmp_path: Path) -> None:
    async def reply(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line = await reader.readline()
        writer.write(
            b"HTTP/1.1 200 OK\r\n\r\n" if line.startswith(b"GET /ready ") else b"HTTP/1.1 404 No\r\n\r\n"
        )
        writer.close()

    async with listening(reply) as port:
        assert await is_ready(HttpOk(where=port, path="/ready"))
        assert not await is_ready(HttpOk(where=port, path="/other"))
