"""A pod reduced to what the trap tests need: it counts who reached it and streams as long as it is told."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tests.harness.listening import listening

EVENT_GAP_S = 0.02


class Pod:
    """``requests`` are the heads that reached it; ``answers`` are (status, JSON body) used in turn."""

    def __init__(self) -> None:
        """Answers 200 with a small completion unless told otherwise."""
        self.port = 0
        self.requests: list[dict[str, str]] = []
        self.bodies: list[bytes] = []
        self.statuses: list[int] = []
        self.events = 20
        self.event_pad_bytes = 0
        """How much longer than usual an event of a stream is."""
        self.answer: dict[str, object] = {"object": "chat.completion", "choices": [], "usage": None}
        self.pad_bytes = 0
        """How much longer than that a JSON answer is."""
        self.hold: asyncio.Event | None = None
        """Streams stop after their first event until this is set."""
        self.left = asyncio.Event()
        self.chunk_sent = asyncio.Event()
        self.stream_sent = asyncio.Event()
        """The last byte of a stream has left the pod."""

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
                headers = {":line": head[0]}
                for line in head[1:-2]:
                    name, value = line.split(":", 1)
                    headers[name.strip().lower()] = value.strip()
                body = await reader.readexactly(int(headers.get("content-length", "0")))
                if head[0].startswith("GET /ready"):
                    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
                    continue
                self.requests.append(headers)
                self.bodies.append(body)
                if b'"stream": true' in body or b'"stream":true' in body:
                    await self._stream(writer)
                else:
                    self._answer(writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            self.left.set()
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    def _answer(self, writer: asyncio.StreamWriter) -> None:
        status = self.statuses.pop(0) if self.statuses else 200
        body = json.dumps({**self.answer, "pad": "x" * self.pad_bytes}).encode()
        head = f"HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)

    async def _stream(self, writer: asyncio.StreamWriter) -> None:
        writer.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
        )
        for number in range(self.events):
            data = b'data: {"n":%d%s}\n\n' % (number, b" " * self.event_pad_bytes)
            writer.write(b"%x\r\n%s\r\n" % (len(data), data))
            await writer.drain()
            self.chunk_sent.set()
            if self.hold is not None:
                await self.hold.wait()
            await asyncio.sleep(EVENT_GAP_S)
        writer.write(b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n")
        await writer.drain()
        self.stream_sent.set()


@asynccontextmanager
async def pod() -> AsyncIterator[Pod]:
    """A pod on a free port of 127.0.0.1."""
    serving = Pod()
    async with listening(serving._serve, limit=64 * 1024 * 1024) as serving.port:
        yield serving
