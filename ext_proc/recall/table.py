"""The stored questions on disk, a LanceDB table: what the index is filled from at a start, never asked on a
request's path (it takes 6 ms and more).

Its name holds the schema's version and the embedder's identity, so that vectors of two embedders never meet.
A table that cannot be read, or has other columns, is put aside (a directory is renamed, an object store gets
a table of the next number) and an empty one takes its place. A batch is one version of the table: a kill
leaves a batch or nothing. All methods block; one thread at a time.

LanceDB takes 1.6 s and 100 MB to import: only an open table imports it.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import numpy as np

from ext_proc.cache.store import Lineage, is_key
from ext_proc.recall.stored_question import StoredQuestion, TextSealer
from gateway.contract.clock import Clock
from gateway.contract.ids import OrgId, is_identifier
from gateway.contract.units import UnixMillis

SCHEMA: Final = 1
ROWS_MAX: Final = 400_000
"""Twice what the index holds, as rows are deleted in portions: 0.5 GB."""
VERSIONS_KEPT: Final = timedelta(minutes=10)
"""Far longer than a reader of one version takes."""
QUARANTINED_MAX: Final = 3
"""Tables put aside for somebody to look at; the oldest goes."""
ENTRIES_PER_DELETE: Final = 200
"""Of one condition: LanceDB parses it recursively."""
REMOTE_FAILURES_MAX: Final = 3
"""In a row, before a table in an object store counts as damaged: LanceDB says the same of a network that is
away, and each table that is left behind there stays."""
OPENINGS_MAX: Final = 3
"""Starts that ended before the table was read, kills among them."""
_OPENINGS: Final = "openings"
"""In the table's directory: as many bytes as there were such starts."""
_LOAD_ROWS: Final = 512
_LINEAGE: Final = ("request_id", "model", "revision", "template", "policy_version")
_KEYS: Final = ("org", "partition", "entry")

Ends = Callable[[OrgId, str, Lineage], bool]
"""(org, entry, lineage): whether this question is to go."""


class TableDamaged(Exception):
    """The table cannot be read or written as it is. The text is LanceDB's error type, never its words, which
    hold paths."""


class TableBusy(Exception):
    """Another process writes in this directory."""


class Table:
    """The one writer. ``open`` first."""

    def __init__(
        self,
        url: str,
        identity: str,
        dimensions: int,
        sealer: TextSealer,
        clock: Clock,
        *,
        rows_max: int = ROWS_MAX,
    ) -> None:
        """``url``: a directory, or an object store's URL as LanceDB takes it (``s3://bucket/path``).
        ``identity`` and ``dimensions`` of the embedder. Touches nothing yet."""
        self._url, self._dimensions, self._sealer, self._clock = url, dimensions, sealer, clock
        self._name = f"recall_{SCHEMA}_" + re.sub(r"[^A-Za-z0-9_-]", "_", identity)
        self._directory = None if "://" in url else Path(url)
        self._rows_max = rows_max
        self._lock: int | None = None
        self._database: Any = None
        self._table: Any = None

    @property
    def failures_max(self) -> int:
        """So many failures in a row mean damage."""
        return 1 if self._directory is not None else REMOTE_FAILURES_MAX

    def open(self) -> None:
        """Find the table, or make an empty one. Raises TableDamaged (call ``quarantine``), TableBusy and
        OSError."""
        import lancedb

        self._take_lock()
        self._count_opening()
        with _reported():
            self._database = lancedb.connect(self._url)
            name = self._newest()
            if name is None:
                self._table = self._database.create_table(self._name, schema=_schema(self._dimensions))
                return
            table = self._database.open_table(name)
            if not table.schema.equals(_schema(self._dimensions)):
                raise TableDamaged("ForeignSchema")
            self._table = table

    def quarantine(self) -> None:
        """Put the table aside and open an empty one. Raises as ``open``."""
        self._table = None
        if self._directory is not None:
            self._put_aside(self._directory)
            self.open()
            return
        with _reported():
            number = int((self._newest() or "").partition(".")[2] or 0) + 1
            name, schema = f"{self._name}.{number}", _schema(self._dimensions)
            self._table = self._database.create_table(name, schema=schema)

    def readable(self) -> bool:
        """Whether every row can be read: then what failed was the writing (a full disk)."""
        try:
            with _reported():
                for _ in self._table.search().to_batches(_LOAD_ROWS):
                    pass
        except TableDamaged:
            return False
        return True

    def close(self) -> None:
        """Another process may write."""
        self._table = self._database = None
        if self._lock is not None:
            self._forget_openings()  # an end in order, however early, is not the table's doing
            os.close(self._lock)
            self._lock = None

    def load(self) -> Iterator[list[StoredQuestion]]:
        """Every row that has not expired and opens, in batches. Raises TableDamaged at any batch."""
        now = self._clock.unix_ms()
        with _reported():
            for batch in self._table.search().where(f"expires_at > {now}").to_batches(_LOAD_ROWS):
                yield [question for question in self._questions(batch) if question is not None]
        self._forget_openings()

    def append(self, questions: Sequence[StoredQuestion]) -> None:
        """One version of the table. Raises TableDamaged."""
        with _reported():
            self._table.add(_batch(questions, self._sealer, self._dimensions))

    def delete(self, entries: Sequence[tuple[OrgId, str]]) -> None:
        """Rows of these (org, entry). Raises TableDamaged; ValueError for what is no org or entry."""
        by_org: dict[OrgId, list[str]] = {}
        for org, entry in entries:
            if not is_identifier(org) or not is_key(entry):
                raise ValueError("an org and an entry of 64 hex digits")
            by_org.setdefault(org, []).append(entry)
        with _reported():
            for org, names in by_org.items():
                for start in range(0, len(names), ENTRIES_PER_DELETE):
                    listed = ", ".join(f"'{name}'" for name in names[start : start + ENTRIES_PER_DELETE])
                    self._table.delete(f"org = '{org}' AND entry IN ({listed})")

    def ended(self, ends: Ends) -> list[tuple[OrgId, str]]:
        """(org, entry) of every row of which ``ends`` says so; a row without a possible one is none of ours.
        Raises TableDamaged."""
        columns = ["org", "entry", "tags", "admitted_at", *_LINEAGE]
        with _reported():
            return [
                (OrgId(row["org"]), row["entry"])
                for batch in self._table.search().select(columns).to_batches(_LOAD_ROWS)
                for row in batch.to_pylist()
                if is_identifier(row["org"])
                and is_key(row["entry"])
                and ends(OrgId(row["org"]), row["entry"], _lineage(row))
            ]

    def tend(self) -> int:
        """Delete what has expired and what is too much, the oldest; then make large files of small ones. Rows
        there are. Raises TableDamaged."""
        with _reported():
            self._table.checkout_latest()
            self._table.delete(f"expires_at <= {self._clock.unix_ms()}")
            surplus = self._table.count_rows() - self._rows_max
            if surplus > 0:
                stored = self._table.search().select(["stored_at"]).to_arrow()["stored_at"].to_numpy()
                oldest = int(np.partition(stored, surplus - 1)[surplus - 1])
                self._table.delete(f"stored_at <= {oldest}")
            # Without the refresh, optimize() fails on every handle that is older than another's delete.
            self._table.checkout_latest()
            self._table.optimize(cleanup_older_than=VERSIONS_KEPT)
            return int(self._table.count_rows())

    def _questions(self, batch: Any) -> Iterator[StoredQuestion | None]:
        vectors = batch["vector"].flatten().to_numpy(zero_copy_only=False)
        vectors = vectors.reshape(-1, self._dimensions)
        for row, vector in zip(batch.drop_columns(["vector"]).to_pylist(), vectors, strict=True):
            question = StoredQuestion(
                org=OrgId(row["org"]),
                partition=row["partition"],
                entry=row["entry"],
                text="",
                vector=np.array(vector),
                expires_at=UnixMillis(row["expires_at"]),
                stored_at=UnixMillis(row["stored_at"]),
                lineage=_lineage(row),
            )
            yield self._sealer.opened(row["sealed"], question)

    def _newest(self) -> str | None:
        """The table in use: the one of the highest number."""
        numbered = {}
        for name in _names(self._database):
            head, _, number = name.partition(".")
            if head == self._name and (not number or number.isdigit()):
                numbered[int(number or 0)] = name
        return numbered[max(numbered)] if numbered else None

    def _put_aside(self, directory: Path) -> None:
        aside = directory / "quarantine"
        aside.mkdir(mode=0o700, exist_ok=True)
        there = directory / f"{self._name}.lance"
        if there.exists():
            there.rename(aside / f"{self._clock.unix_ms()}-{there.name}")
        self._forget_openings()
        for old in sorted(aside.iterdir())[:-QUARANTINED_MAX]:
            if old.is_dir():
                shutil.rmtree(old)
            else:
                old.unlink()

    def _count_opening(self) -> None:
        """Raises TableDamaged when the last OPENINGS_MAX processes ended while they read the table: damaged
        bytes can ask for more memory than there is, which no process survives to report."""
        if self._directory is None:
            return
        counted = self._directory / _OPENINGS
        openings = counted.stat().st_size if counted.exists() else 0
        if openings >= OPENINGS_MAX:
            raise TableDamaged("EndedInReading")
        counted.write_bytes(b"." * (openings + 1))

    def _forget_openings(self) -> None:
        if self._directory is not None:
            (self._directory / _OPENINGS).unlink(missing_ok=True)

    def _take_lock(self) -> None:
        if self._directory is None or self._lock is not None:
            return
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle = os.open(self._directory / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            raise TableBusy("another process writes the table") from None
        self._lock = handle


@contextmanager
def _reported() -> Iterator[None]:
    """Whatever LanceDB says of what is damaged, missing or refused becomes TableDamaged."""
    try:
        yield
    except TableDamaged:
        raise
    except Exception as error:  # damaged bytes end in any of a dozen types, a Rust panic among them
        raise TableDamaged(type(error).__name__) from error
    except BaseException as error:
        if type(error).__name__ != "PanicException":  # the other kind of Rust panic: no Exception
            raise
        raise TableDamaged(type(error).__name__) from error


def _names(database: Any) -> list[str]:
    names: list[str] = []
    page = None
    while True:
        listed = database.list_tables(page_token=page)
        names += listed.tables
        page = listed.page_token
        if not page or not listed.tables:
            return names


def _schema(dimensions: int) -> Any:
    import pyarrow as pa

    return pa.schema(
        [
            *(pa.field(name, pa.string()) for name in (*_KEYS, *_LINEAGE)),
            pa.field("tags", pa.list_(pa.string())),
            *(pa.field(name, pa.int64()) for name in ("admitted_at", "expires_at", "stored_at")),
            pa.field("sealed", pa.binary()),
            pa.field("vector", pa.list_(pa.float16(), dimensions)),
        ]
    )


def _batch(questions: Sequence[StoredQuestion], sealer: TextSealer, dimensions: int) -> Any:
    import pyarrow as pa

    rows = [
        {
            **{name: getattr(question, name) for name in _KEYS},
            **{name: getattr(question.lineage, name) for name in _LINEAGE},
            "tags": list(question.lineage.tags),
            "admitted_at": question.lineage.admitted_at,
            "expires_at": question.expires_at,
            "stored_at": question.stored_at,
            "sealed": sealer.seal(question),
        }
        for question in questions
    ]
    schema = _schema(dimensions)
    vectors = np.stack([question.vector for question in questions]).astype(np.float16)
    nested = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), dimensions)
    plain = pa.Table.from_pylist(rows, schema=schema.remove(schema.get_field_index("vector")))
    return plain.append_column(schema.field("vector"), nested)


def _lineage(row: dict[str, Any]) -> Lineage:
    return Lineage(
        **{name: row[name] for name in _LINEAGE},
        tags=tuple(row["tags"]),
        admitted_at=UnixMillis(row["admitted_at"]),
    )
