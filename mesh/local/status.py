"""What ``tidegate status`` shows: written by the supervisor at each change, read by everyone else."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path
from typing import Any

import orjson

from mesh.local.layout import Layout
from mesh.local.part import PartView, State
from mesh.local.record import running_supervisor, write_atomic


class Overall(Enum):
    """Where the whole gateway stands."""

    STARTING = "starting"
    LOADING = "loading"
    READY = "ready"
    DEGRADED = "degraded"
    STOPPING = "stopping"
    STOPPED = "stopped"
    FAILED = "failed"


ANSWERING = frozenset({Overall.LOADING, Overall.READY, Overall.DEGRADED})
"""States in which the gateway answers; while LOADING with 503 and Retry-After."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """One moment. ``to_json`` keeps its keys from release to release."""

    state: Overall
    pid: int | None = None
    started_ms: int = 0
    base_url: str = ""
    operators_url: str = ""
    engine: str = ""
    model: str = ""
    notice: str = ""
    parts: tuple[PartView, ...] = ()

    def to_json(self) -> bytes:
        """UTF-8 JSON with the fields as keys; enums by value."""
        return orjson.dumps(self, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


def _part_from(data: dict[str, Any]) -> PartView:
    return PartView(**{**data, "state": State(data["state"])})


def status_from(text: bytes) -> Status:
    """The inverse of ``to_json``. Raises ValueError, KeyError or TypeError for anything else."""
    data = orjson.loads(text)
    parts = tuple(_part_from(part) for part in data.pop("parts"))
    return Status(**{**data, "state": Overall(data["state"]), "parts": parts})


def read_status(layout: Layout) -> Status:
    """The status of the gateway on this state directory; STOPPED when no supervisor lives."""
    supervisor = running_supervisor(layout)
    if supervisor is None:
        return Status(state=Overall.STOPPED)
    try:
        status = status_from(layout.status.read_bytes())
    except (OSError, ValueError, KeyError, TypeError):
        return Status(state=Overall.STARTING, pid=supervisor.pid)
    if status.pid != supervisor.pid:
        return Status(state=Overall.STARTING, pid=supervisor.pid)
    return status


class Board:
    """The supervisor's side: collects changes and keeps the file."""

    def __init__(self, path: Path, status: Status) -> None:
        """Writes the first status. Raises OSError."""
        self._path = path
        self._in_service = False
        self.status = status
        self._write()

    def _write(self) -> None:
        # A disk that fills up later costs a fresh status, not the service.
        with contextlib.suppress(OSError) if self._in_service else contextlib.nullcontext():
            write_atomic(self._path, self.status.to_json())

    def show(self, view: PartView) -> None:
        """Notes a part's change. Raises OSError until the gateway answered."""
        known = [view if part.name == view.name else part for part in self.status.parts]
        if view not in known:
            known.append(view)
        self.status = self._judged(replace(self.status, parts=tuple(known)))
        self._write()

    def enter(self, state: Overall, notice: str = "") -> None:
        """Notes where the whole stands. Raises OSError until the gateway answered."""
        self._in_service = self._in_service or state in ANSWERING
        self.status = self._judged(replace(self.status, state=state, notice=notice))
        self._write()

    @staticmethod
    def _judged(status: Status) -> Status:
        """READY means that every part is ready now."""
        if status.state not in (Overall.READY, Overall.DEGRADED):
            return status
        whole = all(part.state is State.READY for part in status.parts)
        return replace(status, state=Overall.READY if whole else Overall.DEGRADED)
