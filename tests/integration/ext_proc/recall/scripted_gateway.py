"""A gateway whose answers a test chooses, over real HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import orjson

from tests.harness.listening import listening


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One request. ``headers``: names in lower case."""

    path: str
    headers: dict[str, str]
    body: dict[str, Any]

    @property
    def text(self) -> str:
        """Of the last message."""
        return str(self.body["messages"][-1]["content"])


Reply = str | bytes | int
"""The content of a completion, a raw response, or a status."""


async def hang(asked: Asked) -> Reply:
    """A frozen server: takes the request and says nothing."""
    await asyncio.Event().wait()
    return b""


@dataclass(slots=True)
class Gateway:
    """``reply`` may be changed at any time; ``asked`` is what came."""

    reply: Callable[[Asked], Awaitable[Reply]]
    asked: list[Asked] = field(default_factory=list)
    port: int = 0

    @property
    def url(self) -> str:
        """For the client."""
        return f"http://127.0.0.1:{self.port}"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One request of one connection."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        line, *rows = head.split("\r\n")
        headers = {name.lower(): value for name, _, value in (row.partition(": ") for row in rows if row)}
        body = orjson.loads(await reader.readexactly(int(headers["content-length"])))
        asked = Asked(path=line.split(" ")[1], headers=headers, body=body)
        self.asked.append(asked)
        writer.write(raw(await self.reply(asked)))
        await writer.drain()
        writer.close()


def raw(reply: Reply) -> bytes:
    """The whole HTTP response."""
    if isinstance(reply, bytes):
        return reply
    if isinstance(reply, int):
        return b"HTTP/1.1 %d Refused\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}" % reply
    choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": reply}}
    return ok(orjson.dumps({"object": "chat.completion", "choices": [choice]}))


def ok(body: bytes) -> bytes:
    """200 with any body."""
    return b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % len(body) + body


def says(*texts: str) -> Callable[[Asked], Awaitable[Reply]]:
    """One after the other, then the last one again."""
    left = list(texts)

    async def reply(asked: Asked) -> Reply:
        return left.pop(0) if len(left) > 1 else left[0]

    return reply


@asynccontextmanager
async def scripted_gateway(reply: Callable[[Asked], Awaitable[Reply]]) -> AsyncIterator[Gateway]:
    """Listens on a free port of 127.0.0.1."""
    gateway = Gateway(reply)
    async with listening(gateway.serve) as gateway.port:
        yield gateway
