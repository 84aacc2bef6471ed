"""Segment files: names, limits, and what the first and the last line of one say.

``00000001.jsonl`` and so on, each a stretch of one chain: first ``books.opened``, then events, at last
``books.sealed``. A sealed file is read-only and never touched again: copy it, sign it, put it on WORM
storage. Only the last one may be unsealed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from gateway.contract.ids import RegionName
from gateway.events.event import Event, EventType

SUFFIX: Final = ".jsonl"
BASE: Final = "base.json"
"""What kept segments follow (gateway/events/base.py)."""
LOCK: Final = "lock"
"""flock of the one writer."""
SEALED_MODE: Final = 0o440
OPEN_MODE: Final = 0o640
"""Auditors read by group; nobody else learns who asked what when."""
_NAME: Final = re.compile(r"([0-9]{8})\.jsonl\Z")


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """When a segment is sealed: at the first of these."""

    events: int = 20_000
    """A start reads the unsealed segment whole; this many take about half a second."""
    octets: int = 16 * 1024 * 1024
    """The same bound for long events, and a size every object store takes in one piece."""
    age_ms: int = 3600 * 1000
    """A copy of the sealed segments is at most an hour behind."""


def segment_path(directory: Path, number: int) -> Path:
    """The file of segment ``number``, counted from 1."""
    return directory / f"{number:08d}{SUFFIX}"


def segments_of(directory: Path) -> list[tuple[int, Path]]:
    """Number and file of every segment, in order; empty when there is no such directory."""
    if not directory.is_dir():
        return []
    found = [(int(match[1]), path) for path in directory.iterdir() if (match := _NAME.match(path.name))]
    return sorted(found)


def holds_records(directory: Path) -> bool:
    """Whether at least one whole record was ever written here, be it archived and removed since."""
    if (directory / BASE).exists():
        return True
    for _, path in segments_of(directory):
        with path.open("rb") as file:
            if file.readline().endswith(b"\n"):
                return True
    return False


def opened(number: int, seq: int, head: str, *, at_ms: int, region: RegionName) -> Event:
    """The first event of segment ``number``: record ``seq``, after ``head``."""
    return _of_the_books(EventType.BOOKS_OPENED, number, seq, head, at_ms=at_ms, region=region)


def sealed(number: int, seq: int, head: str, *, at_ms: int, region: RegionName) -> Event:
    """The last event of segment ``number``: record ``seq``, after ``head``."""
    return _of_the_books(EventType.BOOKS_SEALED, number, seq, head, at_ms=at_ms, region=region)


def _of_the_books(
    kind: EventType, number: int, seq: int, head: str, *, at_ms: int, region: RegionName
) -> Event:
    return Event(
        id=f"books/{seq}",
        type=kind,
        at_ms=at_ms,
        region=region,
        org="",
        request_id="",
        context={"segment": str(number), "count": str(seq - 1), "head": head},
    )
