"""What is searched: each target makes one input from a seeded source and holds the code to its promises."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from tests.fuzz.bodies import body_from, check_body
from tests.fuzz.policies import check_policy
from tests.fuzz.streams import check_stream
from tests.fuzz.tokens import Gate

Try = Callable[[random.Random], object]
"""One input. Raises whatever should never come out, AssertionError for a promise that is broken."""
_SIGNED_ONE_IN: Final = 10
"""Signing takes as long as ten refusals."""


def _bodies() -> Try:
    return lambda rng: check_body(*body_from(rng))


def _tokens() -> Try:
    gate = Gate()

    def attempt(rng: random.Random) -> None:
        if rng.randrange(_SIGNED_ONE_IN):
            gate.check_forged(gate.forged_from(rng))
        else:
            gate.check_signed(rng)

    return attempt


TARGETS: Final[Mapping[str, Callable[[], Try]]] = {
    "body validator": _bodies,
    "SSE parser and meter": lambda: check_stream,
    "JWT path": _tokens,
    "policy loader": lambda: check_policy,
}


@dataclass(frozen=True)
class Searched:
    """How far a search came, and how fast."""

    inputs: int
    seconds: float


def search(target: str, seed: int, inputs: int) -> Searched:
    """``inputs`` tries from ``seed`` on; a failure says with which number to see it again: ``replay``."""
    attempt, rng = TARGETS[target](), random.Random()
    begun = time.perf_counter()
    for number in range(seed, seed + inputs):
        rng.seed(number)
        try:
            attempt(rng)
        except BaseException as error:
            error.add_note(f"tests.fuzz.targets.replay({target!r}, {number})")
            raise
    return Searched(inputs=inputs, seconds=time.perf_counter() - begun)


def replay(target: str, number: int) -> None:
    """The one input that failed."""
    search(target, number, 1)
