"""Random histories: the specification and the Lua never differ."""

from __future__ import annotations

import asyncio

from hypothesis.stateful import run_state_machine_as_test

from tests.contract.budget.machine import SHORT, machine_of
from tests.harness.valkey import StoreProcess


def test_memory_and_store_agree_on_random_histories(store: StoreProcess) -> None:
    with asyncio.Runner() as runner:
        run_state_machine_as_test(machine_of(store, runner), settings=SHORT)
