"""Random histories: the specification and the Lua never differ."""

from __future__ import annotations

from tests.contract.budget.machine import SHORT, run_machine
from tests.harness.valkey import StoreProcess


def test_memory_and_store_agree_on_random_histories(store: StoreProcess) -> None:
    run_machine(store, SHORT)
