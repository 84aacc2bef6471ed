"""What is measured: the upstream alone, bare Envoy with the same hardened listener, the whole path."""

from __future__ import annotations

import copy
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import psutil

from mesh.envoy_binary import envoy_path
from tests.bench.load import BenchError
from tests.harness.gateway import free_ports

ROOT: Final = Path(__file__).resolve().parents[2]
MODEL: Final = "smollm2-135m"
READY_S_MAX: Final = 90
ROUTER: Final = "envoy.filters.http.router"


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for_port(port: int, process: subprocess.Popen[bytes]) -> None:
    """Until something accepts on 127.0.0.1:``port``. Raises BenchError."""
    deadline = time.monotonic() + READY_S_MAX
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise BenchError(f"bench: process {process.args!r} ended with {process.returncode}")
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.02)
    raise BenchError(f"bench: nothing listens on port {port} after {READY_S_MAX} s")


@dataclass(slots=True, kw_only=True)
class Target:
    """One thing to load. ``parts`` groups pids whose CPU time is reported together."""

    name: str
    port: int
    token: str
    parts: dict[str, list[int]] = field(default_factory=dict)

    def cpu_s(self) -> dict[str, float]:
        """User and system seconds spent so far by each part, children included."""
        spent: dict[str, float] = {}
        for part, pids in self.parts.items():
            total = 0.0
            for process in family(pids):
                times = process.cpu_times()
                total += times.user + times.system
            spent[part] = total
        return spent

    def pin(self, cpus: set[int]) -> None:
        """Every thread of every part onto ``cpus``."""
        for process in family([pid for pids in self.parts.values() for pid in pids]):
            for thread in process.threads():
                os.sched_setaffinity(thread.id, cpus)


def family(pids: Iterable[int]) -> list[psutil.Process]:
    """The processes and all their living descendants."""
    found = {}
    for pid in pids:
        root = psutil.Process(pid)
        for process in (root, *root.children(recursive=True)):
            found[process.pid] = process
    return list(found.values())


def bare_bootstrap(bootstrap: dict[str, Any], *, gateway_port: int, port: int, admin: Path) -> dict[str, Any]:
    """The compiled config without filters, tap, access log and policy routes: a hardened plain proxy.

    The listener, its connection manager's hardening and the engine's cluster stay as they are, so
    that the ratio is the price of what Tidegate decides, not of how the edge is hardened.
    """
    bare = copy.deepcopy(bootstrap)
    bare["admin"]["address"] = {"pipe": {"path": str(admin)}}
    listeners = []
    for listener in bare["static_resources"]["listeners"]:
        address = listener["address"]["socket_address"]
        if address["port_value"] != gateway_port:
            continue
        address["port_value"] = port
        for chain in listener["filter_chains"]:
            for network_filter in chain["filters"]:
                _strip(network_filter["typed_config"])
        listeners.append(listener)
    bare["static_resources"]["listeners"] = listeners
    bare["static_resources"]["clusters"] = [
        _without_tap(cluster)
        for cluster in bare["static_resources"]["clusters"]
        if "sglang" in cluster["name"]
    ]
    return bare


def _strip(manager: dict[str, Any]) -> None:
    manager["http_filters"] = [item for item in manager["http_filters"] if item["name"] == ROUTER]
    manager.pop("access_log", None)
    manager.pop("local_reply_config", None)
    for host in manager["route_config"]["virtual_hosts"]:
        host.pop("response_headers_to_add", None)
        host.pop("typed_per_filter_config", None)
        host["routes"] = [
            {"match": {"prefix": "/"}, "route": {**route["route"], "timeout": "0s"}}
            for route in host["routes"]
            if "sglang" in str(route.get("route", {}).get("cluster", ""))
        ][:1]


def _without_tap(cluster: dict[str, Any]) -> dict[str, Any]:
    for options in cluster.get("typed_extension_protocol_options", {}).values():
        options.pop("http_filters", None)
    return cluster


class Upstream:
    """The C engine that answers faster than any gateway asks."""

    def __init__(self, program: Path) -> None:
        """Starts it on a free port."""
        self.port = free_port()
        self.process = subprocess.Popen([str(program), "--port", str(self.port), "--model", MODEL])
        wait_for_port(self.port, self.process)

    def target(self) -> Target:
        """The upstream asked directly."""
        return Target(name="upstream", port=self.port, token="-", parts={"upstream": [self.process.pid]})

    def close(self) -> None:
        """End it."""
        self.process.terminate()
        self.process.wait(10)


class WholePath:
    """The product as a user starts it: ``./tidegate up --engine URL``, in a state of its own."""

    def __init__(self, upstream_port: int, state: Path) -> None:
        """Starts it with the benchmark's overlay: the base with budgets that never refuse."""
        self.state, self.port = state, free_ports()
        self._tidegate(
            "up",
            "--detach",
            *("--engine", f"http://127.0.0.1:{upstream_port}"),
            *("--mesh", str(ROOT / "tests" / "bench" / "overlay")),
            *("--port", str(self.port)),
        )

    def _tidegate(self, *arguments: str) -> str:
        command = [sys.executable, "-m", "mesh", *arguments, "--state", str(self.state)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise BenchError(f"bench: tidegate {arguments[0]} failed: {done.stdout}{done.stderr}")
        return done.stdout

    def target(self) -> Target:
        """The gateway, with its processes grouped as Envoy, Python and Valkey."""
        status = json.loads(self._tidegate("status", "--json"))
        parts: dict[str, list[int]] = {"envoy": [], "python": [], "valkey": []}
        for part in status["parts"]:
            if part["pid"] is None:
                continue
            kind = "envoy" if part["name"] == "envoy" else "valkey" if "valkey" in part["name"] else "python"
            parts[kind].append(part["pid"])
        exported = dict(
            line.removeprefix("export ").split("=", 1)
            for line in self._tidegate("env").splitlines()
            if line.startswith("export ")
        )
        return Target(
            name="tidegate", port=self.port, token=exported["OPENAI_API_KEY"].strip("'\""), parts=parts
        )

    def bootstrap(self) -> dict[str, Any]:
        """The compiled Envoy config it runs on."""
        loaded: dict[str, Any] = json.loads((self.state / "envoy.json").read_text())
        return loaded

    def close(self) -> None:
        """Stop it."""
        self._tidegate("down")


class BareEnvoy:
    """The same Envoy binary and listener, router only."""

    def __init__(self, bootstrap: dict[str, Any], *, gateway_port: int, work_dir: Path) -> None:
        """Starts it on a free port."""
        self.port = free_port()
        config = work_dir / "bare.json"
        config.write_text(
            json.dumps(
                bare_bootstrap(
                    bootstrap, gateway_port=gateway_port, port=self.port, admin=work_dir / "admin.sock"
                )
            )
        )
        command = [
            str(envoy_path()),
            "-c",
            str(config),
            "--concurrency",
            "1",
            "--disable-hot-restart",
            "-l",
            "error",
        ]
        self.process = subprocess.Popen(command, cwd=work_dir)
        wait_for_port(self.port, self.process)

    def target(self) -> Target:
        """Bare Envoy."""
        return Target(name="bare envoy", port=self.port, token="-", parts={"envoy": [self.process.pid]})

    def close(self) -> None:
        """End it."""
        self.process.terminate()
        self.process.wait(10)
