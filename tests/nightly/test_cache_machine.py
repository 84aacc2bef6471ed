"""The machine of two cache workers and the memory store, for longer."""

from __future__ import annotations

import pytest

from tests.contract.cache.conftest import PATIENT
from tests.contract.cache.test_cache_machine import run_machine
from tests.harness.valkey import cache_store


def test_all_answer_alike_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ext_proc.cache.redis_store.LOOKUP", PATIENT)
    monkeypatch.setattr("ext_proc.cache.redis_place.LOOKUP", PATIENT)
    with cache_store() as process:
        run_machine(process.url, examples=1500, steps=60)
