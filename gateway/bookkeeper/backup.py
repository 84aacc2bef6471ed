"""A region's books as one copy, and back: every segment, the base and its checkpoint, and a list of them.

The list is written last and says how long each file is and what it hashes to, and where the chain ends. A
backup is taken beside the bookkeeper: what it writes meanwhile is not in it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import orjson

from gateway.bookkeeper.object_store import ObjectStore
from gateway.config.durable_file import replace_durably
from gateway.contract.ids import RegionName
from gateway.events.base import checkpoint_path, kept_segments, read_base
from gateway.events.chain import Anchor, BrokenLine, read_line
from gateway.events.reading import Reader
from gateway.events.segment import BASE, OPEN_MODE, SEALED_MODE, SUFFIX
from gateway.events.verify import Report, verify

LIST: Final = "backup.json"
VERSION: Final = 1


class BadBackup(Exception):
    """Not a whole backup of this region, or a place where it must not go. The text says what is wrong."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BackedUp:
    """What a backup holds: its chain ends with record ``count``."""

    files: int
    octets: int
    count: int
    head: str


def backup(directory: Path, region: RegionName, store: ObjectStore) -> BackedUp:
    """Copy the books. Every record is checked on the way: damaged books are not backed up as if they were
    whole. Raises BooksDamaged, BadBase, BadBackup, OSError."""
    if store.is_at(directory):
        raise BadBackup("the books themselves stand there: give the backup a directory of its own")
    if store.size(LIST) is not None:
        raise BadBackup("there is a backup already: give each a directory of its own")
    for _ in Reader(directory, region):
        pass
    files: dict[str, dict[str, object]] = {}
    octets, end = 0, b""
    for path in _files(directory, region):
        data = path.read_bytes()
        data = data[: data.rfind(b"\n") + 1]  # without a line in the making
        if path.suffix == SUFFIX and data:
            end = data[data.rfind(b"\n", 0, -1) + 1 :]
        store.write(path.name, data)
        found = store.read(path.name)
        if found != data:
            raise BadBackup(f"{path.name}: what the store gives back is not what was written")
        files[path.name] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        octets += len(data)
    if not end:
        raise BadBackup("there are no books to back up")
    try:
        last = read_line(end)
    except BrokenLine as error:
        raise BadBackup(f"the last record is broken: {error}") from None
    fields = {"version": VERSION, "region": region, "files": files, "count": last.seq, "head": last.hash}
    store.write(LIST, orjson.dumps(fields, option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS))
    return BackedUp(files=len(files), octets=octets, count=last.seq, head=last.hash)


def restore(directory: Path, region: RegionName, store: ObjectStore) -> Report:
    """Put a backup into ``directory``, which holds no books, and verify it up to where its chain ended.
    Raises BadBackup, OSError."""
    if any(directory.glob("*.jsonl")) or (directory / BASE).exists():
        raise BadBackup(f"{directory} holds books: a backup goes into an empty directory")
    fields = _listed(store, region)
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    # The first segment and the base last: of a restore that broke off, nobody takes what is there for books.
    names = sorted(fields["files"], reverse=True)
    for name in [*(one for one in names if one != BASE), *(one for one in names if one == BASE)]:
        listed, data = fields["files"][name], store.read(name)
        if data is None or hashlib.sha256(data).hexdigest() != listed["sha256"]:
            raise BadBackup(f"{name}: missing in the backup, or not what was backed up")
        mode = SEALED_MODE if b'"type":"books.sealed"' in data[-1024:] else OPEN_MODE
        replace_durably(directory / name, data, mode=mode)
    return verify(directory, region, Anchor(count=fields["count"], head=fields["head"]))


def _files(directory: Path, region: RegionName) -> Iterator[Path]:
    base = read_base(directory, region)
    for _, path in kept_segments(directory, base):
        yield path
    if base.checkpoint:
        yield checkpoint_path(directory, base)
        yield directory / BASE


def _listed(store: ObjectStore, region: RegionName) -> Mapping[str, Any]:
    data = store.read(LIST)
    if data is None:
        raise BadBackup(f"there is no {LIST}: not a backup, or one that was not finished")
    try:
        fields: dict[str, Any] = orjson.loads(data)
        names, found = list(fields["files"]), fields["region"]
        whole = fields["version"] == VERSION and type(fields["count"]) is int and type(fields["head"]) is str
    except (orjson.JSONDecodeError, KeyError, TypeError):
        raise BadBackup(f"{LIST}: not what was written") from None
    if not whole or any("/" in name or name.startswith(".") for name in names):
        raise BadBackup(f"{LIST}: not what was written, or of another version than {VERSION}")
    if found != region:
        raise BadBackup(f"{LIST}: books of region {found}, not of {region}")
    return fields
