"""The state machine at nightly size, and the proof that it sees: each mutant of the Lua must die."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import Phase, settings

from tests.contract.budget.machine import LIBRARY, LONG, run_machine
from tests.harness.valkey import StoreProcess, ledger_store

MUTANTS = {
    "no dedupe on reserve": ("  if known then\n", "  if false then\n"),
    "no dedupe on settle": ("if not live and (unknown or hold.blind ~= '1') then", "if false then"),
    "refund on expiry": (
        "resolve(keys, key, hold, 'expired', hold.amount,",
        "resolve(keys, key, hold, 'expired', 0,",
    ),
    "hold ignored in the check": ("window.limit - window.used - window.held)", "window.limit - window.used)"),
    "late settle ignored": ("(unknown or hold.blind ~= '1')", "true"),
    "off by one in the check": ("remaining(window) < needed and", "remaining(window) + 1 < needed and"),
    "off by one in the clamp": (
        "math.max(0, remaining(window) - fixed)",
        "math.max(0, remaining(window) - fixed + 1)",
    ),
    "void posts": ("resolve(keys, keys[6], hold, 'voided', 0,", "resolve(keys, keys[6], hold, 'voided', 1,"),
    "older policy wins": ("version > known_version", "version < known_version"),
    "overdue is later": ("keys[3], '-inf', int(now),", "keys[3], '-inf', int(now - 1),"),
    "settle keeps the hold": (
        "if hold.state == 'live' then redis.call('HINCRBY'",
        "if false then redis.call('HINCRBY'",
    ),
    "clock follows the store": (
        "math.max(confirmed, math.min(store, confirmed + JUMP_MS))",
        "math.max(confirmed, store)",
    ),
    "confirmed without a witness": ("math.min(store, tonumber(args[3]) + JUMP_MS)", "store"),
    "last account forgotten": (
        "  for i, window in ipairs(windows) do\n    if window.fresh",
        "  for i, window in ipairs({ windows[1] }) do\n    if window.fresh",
    ),
}
HUNT = settings(LONG, max_examples=400, derandomize=True, phases=[Phase.generate], report_multiple_bugs=False)


@pytest.fixture(scope="module")
def store() -> Iterator[StoreProcess]:
    with ledger_store() as process:
        yield process


@pytest.mark.parametrize("name", MUTANTS)
def test_a_mutant_is_killed(name: str, store: StoreProcess, tmp_path: Path) -> None:
    before, after = MUTANTS[name]
    original = LIBRARY.read_text()
    assert original.count(before) == 1, "the mutant no longer fits the source"
    mutant = tmp_path / "mutant.lua"
    mutant.write_text(original.replace(before, after))
    with pytest.raises(AssertionError):
        run_machine(store, HUNT, mutant)


def test_random_histories_at_length(store: StoreProcess) -> None:
    run_machine(store, LONG)
