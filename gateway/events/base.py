"""Where kept books begin: segments that were archived and removed leave the head of their chain behind.

``base.json`` in the books' directory. Without it books begin with segment 1, record 1 and the region's
genesis. It says what the first kept record follows; that nothing is missing behind it, the chain itself says
up to the anchor in the ledger.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import orjson

from gateway.contract.ids import RegionName
from gateway.events.chain import genesis, is_hash

FILE: Final = "base.json"
CHECKPOINT: Final = "base.checkpoint.json"
"""Beside it: what replay knew at the base, so that counters can still be rebuilt."""
_KEYS: Final = {"segment", "count", "head", "checkpoint"}


class BadBase(ValueError):
    """``base.json`` is not what was written. The text says what is wrong."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Base:
    """What the first kept segment follows."""

    segment: int
    """Number of the first kept segment."""
    count: int
    """Records before it."""
    head: str
    """Hash of the last of them."""
    checkpoint: str = ""
    """SHA-256 of CHECKPOINT; empty where nothing was removed."""


def read_base(directory: Path, region: RegionName) -> Base:
    """Raises BadBase, OSError."""
    try:
        data = (directory / FILE).read_bytes()
    except FileNotFoundError:
        return Base(segment=1, count=0, head=genesis(region))
    try:
        fields = orjson.loads(data)
    except orjson.JSONDecodeError:
        raise BadBase(f"{FILE}: not JSON") from None
    if not isinstance(fields, dict) or fields.keys() != _KEYS or not _is_base(fields):
        raise BadBase(f"{FILE}: needs segment and count, whole numbers, and head and checkpoint, hashes")
    return Base(**fields)


def _is_base(fields: Mapping[str, Any]) -> bool:
    numbers = [fields["segment"], fields["count"]]
    whole = all(type(number) is int and number >= 1 for number in numbers)
    return whole and is_hash(fields["head"]) and is_hash(fields["checkpoint"])


def write_base(directory: Path, base: Base) -> None:
    """Durably, in one step. Raises OSError."""
    fields = {
        "segment": base.segment,
        "count": base.count,
        "head": base.head,
        "checkpoint": base.checkpoint,
    }
    replace_durably(directory / FILE, orjson.dumps(fields, option=orjson.OPT_INDENT_2) + b"\n")


def replace_durably(path: Path, data: bytes, *, mode: int = 0o640) -> None:
    """``path`` holds ``data`` or what it held before, also after a loss of power. Raises OSError."""
    beside = path.with_name(path.name + ".new")
    handle = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with os.fdopen(handle, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
