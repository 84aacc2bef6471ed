"""Access entries that the books do not take, kept on another disk until they do.

A directory of files, ``0000000000000001.access`` and so on: entries are added to the newest, the oldest is
the next to go to the books. An entry is one line, a checksum and the event as the books will have it:
nothing stands here that would not stand there.

A file goes into the books whole, in one append, and is removed before the next one is looked at. A crash in
between brings that one file again, and the books know its ids. A last line without an end was never synced.
What else is no line of ours is not deleted: its file is renamed, once the others of its lines are written.

Blocking (it waits for the disk): call it from a thread, from one at a time.
"""

from __future__ import annotations

import binascii
import contextlib
import errno
import fcntl
import os
import re
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from gateway.config.durable_file import sync_directory
from gateway.contract.ids import RegionName
from gateway.events.chain import LINE_BYTES_MAX
from gateway.events.codec import NotAnEvent, decode, encode
from gateway.events.event import Event, EventType

BYTES_MAX: Final = 256 * 1024 * 1024
"""Of all files: at 750 bytes an entry, what 500 requests a second leave in twelve minutes, or 50 in two
hours. More would begin to crowd the ledger's own file, where both stand on one disk."""
FILE_EVENTS: Final = 2048
"""Of one file, as in one round of keeping: far below books.IDS_KEPT, as exactness demands."""
FILE_BYTES_MAX: Final = 4 * 1024 * 1024
"""The same bound for long entries: a file is read whole."""
SUFFIX: Final = ".access"
UNREADABLE: Final = ".unreadable"
LOCK: Final = "lock"
_NAME: Final = re.compile(r"[0-9]{16}\.(?:access|unreadable)\Z")


class SpoolLocked(OSError):
    """Another bookkeeper keeps entries in this directory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Left:
    """What one file holds."""

    path: Path
    events: Sequence[Event]
    torn: bool = False
    """Its last line has no end."""
    foreign: int = 0
    """Whole lines that are not ours, or not this region's."""


@dataclass(slots=True, kw_only=True)
class _Writer:
    """The newest file, while it grows. What it holds is synced."""

    path: Path
    handle: int
    octets: int = 0
    events: int = 0


def line_of(event: Event) -> bytes:
    """With its end. Raises NotAnEvent."""
    text = encode(event)
    if len(text) > LINE_BYTES_MAX:
        raise NotAnEvent(f"{event.type.value}: longer than {LINE_BYTES_MAX} bytes")
    return b"%08x %b\n" % (binascii.crc32(text), text)


def event_in(line: bytes, region: RegionName) -> Event:
    """Of a line without its end. Raises NotAnEvent."""
    checksum, _, text = line.partition(b" ")
    if checksum != b"%08x" % binascii.crc32(text):
        raise NotAnEvent("the checksum does not belong to the line")
    event = decode(text)
    if event.type is not EventType.ACCESS or event.region != region:
        raise NotAnEvent("not an access entry of this region")
    return event


class AccessSpool:
    """``open`` first. After an OSError from ``add`` all that was added before still stands."""

    def __init__(
        self,
        directory: Path,
        region: RegionName,
        *,
        bytes_max: int = BYTES_MAX,
        file_events: int = FILE_EVENTS,
        count: Callable[[str, int], None] = lambda result, entries: None,
    ) -> None:
        """``count`` hears how many entries were ``kept``, ``delivered`` and ``unreadable``. The directory is
        made when it is needed."""
        self._directory, self._region = directory, region
        self._bytes_max, self._file_events, self._count = bytes_max, file_events, count
        self._lock: int | None = None
        self._files: deque[Path] = deque()
        self._number = 0
        self._writer: _Writer | None = None
        self._delivered: Left | None = None
        self._left: list[Path] = []

    @property
    def waiting(self) -> bool:
        """Whether any file is there."""
        return bool(self._files)

    def open(self) -> None:
        """Find what an earlier process left. Raises SpoolLocked, OSError."""
        if self._lock is None and self._directory.is_dir():
            self._own()

    def found(self) -> Sequence[Path]:
        """The files that an earlier process left, each told once."""
        left, self._left = self._left, []
        return left

    def add(self, events: Sequence[Event]) -> int:
        """Keep the first of ``events``, as many as one file takes, and wait for the disk; how many those are,
        at least one of some. Raises SpoolLocked, OSError; then the books may yet get some of them."""
        if self._lock is None:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._own()
        lines, taken = self._fitting(events)
        if lines:
            self._write(lines)
        self._count("kept", len(lines))
        self._count("unreadable", taken - len(lines))
        return taken

    def oldest(self) -> Left | None:
        """What the oldest file holds; nothing is added to it any more. None without a file. Raises
        OSError."""
        if self._delivered is not None:  # it could not be removed then, and must not come again
            self._remove(self._delivered)
        if not self._files:
            return None
        path = self._files[0]
        if self._writer is not None and self._writer.path == path:
            self._end()
        return self.read(path)

    def read(self, path: Path) -> Left:
        """What a file of ours holds. Raises OSError."""
        try:
            with path.open("rb") as file:
                data = file.read(FILE_BYTES_MAX + 1)
        except FileNotFoundError:  # somebody took it away: that must not stop the others
            return Left(path=path, events=())
        if len(data) > FILE_BYTES_MAX:
            return Left(path=path, events=(), foreign=1)
        *whole, tail = data.split(b"\n")
        events, foreign = [], 0
        for line in whole:
            try:
                events.append(event_in(line, self._region))
            except NotAnEvent:
                foreign += 1
        return Left(path=path, events=events, torn=bool(tail), foreign=foreign)

    def delivered(self, left: Left) -> None:
        """The oldest file stands in the books: remove it. Raises OSError; then the next ``oldest`` does."""
        if self._files and self._files[0] == left.path:
            self._delivered = left
            self._remove(left)

    def close(self) -> None:
        """Let go of the files. Safe to call twice."""
        self._end()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _own(self) -> None:
        lock = os.open(self._directory / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            found = sorted(path for path, _ in self._sizes())
        except BlockingIOError:
            os.close(lock)
            raise SpoolLocked(errno.EAGAIN, "another bookkeeper keeps its entries here") from None
        except BaseException:  # whatever ended this, the lock must not outlive it
            os.close(lock)
            raise
        self._lock = lock
        left = [path for path in found if path.suffix == SUFFIX]
        self._files.extend(left)
        self._left.extend(left)
        self._number = int(found[-1].stem) if found else 0

    def _sizes(self) -> list[tuple[Path, int]]:
        """Our files, those put aside too, and how long they are."""
        with os.scandir(self._directory) as entries:
            return [
                (Path(entry.path), entry.stat(follow_symlinks=False).st_size)
                for entry in entries
                if _NAME.match(entry.name) and entry.is_file(follow_symlinks=False)
            ]

    def _fitting(self, events: Sequence[Event]) -> tuple[list[bytes], int]:
        """Lines for one file, and of how many events; one that has no line is passed over. Raises OSError."""
        room = min(FILE_BYTES_MAX, self._bytes_max - sum(size for _, size in self._sizes()))
        lines: list[bytes] = []
        taken = 0
        for event in events[: self._file_events]:
            try:
                line = line_of(event)
            except NotAnEvent:
                taken += 1
                continue
            if len(line) > room:
                break
            room -= len(line)
            taken += 1
            lines.append(line)
        if not taken:
            raise OSError(errno.EDQUOT, f"the spool holds its {self._bytes_max} bytes")
        return lines, taken

    def _write(self, lines: Sequence[bytes]) -> None:
        data, writer = b"".join(lines), self._writer
        if writer is not None and (
            writer.events + len(lines) > self._file_events or writer.octets + len(data) > FILE_BYTES_MAX
        ):
            self._end()
            writer = None
        if writer is None:
            writer = self._begin()
        try:
            _write_all(writer.handle, data)
            os.fsync(writer.handle)
        except OSError:
            self._abandon(writer)
            raise
        writer.octets += len(data)
        writer.events += len(lines)

    def _begin(self) -> _Writer:
        """The next file, and its name durable."""
        path = self._directory / f"{self._number + 1:016d}{SUFFIX}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC
        writer = _Writer(path=path, handle=os.open(path, flags, 0o600))
        self._number += 1
        self._files.append(path)
        self._writer = writer
        try:
            sync_directory(self._directory)
        except OSError:
            self._abandon(writer)
            raise
        return writer

    def _abandon(self, writer: _Writer) -> None:
        """Nothing more goes to this file: what a failed write or sync left of it, nobody can tell."""
        with contextlib.suppress(OSError):
            if writer.octets:
                os.ftruncate(writer.handle, writer.octets)
            else:
                writer.path.unlink()
                self._files.remove(writer.path)
        self._end()

    def _end(self) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            with contextlib.suppress(OSError):  # it is synced; a failed close gives the descriptor back
                os.close(writer.handle)

    def _remove(self, left: Left) -> None:
        if left.foreign:
            with contextlib.suppress(FileNotFoundError):
                left.path.rename(left.path.with_suffix(UNREADABLE))
        else:
            left.path.unlink(missing_ok=True)
        # Durable before the next file is written: its ids are known only for a while.
        sync_directory(left.path.parent)
        self._files.popleft()
        self._delivered = None
        self._count("delivered", len(left.events))
        self._count("unreadable", left.foreign + left.torn)


def _write_all(handle: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(handle, view) :]
