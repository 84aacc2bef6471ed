"""One gateway on a twin for all tests of the cache; what stops a part or changes the policy puts it back."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from gateway.contract.ids import KeyId, OrgId, TeamId, Tier, UserId
from gateway.contract.principal import Principal
from gateway.keys.key_file import create_api_key
from tests.dataplane.cache.served import BUDGETS, ORGS, REVISION, Cached, cache_policy, catalogue
from tests.harness.api_keys import key_for
from tests.harness.embedders import EMBEDDERS
from tests.harness.engines import Twin, twin
from tests.harness.gateway import MODEL, Gateway, overlay, until


def _keys(gateway: Gateway) -> dict[str, str]:
    """One for each org; the last is known to every worker only with all others."""
    *others, last = ORGS
    keys = {}
    for org in others:
        principal = Principal(
            org=OrgId(org), team=TeamId("t"), user=UserId("u"), key=KeyId(f"k-{org}"), tier=Tier("standard")
        )
        keys[org] = create_api_key(gateway.state / "secrets" / "api_keys.json", principal)
    keys[last] = key_for(gateway, last)
    return keys


@pytest.fixture(scope="package")
def cache_engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Twin]:
    with twin(tmp_path_factory.mktemp("engine"), "--model", MODEL) as running:
        yield running


@pytest.fixture(scope="package")
def cached(cache_engine: Twin, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cached]:
    """Ready when recall is, which loads its embedder after the gateway is ready."""
    files = {"budgets.yaml": BUDGETS, "cache.yaml": cache_policy(1), "models.yaml": catalogue(REVISION)}
    mesh = overlay(tmp_path_factory.mktemp("policy") / "mesh", files)
    state = tmp_path_factory.mktemp("state")
    EMBEDDERS.mkdir(parents=True, exist_ok=True)
    (state / "embedders").symlink_to(EMBEDDERS)
    gateway = Gateway(state, engine=cache_engine.url, mesh=mesh)
    try:
        log = gateway.state / "logs" / "recall.log"
        until(lambda: '"recall.ready"' in log.read_text(), f"recall is ready\n{gateway.log_tails()}")
        yield Cached(gateway=gateway, engine=cache_engine, mesh=mesh, keys=_keys(gateway))
    finally:
        gateway.close()
