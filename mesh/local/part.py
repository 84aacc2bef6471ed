"""One process of a region: how it is started, when it is ready, what it needs. Data only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum

from mesh.local.probes import Probe


class State(Enum):
    """Where a part stands."""

    WAITING = "waiting"
    STARTING = "starting"
    READY = "ready"
    RESTARTING = "restarting"
    UNHEALTHY = "unhealthy"
    FAILED = "failed"
    STOPPING = "stopping"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """``env`` is added to the caller's environment. ``after`` names parts that must have been ready once.

    ``ready_s`` bounds the start; ``stop_s`` is how long it may take to end after SIGTERM. A part with
    ``gate`` False is not waited for before the gateway is said to answer (an engine that loads).
    """

    name: str
    command: Sequence[str]
    probe: Probe
    env: Mapping[str, str] = field(default_factory=dict)
    after: tuple[str, ...] = ()
    ready_s: float = 30.0
    stop_s: float = 5.0
    gate: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class PartView:
    """What people and ``status --json`` see of a part. ``seconds`` is the time its last start took."""

    name: str
    state: State
    pid: int | None = None
    restarts: int = 0
    since_ms: int = 0
    seconds: float | None = None
    detail: str = ""


def checked_order(parts: Sequence[Part]) -> list[list[str]]:
    """Names in start order: each inner list may start together. Raises ValueError for an unknown
    dependency, a name twice or a circle."""
    names = [part.name for part in parts]
    if len(set(names)) != len(names):
        raise ValueError(f"a part's name stands twice in {names}")
    waiting = {part.name: set(part.after) for part in parts}
    for name, needs in waiting.items():
        if unknown := needs - set(names):
            raise ValueError(f"{name} needs {sorted(unknown)}, which is no part")
    levels: list[list[str]] = []
    done: set[str] = set()
    while waiting:
        level = [name for name, needs in waiting.items() if needs <= done]
        if not level:
            raise ValueError(f"{sorted(waiting)} need each other in a circle")
        levels.append(level)
        done.update(level)
        for name in level:
            del waiting[name]
    return levels
