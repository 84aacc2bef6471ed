"""The index against a brute-force one: small and large partitions, replaced, removed, expired, bounded."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ext_proc.recall.index import Index
from ext_proc.recall.partition_rows import Row
from gateway.contract.ids import OrgId

DIMENSIONS = 16
ACME, OTHER = OrgId("acme"), OrgId("other")
LATER = 10**15


def vector(seed: int) -> NDArray[np.float32]:
    drawn = np.random.default_rng(seed).standard_normal(DIMENSIONS)
    return (drawn / np.linalg.norm(drawn)).astype(np.float32)


def row(entry: str, expires_at: int = LATER) -> Row:
    return Row(entry=entry, text=entry.encode(), expires_at=expires_at)


class Plain:
    """What an index is: every vector of a partition compared with the one asked."""

    def __init__(self) -> None:
        self.rows: dict[tuple[OrgId, str], tuple[str, NDArray[np.float32]]] = {}

    def nearest(self, org: OrgId, partition: str, asked: NDArray[np.float32]) -> list[tuple[str, float]]:
        own = [
            (entry, float(at.astype(np.float16).astype(np.float32) @ asked))
            for (of, entry), (place, at) in self.rows.items()
            if of == org and place == partition
        ]
        return sorted(own, key=lambda pair: -pair[1])


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["put", "put", "put", "remove"]),
        st.sampled_from([ACME, OTHER]),
        st.integers(0, 1),
        st.integers(0, 30),
        st.integers(0, 10**6),
    ),
    max_size=120,
)


@given(steps=STEPS, graph_rows=st.sampled_from([4, 8, 1000]))
@settings(max_examples=60)
def test_it_finds_what_comparing_with_every_row_finds(
    steps: list[tuple[str, OrgId, int, int, int]], graph_rows: int
) -> None:
    index, plain = Index(DIMENSIONS, graph_rows=graph_rows), Plain()
    for verb, org, place, number, seed in steps:
        entry, partition = f"e{number}", f"p{place}"
        if verb == "put":
            index.put(org, partition, row(entry), vector(seed))
            plain.rows[org, entry] = (partition, vector(seed))
        else:
            there = plain.rows.pop((org, entry), None)
            assert index.remove(org, [entry]) == (there is not None)
        assert len(index) == len(plain.rows)
    for org in (ACME, OTHER):
        for partition in ("p0", "p1", "p2"):
            for seed in (1, 2):
                found = index.search(org, partition, vector(seed), 3, 0)
                wanted = plain.nearest(org, partition, vector(seed))[:3]
                assert [match.similarity for match in found] == pytest.approx(
                    [similarity for _, similarity in wanted], abs=2e-3
                )
                assert {match.row.entry for match in found} <= {
                    entry for (of, entry), (at, _) in plain.rows.items() if of == org and at == partition
                }


def test_the_same_entry_and_partition_of_two_orgs_never_meet() -> None:
    index = Index(DIMENSIONS)
    index.put(ACME, "p", row("e"), vector(1))
    assert index.search(OTHER, "p", vector(1), 8, 0) == []
    index.put(OTHER, "p", Row("e", b"theirs", LATER), vector(1))
    assert [match.row.text for match in index.search(ACME, "p", vector(1), 8, 0)] == [b"e"]
    assert index.remove(OTHER, ["e"]) == 1
    assert len(index.search(ACME, "p", vector(1), 8, 0)) == 1
    assert index.search(OTHER, "p", vector(1), 8, 0) == []


def test_what_has_expired_is_not_found_and_leaves() -> None:
    index = Index(DIMENSIONS)
    index.put(ACME, "p", row("old", 1000), vector(1))
    index.put(ACME, "p", row("new", 3000), vector(2))
    assert [match.row.entry for match in index.search(ACME, "p", vector(1), 8, 1000)] == ["new"]
    assert index.prune(2000) == 1
    assert len(index) == 1
    assert index.prune(3000) == 1
    assert len(index) == 0


def test_the_row_that_lives_longer_stays() -> None:
    index = Index(DIMENSIONS)
    index.put(ACME, "p", row("e", 3000), vector(1))
    index.put(ACME, "p", row("e", 2000), vector(2))
    (found,) = index.search(ACME, "p", vector(1), 8, 0)
    assert found.row.expires_at == 3000
    assert found.similarity == pytest.approx(1, abs=1e-3)


def test_a_full_partition_loses_its_oldest() -> None:
    index = Index(DIMENSIONS, partition_entries_max=10)
    index.put(ACME, "other", row("kept"), vector(0))
    for number in range(11):
        index.put(ACME, "p", row(f"e{number}"), vector(number))
    assert len(index) == 11
    left = {match.row.entry for match in index.search(ACME, "p", vector(1), 20, 0)}
    assert left == {f"e{number}" for number in range(1, 11)}
    assert len(index.search(ACME, "other", vector(1), 8, 0)) == 1


def test_a_full_index_takes_from_the_org_that_has_most() -> None:
    index = Index(DIMENSIONS, entries_max=20)
    index.put(OTHER, "p", row("theirs"), vector(0))
    for number in range(30):
        index.put(ACME, f"p{number}", row(f"e{number}"), vector(number))
    assert len(index) <= 20
    assert len(index.search(OTHER, "p", vector(0), 8, 0)) == 1
    assert len(index.search(ACME, "p29", vector(29), 8, 0)) == 1
    assert index.search(ACME, "p0", vector(0), 8, 0) == []


@pytest.mark.parametrize("graph_rows", [50, 10_000])
def test_a_large_partition_that_empties_goes_on(graph_rows: int) -> None:
    index = Index(DIMENSIONS, graph_rows=graph_rows)
    for number in range(400):
        index.put(ACME, "p", row(f"e{number}"), vector(number))
    index.remove(ACME, [f"e{number}" for number in range(395)])
    found = index.search(ACME, "p", vector(397), 8, 0)
    assert found[0].row.entry == "e397"
    assert {match.row.entry for match in found} == {f"e{number}" for number in range(395, 400)}
    for number in range(300):
        index.put(ACME, "p", row(f"e{number}"), vector(number))
    assert index.search(ACME, "p", vector(17), 1, 0)[0].row.entry == "e17"
    index.clear()
    assert len(index) == 0
    assert index.search(ACME, "p", vector(17), 1, 0) == []


def test_searches_while_it_is_written_see_whole_rows() -> None:
    index, stop = Index(DIMENSIONS, graph_rows=64), threading.Event()
    index.put(ACME, "p", row("fixed"), vector(0))

    def write() -> None:
        for number in range(600):
            index.put(ACME, "p", row(f"e{number % 100}"), vector(number % 100 + 1))
            if number % 3 == 0:
                index.remove(ACME, [f"e{(number * 7) % 100}"])
        stop.set()

    def read() -> int:
        looks = 0
        while not stop.is_set() or not looks:
            for match in index.search(ACME, "p", vector(0), 8, 0):
                number = -1 if match.row.entry == "fixed" else int(match.row.entry[1:])
                assert match.similarity == pytest.approx(float(vector(number + 1) @ vector(0)), abs=4e-3)
            looks += 1
        return looks

    with ThreadPoolExecutor(3) as threads:
        readers = [threads.submit(read) for _ in range(2)]
        threads.submit(write).result()
        assert all(reader.result() for reader in readers)


def test_a_vector_of_another_shape_is_refused() -> None:
    with pytest.raises(ValueError, match="shape"):
        Index(DIMENSIONS).put(ACME, "p", row("e"), np.ones(3, np.float32))
