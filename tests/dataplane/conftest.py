"""One gateway on the twin for all tests that do not break it; Envoy with scripted sidecars for traps."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.harness.engines import twin
from tests.harness.gateway import MODEL, Gateway
from tests.harness.trap import ENVOYS, TrapStack, trap_stack


@pytest.fixture(scope="session")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """The product, started as a user does, in front of a twin."""
    with twin(tmp_path_factory.mktemp("twin"), "--model", MODEL) as engine:
        running = Gateway(tmp_path_factory.mktemp("state"), engine=engine.url)
        yield running
        running.close()


@pytest.fixture(params=ENVOYS)
async def stack(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[TrapStack]:
    async with trap_stack(tmp_path, request.param) as running:
        yield running
