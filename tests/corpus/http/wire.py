"""Bytes as written, and the answers to them: no client library that would mend what is odd."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from tests.corpus.http.cases import Expected

RECEIVE_S = 30.0
"""How long an answer may take on a machine that is busy."""
_BUFFERED_BYTES = 32_768
"""What a socket surely takes without anybody reading at the other end."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One answer; header names in lower case. ``end`` is how an HTTP/2 stream or connection was ended in
    place of an answer, such as ``reset PROTOCOL_ERROR``."""

    status: int
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    end: str = ""

    @property
    def error(self) -> dict[str, Any]:
        """The error object of the body. Raises ValueError and KeyError where there is none."""
        found: dict[str, Any] = json.loads(self.body)["error"]
        return found


class Ended(Exception):
    """The peer closed the connection before an answer was complete."""


class Reading:
    """What arrives on a connection, taken piece by piece. Raises Ended."""

    def __init__(self, connection: socket.socket) -> None:
        """Reads with the connection's own time limit."""
        self._connection = connection
        self._data = b""

    def _more(self) -> None:
        try:
            piece = self._connection.recv(65_536)
        except ConnectionResetError:
            piece = b""
        if not piece:
            raise Ended(self._data[:200])
        self._data += piece

    def until(self, end: bytes) -> bytes:
        """Up to and without ``end``."""
        while end not in self._data:
            self._more()
        found, _, self._data = self._data.partition(end)
        return found

    def exactly(self, size: int) -> bytes:
        """So many bytes."""
        while len(self._data) < size:
            self._more()
        found, self._data = self._data[:size], self._data[size:]
        return found

    def at_end(self) -> bool:
        """Whether the peer closes now, without another byte."""
        try:
            self._more()
        except Ended as ended:
            return bool(ended.args[0] == b"")
        return False


def read_answer(reading: Reading, *, bodiless: bool) -> Answer:
    """The next final answer. Raises Ended."""
    status = 100
    while status < 200:
        lines = reading.until(b"\r\n\r\n").decode("latin-1").split("\r\n")
        status = int(lines[0].split(" ")[1])
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines[1:])}
    body = b""
    if bodiless:
        pass
    elif headers.get("transfer-encoding") == "chunked":
        while size := int(reading.until(b"\r\n"), 16):
            body += reading.exactly(size)
            reading.exactly(2)
        reading.exactly(2)
    else:
        body = reading.exactly(int(headers.get("content-length", "0")))
    return Answer(status=status, headers=headers, body=body)


@contextmanager
def sending(connection: socket.socket, segments: list[bytes | float]) -> Iterator[None]:
    """Sends ``segments``; a long text beside the reading, so that an early answer to it is not lost with
    the reset that follows it."""

    def send() -> None:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            for segment in segments:
                if isinstance(segment, float):
                    time.sleep(segment)  # the case itself: a slow client
                else:
                    connection.sendall(segment)

    if sum(len(segment) for segment in segments if isinstance(segment, bytes)) < _BUFFERED_BYTES:
        send()
        yield
        return
    beside = threading.Thread(target=send, daemon=True)
    beside.start()
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)
        beside.join()


def exchange(
    port: int, segments: list[bytes | float], expected: tuple[Expected, ...], ends: str
) -> tuple[list[Answer], bool]:
    """The answers, as many as are expected, and whether the connection was closed after them (looked at
    only where that is expected). Fewer answers where the connection ends before."""
    answers: list[Answer] = []
    with socket.create_connection(("127.0.0.1", port), RECEIVE_S) as connection:
        reading = Reading(connection)
        with sending(connection, segments):
            if ends == "left":
                return [], False
            with contextlib.suppress(Ended):
                answers += (read_answer(reading, bodiless=one.bodiless) for one in expected)
            return answers, ends == "closed" and reading.at_end()
