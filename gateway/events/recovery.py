"""Where the books end: what a start finds after a stop, a kill -9 or a loss of power.

Only a torn last line is cut off, and only in the unsealed segment: it was never synced, so nobody was told
that it stands. Whatever else is wrong is damage, which a writer must not build on.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import orjson

from gateway.contract.ids import RegionName
from gateway.events.base import BadBase, kept_segments, read_base
from gateway.events.chain import LINE_BYTES_MAX, BrokenLine, Record, read_line
from gateway.events.event import EventType
from gateway.events.segment import BASE, OPEN_MODE, SEALED_MODE

_LAST_LINE_READ: Final = 4096
OWN_TYPES: Final = frozenset({EventType.BOOKS_OPENED, EventType.BOOKS_SEALED})


class BooksDamaged(Exception):
    """The books are not what was written; ``tidegate ledger verify`` lists every place."""

    def __init__(self, path: Path, line: int, what: str) -> None:
        """``line`` counts from 1."""
        super().__init__(f"{path.name}:{line}: {what}")
        self.path = path
        self.line = line


@dataclass(slots=True, kw_only=True)
class End:
    """The end of the books. ``path`` is the unsealed segment; None when the next one is to be begun."""

    number: int
    path: Path | None
    octets: int
    events: int
    opened_at_ms: int
    count: int
    head: str
    scanned: list[tuple[int, str]] = field(default_factory=list)
    """(seq, hash) of every record of the unsealed segment and of the last one before it."""
    ids: list[tuple[EventType, str]] = field(default_factory=list)
    """Type and id of the last events, oldest first."""


def find_end(directory: Path, region: RegionName, *, ids_wanted: int) -> End:
    """Read the unsealed segment, cut its torn last line off, sync it; read back ids until
    ``ids_wanted`` of them are the ledger's (or all there are). Raises BooksDamaged, OSError."""
    try:
        base = read_base(directory, region)
    except BadBase as error:
        raise BooksDamaged(directory / BASE, 1, str(error)) from None
    segments = kept_segments(directory, base)
    for position, (number, path) in enumerate(segments, start=base.segment):
        if number != position:
            raise BooksDamaged(path, 1, f"segment {position} is missing")
    end = End(
        number=base.segment, path=None, octets=0, events=0, opened_at_ms=0, count=base.count, head=base.head
    )
    complete = [path for _, path in segments]
    if complete:
        _read_last(complete, end)
        if end.path is not None:
            complete.pop()
    wanted = ids_wanted - _from_ledger(end.ids)
    for path in reversed(complete):
        if wanted <= 0:
            break
        ids = _ids(path)
        wanted -= _from_ledger(ids)
        end.ids[:0] = ids
    return end


def _from_ledger(ids: Sequence[tuple[EventType, str]]) -> int:
    return sum(kind is not EventType.ACCESS for kind, _ in ids)


def _read_last(segments: Sequence[Path], end: End) -> None:
    """Fill ``end`` from the last segment and the last record of the one before."""
    path = segments[-1]
    end.number += len(segments) - 1
    if len(segments) > 1:
        before = _last_record(segments[-2])
        if before.event.type is not EventType.BOOKS_SEALED:
            raise BooksDamaged(segments[-2], 1, "not sealed, though another segment follows")
        end.count, end.head = before.seq, before.hash
        end.scanned.append((before.seq, before.hash))
    last = None
    with path.open("rb") as file:
        for line_number, line in enumerate(iter(lambda: file.readline(LINE_BYTES_MAX + 1), b""), start=1):
            if not line.endswith(b"\n") and len(line) <= LINE_BYTES_MAX:
                break  # torn; readline stops early only at the end of the file
            if last is not None and last.event.type is EventType.BOOKS_SEALED:
                raise BooksDamaged(path, line_number, "goes on after its seal")
            last = _linked(path, line_number, line, end)
    if last is not None and last.event.type is EventType.BOOKS_SEALED:
        _finish(path, end.octets)
        end.number += 1
        end.octets = end.events = end.opened_at_ms = 0
        return
    end.path = path
    _cut(path, end.octets)


def _linked(path: Path, line_number: int, line: bytes, end: End) -> Record:
    """One more record of the last segment."""
    try:
        record = read_line(line)
    except BrokenLine as error:
        raise BooksDamaged(path, line_number, str(error)) from None
    if record.seq != end.count + 1 or record.prev != end.head:
        raise BooksDamaged(path, line_number, "does not follow the record before")
    if (line_number == 1) != (record.event.type is EventType.BOOKS_OPENED):
        raise BooksDamaged(path, line_number, "a segment begins with books.opened, once")
    if line_number == 1:
        end.opened_at_ms = record.event.at_ms
    end.count, end.head = record.seq, record.hash
    end.octets += len(line)
    end.events += 1
    end.scanned.append((record.seq, record.hash))
    if record.event.type not in OWN_TYPES:
        end.ids.append((record.event.type, record.event.id))
    return record


def _cut(path: Path, octets: int) -> None:
    """Shorten to ``octets``, and make sure that what is kept is on disk: a process that was killed
    between write and sync left lines only in the kernel's memory, and they are believed from now on. A loss
    of power in the middle of a seal can keep its mode and lose its line."""
    if not path.stat().st_mode & stat.S_IWUSR:
        path.chmod(OPEN_MODE)
    handle = os.open(path, os.O_WRONLY)
    try:
        if os.fstat(handle).st_size > octets:
            os.ftruncate(handle, octets)
        os.fsync(handle)
    finally:
        os.close(handle)


def _finish(path: Path, octets: int) -> None:
    """Complete a seal that a kill interrupted. Raises BooksDamaged."""
    if path.stat().st_size > octets:
        raise BooksDamaged(path, path.read_bytes().count(b"\n") + 1, "goes on after its seal")
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fchmod(handle, SEALED_MODE)
        os.fsync(handle)
    finally:
        os.close(handle)


def _last_record(path: Path) -> Record:
    """The last line of a sealed segment. Raises BooksDamaged."""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - _LAST_LINE_READ))
        tail = file.read()
    start = tail.rfind(b"\n", 0, -1) + 1
    try:
        return read_line(tail[start:])
    except BrokenLine as error:
        raise BooksDamaged(path, path.read_bytes().count(b"\n"), f"last line: {error}") from None


def _ids(path: Path) -> list[tuple[EventType, str]]:
    """Type and id of the events of a sealed segment."""
    found = []
    with path.open("rb") as file:
        for line_number, line in enumerate(file, start=1):
            try:
                event = orjson.loads(line)["event"]
                kind, name = EventType(event["type"]), str(event["id"])
            except (ValueError, KeyError, TypeError) as error:
                raise BooksDamaged(path, line_number, f"{type(error).__name__} in the event") from None
            if kind not in OWN_TYPES:
                found.append((kind, name))
    return found
