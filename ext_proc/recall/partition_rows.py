"""The stored questions of one partition and the search among them: a matrix while it is small, a graph when
it has grown.

Measured on one core with 384 dimensions and 16-bit floats (p50): an exact scan takes 0.1 ms at 1,000 rows,
0.3 at 3,000, 1.0 at 10,000; the graph (HNSW) 0.06 to 0.1 ms whatever the size, but 0.1 to 0.2 ms for each row
that is added and 300 bytes more of memory. numpy alone has no fast 16-bit product (0.7 ms at 1,000), and 32
bits would double the memory. A partition becomes a graph a few rows at a time, so that no turn of the lock is
long.

Not for several threads at once: ext_proc/recall/index.py holds its lock.
"""

from __future__ import annotations

from functools import lru_cache
from importlib import import_module
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

GRAPH_ROWS: Final = 4096
"""Rows from which a partition becomes a graph: an exact scan of as many takes 0.4 ms."""
MOVED_PER_ADD: Final = 4
"""Rows that go into the graph with each new one, while it is being built: under a millisecond together."""
_CONNECTIVITY: Final = 16
_EXPANSION_ADD: Final = 64
_EXPANSION_SEARCH: Final = 64
"""Of the graph: recall of the best match is 0.99 and more at 100,000 rows."""
_FIRST_ROWS: Final = 4
"""Most partitions are one user's and hold a handful."""

Vector = NDArray[np.floating[Any]]
"""Of length 1; kept as 16-bit floats."""


class Row(NamedTuple):
    """A stored question. ``entry``: its exact key; ``text`` as UTF-8; ``expires_at`` in Unix ms."""

    entry: str
    text: bytes
    expires_at: int


class Match(NamedTuple):
    """A stored question and its cosine similarity to the one asked."""

    row: Row
    similarity: float


@lru_cache(maxsize=1)
def search_module() -> Any:
    """usearch; 0.1 s and 30 MB the first time. onnxruntime first, always: to load it in a process that
    has loaded usearch ends with a segmentation fault (usearch 2.26.6, onnxruntime 1.31.1)."""
    import_module("inference.embedders.onnx_model")
    return import_module("usearch.index")


class PartitionRows:
    """Rows at fixed places; a freed place is used again."""

    __slots__ = ("_free", "_graph", "_graph_rows", "_in_graph", "_matrix", "_places", "_rows")

    def __init__(self, dimensions: int, graph_rows: int = GRAPH_ROWS) -> None:
        """Empty."""
        self._graph_rows = graph_rows
        self._begin(dimensions)

    def _begin(self, dimensions: int) -> None:
        self._rows: list[Row | None] = []
        self._free: list[int] = []
        self._places: dict[str, int] = {}
        self._matrix: NDArray[np.float16] | None = np.zeros((_FIRST_ROWS, dimensions), np.float16)
        self._graph: Any = None
        self._in_graph = 0
        """While the graph is being built: the places below are in it."""

    def __len__(self) -> int:
        """Rows there are."""
        return len(self._places)

    def get(self, entry: str) -> Row | None:
        """The row of ``entry``."""
        place = self._places.get(entry)
        return None if place is None else self._rows[place]

    def put(self, row: Row, vector: Vector) -> None:
        """Add the row, or replace the one of the same entry. ``vector`` has length 1."""
        self.remove(row.entry)
        if self._free:
            place = self._free.pop()
            self._rows[place] = row
        else:
            place = len(self._rows)
            self._rows.append(row)
        self._places[row.entry] = place
        half = vector.astype(np.float16)
        if self._matrix is not None:
            self._widen(place)
            self._matrix[place] = half
        if self._graph is not None and (self._matrix is None or place < self._in_graph):
            self._graph.add(place, half, threads=1)
        self._grow_graph()

    def remove(self, entry: str) -> bool:
        """Whether there was such a row."""
        place = self._places.pop(entry, None)
        if place is None:
            return False
        self._rows[place] = None
        self._free.append(place)
        if self._matrix is not None:
            self._matrix[place] = 0
        if self._graph is not None and (self._matrix is None or place < self._in_graph):
            self._graph.remove(place, threads=1)
        self._shrink()
        return True

    def search(self, vector: Vector, count: int) -> list[Match]:
        """The ``count`` nearest rows, best first."""
        if not self._places:
            return []
        half = vector.astype(np.float16)
        if self._matrix is not None:
            # A freed place is all zeros, no worse than the farthest row: ask for as many more.
            rows = self._matrix[: len(self._rows)]
            wanted = min(len(rows), count + len(self._free))
            kind = search_module().MetricKind.IP
            found = search_module().search(rows, half, wanted, kind, exact=True, threads=1)
        else:
            found = self._graph.search(half, min(count, len(self._places)), threads=1)
        matches: list[Match] = []
        for place, distance in zip(found.keys.tolist(), found.distances.tolist(), strict=True):
            row = self._rows[place]
            if row is not None and len(matches) < count:
                matches.append(Match(row, 1.0 - distance))
        return matches

    def expired(self, now_ms: int) -> list[str]:
        """Entries whose time is over."""
        return [row.entry for row in self._rows if row is not None and row.expires_at <= now_ms]

    def _widen(self, place: int) -> None:
        assert self._matrix is not None
        if place >= len(self._matrix):
            wider = np.zeros((2 * len(self._matrix), self._matrix.shape[1]), np.float16)
            wider[: len(self._matrix)] = self._matrix
            self._matrix = wider

    def _grow_graph(self) -> None:
        if self._matrix is None or (self._graph is None and len(self._places) <= self._graph_rows):
            return
        if self._graph is None:
            self._graph = search_module().Index(
                ndim=self._matrix.shape[1],
                metric="ip",
                dtype="f16",
                connectivity=_CONNECTIVITY,
                expansion_add=_EXPANSION_ADD,
                expansion_search=_EXPANSION_SEARCH,
            )
        until = min(self._in_graph + MOVED_PER_ADD, len(self._rows))
        for place in range(self._in_graph, until):
            if self._rows[place] is not None:
                self._graph.add(place, self._matrix[place], threads=1)
        self._in_graph = until
        if until == len(self._rows):
            self._matrix = None

    def _shrink(self) -> None:
        """Back to a small matrix when most of what there was is gone; one of which no graph must be made."""
        held, kept_rows = len(self._rows), len(self._places)
        if held <= 4 * _FIRST_ROWS or kept_rows * 4 > min(held, self._graph_rows):
            return
        vectors = self._graph if self._matrix is None else self._matrix
        kept = [(row, np.array(vectors[place])) for place, row in enumerate(self._rows) if row is not None]
        dimensions = self._graph.ndim if self._matrix is None else self._matrix.shape[1]
        self._begin(dimensions)
        for row, vector in kept:
            self.put(row, vector)
