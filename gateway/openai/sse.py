"""Server-sent events, incrementally and without loss: bytes in, whole events with their bytes out.

Source: WHATWG HTML, "Server-sent events", 9.2.5-9.2.6 (lines end in CRLF, LF or CR; a blank line ends
an event; an unfinished event at the end of the stream is not dispatched, but for ``[DONE]``). The raw
bytes of all events, joined, are the bytes fed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

EVENT_BYTES_MAX: Final = 1024 * 1024
"""A longer event is passed on in pieces, unread: an engine that never ends an event fills no memory."""
DONE: Final = b"[DONE]"
"""Data of OpenAI's last event."""
KEEP_ALIVE: Final = b": keep-alive\n\n"
_LAST: Final = b"data: [DONE]"
_BLANK: Final = re.compile(rb"(?>\r\n|\n|\r)")
_END: Final = re.compile(rb"(?>\r\n|\n|\r)(?>\r\n|\n|\r)")
"""Atomic: without it CR LF would pass for two line ends."""
_LINE: Final = re.compile(rb"\r\n|\n|\r")
_END_BYTES: Final = 4
_BOM: Final = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True, kw_only=True)
class SseEvent:
    """One event. ``data`` is None when it has no data field (comments, keep-alives), was too large to
    read, or was cut off."""

    raw: bytes
    data: bytes | None
    oversized: bool = False
    """Longer than EVENT_BYTES_MAX; perhaps a piece of one."""
    whole: bool = True
    """False for what was left when the stream ended in mid-event."""

    @property
    def comment(self) -> bytes:
        """A keep-alive in place of the event's comments, whose text is nobody's business; empty if it has
        none."""
        commented = self.whole and any(line.startswith(b":") for line in _LINE.split(self.raw))
        return KEEP_ALIVE if commented else b""


def event_bytes(data: bytes) -> bytes:
    """An event of one data line."""
    return b"data: " + data + b"\n\n"


def _data_of(raw: bytes) -> bytes | None:
    if raw.startswith(b"data: ") and raw.endswith(b"\n\n") and raw.count(b"\n") == 2 and b"\r" not in raw:
        return raw[6:-2]
    values = []
    for line in _LINE.split(raw.removeprefix(_BOM)):
        if line.startswith(b"data:"):
            values.append(line[6:] if line[5:6] == b" " else line[5:])
        elif line == b"data":
            values.append(b"")
    return b"\n".join(values) if values else None


def _plain_events(chunk: bytes) -> tuple[int, list[SseEvent]]:
    """The events of the form engines write, ``data: ...`` LF LF, at the start of ``chunk``, and where they
    end. The common case, at a third of the general one's cost; anything else is left to it."""
    events: list[SseEvent] = []
    start = 0
    if b"\r" in chunk:
        return start, events
    while chunk.startswith(b"data: ", start):
        end = chunk.find(b"\n", start)
        if end < 0 or end - start > EVENT_BYTES_MAX - 2 or chunk[end + 1 : end + 2] != b"\n":
            break
        events.append(SseEvent(raw=chunk[start : end + 2], data=chunk[start + 6 : end]))
        start = end + 2
    return start, events


class SseParser:
    """Feed bytes in any cut; the events do not depend on it (but for pieces of oversized ones)."""

    def __init__(self) -> None:
        """Empty."""
        self._buffer = bytearray()
        self._searched = 0
        self._overflowing = False

    @property
    def pending(self) -> bytes:
        """Bytes fed that belong to an event not yet ended."""
        return bytes(self._buffer)

    def feed(self, chunk: bytes) -> list[SseEvent]:
        """The events that ``chunk`` ends. An event that ends in a lone CR waits for the next byte,
        which may be the LF of the same line end."""
        if not self._buffer and not self._overflowing:
            start, events = _plain_events(chunk)
            if start == len(chunk):
                return events
            chunk = chunk[start:]
        else:
            events = []
        self._buffer += chunk
        start = 0
        while (end := self._event_end(start)) is not None:
            raw = bytes(self._buffer[start:end])
            start = end
            events.append(self._event(raw))
            self._overflowing = False
            self._searched = start
        if start:
            del self._buffer[:start]
            self._searched -= start
        if len(self._buffer) > EVENT_BYTES_MAX or (self._overflowing and len(self._buffer) >= _END_BYTES):
            piece = bytes(self._buffer[: 1 - _END_BYTES])
            del self._buffer[: len(piece)]
            self._searched = 0
            self._overflowing = True
            events.append(SseEvent(raw=piece, data=None, oversized=True))
        return events

    def _event(self, raw: bytes) -> SseEvent:
        if self._overflowing or len(raw) > EVENT_BYTES_MAX:
            return SseEvent(raw=raw, data=None, oversized=True)
        return SseEvent(raw=raw, data=_data_of(raw))

    def _event_end(self, start: int) -> int | None:
        buffer = self._buffer
        match = None if self._overflowing else _BLANK.match(buffer, start)
        if match is None:
            match = _END.search(buffer, max(start, self._searched))
        if match is None:
            self._searched = max(start, len(buffer) + 1 - _END_BYTES)
            return None
        if match.end() == len(buffer) and buffer[-1] == 0x0D:
            self._searched = max(start, len(buffer) + 1 - _END_BYTES)
            return None
        return match.end()

    def flush(self) -> list[SseEvent]:
        """What is left at the end of the stream: nothing, or one event, whole only if its blank line
        had come."""
        raw = bytes(self._buffer)
        self._buffer.clear()
        self._searched = 0
        if not raw:
            return []
        ended = (
            not self._overflowing and raw.endswith(b"\r") and (raw == b"\r" or _END.search(raw) is not None)
        )
        overflowing, self._overflowing = self._overflowing, False
        # Complete but for its blank line; nothing can follow it, and clients of OpenAI take it so.
        ended = ended or raw.strip() == _LAST
        return [SseEvent(raw=raw, data=_data_of(raw) if ended else None, oversized=overflowing, whole=ended)]
