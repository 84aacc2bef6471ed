"""Files that are replaced whole, and stay replaced after a loss of power."""

from __future__ import annotations

import os
import secrets
from pathlib import Path


def replace_durably(path: Path, data: bytes, *, mode: int = 0o640) -> None:
    """``path`` holds ``data``, or what it held before, whenever the machine stops. Raises OSError."""
    beside = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
    sync_directory(path.parent)


def sync_directory(directory: Path) -> None:
    """Its names are on disk, and those taken away are not. Raises OSError."""
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
