"""A million inputs for each target, by two processes; each night others."""

from __future__ import annotations

import multiprocessing
import random
from concurrent.futures import ProcessPoolExecutor

import pytest

from tests.fuzz.targets import TARGETS, search

INPUTS = 1_000_000
PROCESSES = 2
_SEEDS = 2**40


@pytest.mark.parametrize("target", TARGETS)
def test_a_million_inputs_find_nothing(target: str, capsys: pytest.CaptureFixture[str]) -> None:
    seed = random.SystemRandom().randrange(_SEEDS)
    with capsys.disabled():
        print(f"\n{target}: inputs {seed} to {seed + INPUTS - 1}", flush=True)
    share = INPUTS // PROCESSES
    spawned = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(PROCESSES, mp_context=spawned) as pool:
        parts = [pool.submit(search, target, seed + part * share, share) for part in range(PROCESSES)]
        done = [part.result() for part in parts]
    rate = sum(one.inputs / one.seconds for one in done)
    with capsys.disabled():
        print(f"{target}: {INPUTS} inputs, {rate:.0f} a second", flush=True)
    assert sum(one.inputs for one in done) == INPUTS
