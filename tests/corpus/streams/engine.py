"""An engine that answers with cases of the corpus, byte for byte; the first message's text names the case."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from tests.corpus.streams.cases import StreamCase, stream_cases

PLAIN: Final = "plain"
"""What is answered to a text that is no case."""
ARRIVE_S: Final = 20.0
_BODY_MAX: Final = 1024 * 1024
_LINGER_NONE: Final = struct.pack("ii", 1, 0)
"""SO_LINGER with no time: closing sends RST."""


class CorpusEngine:
    """``port`` is where it listens; ``asked`` counts the generating requests by case."""

    def __init__(self) -> None:
        """Not listening yet."""
        self.port = 0
        self.arrived = threading.Event()
        """Set by a client that has what a case's end waits for."""
        self.asked: dict[str, int] = {}
        self._cases = {case.name: case for case in stream_cases()}

    @property
    def url(self) -> str:
        """Base URL."""
        return f"http://127.0.0.1:{self.port}"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while await self._one(reader, writer):
                await writer.drain()
        writer.close()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """One request; whether the connection can take another."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
        length = head.partition("\r\ncontent-length:")[2].partition("\r\n")[0]
        body = await reader.readexactly(min(int(length or 0), _BODY_MAX))
        if not head.startswith("post /v1/"):
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}")
            return True
        name = json.loads(body)["messages"][0]["content"]
        case = self._cases.get(name, self._cases[PLAIN])
        self.asked[case.name] = self.asked.get(case.name, 0) + 1
        return await self._answer(case, reader, writer)

    async def _answer(
        self, case: StreamCase, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        framing, writes = case.spec.get("framing", "chunked"), case.writes()
        writer.write(case.spec.get("before", "").encode() + self._head(case, framing, sum(map(len, writes))))
        chunked = framing in ("chunked", "trailers", "odd-size")
        for data in writes:
            writer.write(b"%x\r\n%s\r\n" % (len(data), data) if chunked else data)
            await writer.drain()
        if case.after:
            assert await asyncio.to_thread(self.arrived.wait, ARRIVE_S), "nothing reached the client"
            self.arrived.clear()
        match case.end, framing:
            case "end", "odd-size":
                writer.write(b"zz\r\n")
            case "end", "trailers":
                writer.write(b"0\r\nx-trailer: leak-canary\r\n\r\n")
            case "end", "chunked":
                writer.write(b"0\r\n\r\n")
            case "reset", _:
                connection = writer.get_extra_info("socket")
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NONE)
            case "stay", _:
                await reader.read()
            case _:
                pass
        return case.end == "end" and framing not in ("close", "odd-size")

    @staticmethod
    def _head(case: StreamCase, framing: str, length: int) -> bytes:
        lines = [f"HTTP/1.1 {case.status} X", *(f"{name}: {value}" for name, value in case.headers)]
        match framing:
            case "length":
                lines.append(f"content-length: {length}")
            case "close":
                lines.append("connection: close")
            case "none":
                pass
            case _:
                lines.append("transfer-encoding: chunked")
        return "\r\n".join((*lines, "", "")).encode()


@contextmanager
def corpus_engine() -> Iterator[CorpusEngine]:
    """On a free port of 127.0.0.1, in a thread of its own."""
    engine, ready, stop = CorpusEngine(), threading.Event(), threading.Event()

    async def main() -> None:
        server = await asyncio.start_server(engine.serve, "127.0.0.1", 0, limit=_BODY_MAX)
        engine.port = server.sockets[0].getsockname()[1]
        ready.set()
        await asyncio.to_thread(stop.wait)
        server.close()

    thread = threading.Thread(target=asyncio.run, args=(main(),), daemon=True)
    thread.start()
    ready.wait()
    try:
        yield engine
    finally:
        stop.set()
        thread.join()
