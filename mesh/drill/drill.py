"""A drill as data: what it asks, what it breaks, what it measures, when it has passed."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

Figures = Mapping[str, Any]
"""Figure by name: integers, floats, or a mapping of integers. Stable keys of ``--json``."""
CANARIES: Final = ("settle-twice", "refund-on-expiry", "no-dedupe", "check-then-charge")
"""Bugs that can be planted: a drill that does not fail with each of them proves nothing."""


class Aborted(Exception):
    """The abort condition came true: the figures would say nothing. The text says which."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Criterion:
    """``figure`` is what it judges; ``text`` says when it holds, for people."""

    figure: str
    text: str
    holds: Callable[[Figures], bool]


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """What the command line chose. ``say`` takes a line of progress; ``work`` is a directory of this run."""

    requests: int
    seed: int
    canary: str
    work: Path
    leases: bool
    """Whether workers hold leases (the policy's ``leases``)."""
    say: Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Drill:
    """``perform`` starts what it needs, breaks it, and ends only what it started. It raises Aborted, and
    Refusal when the gateway does not start."""

    name: str
    question: str
    steady_state: str
    faults: tuple[str, ...]
    measures: Mapping[str, str]
    criteria: tuple[Criterion, ...]
    abort: str
    requests: int
    seconds_max: Callable[[int], float]
    """By number of requests."""
    perform: Callable[[Setup], Awaitable[Figures]]
    seed: int = 1
    canaries: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """``broken``: the criteria that do not hold."""

    drill: str
    seed: int
    canary: str
    figures: Figures
    broken: tuple[Criterion, ...] = field(default=())

    @property
    def passed(self) -> bool:
        """All criteria hold."""
        return not self.broken

    def to_fields(self) -> dict[str, Any]:
        """For ``--json``: the figures beside the verdict."""
        return {
            "drill": self.drill,
            "seed": self.seed,
            "canary": self.canary,
            "passed": self.passed,
            "broken": [criterion.figure for criterion in self.broken],
            **self.figures,
        }


def judged(drill: Drill, setup: Setup, figures: Figures) -> Verdict:
    """Hold ``figures`` against the criteria."""
    broken = tuple(criterion for criterion in drill.criteria if not criterion.holds(figures))
    return Verdict(drill=drill.name, seed=setup.seed, canary=setup.canary, figures=figures, broken=broken)
