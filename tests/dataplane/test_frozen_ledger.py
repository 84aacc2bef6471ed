"""A ledger that does not answer: served within what was leased, refused at once beyond it, and the books
close when it is back. tests/nightly has the same for a minute, with its figures."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness import frozen_ledger
from tests.harness.engines import Twin, twin
from tests.harness.gateway import MODEL, Gateway

LIMIT = 10_000_000
WORKERS = 2
HANDS = 2
"""Leases a worker holds on one account at a time."""


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Twin]:
    with twin(tmp_path, "--model", MODEL, "--tokens-per-s", "1000") as running:
        yield running


async def test_a_frozen_ledger_under_load(engine: Twin, tmp_path: Path) -> None:
    mesh = frozen_ledger.policy(tmp_path / "mesh", LIMIT)
    gateway = await asyncio.to_thread(Gateway, tmp_path / "state", engine=engine.url, mesh=mesh)
    known = len(engine.attempts())
    try:
        seen = await frozen_ledger.freeze(gateway, frozen_s=5.0)
        figures = seen.as_json()
        assert set(seen.statuses) <= {200, 503}, figures
        assert seen.statuses[503] > 0, figures
        assert 0 < seen.statuses[200] <= WORKERS * HANDS * frozen_ledger.LEASES["requests"], figures
        charged = await asyncio.to_thread(frozen_ledger.used_when_settled, gateway, seconds=60)
        spent = frozen_ledger.produced(engine, known)
        assert charged == spent, f"drift of {charged - spent} tokens, {figures}"
    finally:
        await asyncio.to_thread(gateway.close)
