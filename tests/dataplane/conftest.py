"""One gateway on the twin for all tests that do not break it; Envoy with scripted sidecars for traps."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.harness.engines import Twin, twin
from tests.harness.gateway import MODEL, Gateway, overlay
from tests.harness.trap import ENVOYS, TrapStack, trap_stack

HOUR_S = 3_600
TEST_S = 20
"""Longer than a test works on one budget."""


@pytest.fixture(autouse=True)
def no_hour_ends_within_a_test() -> None:
    """Nor a day nor a month: their budgets would begin anew. What a minute's end changes, tests allow for."""
    left_s = HOUR_S - time.time() % HOUR_S
    if left_s < TEST_S:
        time.sleep(left_s)


@pytest.fixture(scope="session")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """The product, started as a user does, in front of a twin."""
    with twin(tmp_path_factory.mktemp("twin"), "--model", MODEL) as engine:
        running = Gateway(tmp_path_factory.mktemp("state"), engine=engine.url)
        yield running
        running.close()


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Twin]:
    """A twin of the module's own."""
    with twin(tmp_path_factory.mktemp("engine"), "--model", MODEL) as running:
        yield running


@pytest.fixture(scope="module")
def started_with(
    engine: Twin, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[str], Gateway]]:
    """Starts a gateway of the module's own before ``engine``, with the given text as its budgets.yaml."""
    with ExitStack() as gateways:

        def start(budgets: str) -> Gateway:
            mesh = overlay(tmp_path_factory.mktemp("policy") / "mesh", {"budgets.yaml": budgets})
            running = Gateway(tmp_path_factory.mktemp("state"), engine=engine.url, mesh=mesh)
            gateways.callback(running.close)
            return running

        yield start


@pytest.fixture(params=ENVOYS)
async def stack(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[TrapStack]:
    async with trap_stack(tmp_path, request.param) as running:
        yield running
