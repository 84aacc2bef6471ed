"""The books as a LanceDB table that usage is read from: one row for each event that consumed something.

It is a copy. The bookkeeper appends to it in batches, behind the books and off every request's path; a table
that is missing, damaged, of another schema version or of other books is made anew from the segments. Each
batch is one version of the table, so that a kill leaves a batch or nothing, and the table's last row says
where to go on.

LanceDB takes 1.6 s and 100 MB to import: only who writes or asks imports it, when it does.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

from gateway.bookkeeper.consumption import (
    GROUPS,
    MEASURES,
    Consumption,
    Sums,
    Totals,
    UsageRow,
    check_groups,
    consumption_of,
)
from gateway.contract.ids import RegionName
from gateway.events.base import read_base
from gateway.events.chain import Record
from gateway.events.reading import Mark, NotThere, Reader

__all__ = ["Projection", "UsageRow", "usage_rows"]

DIRECTORY: Final = "projection"
"""In the books' directory."""
SCHEMA: Final = 1
"""Of the table; part of its name, so that a newer program makes its own and an older one finds its own."""
BATCH: Final = 4096
"""Rows of one version of the table: a megabyte or two of memory."""
COMPACT_EVERY: Final = 100
"""Versions after which small files become larger ones."""
VERSIONS_KEPT: Final = timedelta(minutes=10)
"""Far longer than a query, which reads one version, takes."""
LOCK: Final = "projection.lock"
"""In the books' directory: flock of the one that writes the table now."""
_TABLE: Final = f"usage_{SCHEMA}"


def usage_rows(
    directory: Path,
    *,
    org: str | None,
    by: Sequence[str],
    since_ms: int,
    until_ms: int,
    where: Mapping[str, str],
) -> list[UsageRow]:
    """Sums of ``since_ms <= at < until_ms`` from the books in ``directory``, as far as they are projected (a
    few seconds behind), by the names of consumption.GROUPS in ``by``, sorted; one row without any.

    ``org``: only this one's (None: every org's). ``where``: only with these values, again of GROUPS. Blocks
    for the disk. Raises ValueError for another name, NoProjection where there is none yet.
    """
    totals = Totals(by)
    check_groups(where)
    equal = {**where, **({} if org is None else {"org": org})}
    table = _open_table(directory)
    if table is None:
        raise NoProjection("There is no projection of the books yet.")
    conditions = [f"at_ms >= {int(since_ms)}", f"at_ms < {int(until_ms)}"]
    conditions += [f"{_column(name)} = {_literal(value)}" for name, value in equal.items()]
    columns = [_column(name) for name in GROUPS] + list(MEASURES)
    query = table.search().where(" AND ".join(conditions)).select(columns)
    try:
        for batch in query.to_batches():
            _sum_up(totals, batch, by)
    except RuntimeError:  # LanceDB's word for a damaged file
        raise NoProjection("The projection of the books is damaged.") from None
    return totals.rows()


class NoProjection(Exception):
    """The table is not there (yet), or is none that this program can read."""


class ProjectionBusy(Exception):
    """Another process writes the table: rows of both would be counted twice."""


def _sum_up(totals: Totals, batch: Any, by: Sequence[str]) -> None:
    import pyarrow as pa

    columns = [_column(name) for name in dict.fromkeys(by)]
    grouped = pa.Table.from_batches([batch]).group_by(columns).aggregate([(name, "sum") for name in MEASURES])
    for row in grouped.to_pylist():
        sums = Sums(**{name: row[f"{name}_sum"] or 0 for name in MEASURES})
        totals.add({name: row[_column(name)] for name in by}, sums)


class Projection:
    """The writer; blocking, from one thread at a time. Of several (a bookkeeper that ends while the next one
    starts) one writes at a time, and goes on behind what the others wrote."""

    def __init__(self, directory: Path, region: RegionName) -> None:
        """``directory`` of the books. Touches nothing yet."""
        self._directory, self._region = directory, region
        self._table: Any = None
        self._left = (0, 0)
        """Version and rows of the table, as this one left it."""
        self._reader: Reader | None = None
        self._versions = 0

    def advance(self, stopped: Callable[[], bool] = lambda: False) -> int:
        """Write the rows of what the books have gained; how many. ``stopped`` is asked between batches.
        Raises BooksDamaged, BadBase, ProjectionBusy, OSError, and RuntimeError or ValueError of LanceDB: then
        call ``rebuild``, unless the table is ``whole``."""
        with self._turn():
            return self._advance(stopped)

    def rebuild(self, stopped: Callable[[], bool] = lambda: False) -> int:
        """Drop the table and make it anew. Raises as ``advance``."""
        with self._turn():
            self._table = self._reader = None
            shutil.rmtree(self._directory / DIRECTORY, ignore_errors=True)
            return self._advance(stopped)

    def whole(self) -> bool:
        """Whether every row of the table can be read, or nothing is there yet: then what failed was the
        writing (a full disk), and a new table would only lose the rows of segments that were archived and
        removed."""
        if not (self._directory / DIRECTORY).is_dir():
            return True
        table = _open_table(self._directory)
        if table is None:
            return False
        try:
            for _ in table.search().to_batches():
                pass
        except RuntimeError:  # LanceDB's word for a damaged file
            return False
        return True

    @contextlib.contextmanager
    def _turn(self) -> Iterator[None]:
        """The table is ours. Raises ProjectionBusy, OSError."""
        handle = os.open(self._directory / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield
        except BlockingIOError:
            raise ProjectionBusy("another process writes the projection") from None
        except BaseException:  # also a stop: what was read is not in the table, begin at its last row again
            self._reader = None
            raise
        finally:
            os.close(handle)

    def _advance(self, stopped: Callable[[], bool]) -> int:
        if self._reader is None or self._is_elsewhere():
            self._begin()
        reader, written = self._reader, 0
        assert reader is not None
        rows: list[dict[str, object]] = []
        while records := reader.read():
            rows += _rows(records)
            if len(rows) >= BATCH:
                written += self._write(rows)
                rows = []
            if stopped():
                break
        return written + self._write(rows)

    def _is_elsewhere(self) -> bool:
        """Whether another one wrote to the table since our last turn."""
        if self._table is None:
            return (self._directory / DIRECTORY).is_dir()
        try:
            self._table.checkout_latest()
        except (ValueError, RuntimeError):  # LanceDB's words for one that was dropped
            return True
        return self._state() != self._left

    def _state(self) -> tuple[int, int]:
        return (0, 0) if self._table is None else (self._table.version, self._table.count_rows())

    def _begin(self) -> None:
        self._reader = None
        self._table = _open_table(self._directory)
        self._left = self._state()
        after = None if self._table is None else _last_mark(self._table)
        if after is not None and after.seq <= read_base(self._directory, self._region).count:
            after = None  # its record is archived and removed; the rows stay
        try:
            self._reader = Reader(self._directory, self._region, after=after)
        except NotThere:  # of other books
            self._table = None
            shutil.rmtree(self._directory / DIRECTORY)
            self._reader = Reader(self._directory, self._region)

    def _write(self, rows: list[dict[str, object]]) -> int:
        if not rows:
            return 0
        import pyarrow as pa

        data = pa.Table.from_pylist(rows, schema=_schema())
        if self._table is None:
            self._table = _connected(self._directory).create_table(_TABLE, data, mode="create")
        else:
            self._table.add(data)
        self._versions += 1
        if self._versions % COMPACT_EVERY == 0:
            self._table.optimize(cleanup_older_than=VERSIONS_KEPT)
        self._left = self._state()
        return len(rows)


def _rows(records: Sequence[Record]) -> Iterator[dict[str, object]]:
    for record in records:
        consumed = consumption_of(record.event)
        if consumed is not None:
            yield _row(record, consumed)


def _row(record: Record, consumed: Consumption) -> dict[str, object]:
    groups = {_column(name): value for name, value in consumed.groups.items()}
    sums = {name: getattr(consumed.sums, name) for name in MEASURES}
    return {"seq": record.seq, "hash": record.hash, "at_ms": consumed.at_ms, **groups, **sums}


def _schema() -> Any:
    import pyarrow as pa

    numbers = [pa.field(name, pa.int64()) for name in ("seq", "at_ms", *MEASURES)]
    return pa.schema(
        [pa.field(name, pa.string()) for name in ("hash", *(_column(group) for group in GROUPS))] + numbers
    )


def _column(group: str) -> str:
    """Some of the names are words of SQL."""
    return f"by_{group}"


def _literal(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


def _connected(directory: Path) -> Any:
    import lancedb

    return lancedb.connect(str(directory / DIRECTORY))


def _open_table(directory: Path) -> Any:
    """None where there is none with the columns of this program."""
    if not (directory / DIRECTORY).is_dir():
        return None
    with contextlib.suppress(ValueError, RuntimeError):  # LanceDB's words for missing and for damaged
        table = _connected(directory).open_table(_TABLE)
        if table.schema.equals(_schema()):
            return table
    return None


def _last_mark(table: Any) -> Mark | None:
    last = max(
        (max(batch["seq"].to_pylist()) for batch in table.search().select(["seq"]).to_batches()), default=0
    )
    rows = table.search().where(f"seq = {last}").select(["seq", "hash"]).to_list()
    return Mark(seq=rows[0]["seq"], hash=rows[0]["hash"]) if rows else None
