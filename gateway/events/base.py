"""Where kept books begin: segments that were archived and removed leave the head of their chain behind.

``base.json`` in the books' directory. Without it books begin with segment 1, record 1 and the region's
genesis. It says what the first kept record follows; that nothing is missing behind it, the chain itself says
up to the anchor in the ledger.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import orjson

from gateway.config.durable_file import replace_durably
from gateway.contract.ids import RegionName
from gateway.events.chain import genesis, is_hash
from gateway.events.segment import BASE, segments_of

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
    """SHA-256 of the file ``checkpoint_path``; empty where nothing was removed."""


def read_base(directory: Path, region: RegionName) -> Base:
    """Raises BadBase, OSError."""
    try:
        data = (directory / BASE).read_bytes()
    except FileNotFoundError:
        return Base(segment=1, count=0, head=genesis(region))
    try:
        fields = orjson.loads(data)
    except orjson.JSONDecodeError:
        raise BadBase(f"{BASE}: not JSON") from None
    if not isinstance(fields, dict) or fields.keys() != _KEYS or not _is_base(fields):
        raise BadBase(f"{BASE}: needs segment and count, whole numbers, and head and checkpoint, hashes")
    base = Base(**fields)
    if _written(base) != data:
        raise BadBase(f"{BASE}: not in the form in which it is written")
    return base


def checkpoint_path(directory: Path, base: Base) -> Path:
    """What replay knew at the base, so that counters can still be rebuilt without the removed segments."""
    return directory / f"base.{base.count}.checkpoint.json"


def read_checkpoint(directory: Path, base: Base) -> bytes | None:
    """None where nothing was removed. Raises BadBase, OSError."""
    if not base.checkpoint:
        return None
    path = checkpoint_path(directory, base)
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise BadBase(f"{path.name}: missing; put it back from a backup") from None
    if hashlib.sha256(data).hexdigest() != base.checkpoint:
        raise BadBase(f"{path.name}: not what was written")
    return data


def kept_segments(directory: Path, base: Base) -> list[tuple[int, Path]]:
    """Those from the base on: removing the others may have been interrupted."""
    return [(number, path) for number, path in segments_of(directory) if number >= base.segment]


def _is_base(fields: Mapping[str, Any]) -> bool:
    numbers = [fields["segment"], fields["count"]]
    whole = all(type(number) is int and number >= 1 for number in numbers)
    return whole and is_hash(fields["head"]) and is_hash(fields["checkpoint"])


def write_base(directory: Path, base: Base) -> None:
    """Durably, in one step. Raises OSError."""
    replace_durably(directory / BASE, _written(base))


def _written(base: Base) -> bytes:
    return orjson.dumps(asdict(base), option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
