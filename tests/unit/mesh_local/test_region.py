"""The parts of a region as data: every process gets exactly the settings it knows, everything is found."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from ext_authz.settings import AuthzSettings
from ext_proc.recall.settings import RecallSettings
from ext_proc.settings import ProcSettings
from gateway.api.settings import ApiSettings
from gateway.bookkeeper.settings import BookkeeperSettings
from gateway.config.environment import load
from mesh.local.engine import Engine, RemoteEngine, SglangEngine, TwinEngine
from mesh.local.layout import layout_of
from mesh.local.part import Part, checked_order
from mesh.local.probes import HttpOk, ValkeyPing
from mesh.local.region import Region, endpoints_of, parts_of


def region(engine: Engine, **changes: Any) -> Region:
    return Region(
        layout=layout_of(Path("/state")),
        port=8080,
        engine=engine,
        engine_port=30001,
        model="smollm2-135m",
        envoy=Path("/bin/envoy"),
        valkey=Path("/bin/valkey"),
        tools=Path("/tools"),
        **changes,
    )


def named(engine: Engine) -> Mapping[str, Part]:
    return {part.name: part for part in parts_of(region(engine))}


SETTINGS: list[tuple[str, type[Any]]] = [
    ("ext-authz-0", AuthzSettings),
    ("ext-authz-1", AuthzSettings),
    ("ext-proc-0", ProcSettings),
    ("ext-proc-1", ProcSettings),
    ("recall", RecallSettings),
    ("bookkeeper", BookkeeperSettings),
    ("api", ApiSettings),
]


@pytest.mark.parametrize(("name", "settings"), SETTINGS)
def test_a_process_gets_the_settings_it_knows_and_no_other(name: str, settings: type[Any]) -> None:
    part = named(TwinEngine())[name]
    filled = load(settings, environment=part.env)
    assert filled.listen == Path(f"/state/run/{name}.sock")


def test_envoy_waits_for_the_filters_and_never_for_what_it_can_do_without() -> None:
    parts = named(SglangEngine())
    assert set(parts["envoy"].after) == set(parts) - {"envoy", "engine", "recall"}
    assert parts["engine"].after == ()
    assert {part.name for part in parts.values() if not part.gate} == {"engine", "recall"}


def test_the_order_has_no_circle_and_stores_come_first() -> None:
    levels = checked_order(parts_of(region(TwinEngine())))
    assert {"valkey-ledger", "valkey-cache", "engine"} <= set(levels[0])
    assert levels[-1] == ["envoy"]


def test_workers_ask_recall_where_it_listens() -> None:
    parts = named(TwinEngine())
    for name in ("ext-proc-0", "ext-proc-1"):
        assert parts[name].env["TIDEGATE_RECALL_SOCKET"] == parts["recall"].env["TIDEGATE_LISTEN"]


def test_the_ledger_never_evicts_and_the_cache_never_persists() -> None:
    parts = named(TwinEngine())
    ledger, cache = " ".join(parts["valkey-ledger"].command), " ".join(parts["valkey-cache"].command)
    assert "--appendonly yes" in ledger
    assert "--appendfsync everysec" in ledger
    assert "--maxmemory-policy noeviction" in ledger
    assert "--maxmemory 256mb --maxmemory-policy allkeys-lfu" in cache
    assert "--appendonly no" in cache
    for part in (parts["valkey-ledger"], parts["valkey-cache"]):
        assert "--port 0" in " ".join(part.command)
        assert isinstance(part.probe, ValkeyPing)


@pytest.mark.parametrize(
    ("engine", "module"), [(TwinEngine(), "inference.twin.main"), (SglangEngine(), "mesh.local.sglang")]
)
def test_an_engine_that_starts_here_is_a_part(engine: Engine, module: str) -> None:
    part = named(engine)["engine"]
    assert module in part.command
    assert part.probe == HttpOk(where=30001, path="/ready")
    assert endpoints_of(region(engine))["sglang.tidegate.svc.cluster.local"] == [
        {"address": "127.0.0.1", "port": 30001}
    ]


def test_remote_pods_are_only_endpoints() -> None:
    remote = RemoteEngine(pods=(("127.0.0.1", 30000), ("localhost", 30002)))
    assert "engine" not in named(remote)
    assert endpoints_of(region(remote))["sglang.tidegate.svc.cluster.local"] == [
        {"address": "127.0.0.1", "port": 30000},
        {"address": "127.0.0.1", "port": 30002},
    ]


def test_every_worker_is_an_endpoint_of_its_own() -> None:
    found = endpoints_of(region(TwinEngine()))
    for host in ("ext-authz", "ext-proc"):
        assert found[f"{host}.tidegate.svc.cluster.local"] == [
            {"pipe": f"/state/run/{host}-0.sock"},
            {"pipe": f"/state/run/{host}-1.sock"},
        ]


def test_envoy_gets_the_threads_that_were_asked_for() -> None:
    command = {part.name: part for part in parts_of(region(TwinEngine(), concurrency=3))}["envoy"].command
    assert "--concurrency 3" in " ".join(command)
    assert "--disable-hot-restart" in command
