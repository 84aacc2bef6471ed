"""Settings as the start-up log has them."""

from __future__ import annotations

import pytest

from ext_proc.settings import ProcSettings
from gateway.budget.redis_connection import connect
from gateway.budget.redis_route import connect_cluster
from gateway.config.environment import effective, load
from gateway.contract.units import Millis

PLAIN = {
    "TIDEGATE_LISTEN": "/run/proc.sock",
    "TIDEGATE_POLICY_DIR": "/policy",
    "TIDEGATE_SECRETS_DIR": "/secrets",
    "TIDEGATE_CACHE_URL": "unix:///run/cache.sock",
}


@pytest.mark.parametrize("login", ["worker:s3cr3t", ":s3cr3t", "worker:s3@cr3t"])
def test_the_login_of_a_stores_url_is_not_logged(login: str) -> None:
    settings = load(
        ProcSettings, environment={**PLAIN, "TIDEGATE_LEDGER_URL": f"redis://{login}@ledger:6379/0"}
    )
    shown = effective(settings)
    assert shown["TIDEGATE_LEDGER_URL"] == "redis://***@ledger:6379/0"
    assert shown["TIDEGATE_CACHE_URL"] == "unix:///run/cache.sock"


def test_the_login_of_a_url_that_is_refused_is_not_told() -> None:
    with pytest.raises(ValueError, match=r"redis://host:port/0\Z"):
        connect("redis:/worker:s3cr3t@ledger", timeout=Millis(1))
    with pytest.raises(ValueError, match=r"host:port\Z"):
        connect_cluster("redis+cluster://worker:s3cr3t@ledger:1/5", timeout=Millis(1))
