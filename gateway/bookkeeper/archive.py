"""Sealed segments to an archive; old ones out of the state directory once they are there.

An archived object is never overwritten with another one. Before segments are removed, what replay knows
after them is written down (checkpoint) and the head of their chain (base): then verify and replay go on from
the oldest kept segment.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from gateway.bookkeeper.checkpoint import dump
from gateway.bookkeeper.object_store import ObjectStore
from gateway.bookkeeper.rebuilding import replay_books
from gateway.budget.calendar import DAY_MS
from gateway.config.durable_file import replace_durably
from gateway.contract.ids import RegionName
from gateway.contract.units import UnixMillis
from gateway.events.base import (
    Base,
    checkpoint_path,
    kept_segments,
    read_base,
    write_base,
)
from gateway.events.chain import LINE_BYTES_MAX, BrokenLine, Record, read_line
from gateway.events.event import EventType
from gateway.events.reading import Mark
from gateway.events.recovery import BooksDamaged
from gateway.events.segment import segments_of

LOCK: Final = "archive.lock"


class ArchiveDiffers(Exception):
    """The archive has another object under a segment's name. The text names it."""


class ArchiveBusy(Exception):
    """Another process archives these books."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Archived:
    """What one run did. ``segments`` were in the archive before or are now."""

    segments: int
    copied: int
    copied_bytes: int
    removed: int
    first_kept: int
    """Number of the first segment in the state directory."""


def archive(
    directory: Path, region: RegionName, store: ObjectStore, *, now: UnixMillis, keep_days: int | None
) -> Archived:
    """Copy every sealed segment that is not in ``store`` yet; with ``keep_days``, remove those whose last
    record is older. Safe beside the bookkeeper, and to repeat after a crash at any point. Raises
    ArchiveDiffers, ArchiveBusy, BooksDamaged, BadBase, OSError."""
    with _lock(directory):
        base = read_base(directory, region)
        sealed = [(number, path) for number, path in kept_segments(directory, base) if _seal(path)]
        copied = [_copied(store, region, path) for _, path in sealed]
        old = [] if keep_days is None else _older(sealed, now - keep_days * DAY_MS)
        if old:
            base = _rebase(directory, region, base, store, old)
        for number, path in segments_of(directory):
            if number < base.segment:
                path.unlink()
        return Archived(
            segments=len(sealed),
            copied=sum(size > 0 for size in copied),
            copied_bytes=sum(copied),
            removed=len(old),
            first_kept=base.segment,
        )


def object_name(region: RegionName, path: Path) -> str:
    """Of a segment in an archive."""
    return f"{region}/{path.name}"


def _copied(store: ObjectStore, region: RegionName, path: Path) -> int:
    """Bytes that had to be written. Read back: an archive that cannot be read is none."""
    name, data = object_name(region, path), path.read_bytes()
    if store.size(name) == len(data):
        return 0
    found = store.read(name)
    if found is not None and not data.startswith(found):  # a shorter beginning is an upload that broke off
        raise ArchiveDiffers(f"{name}: the archive has another one under this name")
    store.write(name, data)
    _check(store, name, data)
    return len(data)


def _check(store: ObjectStore, name: str, data: bytes) -> None:
    found = store.read(name)
    if found is None or hashlib.sha256(found).digest() != hashlib.sha256(data).digest():
        raise ArchiveDiffers(f"{name}: what the archive gives back is not what was written")


def _older(sealed: Sequence[tuple[int, Path]], before_ms: int) -> list[tuple[int, Path, Record]]:
    """The first segments whose seal is older, in order."""
    found: list[tuple[int, Path, Record]] = []
    for number, path in sealed:
        seal = _seal(path)
        if seal is None or seal.event.at_ms >= before_ms:
            break
        found.append((number, path, seal))
    return found


def _rebase(
    directory: Path,
    region: RegionName,
    base: Base,
    store: ObjectStore,
    old: Sequence[tuple[int, Path, Record]],
) -> Base:
    """The books begin behind ``old`` from now on."""
    for _, path, _ in old:
        _check(store, object_name(region, path), path.read_bytes())
    number, path, seal = old[-1]
    replay, mark = replay_books(directory, region, until=Mark(seq=seal.seq, hash=seal.hash))
    if mark.hash != seal.hash:
        raise BooksDamaged(path, 1, "its seal does not belong to the chain")
    for org in replay.orgs.values():
        org.forget()
    data = dump(replay.orgs)
    later = Base(
        segment=number + 1,
        count=seal.seq,
        head=seal.hash,
        checkpoint=hashlib.sha256(data).hexdigest(),
    )
    replace_durably(checkpoint_path(directory, later), data)
    write_base(directory, later)
    if base.checkpoint:
        checkpoint_path(directory, base).unlink(missing_ok=True)
    return later


def _seal(path: Path) -> Record | None:
    """The last record of a sealed segment; None for one that is not sealed. Raises BooksDamaged."""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - LINE_BYTES_MAX))
        line = file.read()
    line = line[line.rfind(b"\n", 0, -1) + 1 :]
    if not line.endswith(b"\n") or b'"type":"books.sealed"' not in line:
        return None
    try:
        record = read_line(line)
    except BrokenLine as error:
        raise BooksDamaged(path, 1, f"last line: {error}") from None
    return record if record.event.type is EventType.BOOKS_SEALED else None


@contextmanager
def _lock(directory: Path) -> Iterator[None]:
    handle = os.open(directory / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ArchiveBusy("another process archives these books") from None
        yield
    finally:
        os.close(handle)
