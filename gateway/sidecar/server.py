"""Serve gRPC to Envoy on a Unix socket: handlers are functions of bytes, the transport can change.

What the transport guarantees, whatever a handler does: an exception ends the call with INTERNAL, never
with an empty message (an empty CheckResponse is an allow) and never with a clean close (ext_proc lets
the request pass then). Nothing of the exception's text leaves the process.
"""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import stat
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any, Final, NoReturn

import grpc
import grpc.aio
import uvloop

from gateway.config.document import PolicyError
from gateway.config.environment import BadSetting
from gateway.path import BUFFERED_BYTES_MAX, DRAIN
from gateway.sidecar import wire
from gateway.sidecar.health import HealthBoard
from gateway.telemetry.log import EventLog, logger

UnaryHandler = Callable[[Mapping[str, str], bytes], Awaitable[bytes]]
"""(metadata, request) to response. A response of no bytes is refused."""
StreamHandler = Callable[[Mapping[str, str], AsyncIterator[bytes]], AsyncIterator[bytes]]
"""(metadata, requests) to responses. The requests end early, without error, when the peer has gone."""

MESSAGE_BYTES_MAX: Final = BUFFERED_BYTES_MAX + 4 * 1024 * 1024
"""A buffered body with what was read beyond its bound at once, headers, attributes and metadata."""
STREAMS_MAX: Final = 4096
"""Streams of one connection; Envoy opens another connection beyond it."""
RPCS_MAX: Final = 16384
"""Calls of one process at a time; more are refused with RESOURCE_EXHAUSTED, which fails closed."""
METADATA_BYTES_MAX: Final = 64 * 1024
"""gRPC's default of 8 KiB is close to what a traced request with baggage needs."""
YOUNG_OBJECTS: Final = 20_000
"""Allocations between two collections of the youngest objects: about 20 requests' worth. Python's 700 would
be several collections a request, each of which finds next to nothing: our objects die by count."""
SOCKET_PATH_MAX: Final = 107
"""sun_path holds 108 bytes with its NUL (unix(7)); beyond it gRPC fails with a riddle."""

_OPTIONS: Final = (
    ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
    ("grpc.max_send_message_length", MESSAGE_BYTES_MAX),
    ("grpc.max_concurrent_streams", STREAMS_MAX),
    ("grpc.max_metadata_size", METADATA_BYTES_MAX),
    ("grpc.so_reuseport", 0),
    # Envoy may ping idle connections; gRPC's default policy would answer with GOAWAY too_many_pings.
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 1000),
)


class NoAnswer(Exception):
    """A unary handler returned no bytes."""


def _settle_garbage() -> None:
    """What start-up has made (modules, descriptors, policies) stays for good: collections pass over it."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS)


def _metadata(context: Any) -> Mapping[str, str]:
    """Text metadata of the call; a name that comes twice is joined as HTTP joins headers."""
    found: dict[str, str] = {}
    for name, value in context.invocation_metadata() or ():
        if isinstance(value, str):
            found[name] = f"{found[name]},{value}" if name in found else value
    return found


def _where(error: BaseException) -> str:
    """``file.py:12`` of the innermost frame."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return f"{Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}" if trace else "?"


async def _fail(context: Any, method: str, error: BaseException, log: EventLog) -> NoReturn:
    """Log the type (a text could hold a prompt or a token) and end the call with INTERNAL."""
    log.error("sidecar.handler_failed", method=method, kind=type(error).__name__, at=_where(error))
    await context.abort(grpc.StatusCode.INTERNAL, "internal")
    raise error  # abort has raised already


def _really_cancelled() -> bool:
    """Whether the transport cancelled this task; a stray CancelledError of a handler would hang the call."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _unary(method: str, handler: UnaryHandler, log: EventLog) -> Any:
    async def behaviour(request: bytes, context: Any) -> bytes:
        try:
            response = await handler(_metadata(context), request)
            if not response:
                raise NoAnswer(method)
        except asyncio.CancelledError as error:
            if _really_cancelled():
                raise
            await _fail(context, method, error, log)
        except Exception as error:  # noqa: BLE001  # the border: every failure becomes INTERNAL
            await _fail(context, method, error, log)
        return response

    return grpc.unary_unary_rpc_method_handler(behaviour)


def _stream(method: str, handler: StreamHandler, log: EventLog) -> Any:
    async def behaviour(requests: AsyncIterator[bytes], context: Any) -> None:
        responses = handler(_metadata(context), requests)
        try:
            async for response in responses:
                await context.write(response)
        except asyncio.CancelledError as error:
            if _really_cancelled():
                raise
            await _fail(context, method, error, log)
        except Exception as error:  # noqa: BLE001  # the border: every failure becomes INTERNAL
            if context.cancelled() or context.done():
                # The peer went away between a reply and its write; nobody is left to answer.
                log.debug("sidecar.peer_gone", method=method, kind=type(error).__name__)
                return
            await _fail(context, method, error, log)
        finally:
            close = getattr(responses, "aclose", None)
            if close is not None:
                await close()  # now, not when the collector comes: its ``finally`` settles budgets

    return grpc.stream_stream_rpc_method_handler(behaviour)


def _generic_handlers(
    unary: Mapping[str, UnaryHandler], streams: Mapping[str, StreamHandler], log: EventLog
) -> list[Any]:
    """gRPC's handlers, one for each service of the ``/service/method`` names."""
    services: dict[str, dict[str, Any]] = {}
    handlers = {path: _unary(path, handler, log) for path, handler in unary.items()}
    handlers |= {path: _stream(path, handler, log) for path, handler in streams.items()}
    for path, handler in handlers.items():
        service, method = path.removeprefix("/").split("/")
        services.setdefault(service, {})[method] = handler
    return [grpc.method_handlers_generic_handler(service, methods) for service, methods in services.items()]


def _claim(listen: Path) -> None:
    """Make way at ``listen``: its directory exists, a dead process's socket does not. Raises BadSetting."""
    if len(os.fsencode(listen)) > SOCKET_PATH_MAX:
        raise BadSetting(f"TIDEGATE_LISTEN: a Unix socket path has at most {SOCKET_PATH_MAX} bytes: {listen}")
    listen.parent.mkdir(parents=True, exist_ok=True)
    try:
        mode = listen.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise BadSetting(f"TIDEGATE_LISTEN: {listen} exists and is no socket; choose another path")
    listen.unlink(missing_ok=True)


class Sidecar:
    """One gRPC server on one Unix socket. ``start`` and ``stop`` once each."""

    def __init__(
        self,
        listen: Path,
        unary: Mapping[str, UnaryHandler],
        streams: Mapping[str, StreamHandler],
        health: HealthBoard,
        *,
        log: EventLog | None = None,
    ) -> None:
        """Handlers by full method (``/package.Service/Method``); health is added."""
        self._listen = listen.absolute()
        self._health = health
        self._log = log or logger("sidecar")
        self._handlers = ({**unary, wire.HEALTH_CHECK: health.check}, dict(streams))
        self._server: grpc.aio.Server | None = None

    async def start(self) -> None:
        """Listen, readable and writable for this user only. Raises BadSetting, OSError, RuntimeError."""
        _claim(self._listen)
        server = grpc.aio.server(
            handlers=_generic_handlers(*self._handlers, self._log),
            options=_OPTIONS,
            maximum_concurrent_rpcs=RPCS_MAX,
        )
        before = os.umask(0o177)  # no moment in which another user could connect
        try:
            server.add_insecure_port(f"unix:{self._listen}")
            await server.start()
        finally:
            os.umask(before)
        self._listen.chmod(0o600)
        self._server = server

    async def stop(self, drain_s: float = DRAIN) -> None:
        """NOT_SERVING and no new calls at once; open ones get ``drain_s`` seconds, then they are cut."""
        self._health.drain()
        if self._server is not None:
            await self._server.stop(drain_s)


async def serve(
    listen: Path,
    unary: Mapping[str, UnaryHandler],
    streams: Mapping[str, StreamHandler],
    health: HealthBoard,
    *,
    drain_s: float = DRAIN,
    log: EventLog | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT, then drain. Raises as ``Sidecar.start``."""
    log = log or logger("sidecar")
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    sidecar = Sidecar(listen, unary, streams, health, log=log)
    await sidecar.start()
    _settle_garbage()
    log.info("sidecar.serving", listen=str(listen), pid=os.getpid())
    try:
        await stop.wait()
        log.info("sidecar.draining", seconds=drain_s)
    finally:
        await sidecar.stop(drain_s)
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
    log.info("sidecar.stopped")


def run(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run ``main()`` on uvloop. A bad setting or policy ends the process: one line, exit code 2."""
    refused: list[str] = []
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(main())
    except* (BadSetting, PolicyError) as group:  # also from within a TaskGroup
        refused = [str(error) for error in group.exceptions]
    if refused:
        sys.stderr.write("\n".join(refused) + "\n")
        raise SystemExit(2)
