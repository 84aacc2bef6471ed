"""Is a part ready? Asked over the socket it serves on, in its own protocol.

One question, one answer, bounded in time; whatever goes wrong means "not ready".
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import Final, assert_never

from gateway.sidecar.client import serving

PROBE_S: Final = 1.0
"""One question's deadline; a part that needs longer is not ready yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ValkeyPing:
    """PONG from a Valkey; LOADING (it still reads its file) is not ready."""

    socket: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class GrpcHealth:
    """SERVING from grpc.health.v1 for the whole server."""

    socket: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpOk:
    """200 from ``GET path``, over a Unix socket or 127.0.0.1:port."""

    where: Path | int
    path: str


Probe = ValkeyPing | GrpcHealth | HttpOk


async def _open(where: Path | int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    if isinstance(where, Path):
        return await asyncio.open_unix_connection(str(where))
    return await asyncio.open_connection("127.0.0.1", where)


async def _valkey_pong(socket: Path) -> bool:
    reader, writer = await _open(socket)
    try:
        writer.write(b"PING\r\n")
        return (await reader.readline()) == b"+PONG\r\n"
    finally:
        writer.close()


async def _http_ok(where: Path | int, path: str) -> bool:
    reader, writer = await _open(where)
    try:
        writer.write(f"GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n".encode())
        status = (await reader.readline()).split(b" ")
        return len(status) > 1 and status[1] == b"200"
    finally:
        writer.close()


async def is_ready(probe: Probe) -> bool:
    """Asks once, for at most PROBE_S. Nobody there, a wrong answer and silence are all "not ready"."""
    try:
        async with asyncio.timeout(PROBE_S):
            match probe:
                case ValkeyPing():
                    return await _valkey_pong(probe.socket)
                case GrpcHealth():
                    return await serving(probe.socket, timeout_s=PROBE_S)
                case HttpOk():
                    return await _http_ok(probe.where, probe.path)
                case _:
                    assert_never(probe)
    except (OSError, TimeoutError, EOFError, ValueError):
        return False
