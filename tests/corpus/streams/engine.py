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
    """``ports`` are where it listens, each a pod to Envoy; ``asked`` counts generating requests by case."""

    def __init__(self) -> None:
        """Not listening yet."""
        self.ports: list[int] = []
        self.asked: dict[str, int] = {}
        self._cases = {case.name: case for case in stream_cases()}
        self.arrived = {name: threading.Event() for name in self._cases}
        """By case, set by the client that has what the case's end waits for, and cleared before it asks."""

    @property
    def urls(self) -> str:
        """Base URLs, as ``--engine`` takes them."""
        return ",".join(f"http://127.0.0.1:{port}" for port in self.ports)

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
            arrived = self.arrived[case.name]
            assert await asyncio.to_thread(arrived.wait, ARRIVE_S), "nothing reached the client"
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
def corpus_engine(pods: int = 1) -> Iterator[CorpusEngine]:
    """On so many free ports of 127.0.0.1, in a thread of its own."""
    engine, ready, stop = CorpusEngine(), threading.Event(), threading.Event()

    async def main() -> None:
        servers = [
            await asyncio.start_server(engine.serve, "127.0.0.1", 0, limit=_BODY_MAX) for _ in range(pods)
        ]
        engine.ports = [server.sockets[0].getsockname()[1] for server in servers]
        ready.set()
        await asyncio.to_thread(stop.wait)
        for server in servers:
            server.close()

    thread = threading.Thread(target=asyncio.run, args=(main(),), daemon=True)
    thread.start()
    ready.wait()
    try:
        yield engine
    finally:
        stop.set()
        thread.join()
