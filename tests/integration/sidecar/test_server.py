"""The gRPC transport on a real Unix socket: failures stay failures, drains are whole, sockets private."""

from __future__ import annotations

import asyncio
import signal
import socket
import stat
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from gateway.config.environment import BadSetting
from gateway.contract.clock import ManualClock
from gateway.sidecar import client, wire
from gateway.sidecar.health import CACHE_S, STARTING_S, HealthBoard
from gateway.sidecar.server import MESSAGE_BYTES_MAX, SOCKET_PATH_MAX, Sidecar

EOF: Any = grpc.aio.EOF  # type: ignore[attr-defined]  # the stubs forget it
UNARY = "/test.Service/Unary"
STREAM = "/test.Service/Stream"


async def _unary(metadata: Mapping[str, str], request: bytes) -> bytes:
    match request:
        case b"raise":
            raise RuntimeError("a prompt that must not leave")
        case b"empty":
            return b""
        case b"stray cancel":
            raise asyncio.CancelledError
        case b"role":
            return metadata["tidegate-filter"].encode()
        case _:
            return request


async def _stream(_metadata: Mapping[str, str], requests: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    async for request in requests:
        if request == b"raise":
            raise KeyError("secret")
        if request == b"stray cancel":
            raise asyncio.CancelledError
        if request == b"close":
            return
        yield request.upper()


class _Running:
    def __init__(self, directory: Path) -> None:
        self.path = directory / "s.sock"
        self.health = HealthBoard()
        self._stack = AsyncExitStack()
        self.sidecar = Sidecar(self.path, {UNARY: _unary}, {STREAM: _stream}, self.health)

    async def __aenter__(self) -> _Running:
        await self.sidecar.start()
        self.channel: Any = await self._stack.enter_async_context(client.channel(self.path))
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()
        await self.sidecar.stop(0)

    async def call(self, request: bytes, **options: Any) -> bytes:
        async with asyncio.timeout(10):
            return bytes(await self.channel.unary_unary(UNARY)(request, **options))

    async def health_status(self) -> int:
        reply = await self.channel.unary_unary(wire.HEALTH_CHECK)(b"")
        return int(wire.HealthCheckResponse.FromString(reply).status)


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[_Running]:
    async with _Running(tmp_path) as made:
        yield made


async def test_bytes_and_metadata_go_through(running: _Running) -> None:
    assert await running.call(b"hello") == b"hello"
    assert await running.call(b"role", metadata=(("tidegate-filter", "admit"),)) == b"admit"


@pytest.mark.parametrize("request_bytes", [b"raise", b"empty", b"stray cancel"])
async def test_failed_unary_is_internal_and_says_nothing(
    running: _Running, request_bytes: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await running.call(request_bytes)
    assert raised.value.code() is grpc.StatusCode.INTERNAL
    assert raised.value.details() == "internal"
    assert "must not leave" not in capsys.readouterr().out


@pytest.mark.parametrize("request_bytes", [b"raise", b"stray cancel"])
async def test_failed_stream_is_internal_never_a_clean_close(running: _Running, request_bytes: bytes) -> None:
    call: Any = running.channel.stream_stream(STREAM)()
    await call.write(b"a")
    assert await call.read() == b"A"
    await call.write(request_bytes)
    async with asyncio.timeout(10):
        assert await call.code() is grpc.StatusCode.INTERNAL


async def test_stream_may_end_itself_cleanly(running: _Running) -> None:
    call: Any = running.channel.stream_stream(STREAM)()
    await call.write(b"close")
    async with asyncio.timeout(10):
        assert await call.read() is EOF
        assert await call.code() is grpc.StatusCode.OK


async def test_peer_that_goes_ends_the_requests_and_the_handlers_finally(tmp_path: Path) -> None:
    ended = asyncio.Event()

    async def handler(_metadata: Mapping[str, str], requests: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        try:
            async for request in requests:
                yield request
        finally:
            ended.set()

    running = _Running(tmp_path)
    running.sidecar = Sidecar(running.path, {}, {STREAM: handler}, running.health)
    async with running:
        call: Any = running.channel.stream_stream(STREAM)()
        await call.write(b"a")
        assert await call.read() == b"a"
        call.cancel()
        async with asyncio.timeout(5):
            await ended.wait()


async def test_message_over_the_limit_is_refused_and_the_next_one_served(running: _Running) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await running.call(b"x" * (MESSAGE_BYTES_MAX + 1))
    assert raised.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert await running.call(b"ok") == b"ok"


async def test_client_reports_serving_and_the_status_of_a_failure(running: _Running) -> None:
    assert await client.serving(running.path)
    with pytest.raises(client.CallFailed, match="INTERNAL"):
        await client.call(running.path, UNARY, b"raise")
    assert not await client.serving(running.path.with_name("nobody.sock"), timeout_s=0.2)


async def test_unknown_method_is_unimplemented(running: _Running) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await running.channel.unary_unary("/test.Service/Other")(b"")
    assert raised.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_socket_is_private_and_a_stale_one_is_replaced(tmp_path: Path) -> None:
    async with _Running(tmp_path) as first:
        assert stat.S_IMODE(first.path.stat().st_mode) == 0o600
    stale = socket.socket(socket.AF_UNIX)
    first.path.unlink(missing_ok=True)
    stale.bind(str(first.path))
    stale.close()
    async with _Running(tmp_path) as second:
        assert await second.call(b"again") == b"again"


async def test_path_that_cannot_be_a_socket_is_a_bad_setting(tmp_path: Path) -> None:
    (tmp_path / "s.sock").write_text("a file of the operator")
    with pytest.raises(BadSetting, match="no socket"):
        await Sidecar(tmp_path / "s.sock", {}, {}, HealthBoard()).start()
    with pytest.raises(BadSetting, match="at most"):
        await Sidecar(tmp_path / ("x" * SOCKET_PATH_MAX), {}, {}, HealthBoard()).start()


async def test_health_follows_dependencies_and_drain(running: _Running) -> None:
    assert await running.health_status() == wire.HEALTH_SERVING
    running.health.drain()
    assert await running.health_status() == wire.HEALTH_NOT_SERVING


async def test_health_of_a_named_service_is_unknown(running: _Running) -> None:
    request = wire.HealthCheckRequest(service="other").SerializeToString()
    reply: Any = await running.channel.unary_unary(wire.HEALTH_CHECK)(request)
    assert wire.HealthCheckResponse.FromString(reply).status == wire.HEALTH_SERVICE_UNKNOWN


async def test_probe_is_cached_bounded_and_single_flight() -> None:
    clock, asked, release = ManualClock(), [0], asyncio.Event()

    async def probe() -> bool:
        asked[0] += 1
        await release.wait()
        return True

    health = HealthBoard(clock=clock)
    health.register("ledger", probe)
    assert await asyncio.gather(*(health.failing() for _ in range(20))) == [("ledger",)] * 20
    assert asked == [1], "a hanging dependency is asked once"
    release.set()
    assert await health.failing() == ("ledger",), "cached"
    clock.advance_ms(int(CACHE_S * 1000))
    assert await health.failing() == ()


async def test_who_starts_is_asked_again_soon_and_who_has_answered_once_a_second() -> None:
    clock, answers, soon_ms = ManualClock(), [False], int(STARTING_S * 1000) + 1

    async def probe() -> bool:
        return answers[0]

    health = HealthBoard(clock=clock)
    health.register("books", probe)
    assert await health.failing() == ("books",)
    answers[0] = True
    assert await health.failing() == ("books",), "cached"
    clock.advance_ms(soon_ms)
    assert await health.failing() == ()
    answers[0] = False
    clock.advance_ms(soon_ms)
    assert await health.failing() == (), "cached"
    clock.advance_ms(int(CACHE_S * 1000))
    assert await health.failing() == ("books",)
    answers[0] = True
    clock.advance_ms(soon_ms)
    assert await health.failing() == ("books",), "cached: an outage is no start"


async def test_raising_probe_counts_as_no() -> None:
    async def probe() -> bool:
        raise OSError("gone")

    health = HealthBoard()
    health.register("cache", probe)
    assert await health.failing() == ("cache",)


async def test_sigterm_drains_open_streams_then_ends(tmp_path: Path) -> None:
    """A worker told to stop refuses new calls, finishes the open stream and exits 0."""
    program = textwrap.dedent(
        """
        import sys
        from pathlib import Path
        from gateway.sidecar.health import HealthBoard
        from gateway.sidecar.server import run, serve

        async def echo(_metadata, requests):
            async for request in requests:
                yield request

        run(lambda: serve(Path(sys.argv[1]), {}, {"/test.Service/Stream": echo}, HealthBoard(), drain_s=10))
        """
    )
    path = tmp_path / "d.sock"
    process = await asyncio.to_thread(
        lambda: subprocess.Popen(
            [sys.executable, "-c", program, str(path)], stdout=subprocess.PIPE, cwd=Path(__file__).parents[3]
        )
    )
    try:
        assert process.stdout is not None
        line = await asyncio.to_thread(process.stdout.readline)
        assert b"sidecar.serving" in line
        async with asyncio.timeout(20), client.channel(path) as channel:
            call: Any = channel.stream_stream(STREAM)()
            await call.write(b"before")
            assert await call.read() == b"before"
            process.send_signal(signal.SIGTERM)
            assert b"sidecar.draining" in await asyncio.to_thread(process.stdout.readline)
            await call.write(b"after")
            assert await call.read() == b"after"
            await call.done_writing()
            assert await call.code() is grpc.StatusCode.OK
            assert await asyncio.to_thread(process.wait, 10) == 0
    finally:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()
