"""One gateway on the twin, and one on the real SGLang, for every client library of the session.

``engine`` in a test's id says which: ``-k sglang`` runs what the real engine answers, ``-k "not sglang"``
leaves it out.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest
from openai import AsyncOpenAI, OpenAI

from tests.clients.served import TWIN_MODELS, Served, policy
from tests.harness.engines import Twin, real_sglang, twin
from tests.harness.gateway import Gateway, free_ports


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


@pytest.fixture(scope="session", params=["twin", "sglang"])
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Both engines in turn; each is started once."""
    if request.param == "twin":
        yield request.getfixturevalue("on_twin")
        return
    with real_sglang(tmp_path_factory.mktemp("sglang"), port=free_ports()) as running:
        mesh = policy(tmp_path_factory.mktemp("policy") / "mesh")
        gateway = Gateway(tmp_path_factory.mktemp("state"), engine=running.url, mesh=mesh)
        yield Served(gateway=gateway, engine="sglang")
        gateway.close()


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
