"""A store and a bookkeeper for each test; both are gone afterwards."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.harness.valkey import StoreProcess, ledger_store
from tests.integration.bookkeeper.process import Bookkeeper


@pytest.fixture
def store() -> Iterator[StoreProcess]:
    with ledger_store() as process:
        yield process


@pytest.fixture
def directory() -> Iterator[Path]:
    """Not pytest's own: a Unix socket's path holds at most 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="tg-books-") as made:
        yield Path(made)


@pytest.fixture
async def bookkeeper(store: StoreProcess, directory: Path) -> AsyncIterator[Bookkeeper]:
    made = Bookkeeper(directory, store)
    yield made
    await made.close()
