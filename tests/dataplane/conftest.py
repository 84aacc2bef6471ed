"""One gateway on the twin for all tests that do not break it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.harness.engines import twin
from tests.harness.gateway import MODEL, Gateway


@pytest.fixture(scope="session")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """The product, started as a user does, in front of a twin."""
    with twin(tmp_path_factory.mktemp("twin"), "--model", MODEL) as engine:
        running = Gateway(tmp_path_factory.mktemp("state"), engine=engine.url)
        yield running
        running.close()
