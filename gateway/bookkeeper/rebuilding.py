"""Replay of the books in a directory: the checkpoint of their base, then every record."""

from __future__ import annotations

from pathlib import Path

from gateway.bookkeeper.checkpoint import load
from gateway.bookkeeper.replay import Replay
from gateway.contract.ids import RegionName
from gateway.events.base import read_base, read_checkpoint
from gateway.events.reading import Mark, Reader


def replay_books(directory: Path, region: RegionName, *, until: Mark | None = None) -> tuple[Replay, Mark]:
    """The state after ``until`` (after the last record without it), and that record. Raises BadBase,
    BadCheckpoint, BooksDamaged, ValueError, OSError."""
    base = read_base(directory, region)
    checkpoint = read_checkpoint(directory, base)
    replay = Replay(None if checkpoint is None else load(checkpoint))
    reader = Reader(directory, region)
    if until is not None and until.seq == base.count:
        return replay, reader.mark
    for record in reader:
        replay.add(record.event)
        if until is not None and record.seq == until.seq:
            return replay, Mark(seq=record.seq, hash=record.hash)
    return replay, reader.mark
