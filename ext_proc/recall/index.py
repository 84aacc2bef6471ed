"""The stored questions in memory, by org and partition.

Orgs have nothing in common here but the bound on their sum: a look-up walks from the org's own map to the
partition's own rows, so that there is no query that could reach another's. Every method blocks for a moment
and may be called from any thread, but not from an event loop.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from itertools import islice
from typing import Final

from ext_proc.recall.partition_rows import GRAPH_ROWS, Match, PartitionRows, Row, Vector
from gateway.contract.ids import OrgId

ENTRIES_MAX: Final = 200_000
"""Of all orgs: 250 MB (tests/bench/recall.py measures 1.1 to 1.3 KB an entry)."""
PARTITION_ENTRIES_MAX: Final = 100_000
"""Of one partition, so that one busy group leaves room to others."""
_EVICTED_SHARE: Final = 256
"""A full index makes room for 1/256 of its bound at once: walking to the oldest costs the same for many."""


class Index:
    """Questions of all orgs. Oldest out: of a full partition, and of the org with most when all is full."""

    def __init__(
        self,
        dimensions: int,
        *,
        entries_max: int = ENTRIES_MAX,
        partition_entries_max: int = PARTITION_ENTRIES_MAX,
        graph_rows: int = GRAPH_ROWS,
    ) -> None:
        """Empty. ``dimensions`` of every vector."""
        self._dimensions = dimensions
        self._entries_max = entries_max
        self._partition_entries_max = partition_entries_max
        self._graph_rows = graph_rows
        self._lock = threading.Lock()
        self._orgs: dict[OrgId, _Org] = {}
        self._entries = 0

    def __len__(self) -> int:
        """Entries of all orgs."""
        return self._entries

    def put(self, org: OrgId, partition: str, row: Row, vector: Vector) -> None:
        """Add a question, or replace the one of the same org and entry, unless that one lives longer. Raises
        ValueError for a vector of another shape."""
        if vector.shape != (self._dimensions,):
            raise ValueError(f"a vector of shape {vector.shape} instead of ({self._dimensions},)")
        with self._lock:
            known = self._orgs.get(org)
            if known is None:
                known = self._orgs[org] = _Org(self._dimensions, self._graph_rows)
            there = known.get(row.entry)
            if there is not None and there.expires_at > row.expires_at:
                return
            before = len(known.where)
            known.put(partition, row, vector)
            known.bound(partition, self._partition_entries_max)
            self._entries += len(known.where) - before
            self._bound()

    def search(self, org: OrgId, partition: str, vector: Vector, count: int, now_ms: int) -> list[Match]:
        """The ``count`` nearest questions of this partition, best first, without those that have expired."""
        with self._lock:
            known = self._orgs.get(org)
            rows = None if known is None else known.partitions.get(partition)
            found = [] if rows is None else rows.search(vector, count)
        return [match for match in found if match.row.expires_at > now_ms]

    def remove(self, org: OrgId, entries: Iterable[str]) -> int:
        """How many of them there were."""
        with self._lock:
            known = self._orgs.get(org)
            removed = 0 if known is None else sum(known.remove(entry) for entry in entries)
            self._entries -= removed
            self._drop_empty(org)
        return removed

    def prune(self, now_ms: int) -> int:
        """Remove what has expired; how many. The lock is free between partitions."""
        with self._lock:
            places = [(org, partition) for org, known in self._orgs.items() for partition in known.partitions]
        removed = 0
        for org, partition in places:
            with self._lock:
                known = self._orgs.get(org)
                rows = None if known is None else known.partitions.get(partition)
                expired = [] if rows is None else rows.expired(now_ms)
            removed += self.remove(org, expired) if expired else 0
        return removed

    def clear(self) -> None:
        """Empty again."""
        with self._lock:
            self._orgs.clear()
            self._entries = 0

    def _bound(self) -> None:
        if self._entries <= self._entries_max:
            return
        org = max(self._orgs, key=lambda name: len(self._orgs[name].where))
        known = self._orgs[org]
        room = self._entries - self._entries_max + self._entries_max // _EVICTED_SHARE
        for entry in list(islice(known.where, room)):
            self._entries -= known.remove(entry)
        self._drop_empty(org)

    def _drop_empty(self, org: OrgId) -> None:
        if org in self._orgs and not self._orgs[org].where:
            del self._orgs[org]


class _Org:
    """One org's partitions. ``where``: the partition of each entry, oldest entry first."""

    __slots__ = ("_dimensions", "_graph_rows", "partitions", "where")

    def __init__(self, dimensions: int, graph_rows: int) -> None:
        self._dimensions, self._graph_rows = dimensions, graph_rows
        self.partitions: dict[str, PartitionRows] = {}
        self.where: dict[str, str] = {}

    def get(self, entry: str) -> Row | None:
        partition = self.where.get(entry)
        return None if partition is None else self.partitions[partition].get(entry)

    def put(self, partition: str, row: Row, vector: Vector) -> None:
        self.remove(row.entry)
        rows = self.partitions.get(partition)
        if rows is None:
            rows = self.partitions[partition] = PartitionRows(self._dimensions, self._graph_rows)
        rows.put(row, vector)
        self.where[row.entry] = partition

    def remove(self, entry: str) -> bool:
        partition = self.where.pop(entry, None)
        if partition is None:
            return False
        rows = self.partitions[partition]
        rows.remove(entry)
        if not len(rows):
            del self.partitions[partition]
        return True

    def bound(self, partition: str, entries_max: int) -> None:
        rows = self.partitions[partition]
        if len(rows) > entries_max:
            room = len(rows) - entries_max + entries_max // _EVICTED_SHARE
            own = (entry for entry, at in self.where.items() if at == partition)
            for entry in list(islice(own, room)):
                self.remove(entry)
