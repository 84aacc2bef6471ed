"""A server of a test's own loop that leaves no connection behind."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from pathlib import Path

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Coroutine[None, None, None]]


@asynccontextmanager
async def listening(serve: Serve, path: Path | None = None, *, limit: int = 2**16) -> AsyncIterator[int]:
    """The port of 127.0.0.1 where ``serve`` is called for each connection, or 0 for the Unix socket ``path``.
    Up to ``limit`` bytes wait to be read.

    At the end every connection is closed, also one that ``serve`` had no time to look at: left to the garbage
    collector it would fail whatever test runs then.
    """
    writers: list[asyncio.StreamWriter] = []
    serving: list[asyncio.Task[None]] = []

    def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        serving.append(asyncio.get_running_loop().create_task(serve(reader, writer)))

    if path is None:
        server = await asyncio.start_server(accepted, "127.0.0.1", 0, limit=limit)
    else:
        server = await asyncio.start_unix_server(accepted, path, limit=limit)
    try:
        yield 0 if path else int(server.sockets[0].getsockname()[1])
    finally:
        server.close()
        for writer, task in zip(writers, serving, strict=True):
            writer.transport.abort()
            task.cancel()
        await asyncio.gather(*serving, return_exceptions=True)
        for writer in writers:
            with suppress(ConnectionError):
                await writer.wait_closed()
