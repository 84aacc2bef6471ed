"""The writer of the books: one process, one chain, every batch on disk before anybody counts on it.

Blocking (it waits for the disk): call it from a thread, from one at a time.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from gateway.config.durable_file import sync_directory
from gateway.contract.clock import Clock
from gateway.contract.ids import RegionName
from gateway.events.chain import Anchor, line_of
from gateway.events.event import Event, EventType
from gateway.events.recovery import BooksDamaged, End, find_end
from gateway.events.segment import (
    LOCK,
    OPEN_MODE,
    SEALED_MODE,
    Limits,
    opened,
    sealed,
    segment_path,
)

IDS_KEPT: Final = 32_768
"""Ids by which a repeated event is known. An event can come twice when we die between sealing and
dropping it (one batch) or when the ledger's machine dies and its append-only file lacks the last second
or two (``everysec``): this is more than five seconds of 2,000 requests a second."""


class BooksLocked(Exception):
    """Another process writes these books."""


class _Ids:
    """The last ``IDS_KEPT`` ids, of access entries and of the ledger's events apart: a flood of the
    first must not push the second out."""

    def __init__(self) -> None:
        self._kept: dict[bool, OrderedDict[str, None]] = {False: OrderedDict(), True: OrderedDict()}

    def add(self, kind: EventType, name: str) -> None:
        kept = self._kept[kind is EventType.ACCESS]
        kept[name] = None
        if len(kept) > IDS_KEPT:
            kept.popitem(last=False)

    def has(self, kind: EventType, name: str) -> bool:
        return name in self._kept[kind is EventType.ACCESS]


def open_books(
    directory: Path,
    region: RegionName,
    anchor: Anchor | None,
    *,
    clock: Clock,
    limits: Limits | None = None,
) -> Books:
    """The books in ``directory``, made where there is none, ready to be continued. With ``anchor`` they are
    held against what the ledger remembers of them: books that lost their tail must not grow a new one over
    it. Raises BooksLocked, BooksDamaged, OSError."""
    directory.mkdir(mode=0o750, parents=True, exist_ok=True)
    lock = os.open(directory / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BooksLocked(f"{directory}: another bookkeeper writes these books") from None
        end = find_end(directory, region, ids_wanted=IDS_KEPT)
        if anchor is not None:
            _hold_against(anchor, end, segment_path(directory, end.number))
        return Books(directory, region, end, lock, clock=clock, limits=limits or Limits())
    except BaseException:  # an interrupt too: nobody else has the lock to give it back
        os.close(lock)
        raise


def _hold_against(anchor: Anchor, end: End, path: Path) -> None:
    """Raises BooksDamaged. An anchor before the segments read here is left to ``verify``."""
    if anchor.count > end.count:
        raise BooksDamaged(path, end.events + 1, f"records {end.count + 1} to {anchor.count} are missing")
    if dict(end.scanned).get(anchor.count, anchor.head) != anchor.head:
        raise BooksDamaged(path, end.events, f"record {anchor.count} is not the one the ledger remembers")


class Books:
    """Open books. After an OSError from any method: ``close`` and open anew."""

    def __init__(
        self, directory: Path, region: RegionName, end: End, lock: int, *, clock: Clock, limits: Limits
    ) -> None:
        """Use ``open_books``."""
        self._directory = directory
        self._region = region
        self._lock = lock
        self._clock = clock
        self._limits = limits
        self._number = end.number
        self._octets = end.octets
        self._events = end.events
        self._opened_at_ms = end.opened_at_ms
        self._handle: int | None = None
        self.count = end.count
        """Records so far."""
        self.head = end.head
        """Hash of the last record."""
        self._ids = _Ids()
        for kind, name in end.ids:
            self._ids.add(kind, name)
        if end.path is not None:
            self._handle = os.open(end.path, os.O_WRONLY | os.O_APPEND)

    def has(self, event: Event) -> bool:
        """Whether the event stands already."""
        return self._ids.has(event.type, event.id)

    def append(self, events: Sequence[Event]) -> list[Event]:
        """Write those that do not stand yet and wait for the disk; returns them. All or none: after an
        OSError none stands. Raises NotAnEvent (nothing was written), OSError."""
        fresh = list({event.id: event for event in events if not self.has(event)}.values())
        if not fresh:
            return []
        wanted = fresh
        if self._handle is None:
            self._begin()
        if self._events == 0:
            wanted = [self._own(opened), *fresh]
        self._write(wanted)
        for event in fresh:
            self._ids.add(event.type, event.id)
        return fresh

    def seal_if_due(self) -> bool:
        """Seal the segment when it is full or old enough; whether it was. Raises OSError."""
        if self._handle is None or self._events <= 1:
            return False
        # A clock that went back must not make a segment eternal.
        age = abs(self._clock.unix_ms() - self._opened_at_ms)
        limits = self._limits
        if self._events < limits.events and self._octets < limits.octets and age < limits.age_ms:
            return False
        self.seal()
        return True

    def seal(self) -> None:
        """End the segment for good. Raises OSError."""
        if self._handle is None or self._events == 0:
            return
        self._write([self._own(sealed)], mode=SEALED_MODE)
        os.close(self._handle)
        self._handle = None
        self._number += 1
        self._octets = self._events = 0

    def close(self) -> None:
        """Let go of the files; the segment stays unsealed. Safe to call twice."""
        handles = [handle for handle in (self._handle, self._lock) if handle is not None and handle >= 0]
        self._handle, self._lock = None, -1
        for handle in handles:
            with contextlib.suppress(OSError):  # a failed close gives the descriptor back all the same
                os.close(handle)

    def _own(self, make: Callable[..., Event]) -> Event:
        return make(self._number, self.count + 1, self.head, at_ms=self._clock.unix_ms(), region=self._region)

    def _begin(self) -> None:
        """Make the next segment's file, and its name durable."""
        path = segment_path(self._directory, self._number)
        self._handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, OPEN_MODE)
        sync_directory(self._directory)
        self._octets = self._events = 0

    def _write(self, events: Sequence[Event], *, mode: int | None = None) -> None:
        """Append and sync; on failure put the file back to what it was."""
        assert self._handle is not None
        lines, count, head = [], self.count, self.head
        for event in events:
            line, head = line_of(count + 1, head, event)
            count += 1
            lines.append(line)
        data = b"".join(lines)
        try:
            _write_all(self._handle, data)
            if mode is not None:
                os.fchmod(self._handle, mode)
            os.fsync(self._handle)
        except OSError:
            self._take_back()
            raise
        if self._events == 0:
            self._opened_at_ms = events[0].at_ms
        self.count, self.head = count, head
        self._octets += len(data)
        self._events += len(events)

    def _take_back(self) -> None:
        # If this fails too, the lines may stand after all: the next open finds out, and ``has`` knows them.
        with contextlib.suppress(OSError):
            assert self._handle is not None
            os.ftruncate(self._handle, self._octets)
            os.fchmod(self._handle, OPEN_MODE)  # a seal may have made it read-only
            os.fsync(self._handle)


def _write_all(handle: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(handle, view) :]
