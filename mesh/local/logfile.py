"""Log files of parts: a process writes its own file, the supervisor keeps it from growing."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

LOG_BYTES_MAX: Final = 16 * 1024 * 1024
"""At this size a log moves to ``<part>.log.1``; a part thus keeps at most two of them."""
TAIL_BYTES: Final = 64 * 1024
FOLLOW_POLL_S: Final = 0.2


def rotate(log: Path, *, bytes_max: int = LOG_BYTES_MAX) -> bool:
    """Copies a grown log to ``.1`` and empties it in place; True when it did.

    In place because the part holds the file open (O_APPEND, so its next line starts at 0). Lines
    written between copy and truncation are lost; a full disk loses the older half, never the part.
    """
    try:
        if log.stat().st_size < bytes_max:
            return False
        older = log.with_name(log.name + ".1")
        try:
            shutil.copyfile(log, older)
        except OSError:
            older.unlink(missing_ok=True)
        with log.open("r+b") as file:
            file.truncate(0)
    except FileNotFoundError:
        return False
    return True


def tail(log: Path, lines: int, *, bytes_max: int = TAIL_BYTES) -> list[str]:
    """The last ``lines`` lines, from at most the last ``bytes_max`` bytes; empty without a file."""
    try:
        with log.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - bytes_max))
            text = file.read().decode("utf-8", "replace")
    except OSError:
        return []
    found = text.splitlines()
    return found[-lines:] if lines > 0 else []


def follow(logs: Sequence[Path]) -> Iterator[tuple[Path, str]]:
    """Complete lines as they are written, for ever; a truncated file is read again from its start."""
    offsets = {log: (log.stat().st_size if log.exists() else 0) for log in logs}
    partial = dict.fromkeys(logs, b"")
    while True:
        for log in logs:
            try:
                with log.open("rb") as file:
                    size = file.seek(0, 2)
                    if size < offsets[log]:
                        offsets[log], partial[log] = 0, b""
                    file.seek(offsets[log])
                    data = file.read()
            except OSError:
                continue
            offsets[log] += len(data)
            *complete, partial[log] = (partial[log] + data).split(b"\n")
            for line in complete:
                yield log, line.decode("utf-8", "replace")
        time.sleep(FOLLOW_POLL_S)
