"""One gateway on the twin, and one on the real SGLang, for every client library of the session.

``engine`` in a test's id says which: ``-k sglang`` runs what the real engine answers, ``-k "not sglang"``
leaves it out.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest
from openai import AsyncOpenAI, OpenAI

from tests.clients.served import TWIN_MODELS, Served, policy
from tests.harness.engines import Engine, Twin, twin
from tests.harness.gateway import Gateway


@pytest.fixture(scope="session")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Twin]:
    models = [word for name in TWIN_MODELS for word in ("--model", name)]
    with twin(tmp_path_factory.mktemp("twin"), *models) as running:
        yield running


@pytest.fixture(scope="session")
def on_twin(engine: Twin, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    mesh = policy(tmp_path_factory.mktemp("policy") / "mesh")
    running = Gateway(tmp_path_factory.mktemp("state"), engine=engine.url, mesh=mesh)
    yield Served(gateway=running, engine="twin")
    running.close()


@pytest.fixture
def script(engine: Twin) -> Iterator[Twin]:
    """The twin, whose script is cleared again after the test."""
    yield engine
    engine.script()


@pytest.fixture(scope="session")
def on_sglang(plain_sglang: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    mesh = policy(tmp_path_factory.mktemp("policy") / "mesh")
    running = Gateway(tmp_path_factory.mktemp("state"), engine=plain_sglang.url, mesh=mesh)
    yield Served(gateway=running, engine="sglang")
    running.close()


@pytest.fixture(
    scope="session", params=["twin", pytest.param("sglang", marks=pytest.mark.real_sglang("plain"))]
)
def served(request: pytest.FixtureRequest) -> Served:
    """Both engines in turn; each is started once."""
    found: Served = request.getfixturevalue(f"on_{request.param}")
    return found


@pytest.fixture
def sdk(on_twin: Served) -> Iterator[OpenAI]:
    with on_twin.sdk() as client:
        yield client


@pytest.fixture
async def async_sdk(on_twin: Served) -> AsyncIterator[AsyncOpenAI]:
    async with on_twin.async_sdk() as client:
        yield client


@pytest.fixture
def either(served: Served) -> Iterator[OpenAI]:
    """The client on the twin, then on the real SGLang."""
    with served.sdk() as client:
        yield client


@pytest.fixture
async def async_either(served: Served) -> AsyncIterator[AsyncOpenAI]:
    async with served.async_sdk() as client:
        yield client
