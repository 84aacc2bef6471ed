"""Read books from their beginning or from a known record on; also beside their writer.

Every line is checked as ``verify`` checks it: what is read is what was written, or BooksDamaged.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from gateway.contract.ids import RegionName
from gateway.events.base import Base, kept_segments, read_base
from gateway.events.chain import LINE_BYTES_MAX, BrokenLine, Record, read_line
from gateway.events.event import EventType
from gateway.events.recovery import BooksDamaged
from gateway.events.segment import segment_path, segments_of

BATCH: Final = 1024
"""Records of one ``read``: about a megabyte."""


class NotThere(Exception):
    """The books have no such record: they are others, or begin behind it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """A record by number and hash."""

    seq: int
    hash: str


class Reader:
    """Records after ``after`` (all there are without it), in order; a later ``read`` finds what has been
    written meanwhile. Not for more than one thread at a time."""

    def __init__(self, directory: Path, region: RegionName, *, after: Mark | None = None) -> None:
        """Raises NotThere, BooksDamaged, BadBase, OSError."""
        self._directory = directory
        base = read_base(directory, region)
        self._number, self._count, self._head = base.segment, base.count, base.head
        self._line = self._byte = 0
        self._sealed = False
        if after is not None:
            self._go_to(after, base)

    @property
    def mark(self) -> Mark:
        """The last record read; of the base before the first."""
        return Mark(seq=self._count, hash=self._head)

    def read(self, records_max: int = BATCH) -> list[Record]:
        """The next records, at most so many; none when all are read. Raises BooksDamaged, OSError."""
        found: list[Record] = []
        while len(found) < records_max:
            if self._sealed:
                self._number, self._line, self._byte, self._sealed = self._number + 1, 0, 0, False
            path = segment_path(self._directory, self._number)
            try:
                file = path.open("rb")
            except FileNotFoundError:
                if self._is_followed():
                    raise BooksDamaged(path, 1, "missing, though others follow") from None
                break
            followed = self._is_followed()  # asked first: the writer may seal and go on while we read
            with file:
                file.seek(self._byte)
                while len(found) < records_max and not self._sealed:
                    line = file.readline(LINE_BYTES_MAX + 1)
                    if not line.endswith(b"\n") and len(line) <= LINE_BYTES_MAX:
                        if followed:
                            raise BooksDamaged(path, self._line + 1, "ends unsealed, though others follow")
                        return found  # the end, or a line in the making
                    found.append(self._next(path, line))
        return found

    def __iter__(self) -> Iterator[Record]:
        """All that there are now. Raises as ``read``."""
        while batch := self.read():
            yield from batch

    def _next(self, path: Path, line: bytes) -> Record:
        self._line += 1
        try:
            record = read_line(line)
        except BrokenLine as error:
            raise BooksDamaged(path, self._line, str(error)) from None
        if record.seq != self._count + 1 or record.prev != self._head:
            raise BooksDamaged(path, self._line, "does not follow the record before")
        self._count, self._head = record.seq, record.hash
        self._byte += len(line)
        self._sealed = record.event.type is EventType.BOOKS_SEALED
        return record

    def _is_followed(self) -> bool:
        return any(number > self._number for number, _ in segments_of(self._directory))

    def _go_to(self, after: Mark, base: Base) -> None:
        """Begin with the segment that has the record, and read up to it."""
        if after == self.mark:
            return
        for number, path in kept_segments(self._directory, base):
            first = _first_record(path)
            if first is None or first.seq > after.seq:
                break
            self._number, self._count, self._head = number, first.seq - 1, first.prev
        if not base.count < after.seq or self._count >= after.seq:
            raise NotThere(f"record {after.seq}")
        while self._count < after.seq:
            if not self.read(min(BATCH, after.seq - self._count)):
                raise NotThere(f"record {after.seq}")
        if self._head != after.hash:
            raise NotThere(f"record {after.seq} is another one")


def _first_record(path: Path) -> Record | None:
    """None for a segment without a whole line. Raises BooksDamaged."""
    with path.open("rb") as file:
        line = file.readline(LINE_BYTES_MAX + 1)
    if not line.endswith(b"\n"):
        return None
    try:
        return read_line(line)
    except BrokenLine as error:
        raise BooksDamaged(path, 1, str(error)) from None
