"""HTTP/1.1 on asyncio, just what an engine needs, with control over every byte written.

Not Starlette: scripted faults cut, stall and split below a framework, a closed client must be noticed
at once, and as the upstream of load tests the twin has to cost little.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from email.utils import formatdate
from http import HTTPStatus
from itertools import pairwise
from typing import Final, cast

from gateway.contract.clock import Clock

HEAD_BYTES_MAX: Final = 64 * 1024
BODY_BYTES_MAX: Final = 64 * 1024 * 1024
SPLIT_PAUSE_S: Final = 0.001
"""Between the pieces of a split event, so that they travel as separate segments."""
JSON: Final = "application/json"
SSE: Final = "text/event-stream; charset=utf-8"
_REASONS: Final = {status.value: status.phrase for status in HTTPStatus}


class BadHttp(Exception):
    """The bytes are not a request."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpRequest:
    """``target`` is the path without query; header names are lower case."""

    method: str
    target: str
    query: str
    headers: Mapping[str, str]
    body: bytes


def parsed_head(raw: bytes) -> tuple[str, str, str, dict[str, str]]:
    """Method, path, query and headers of the lines before the empty one. Raises BadHttp."""
    try:
        lines = raw.decode("latin-1").split("\r\n")
        method, target, version = lines[0].split(" ")
    except ValueError:
        raise BadHttp("request line") from None
    if version not in ("HTTP/1.1", "HTTP/1.0"):
        raise BadHttp("version")
    headers: dict[str, str] = {}
    for line in lines[1:]:
        name, colon, value = line.partition(":")
        if not colon or not name or name != name.strip():
            raise BadHttp("header line")
        name = name.lower()
        if name in headers and name in ("content-length", "transfer-encoding"):
            raise BadHttp("repeated framing header")
        headers[name] = value.strip()
    if "content-length" in headers and "transfer-encoding" in headers:
        raise BadHttp("two framings")
    if version == "HTTP/1.0":
        headers.setdefault("connection", "close")
    path, _, query = target.partition("?")
    return method, path, query, headers


def dechunked(data: bytearray) -> tuple[bytes, int] | None:
    """The body of a chunked message at the start of ``data`` and its length on the wire, or None while
    it is incomplete. Raises BadHttp."""
    parts: list[bytes] = []
    at = 0
    while True:
        line = data.find(b"\r\n", at)
        if line < 0:
            return None
        try:
            size = int(bytes(data[at:line]).split(b";")[0], 16)
        except ValueError:
            raise BadHttp("chunk size") from None
        if size == 0:
            end = data.find(b"\r\n\r\n", line)
            return None if end < 0 else (b"".join(parts), end + 4)
        at = line + 2 + size + 2
        if len(data) < at:
            return None
        parts.append(bytes(data[line + 2 : at - 2]))


class Reply:
    """The answer to one request. After ``gone`` was called every write is dropped."""

    def __init__(self, connection: Connection) -> None:
        """Made by the connection."""
        self._connection: Connection | None = connection
        self._pieces: deque[tuple[bytes | None, float]] = deque()
        self.gone: Callable[[], None] | None = None
        self.split_at: int | None = None
        self.split_every: int | None = None
        self.head_pause_s = 0.0

    def whole(
        self, status: int, content_type: str, body: bytes, headers: Mapping[str, str] | None = None
    ) -> None:
        """Status, headers and body at once."""
        sent = {"content-length": str(len(body)), **(headers or {})}
        self._send(self._head(status, content_type, sent) + body)
        self._over()

    def bare(self, status: int, text: str) -> None:
        """The answer of a server whose handler failed: no CORS header, and the connection ends."""
        if self._connection is not None:
            self._connection.closing = True
        head = self._head(status, "text/plain; charset=utf-8", {"content-length": str(len(text))})
        self._send(head.replace(b"vary: Origin\r\n", b"").replace(b"connection: close\r\n", b""))
        self._send(text.encode())
        self._over()

    def start(self, status: int, content_type: str) -> None:
        """Status and headers of a body sent in chunks."""
        head = self._head(status, content_type, {"transfer-encoding": "chunked"})
        if not self.head_pause_s:
            self._send(head)
            return
        half = len(head) // 2
        self._drip(head[:half], self.head_pause_s)
        self._drip(head[half:], 0.0)

    def chunk(self, data: bytes) -> None:
        """One piece of the body."""
        at, size = self.split_at, len(data)
        if self.split_every is not None:
            cuts = [*range(0, size, self.split_every), size]
        elif at is not None and -size < at < size and at != 0:
            cuts = [0, at % size, size]
        else:
            self._send(b"%x\r\n%b\r\n" % (size, data))
            return
        for first, end in pairwise(cuts):
            self._drip(b"%x\r\n%b\r\n" % (end - first, data[first:end]), SPLIT_PAUSE_S)

    def finish(self) -> None:
        """The end of a chunked body."""
        self._send(b"0\r\n\r\n")
        if self._pieces:
            self._pieces.append((None, 0.0))
        else:
            self._over()

    def cut(self, *, reset: bool) -> None:
        """Closes the connection in the middle, by FIN or RST."""
        if self._connection is not None:
            self._connection.close(reset=reset)

    def lost(self) -> None:
        """The client left."""
        self._connection = None
        if self.gone is not None:
            self.gone()

    def _head(self, status: int, content_type: str, headers: Mapping[str, str]) -> bytes:
        if self._connection is None:
            return b""
        lines = [f"HTTP/1.1 {status} {_REASONS.get(status, '')}", f"date: {self._connection.date()}"]
        lines += ["server: uvicorn", *(f"{name}: {value}" for name, value in headers.items())]
        if content_type:
            lines.append(f"content-type: {content_type}")
        if self._connection.closing:
            lines.append("connection: close")
        return ("\r\n".join(lines) + "\r\nvary: Origin\r\n\r\n").encode("latin-1")

    def _send(self, data: bytes) -> None:
        if self._pieces:
            self._pieces.append((data, SPLIT_PAUSE_S))
        elif self._connection is not None:
            self._connection.write(data)

    def _drip(self, data: bytes, pause_s: float) -> None:
        self._pieces.append((data, pause_s))
        if len(self._pieces) == 1:
            self._drop()

    def _drop(self) -> None:
        if self._connection is None:
            return
        piece, pause_s = self._pieces[0]
        if piece is None:
            self._over()
            return
        self._connection.write(piece)
        asyncio.get_running_loop().call_later(pause_s, self._dropped)

    def _dropped(self) -> None:
        self._pieces.popleft()
        if self._pieces:
            self._drop()

    def _over(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.answered()


Handler = Callable[[HttpRequest, Reply], None]


class Connection(asyncio.Protocol):
    """One client connection; requests are answered one after the other."""

    def __init__(self, handler: Handler, clock: Clock, all_: OpenConnections) -> None:
        """``handler`` is called with each request and answers through its Reply, now or later;
        ``all_`` holds the open connections."""
        self._handler, self._clock, self._all = handler, clock, all_
        self._data = bytearray()
        self._transport: asyncio.Transport | None = None
        self._reply: Reply | None = None
        self._head: tuple[str, str, str, dict[str, str]] | None = None
        self.closing = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """asyncio's."""
        self._transport = cast(asyncio.Transport, transport)
        self._all.opened(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """asyncio's: whoever produces for this client hears of it."""
        self._transport = None
        self._all.closed(self)
        reply, self._reply = self._reply, None
        if reply is not None:
            reply.lost()

    def data_received(self, data: bytes) -> None:
        """asyncio's."""
        self._data += data
        self._advance()

    def _advance(self) -> None:
        try:
            while self._reply is None and self._transport is not None and self._take():
                pass
        except BadHttp:
            self.closing = True
            reply = Reply(self)
            reply.whole(400, "text/plain; charset=utf-8", b"Invalid HTTP request received.")

    def _take(self) -> bool:
        """Reads and hands over one whole request; False while bytes are missing."""
        if self._head is None:
            end = self._data.find(b"\r\n\r\n")
            if end < 0:
                if len(self._data) > HEAD_BYTES_MAX:
                    raise BadHttp("head too large")
                return False
            self._head = parsed_head(bytes(self._data[:end]))
            del self._data[: end + 4]
            if self._head[3].get("expect", "").lower() == "100-continue":
                self.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        method, target, query, headers = self._head
        body = self._body(headers)
        if body is None:
            return False
        self._head = None
        self.closing = headers.get("connection", "").lower() == "close"
        self._reply = Reply(self)
        self._handler(
            HttpRequest(method=method, target=target, query=query, headers=headers, body=body), self._reply
        )
        return True

    def _body(self, headers: Mapping[str, str]) -> bytes | None:
        if len(self._data) > BODY_BYTES_MAX:
            raise BadHttp("body too large")
        if headers.get("transfer-encoding", "").lower() == "chunked":
            found = dechunked(self._data)
            if found is None:
                return None
            body, used = found
        else:
            length = headers.get("content-length", "0")
            if not length.isdecimal():
                raise BadHttp("content-length")
            used = int(length)
            if len(self._data) < used:
                return None
            body = bytes(self._data[:used])
        del self._data[:used]
        return body

    def write(self, data: bytes) -> None:
        """To the socket."""
        if self._transport is not None:
            self._transport.write(data)

    def answered(self) -> None:
        """The reply is complete: close, or go on with the next request."""
        self._reply = None
        if self._transport is None:
            return
        if self.closing:
            self._transport.close()
        elif self._data:
            asyncio.get_running_loop().call_soon(self._advance)

    def close(self, *, reset: bool) -> None:
        """By FIN after what was written, or by RST."""
        if self._transport is not None:
            if reset:
                self._transport.abort()
            else:
                self._transport.close()

    def date(self) -> str:
        """The Date header's value."""
        return formatdate(self._clock.unix_ms() / 1000, usegmt=True)


class OpenConnections:
    """The connections of one server, so that it can end without cutting the last bytes."""

    def __init__(self) -> None:
        """Must be made within the running event loop."""
        self._open: set[Connection] = set()
        self._none = asyncio.Event()

    def opened(self, connection: Connection) -> None:
        """Called by the connection."""
        self._open.add(connection)

    def closed(self, connection: Connection) -> None:
        """Called by the connection."""
        self._open.discard(connection)
        if not self._open:
            self._none.set()

    async def close(self, wait_s: float) -> None:
        """Closes all after what they have written; waits at most ``wait_s`` for that."""
        if not self._open:
            return
        self._none.clear()
        for connection in tuple(self._open):
            connection.close(reset=False)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait_s):
                await self._none.wait()
