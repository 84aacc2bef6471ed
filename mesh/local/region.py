"""The parts of one region on one machine, and where the mesh finds them. Data only: nothing starts here."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, assert_never

from mesh.local.credentials import OPERATOR_KEY_FILE
from mesh.local.engine import Engine, RemoteEngine, SglangEngine, TwinEngine, resolved
from mesh.local.layout import CHECKOUT, Layout
from mesh.local.part import Part
from mesh.local.probes import GrpcHealth, HttpOk, ValkeyPing

WORKERS: Final = 2
"""Processes of each filter: one may die, be frozen or restart while the other serves."""
REGION: Final = "local"
CACHE_MEMORY: Final = "256mb"
"""The cache's bound; Valkey evicts the least used beyond it."""
MESH_HOST: Final = ".tidegate.svc.cluster.local"
STOP_DRAIN_S: Final = 5.0
"""A stop on one machine is wanted now: Envoy goes first, so filters have nothing left to drain."""
ENGINE_READY_S: Final = 1800.0
"""The first start of SGLang installs 2.7 GB; a slow line needs its time."""

Endpoint = dict[str, str | int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Region:
    """What ``up`` decided. Ports are on 127.0.0.1; ``engine_port`` counts only for engines started here."""

    layout: Layout
    port: int
    engine: Engine
    engine_port: int
    model: str
    envoy: Path
    valkey: Path
    tools: Path
    concurrency: int = 1
    log_level: str = "info"


def _python(module: str, *arguments: str) -> tuple[str, ...]:
    # -P: the directory a process stands in must not shadow a package.
    return (sys.executable, "-P", "-m", module, *arguments)


def _python_env(of: Region, /, **settings: object) -> dict[str, str]:
    """Exactly the variables a process knows: it refuses unknown TIDEGATE_* ones."""
    named = {f"TIDEGATE_{name.upper()}": str(value) for name, value in settings.items()}
    return {
        **named,
        "TIDEGATE_LOG_LEVEL": of.log_level,
        "PYTHONPATH": str(CHECKOUT),
        "PROMETHEUS_MULTIPROC_DIR": str(of.layout.metrics),
        # gRPC's older listener polls in the thread that waits for events; its event engine hands each one
        # over from threads of its own, a fifth of a filter's stream. A gRPC without the choice ignores it.
        "GRPC_EXPERIMENTS": "-event_engine_listener",
    }


def _valkey(region: Region, name: str, directory: Path, *settings: str) -> Part:
    socket = region.layout.socket(name)
    return Part(
        name=f"valkey-{name}",
        command=(
            str(region.valkey),
            *("--port", "0", "--unixsocket", str(socket), "--unixsocketperm", "600"),
            *("--dir", str(directory), "--daemonize", "no", "--logfile", ""),
            # Valkey would write its title over the environment, and with it over our marker.
            *("--set-proc-title", "no"),
            *settings,
        ),
        probe=ValkeyPing(socket=socket),
        stop_s=10.0,
    )


def _stores(region: Region) -> list[Part]:
    ledger = ("--appendonly", "yes", "--appendfsync", "everysec", "--save", "")
    cache = ("--maxmemory", CACHE_MEMORY, "--maxmemory-policy", "allkeys-lfu")
    return [
        _valkey(region, "ledger", region.layout.ledger, *ledger, "--maxmemory-policy", "noeviction"),
        _valkey(region, "cache", region.layout.cache, *cache, "--appendonly", "no", "--save", ""),
    ]


def _filters(region: Region) -> list[Part]:
    at = region.layout
    parts = []
    for index in range(WORKERS):
        authz, proc = at.socket(f"ext-authz-{index}"), at.socket(f"ext-proc-{index}")
        parts.append(
            Part(
                name=f"ext-authz-{index}",
                command=_python("ext_authz.main"),
                env=_python_env(region, listen=authz, policy_dir=at.policy, secrets_dir=at.secrets),
                probe=GrpcHealth(socket=authz),
                stop_s=STOP_DRAIN_S,
            )
        )
        parts.append(
            Part(
                name=f"ext-proc-{index}",
                command=_python("ext_proc.main"),
                env=_python_env(
                    region,
                    region=REGION,
                    listen=proc,
                    policy_dir=at.policy,
                    secrets_dir=at.secrets,
                    ledger_url=f"unix://{at.socket('ledger')}",
                    cache_url=f"unix://{at.socket('cache')}",
                    spool_dir=at.state / "spool",
                    recall_socket=at.socket("recall"),
                ),
                probe=GrpcHealth(socket=proc),
                after=("valkey-ledger", "valkey-cache"),
                stop_s=STOP_DRAIN_S,
            )
        )
    return parts


def _services(region: Region) -> list[Part]:
    at = region.layout
    ledger_url = f"unix://{at.socket('ledger')}"
    return [
        Part(
            name="bookkeeper",
            command=_python("gateway.bookkeeper.main"),
            env=_python_env(
                region,
                region=REGION,
                listen=at.socket("bookkeeper"),
                ledger_url=ledger_url,
                books_dir=at.books,
                access_spool_dir=at.state / "spool" / "access",
            ),
            probe=GrpcHealth(socket=at.socket("bookkeeper")),
            after=("valkey-ledger",),
            stop_s=STOP_DRAIN_S,
        ),
        Part(
            name="api",
            command=_python("gateway.api.main"),
            env=_python_env(
                region,
                region=REGION,
                listen=at.socket("api"),
                policy_dir=at.policy,
                secrets_dir=at.secrets,
                books_dir=at.books,
                ledger_url=ledger_url,
            ),
            probe=HttpOk(where=at.socket("api"), path="/healthz"),
            after=("valkey-ledger",),
            stop_s=STOP_DRAIN_S,
        ),
    ]


def _recall(region: Region) -> Part:
    """No gate: the gateway answers without it, as it does while it loads its embedder."""
    at = region.layout
    return Part(
        name="recall",
        command=_python("ext_proc.recall.main"),
        env=_python_env(
            region,
            listen=at.socket("recall"),
            policy_dir=at.policy,
            secrets_dir=at.secrets,
            cache_url=f"unix://{at.socket('cache')}",
            table_url=at.recall,
            models_dir=at.embedders,
            checks_dir=at.learnt,
            gateway_url=f"http://127.0.0.1:{region.port}",
            operator_key_file=at.secrets / OPERATOR_KEY_FILE,
            ledger_url=f"unix://{at.socket('ledger')}",
        ),
        probe=GrpcHealth(socket=at.socket("recall")),
        after=("valkey-cache", "valkey-ledger"),
        stop_s=STOP_DRAIN_S,
        gate=False,
    )


def _engines(region: Region) -> list[Part]:
    port = str(region.engine_port)
    ready = HttpOk(where=region.engine_port, path="/ready")
    match region.engine:
        case TwinEngine():
            command = _python(
                "inference.twin.main", "--host", "127.0.0.1", "--port", port, "--model", region.model
            )
            return [
                Part(
                    name="engine",
                    command=command,
                    env={"PYTHONPATH": str(CHECKOUT)},
                    probe=ready,
                    gate=False,
                )
            ]
        case SglangEngine():
            command = _python(
                "mesh.local.sglang", "--port", port, "--model", region.model, "--tools", str(region.tools)
            )
            return [
                Part(
                    name="engine",
                    command=command,
                    env={"PYTHONPATH": str(CHECKOUT)},
                    probe=ready,
                    gate=False,
                    ready_s=ENGINE_READY_S,
                    stop_s=15.0,
                )
            ]
        case RemoteEngine():
            return []
        case _:
            assert_never(region.engine)


def _envoy(region: Region, after: Sequence[str]) -> Part:
    command = (
        str(region.envoy),
        *("-c", str(region.layout.envoy_config)),
        *("--concurrency", str(region.concurrency)),
        "--disable-hot-restart",
        *("-l", "warning" if region.log_level != "debug" else "debug"),
    )
    return Part(
        name="envoy",
        command=command,
        probe=HttpOk(where=region.layout.socket("envoy-admin"), path="/ready"),
        after=tuple(after),
    )


def parts_of(region: Region) -> list[Part]:
    """Every process of the region. Envoy waits for the filters, never for the engine: the gateway
    answers 503 with Retry-After while that loads."""
    before = [*_stores(region), *_filters(region), *_services(region)]
    envoy = _envoy(region, [part.name for part in before])
    return [*before, envoy, _recall(region), *_engines(region)]


def endpoints_of(region: Region) -> Mapping[str, list[Endpoint]]:
    """Which host of the mesh is reached where: pipes of the workers, address and port of engines.

    Raises Refusal for a pod whose name is not known.
    """

    def pipes(*names: str) -> list[Endpoint]:
        return [{"pipe": str(region.layout.socket(name))} for name in names]

    match region.engine:
        case RemoteEngine() as remote:
            engines: list[Endpoint] = [{"address": host, "port": port} for host, port in resolved(remote)]
        case SglangEngine() | TwinEngine():
            engines = [{"address": "127.0.0.1", "port": region.engine_port}]
        case _:
            assert_never(region.engine)
    return {
        f"ext-authz{MESH_HOST}": pipes(*(f"ext-authz-{index}" for index in range(WORKERS))),
        f"ext-proc{MESH_HOST}": pipes(*(f"ext-proc-{index}" for index in range(WORKERS))),
        f"bookkeeper{MESH_HOST}": pipes("bookkeeper"),
        f"api{MESH_HOST}": pipes("api"),
        f"sglang{MESH_HOST}": engines,
    }
