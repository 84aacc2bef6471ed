"""HTTP/2 (RFC 9113) frames as a case writes them, and as an answer is read from them.

A frame of a case is one of
    {"raw": "text"}                                     bytes (Latin-1), such as a broken preface
    {"type": "HEADERS", "stream": 1, "flags": ["END_STREAM", "END_HEADERS"], "fields": [[name, value], ...]}
    {"type": "DATA", ..., "payload": "text"}            any type whose payload is given as bytes
    {..., "repeat": n}                                  n of it, on stream, stream + 2, ...
    {..., "length": n}                                  a length that is not the payload's
The connection preface and an empty SETTINGS frame are sent first, unless the first frame is raw.
Fields are sent as literals that are never indexed, without Huffman coding (RFC 7541 section 6.2.3), so that
a file shows what travels.
"""

from __future__ import annotations

import contextlib
import socket
from typing import Any, Final

from tests.corpus.http.cases import Case, Filling
from tests.corpus.http.wire import RECEIVE_S, Answer, Ended, Reading, sending

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
TYPES: Final = (
    *("DATA", "HEADERS", "PRIORITY", "RST_STREAM", "SETTINGS", "PUSH_PROMISE", "PING", "GOAWAY"),
    *("WINDOW_UPDATE", "CONTINUATION"),
)
FLAGS: Final = {"END_STREAM": 1, "ACK": 1, "END_HEADERS": 4, "PADDED": 8, "PRIORITY": 32}
ERRORS: Final = (
    *("NO_ERROR", "PROTOCOL_ERROR", "INTERNAL_ERROR", "FLOW_CONTROL_ERROR", "SETTINGS_TIMEOUT"),
    *("STREAM_CLOSED", "FRAME_SIZE_ERROR", "REFUSED_STREAM", "CANCEL", "COMPRESSION_ERROR"),
    *("CONNECT_ERROR", "ENHANCE_YOUR_CALM", "INADEQUATE_SECURITY", "HTTP_1_1_REQUIRED"),
)
_NO_DYNAMIC_TABLE: Final = b"\x00\x01\x00\x00\x00\x00"
"""SETTINGS_HEADER_TABLE_SIZE 0: the answer's fields are literals or of the static table."""
_STATUS_INDEX: Final = 8
_STATIC_STATUSES: Final = (200, 204, 206, 304, 400, 404, 500)
"""Of the static table from index 8 on (RFC 7541 appendix A)."""
_HUFFMAN: Final[dict[int, dict[int, str]]] = {
    5: {0: "0", 1: "1", 2: "2", 3: "a", 4: "c", 5: "e", 6: "i", 7: "o", 8: "s", 9: "t"},
    6: {
        **{code + 0x15: char for code, char in enumerate("-./3456789", start=1)},
        0x20: "=",
        0x21: "A",
        0x22: "_",
        0x23: "b",
        0x24: "d",
        0x25: "f",
        0x26: "g",
        0x27: "h",
        **{code + 0x28: char for code, char in enumerate("lmnpru")},
    },
    7: {code + 0x74: char for code, char in enumerate("jkqvwxyz")},
}
"""The codes of RFC 7541 appendix B for what stands in a status, a request id and their names; anything
else is not read."""


def _string(text: bytes) -> bytes:
    return _integer(len(text), 7, 0) + text


def _integer(value: int, bits: int, first: int) -> bytes:
    """RFC 7541 section 5.1."""
    most = (1 << bits) - 1
    if value < most:
        return bytes([first | value])
    found, value = [first | most], value - most
    while value >= 128:
        found.append(value % 128 + 128)
        value //= 128
    return bytes([*found, value])


def block(fields: list[list[Any]], filling: Filling) -> bytes:
    """A field block; a name or value is a text or ``{"repeat": [text, n]}``."""

    def filled(text: Any) -> bytes:
        if isinstance(text, dict):
            text = text["repeat"][0] * text["repeat"][1]
        return filling.fill(text, length=len(filling.chat))

    return b"".join(b"\x10" + _string(filled(name)) + _string(filled(value)) for name, value in fields)


def _frame(kind: int, flags: int, stream: int, payload: bytes, length: int | None = None) -> bytes:
    size = len(payload) if length is None else length
    return size.to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


def _written(frame: dict[str, Any], filling: Filling) -> bytes:
    if "raw" in frame:
        return filling.fill(frame["raw"])
    payload = frame.get("payload", "")
    if isinstance(payload, dict):
        payload = payload["repeat"][0] * payload["repeat"][1]
    content = block(frame["fields"], filling) if "fields" in frame else filling.fill(payload)
    kind = TYPES.index(frame["type"]) if frame["type"] in TYPES else int(frame["type"])
    flags = sum(FLAGS[flag] for flag in frame.get("flags", []))
    step = 2 if frame.get("stream") else 0
    return b"".join(
        _frame(kind, flags, frame.get("stream", 0) + step * number, content, frame.get("length"))
        for number in range(frame.get("repeat", 1))
    )


def bytes_of(case: Case, filling: Filling) -> bytes:
    """What the case sends."""
    opening = b"" if "raw" in case.frames[0] else PREFACE + _frame(4, 0, 0, _NO_DYNAMIC_TABLE)
    return opening + b"".join(_written(frame, filling) for frame in case.frames)


class _Fields:
    """A field block of an answer, read without a dynamic table."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def _int(self, bits: int) -> int:
        most = (1 << bits) - 1
        value = self._data[self._at] & most
        self._at += 1
        shift = 0
        while value >= most and (shift == 0 or self._data[self._at - 1] & 128):
            value += (self._data[self._at] & 127) << shift
            self._at, shift = self._at + 1, shift + 7
        return value

    def _text(self) -> str:
        coded = bool(self._data[self._at] & 128)
        size = self._int(7)
        raw = self._data[self._at : self._at + size]
        self._at += size
        return _decoded(raw) if coded else raw.decode("latin-1")

    def read(self) -> dict[str, str]:
        """Names and values; of names in the static table only ``:status``."""
        found: dict[str, str] = {}
        while self._at < len(self._data):
            first = self._data[self._at]
            if first & 128:
                index = self._int(7)
                if _STATUS_INDEX <= index < _STATUS_INDEX + len(_STATIC_STATUSES):
                    found[":status"] = str(_STATIC_STATUSES[index - _STATUS_INDEX])
                continue
            if first & 0xE0 == 0x20:
                self._int(5)
                continue
            index = self._int(6 if first & 64 else 4)
            indexed = ":status" if _STATUS_INDEX <= index <= _STATUS_INDEX + 6 else f"static-{index}"
            name = indexed if index else self._text()
            found[name] = self._text()
        return found


def _decoded(raw: bytes) -> str:
    bits = "".join(f"{byte:08b}" for byte in raw)
    text, at = "", 0
    while at < len(bits) and "0" in bits[at:]:
        for size, codes in _HUFFMAN.items():
            char = codes.get(int(bits[at : at + size], 2))
            if char is not None and len(bits) - at >= size:
                text, at = text + char, at + size
                break
        else:
            return text + "?"
    return text


class _Answers:
    """Frames from Envoy, put together by stream."""

    def __init__(self) -> None:
        self.done: list[Answer] = []
        self._headers: dict[int, dict[str, str]] = {}
        self._bodies: dict[int, bytes] = {}

    def take(self, kind: str, flags: int, stream: int, payload: bytes) -> None:
        """One frame; padding, priorities and continuations are not Envoy's way."""
        if kind == "HEADERS":
            self._headers[stream] = {**self._headers.get(stream, {}), **_Fields(payload).read()}
        elif kind == "DATA":
            self._bodies[stream] = self._bodies.get(stream, b"") + payload
        elif kind == "RST_STREAM" and stream not in self._headers:
            self._end(f"reset {ERRORS[int.from_bytes(payload, 'big')]}")
        elif kind == "GOAWAY" and payload[4:8] != bytes(4):
            self._end(f"goaway {ERRORS[int.from_bytes(payload[4:8], 'big')]}")
        if kind in ("HEADERS", "DATA") and flags & FLAGS["END_STREAM"]:
            headers = self._headers[stream]
            body = self._bodies.get(stream, b"")
            self.done.append(Answer(status=int(headers[":status"]), headers=headers, body=body))

    def _end(self, how: str) -> None:
        self.done.append(Answer(status=0, end=how))


def exchange(port: int, data: bytes, answers: int, ends: str) -> tuple[list[Answer], bool]:
    """As wire.exchange, over HTTP/2."""
    found = _Answers()
    with socket.create_connection(("127.0.0.1", port), RECEIVE_S) as connection:
        reading = Reading(connection)
        with sending(connection, [data]):
            if ends == "left":
                return [], False
            with contextlib.suppress(Ended):
                while len(found.done) < answers or ends == "closed":
                    head = reading.exactly(9)
                    payload = reading.exactly(int.from_bytes(head[:3], "big"))
                    kind = TYPES[head[3]] if head[3] < len(TYPES) else ""
                    found.take(kind, head[4], int.from_bytes(head[5:9], "big") & 0x7FFFFFFF, payload)
                return found.done, False
            return found.done, True
