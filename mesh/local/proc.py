"""Who a process is: pid, start time and our marker in its environment, read from /proc.

A pid alone says nothing after a crash: it may be someone else's by then. Nothing is ever ended here or
elsewhere in mesh.local unless start time and marker say that this state directory started it.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

MARKER: Final = "_TG_STATE"
"""Environment variable of every process we start. Not TIDEGATE_*: those are settings, and unknown ones
are refused."""
_PROC: Final = Path("/proc")


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """One process for as long as the machine runs. ``started`` is /proc's start time in clock ticks."""

    pid: int
    started: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """A living process. ``marker`` is empty when it has none or its environment cannot be read."""

    identity: Identity
    session: int
    marker: str


def _stat_fields(pid: int) -> list[str] | None:
    try:
        text = (_PROC / str(pid) / "stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    # The command's name may hold spaces and brackets; the fields after the last ")" are plain.
    return text.rpartition(")")[2].split()


def identity_of(pid: int) -> Identity | None:
    """The identity of the living process ``pid``; None when there is none (a zombie is none)."""
    fields = _stat_fields(pid)
    if fields is None or len(fields) < 20 or fields[0] in "ZX":
        return None
    return Identity(pid=pid, started=int(fields[19]))


def is_alive(identity: Identity) -> bool:
    """Whether exactly this process still runs."""
    return identity_of(identity.pid) == identity


def _marker_of(pid: int) -> str:
    try:
        environment = (_PROC / str(pid) / "environ").read_bytes()
    except OSError:
        return ""
    prefix = MARKER.encode() + b"="
    for entry in environment.split(b"\0"):
        if entry.startswith(prefix):
            return entry[len(prefix) :].decode("utf-8", "replace")
    return ""


def seen_processes() -> list[Seen]:
    """All living processes of this user."""
    found = []
    own = os.getuid()
    for entry in _PROC.iterdir():
        if not entry.name.isdigit():
            continue
        pid = int(entry.name)
        try:
            if entry.stat().st_uid != own:
                continue
        except OSError:
            continue
        fields = _stat_fields(pid)
        identity = identity_of(pid)
        if fields is not None and identity is not None:
            found.append(Seen(identity=identity, session=int(fields[3]), marker=_marker_of(pid)))
    return found


def descendants_of_run(
    marker: str, run_started: int, recorded: Iterable[Identity], seen: Sequence[Seen]
) -> list[Identity]:
    """Which of ``seen`` belong to the run with ``marker`` (random for each run; its supervisor started
    at ``run_started``).

    A process belongs when it carries the marker and is not older than the run. A process that wrote
    over its environment (setproctitle does) belongs when the leader of its session is one that we
    recorded, alive and the same: a session cannot be joined from outside.
    """
    ours = [p for p in seen if marker and p.marker == marker and p.identity.started >= run_started]
    leaders = set(recorded) & {p.identity for p in ours}
    sessions = {leader.pid for leader in leaders}
    chosen = {p.identity for p in ours}
    chosen.update(
        p.identity
        for p in seen
        if not p.marker and p.session in sessions and p.identity.started >= run_started
    )
    return sorted(chosen, key=lambda identity: identity.pid)


def send(identity: Identity, sign: signal.Signals) -> bool:
    """Signals exactly this process. False when it is gone.

    The pidfd pins the process, so that the check and the signal mean the same one (pidfd_open(2)).
    """
    try:
        handle = os.pidfd_open(identity.pid)
    except OSError:
        return False
    try:
        if not is_alive(identity):
            return False
        signal.pidfd_send_signal(handle, sign)
    except OSError:
        return False
    finally:
        os.close(handle)
    return True
