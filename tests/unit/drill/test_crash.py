"""Crash points: the seed decides, the journal tells, and only who was found dead counts."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import orjson
import pytest

from mesh.drill.crash import (
    FILTER_LABELS,
    LABELS,
    LONG_TIMES,
    PASSAGES_MAX,
    CrashPoints,
    Fate,
    fate_of,
    toll_of,
)


def fate(life: int, *, seed: int = 1, worker: str = "w", requests: int = 10_000) -> Fate:
    return fate_of(seed, worker, life, FILTER_LABELS, requests=requests)


def test_the_same_seed_is_the_same_fate_and_another_is_not() -> None:
    lives = range(60)
    assert [fate(life) for life in lives] == [fate(life) for life in lives]
    assert [fate(life) for life in lives] != [fate(life, seed=2) for life in lives]
    assert [fate(life) for life in lives] != [fate(life, worker="v") for life in lives]


def test_every_label_comes_to_its_turn() -> None:
    assert {fate(life).label for life in range(len(FILTER_LABELS))} == set(FILTER_LABELS)
    half = range(len(FILTER_LABELS) // 2)
    assert {fate(life, worker=f"ext-proc-{w}").label for life in half for w in (0, 1)} == set(FILTER_LABELS)


@pytest.mark.parametrize("requests", [100, 10_000])
def test_some_lives_are_long_where_workers_hold_leases(requests: int) -> None:
    lives = [fate_of(1, "w", life, FILTER_LABELS, requests=requests, leases=True) for life in range(200)]
    long = [one for one in lives if one.passage > PASSAGES_MAX[one.label]]
    assert {one.label for one in long} == set(FILTER_LABELS)
    assert len(lives) / 8 < len(long) < len(lives) / 2
    assert all(one.passage <= PASSAGES_MAX[one.label] * LONG_TIMES for one in long)


@pytest.mark.parametrize("requests", [100, 10_000])
def test_a_life_is_no_longer_than_its_label_allows(requests: int) -> None:
    for life in range(200):
        found = fate(life, requests=requests)
        assert 1 <= found.passage <= PASSAGES_MAX[found.label]


def test_a_process_dies_at_its_passage_and_says_what_it_was_metering(tmp_path: Path) -> None:
    points = CrashPoints(
        fate=Fate(label="first_byte", passage=2), journal=tmp_path / "journal", calm=tmp_path / "calm"
    )
    points.metering |= {"r-2", "r-1"}
    points.worker = "w"
    points.drawn.add("r-3")
    child = os.fork()
    if child == 0:
        points.reach("first_byte")
        points.reach("each_usage")
        points.reach("first_byte")
        os._exit(7)
    _, status = os.waitpid(child, 0)
    assert os.WTERMSIG(status) == signal.SIGKILL
    line = orjson.loads(points.journal.read_bytes())
    assert line == {
        "pid": child,
        "label": "first_byte",
        "metering": ["r-1", "r-2"],
        "worker": "w",
        "drawn": ["r-3"],
    }


def test_nobody_dies_once_it_is_calm(tmp_path: Path) -> None:
    points = CrashPoints(
        fate=Fate(label="first_byte", passage=1), journal=tmp_path / "journal", calm=tmp_path / "calm"
    )
    points.calm.touch()
    points.reach("first_byte")
    assert not points.journal.exists()


def test_only_who_was_found_dead_of_sigkill_counts() -> None:
    journal = [
        b'{"pid": 1, "label": "first_byte", "metering": ["a"], "worker": "w1", "drawn": ["d"]}',
        b'{"pid": 2, "label": "before_event", "metering": [], "worker": "", "drawn": []}',
        b'{"pid": 3, "label": "after_settle", "metering": ["b"], "worker": "w3", "drawn": ["e"]}',
    ]
    deaths = [
        b'{"name": "x", "pid": 1, "signal": 9}',
        b'{"name": "x", "pid": 2, "signal": 9}',
        b'{"name": "x", "pid": 3, "signal": 15}',
        b'{"name": "x", "pid": 4, "signal": 9}',
    ]
    toll = toll_of(journal, deaths)
    assert (toll.kills, toll.bookkeeper_kills, toll.lost_taps) == (1, 1, frozenset({"a"}))
    assert (toll.drawn, toll.workers) == (frozenset({"d"}), frozenset({"w1"}))
    assert toll.kills_by_label == dict.fromkeys(LABELS, 0) | {"first_byte": 1, "before_event": 1}
