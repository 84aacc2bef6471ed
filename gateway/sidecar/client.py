"""Ask a sidecar over its Unix socket: one process another one, the supervisor for readiness, and tests."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import grpc
import grpc.aio

from gateway.sidecar import wire
from gateway.sidecar.server import MESSAGE_BYTES_MAX


class CallFailed(Exception):
    """The call ended with another status than OK. ``status`` is gRPC's name of it (``UNAVAILABLE``)."""

    def __init__(self, status: str) -> None:
        """Keeps the status."""
        super().__init__(status)
        self.status = status


RECONNECT_MS_MAX: Final = 500
"""Between two tries to reach a process that restarts; gRPC's own wait grows to two minutes."""


@asynccontextmanager
async def channel(listen: Path) -> AsyncIterator[Any]:
    """A grpc.aio channel to the socket ``listen`` (Any: the stubs demand serializers); messages are bytes."""
    options = [("grpc.max_receive_message_length", MESSAGE_BYTES_MAX), ("grpc.enable_http_proxy", 0)]
    opened: Any = grpc.aio.insecure_channel(f"unix:{listen.absolute()}", options=options)
    try:
        yield opened
    finally:
        await opened.close(None)


async def call(listen: Path, method: str, request: bytes, *, timeout_s: float = 1.0) -> bytes:
    """One unary call on a connection of its own. Raises CallFailed."""
    async with channel(listen) as opened:
        try:
            return bytes(await opened.unary_unary(method)(request, timeout=timeout_s))
        except grpc.aio.AioRpcError as error:
            raise CallFailed(error.code().name) from error


class Connection:
    """A lasting connection for unary calls, made at the first one and again after a restart of the other
    process. A call while there is none fails at once."""

    def __init__(self, listen: Path) -> None:
        """To the socket ``listen``. Does no I/O; call it where an event loop runs."""
        options = [
            ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
            ("grpc.enable_http_proxy", 0),
            ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.min_reconnect_backoff_ms", 100),
            ("grpc.max_reconnect_backoff_ms", RECONNECT_MS_MAX),
        ]
        self._channel: Any = grpc.aio.insecure_channel(f"unix:{listen.absolute()}", options=options)
        self._calls: dict[str, Any] = {}

    async def call(self, method: str, request: bytes, *, timeout_s: float) -> bytes:
        """Raises CallFailed."""
        asked = self._calls.get(method)
        if asked is None:
            asked = self._calls[method] = self._channel.unary_unary(method)
        try:
            return bytes(await asked(request, timeout=timeout_s))
        except grpc.aio.AioRpcError as error:
            raise CallFailed(error.code().name) from error

    async def aclose(self) -> None:
        """Calls under way fail."""
        await self._channel.close(None)


async def serving(listen: Path, *, timeout_s: float = 1.0) -> bool:
    """Whether the process at ``listen`` answers its health check with SERVING."""
    try:
        reply = await call(listen, wire.HEALTH_CHECK, b"", timeout_s=timeout_s)
    except CallFailed:
        return False
    return bool(wire.HealthCheckResponse.FromString(reply).status == wire.HEALTH_SERVING)
