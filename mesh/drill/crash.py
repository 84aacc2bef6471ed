"""Crash points: labelled places where a process of a drill kills itself, by a plan that the seed gives.

A process says what it is about to do in the journal (one line, written before the kill: the kernel keeps what
a killed process wrote), so that afterwards it is known which answers it was metering. That it really died of
SIGKILL is told by whoever waited for it (nursery.py).
"""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, Final

import orjson

FILTER_LABELS: Final = (
    "before_reserve",
    "after_reserve",
    "first_byte",
    "each_usage",
    "before_settle",
    "after_settle",
)
EVENT_LABELS: Final = ("before_event", "after_event")
LABELS: Final = (*FILTER_LABELS, *EVENT_LABELS)
PASSAGES_MAX: Final = {
    "before_reserve": 18,
    "after_reserve": 18,
    "first_byte": 8,
    "each_usage": 50,
    "before_settle": 8,
    "after_settle": 8,
    "before_event": 4,
    "after_event": 4,
}
"""How often a label is passed at most before the kill: with two workers at most some 20 requests
lie between two."""
QUICK_BELOW: Final = 2_000
"""Requests of a drill below which lives are shorter, so that every label comes to its turn."""
QUICK_TIMES: Final = 2
LONG_SHARE: Final = 0.25
LONG_TIMES: Final = 10
"""Where workers hold leases, one life in four is so much longer: a worker asks for a lease only when one
account set has seen some 20 requests in 2 s (gateway/budget/lease_demand.py)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fate:
    """Of one life: it ends at the ``passage``-th passing of ``label``."""

    label: str
    passage: int


def fate_of(
    seed: int, worker: str, life: int, labels: tuple[str, ...], *, requests: int, leases: bool = False
) -> Fate:
    """The labels take turns, so that each has its share; the passage is the seed's."""
    random = Random(f"{seed}/{worker}/{life}")
    # Two workers whose names differ by one begin half a round apart.
    label = labels[(life + sum(worker.encode()) * len(labels) // 2) % len(labels)]
    longest = PASSAGES_MAX[label]
    if leases and label in FILTER_LABELS and random.random() < LONG_SHARE:
        return Fate(label=label, passage=random.randint(longest * LONG_TIMES // 2, longest * LONG_TIMES))
    if requests < QUICK_BELOW:
        longest = max(2, longest // QUICK_TIMES)
    return Fate(label=label, passage=random.randint(1, longest))


@dataclass(slots=True, kw_only=True)
class CrashPoints:
    """Of one life of one process. ``calm``: a file that ends all killing once it exists."""

    fate: Fate
    journal: Path
    calm: Path
    seed: str = ""
    """Of this life, for whatever else is random in it."""
    metering: set[str] = field(default_factory=set)
    """Holds of answers that this process has begun to meter and not yet resolved."""
    worker: str = ""
    """Names this process in the ids of its leases."""
    drawn: set[str] = field(default_factory=set)
    """Holds that this process granted out of its leases."""
    passed: Counter[str] = field(default_factory=Counter)

    def reach(self, label: str) -> None:
        """Pass ``label``, or die here."""
        self.passed[label] += 1
        if label == self.fate.label and self.passed[label] == self.fate.passage and not self.calm.exists():
            self._die()

    def _die(self) -> None:
        line = {
            "pid": os.getpid(),
            "label": self.fate.label,
            "metering": sorted(self.metering),
            "worker": self.worker,
            "drawn": sorted(self.drawn),
        }
        descriptor = os.open(self.journal, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.write(descriptor, orjson.dumps(line) + b"\n")
        os.kill(os.getpid(), signal.SIGKILL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Toll:
    """What the crash points cost. ``lost_taps``: requests whose answer a killed process was metering;
    ``drawn``: requests that one granted out of a lease, told to the ledger or not."""

    kills_by_label: dict[str, int]
    lost_taps: frozenset[str] = frozenset()
    drawn: frozenset[str] = frozenset()
    workers: frozenset[str] = frozenset()
    """The killed ones, as the ids of their leases name them."""

    @property
    def kills(self) -> int:
        """Of filters."""
        return sum(self.kills_by_label[label] for label in FILTER_LABELS)

    @property
    def bookkeeper_kills(self) -> int:
        """Of the bookkeeper."""
        return sum(self.kills_by_label[label] for label in EVENT_LABELS)


def toll_of(journal: Iterable[bytes], deaths: Iterable[bytes]) -> Toll:
    """Only who was found dead of SIGKILL counts, under the label it announced. ``deaths``: lines of
    nursery.py."""
    killed = {death["pid"] for death in _lines(deaths) if death["signal"] == signal.SIGKILL}
    labels = dict.fromkeys(LABELS, 0)
    lost: set[str] = set()
    drawn: set[str] = set()
    workers: set[str] = set()
    for entry in _lines(journal):
        if entry["pid"] in killed:
            labels[entry["label"]] += 1
            lost.update(entry["metering"])
            drawn.update(entry["drawn"])
            workers.add(entry["worker"])
    return Toll(
        kills_by_label=labels,
        lost_taps=frozenset(lost),
        drawn=frozenset(drawn),
        workers=frozenset(workers - {""}),
    )


def _lines(lines: Iterable[bytes]) -> list[dict[str, Any]]:
    return [orjson.loads(line) for line in lines if line.strip()]
