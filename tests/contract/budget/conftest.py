"""Stores are started once for the session and emptied before each test."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.budget.memory_ledger import MemoryLedger
from gateway.budget.redis_connection import connect
from gateway.budget.redis_ledger import RedisLedger
from gateway.config.environment import variable
from tests.contract.budget.subjects import PATIENT, Subject
from tests.harness.valkey import StoreProcess, ledger_store, redis_binary, valkey_binary


def binary_of(kind: str) -> Path:
    """The server binary; where there is no Redis its tests are skipped, but never in CI."""
    if kind == "valkey":
        return valkey_binary()
    found = redis_binary()
    if found is None and not variable("CI"):
        pytest.skip("redis-server is not installed (apt-get install redis-server)")
    assert found is not None, "CI needs redis-server"
    return found


@pytest.fixture(scope="session")
def shared_store() -> Iterator[Callable[[str], StoreProcess]]:
    """The session's process of a kind; a test must leave it running."""
    with contextlib.ExitStack() as stack:
        started: dict[str, StoreProcess] = {}

        def store_of(kind: str) -> StoreProcess:
            if kind not in started:
                started[kind] = stack.enter_context(ledger_store(binary_of(kind)))
            return started[kind]

        yield store_of


@pytest.fixture(params=["valkey", "redis"])
def store(request: pytest.FixtureRequest, shared_store: Callable[[str], StoreProcess]) -> StoreProcess:
    """A running store, of each kind in turn."""
    return shared_store(request.param)


@pytest.fixture
async def client(store: StoreProcess) -> AsyncIterator[Any]:
    """A client of the emptied store."""
    opened = connect(store.url, timeout=PATIENT)
    await opened.flushall()
    yield opened
    await opened.aclose()


async def founded(client: Any, subject: Subject) -> Subject:
    """``subject`` with a ledger in the client's store, founded and empty."""
    ledger = RedisLedger(client, clock=subject.witness, deadline=PATIENT, test_store_clock=subject.clock)
    await ledger.found_epoch(fresh=True)
    subject.ledger, subject.client = ledger, client
    return subject


@pytest.fixture
async def stored(client: Any) -> Subject:
    """A ledger in a real store."""
    return await founded(client, Subject(ledger=RedisLedger(client)))


@pytest.fixture(params=["memory", "valkey", "redis"])
async def subject(
    request: pytest.FixtureRequest, shared_store: Callable[[str], StoreProcess]
) -> AsyncIterator[Subject]:
    """Every implementation of BudgetLedger in turn."""
    made = Subject(ledger=RedisLedger(None))
    if request.param == "memory":
        made.ledger = MemoryLedger(made.clock, witness=made.witness)
        yield made
        return
    opened = connect(shared_store(request.param).url, timeout=PATIENT)
    await opened.flushall()
    yield await founded(opened, made)
    await opened.aclose()
