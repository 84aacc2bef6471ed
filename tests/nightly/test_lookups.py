"""100,000 look-ups of mixed-up tenants; each night others."""

from __future__ import annotations

import random

import pytest

from tests.fuzz.lookups import search
from tests.harness.valkey import cache_store

LOOKUPS = 100_000
_SEEDS = 2**32


async def test_nobody_gets_what_is_not_shared_with_him(capsys: pytest.CaptureFixture[str]) -> None:
    seed = random.SystemRandom().randrange(_SEEDS)
    with cache_store() as valkey:
        found = await search(valkey, seed, LOOKUPS)
    with capsys.disabled():
        print(f"\nseed {seed}: {dict(found.kinds)}, {found.shared} shared, {found.seconds:.0f} s")
    assert found.leaks == [], f"python -m tests.fuzz.lookups {LOOKUPS} {seed}"
    assert found.lookups == LOOKUPS and found.let_through == 0
    assert found.shared > LOOKUPS // 10 and found.kinds["semantic"] > 0 and found.kinds["alias"] > 0
