"""Settles and voids that the ledger did not take, kept on disk until it does.

A directory has one file for each worker that ever had something to keep, locked (flock) as long as that
worker lives. Whoever starts takes over the files nobody holds. A deed is one line, a checksum and JSON; it
is delivered at least once and does its work once, because holds are resolved by id. What is in a line: ids,
amounts and the fields of the event; no prompt, no answer, no secret.

Written at once to the operating system, which keeps it when the worker dies, and synced to the disk once a
second, as the ledger's own append-only file: a machine that loses its power loses at most that second, and
those holds are charged in full when they expire, until they are reconciled.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import secrets
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Final

from ext_proc.spool_line import BadLine, line_of, resolution_of
from ext_proc.vocabulary import Resolution
from gateway.contract.errors import LedgerUnavailable
from gateway.telemetry.log import EventLog

SUFFIX: Final = ".spool"
BYTES_MAX: Final = 64 * 1024 * 1024
"""Of one worker: at 1 KiB a settle, all that it resolves in two minutes at 500 requests a second. While the
ledger is away nothing new is admitted beyond a lease's time, so that only streams under way still end. What
does not fit is charged in full at its expiry, and counted."""
READ_BYTES: Final = 256 * 1024
"""Read at a time; a longer line, which no request can make, is not kept."""
BATCH_MAX: Final = 32
"""Deliveries on their way at a time: half of the ledger's connections stay free for requests."""
AGAIN_S: Final = 0.5
"""Between tries while the ledger is away."""
SYNC_EVERY_S: Final = 1.0


class _File:
    """One locked file: appended to, or read to its end and then emptied."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self._descriptor = descriptor
        self._offset = 0

    @classmethod
    def made(cls, directory: Path) -> _File:
        """A new one, ours. Raises OSError."""
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = directory / f"{secrets.token_hex(8)}{SUFFIX}"
        descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        return cls(path, descriptor)

    @classmethod
    def left(cls, path: Path) -> _File | None:
        """One that a dead worker left; None when its worker lives, or somebody else took it over."""
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        if os.fstat(descriptor).st_nlink == 0:
            os.close(descriptor)
            return None
        return cls(path, descriptor)

    @property
    def size(self) -> int:
        return os.fstat(self._descriptor).st_size

    def append(self, line: bytes) -> None:
        """All of it or nothing. Raises OSError."""
        before = self.size
        if os.write(self._descriptor, line) < len(line):  # the disk is full
            os.ftruncate(self._descriptor, before)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def sync(self) -> None:
        os.fsync(self._descriptor)

    def lines(self, at_most: int) -> list[bytes]:
        """The next ones that are not delivered; the last may have no end, where its writer died."""
        chunk = os.pread(self._descriptor, READ_BYTES, self._offset)
        whole, end, _ = chunk.rpartition(b"\n")
        return whole.split(b"\n")[:at_most] if end else [chunk]

    def delivered(self, lines: list[bytes]) -> None:
        self._offset += sum(len(line) + 1 for line in lines)

    @property
    def drained(self) -> bool:
        return self._offset >= self.size

    def empty(self) -> None:
        os.ftruncate(self._descriptor, 0)
        self._offset = 0

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)
        self.close()

    def close(self) -> None:
        """Unlocks."""
        os.close(self._descriptor)


class SettleSpool:
    """See resolver.Unsettled. ``run`` until cancelled, then ``close``."""

    def __init__(
        self,
        directory: Path,
        carry_out: Callable[[Resolution], Awaitable[None]],
        log: EventLog,
        *,
        count: Callable[[str], None] = lambda _: None,
        bytes_max: int = BYTES_MAX,
    ) -> None:
        """``carry_out`` raises LedgerUnavailable, ValueError. ``count`` hears ``kept``, ``delivered``,
        ``dropped`` (no room) and ``unreadable``. The directory is made when it is needed."""
        self._directory = directory
        self._carry_out = carry_out
        self._log = log
        self._count = count
        self._bytes_max = bytes_max
        self._own: _File | None = None
        self._work = asyncio.Event()
        self._unsynced = False

    def add(self, deed: Resolution) -> None:
        """See Unsettled."""
        try:
            line = line_of(deed)
            if self._own is None:
                self._own = _File.made(self._directory)
            if len(line) > READ_BYTES or self._own.size + len(line) > self._bytes_max:
                self._drop(deed, "full")
                return
            self._own.append(line)
        except OSError as error:
            self._drop(deed, type(error).__name__)
            return
        self._unsynced = True
        self._count("kept")
        self._work.set()

    def _drop(self, deed: Resolution, why: str) -> None:
        self._count("dropped")
        self._log.error("spool.dropped", org=deed.org, hold=deed.hold, why=why)

    async def run(self) -> None:
        """Deliver what others left, then what is added."""
        for file in self._left():
            await self._delivered(file)
            file.remove()
        syncing = asyncio.create_task(self._sync())
        try:
            while True:
                await self._work.wait()
                if await self.deliver():
                    self._work.clear()
                else:
                    await asyncio.sleep(AGAIN_S)
        finally:
            syncing.cancel()

    async def deliver(self) -> bool:
        """One try of all that is kept; True when nothing is left."""
        own = self._own
        if own is None or not await self._deliver(own):
            return own is None
        own.empty()
        return True

    async def close(self) -> None:
        """The last try; what is left stays for the next process."""
        if self._own is None:
            return
        if await self.deliver():
            self._own.remove()
        else:
            self._log.warning("spool.left", bytes=self._own.size)
            self._own.close()
        self._own = None

    def _left(self) -> Iterator[_File]:
        for path in sorted(self._directory.glob(f"*{SUFFIX}")):
            if (file := _File.left(path)) is not None:
                self._log.info("spool.taken_over", bytes=file.size)
                yield file

    async def _deliver(self, file: _File) -> bool:
        """From where it stands to its end; False when the ledger is away."""
        while not file.drained:
            lines = file.lines(BATCH_MAX)
            done = await asyncio.gather(*map(self._one, lines))
            if not all(done):
                return False
            file.delivered(lines)
        return True

    async def _delivered(self, file: _File) -> None:
        """Until the ledger has taken all of it."""
        while True:
            if await self._deliver(file):
                return
            await asyncio.sleep(AGAIN_S)

    async def _one(self, line: bytes) -> bool:
        try:
            deed = resolution_of(line)
            await self._carry_out(deed)
        except LedgerUnavailable:
            return False
        except (BadLine, ValueError) as error:
            # A line that a crash or a full disk tore, or that the ledger will never take.
            self._count("unreadable")
            self._log.error("spool.unreadable", kind=type(error).__name__)
            return True
        self._count("delivered")
        return True

    async def _sync(self) -> None:
        while True:
            await asyncio.sleep(SYNC_EVERY_S)
            if self._unsynced and self._own is not None:
                self._unsynced = False
                try:
                    await asyncio.to_thread(self._own.sync)
                except OSError as error:
                    self._log.error("spool.not_synced", kind=type(error).__name__)
