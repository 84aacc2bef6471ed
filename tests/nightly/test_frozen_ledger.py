"""The ledger frozen for a minute under load: how long decisions take, what is served, and that nothing is
overspent. Prints its figures: run with ``-s``."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

from tests.harness import frozen_ledger
from tests.harness.engines import twin
from tests.harness.gateway import MODEL, Gateway

FROZEN_S = 60.0
LIMIT = 50_000
"""Reached by a minute of this load several times over, were it served."""
WORKERS, HANDS = 2, 2


async def test_a_minute_without_the_ledger(tmp_path: Path) -> None:
    mesh = frozen_ledger.policy(tmp_path / "mesh", LIMIT)
    with twin(tmp_path, "--model", MODEL, "--tokens-per-s", "1000") as engine:
        gateway = await asyncio.to_thread(Gateway, tmp_path / "state", engine=engine.url, mesh=mesh)
        try:
            seen = await frozen_ledger.freeze(gateway, frozen_s=FROZEN_S)
            charged = await asyncio.to_thread(frozen_ledger.used_when_settled, gateway, seconds=120)
            produced = frozen_ledger.produced(engine, 0)
        finally:
            await asyncio.to_thread(gateway.close)
    figures = seen.as_json()
    figures["lease_bound"] = WORKERS * HANDS * frozen_ledger.LEASES["requests"]
    figures["overspent"] = max(0, produced - LIMIT)
    figures["drift"] = charged - produced
    print(json.dumps(figures))
    assert figures["overspent"] == 0
    assert figures["drift"] == 0
    assert figures["served_from_leases"] <= figures["lease_bound"]
    assert figures["decision_p99_ms"] <= 50
