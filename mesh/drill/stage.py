"""A gateway of a drill: a state directory of its own, free ports, the twin, and workers that die by plan.

Started by the product's own supervisor code. Ends only what it started.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Final

import orjson

from gateway.config.environment import inherited
from gateway.contract.clock import Clock
from gateway.contract.ids import KeyId, OrgId, TeamId, Tier, UserId
from gateway.contract.principal import Principal
from gateway.keys.key_file import create_api_key
from gateway.telemetry.metrics import forget_process
from mesh.drill.nursery import Plan
from mesh.local.credentials import API_KEYS_FILE, ensure_credentials
from mesh.local.engine import TwinEngine
from mesh.local.layout import BASE, Layout, clear_run, layout_of, prepare, refuse_full_disk
from mesh.local.part import Part, State
from mesh.local.policy import PolicyFollower, programs
from mesh.local.ports import free_port, refuse_taken
from mesh.local.proc import Identity, identity_of, send
from mesh.local.record import held_lock, new_record
from mesh.local.refusal import Refusal
from mesh.local.region import Region, parts_of
from mesh.local.supervisor import Supervisor
from mesh.local.up import DEFAULT_MODEL

LEDGER: Final = "valkey-ledger"
ENGINE: Final = "engine"
TIER: Final = "drill"
READY_S: Final = 120.0
"""For everything to be ready, on a machine that does other things too."""
LEASES: Final = {"share": 4, "requests_least": 1}
"""Larger parts of smaller rests than in service: a drill's budgets are small, and a lease is to be made and
lost near the limit too."""
_PORT_TRIES: Final = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """One API key. ``limit``: of its tokens over all time, -1 for none; ``org_limit`` likewise of its org."""

    org: str
    key: str
    limit: int
    org_limit: int


def budgets_text(callers: Sequence[Caller], *, leases: bool) -> str:
    """budgets.yaml for ``callers``: limits over all time, so that no window ends during a drill."""
    orgs: dict[str, object] = {}
    for caller in callers:
        org = orgs.setdefault(caller.org, {**_limits(caller.org_limit), "keys": {}})
        assert isinstance(org, dict)
        org["keys"][caller.key] = _limits(caller.limit)
    tiers = {TIER: {"priority": 0, "priority_class": "standard", "key": {}}}
    policy = {"version": 1, "minimum_completion_tokens": 1, "tiers": tiers, "orgs": orgs}
    if leases:
        policy["leases"] = {"enabled": True, **LEASES}
    # JSON is YAML.
    return orjson.dumps(policy, option=orjson.OPT_INDENT_2).decode()


def _limits(tokens: int) -> dict[str, object]:
    unlimited = 10**12
    """A window that refuses nothing, so that the account has one over all time."""
    return {"limits": [{"tokens": unlimited if tokens < 0 else tokens, "per": "lifetime"}]}


def overlay(directory: Path, budgets: str) -> Path:
    """A kustomize overlay on mesh/base with these budgets."""
    directory.mkdir(parents=True)
    (directory / "budgets.yaml").write_text(budgets, encoding="utf-8")
    kustomization = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "buildMetadata": ["originAnnotations"],
        "resources": [os.path.relpath(BASE, directory.resolve())],
        "generatorOptions": {"disableNameSuffixHash": True},
        "configMapGenerator": [
            {
                "name": "tidegate-policy",
                "namespace": "tidegate",
                "behavior": "merge",
                "files": ["budgets.yaml"],
            }
        ],
    }
    (directory / "kustomization.yaml").write_bytes(orjson.dumps(kustomization))
    return directory


def drilled(part: Part, plan_file: Path, engine_options: Sequence[str]) -> Part:
    """``part`` as the drill runs it: filters and bookkeeper in a nursery, the twin with its truth log."""

    def nursery(role: str) -> Part:
        command = (sys.executable, "-P", "-m", "mesh.drill.nursery")
        return replace(
            part, command=(*command, "--role", role, "--name", part.name, "--plan", str(plan_file))
        )

    if part.name.startswith("ext-proc"):
        return nursery("filter")
    if part.name == "bookkeeper":
        return nursery("bookkeeper")
    if part.name == ENGINE:
        return replace(part, command=(*part.command, *engine_options))
    return part


class Stage:
    """Use: ``async with Stage(...).running() as stage``."""

    def __init__(
        self,
        work: Path,
        callers: Sequence[Caller],
        plan: Plan,
        clock: Clock,
        *,
        engine_options: Sequence[str] = (),
        leases: bool = False,
    ) -> None:
        """Everything stands under ``work``; ``plan`` is what the workers die by."""
        self.layout: Layout = layout_of(work / "state")
        self.truth = work / "truth.jsonl"
        self.clock = clock
        self.api_keys: dict[str, str] = {}
        self._work, self._callers, self._plan, self._leases = work, callers, plan, leases
        self._engine_options = (*engine_options, "--truth", str(self.truth))
        self._region: Region | None = None
        self._supervisor: Supervisor | None = None

    @property
    def base_url(self) -> str:
        """Where the gateway answers."""
        return f"http://127.0.0.1:{self._of().port}/v1"

    @property
    def engine_url(self) -> str:
        """Where the twin answers."""
        return f"http://127.0.0.1:{self._of().engine_port}"

    @property
    def ledger_url(self) -> str:
        """The ledger's Valkey."""
        return f"unix://{self.layout.socket('ledger')}"

    def _of(self) -> Region:
        if self._region is None:
            raise RuntimeError("the stage is not running")
        return self._region

    def restarts(self, part: str) -> int:
        """How often the supervisor started ``part`` again."""
        return self._supervisor.views[part].restarts if self._supervisor else 0

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Stage]:
        """Everything is ready inside, everything is gone after. Raises Refusal, PolicyError."""
        os.umask(0o077)
        prepare(self.layout)
        refuse_full_disk(self.layout)
        with held_lock(self.layout):
            clear_run(self.layout)
            parts = await asyncio.to_thread(self._prepared)
            record = new_record(self.layout)
            supervisor = self._supervisor = Supervisor(
                parts,
                layout=self.layout,
                record=record,
                environment=inherited(),
                clock=self.clock,
                random=Random(),
                on_death=lambda pid: forget_process(pid, str(self.layout.metrics)),
            )
            stop = asyncio.Event()
            running = asyncio.create_task(supervisor.run(stop))
            try:
                await self._until_ready(supervisor, running)
                yield self
            finally:
                stop.set()
                await running

    async def _until_ready(self, supervisor: Supervisor, running: asyncio.Task[None]) -> None:
        ready = asyncio.create_task(supervisor.wait_all())
        await asyncio.wait({running, ready}, timeout=READY_S, return_when=asyncio.FIRST_COMPLETED)
        if running.done():
            running.result()
        if not ready.done():
            ready.cancel()
            missing = [name for name, view in supervisor.views.items() if view.state is not State.READY]
            raise Refusal(
                f"not ready within {READY_S:.0f} s: {', '.join(missing)}", f"see {self.layout.logs}"
            )

    def _prepared(self) -> list[Part]:
        """Credentials, policy and plan on disk; the parts. Raises Refusal, PolicyError."""
        random = Random()
        envoy, valkey = programs(None)
        region = self._region = Region(
            layout=self.layout,
            port=_two_ports(random),
            engine=TwinEngine(),
            engine_port=free_port(random),
            model=DEFAULT_MODEL,
            envoy=envoy,
            valkey=valkey,
            tools=self._work,
        )
        ensure_credentials(self.layout.secrets, self.clock)
        for caller in self._callers:
            self.api_keys[caller.key] = create_api_key(
                self.layout.secrets / API_KEYS_FILE, _principal(caller), created_ms=self.clock.unix_ms()
            )
        mesh = overlay(self._work / "mesh", budgets_text(self._callers, leases=self._leases))
        PolicyFollower(region, mesh).write()
        plan_file = self._work / "plan.json"
        self._plan.write(plan_file)
        return [drilled(part, plan_file, self._engine_options) for part in parts_of(region)]

    def kill(self, part: str) -> bool:
        """SIGKILL; False while it is just restarting."""
        identity = self._identity(part)
        return identity is not None and send(identity, signal.SIGKILL)

    async def freeze(self, part: str, seconds: float) -> bool:
        """SIGSTOP, and SIGCONT after ``seconds``, whatever happens in between."""
        identity = self._identity(part)
        if identity is None or not send(identity, signal.SIGSTOP):
            return False
        try:
            await asyncio.sleep(seconds)
        finally:
            send(identity, signal.SIGCONT)
        return True

    def _identity(self, part: str) -> Identity | None:
        view = self._supervisor.views[part] if self._supervisor else None
        if view is None or view.pid is None or view.state is not State.READY:
            return None
        return identity_of(view.pid)


def _two_ports(random: Random) -> int:
    for _ in range(_PORT_TRIES):
        port = free_port(random)
        with contextlib.suppress(Refusal):
            refuse_taken(port + 1, use="the operators' listener")
            return port
    raise Refusal("no two neighbouring free ports", "end some servers on 127.0.0.1")


def _principal(caller: Caller) -> Principal:
    return Principal(
        org=OrgId(caller.org),
        team=TeamId("drill"),
        user=UserId(caller.key),
        key=KeyId(caller.key),
        tier=Tier(TIER),
    )
