"""The lock on a state directory and the record of what a run started, for the start after a kill -9."""

from __future__ import annotations

import fcntl
import os
import secrets
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import orjson

from gateway.contract.clock import Clock
from mesh.local.layout import Layout
from mesh.local.proc import Identity, descendants_of_run, identity_of, is_alive, seen_processes, send
from mesh.local.refusal import Refusal

LEFTOVER_GRACE_S: Final = 3.0
"""Leftovers got a SIGTERM from the kernel when their supervisor died; this is their second chance."""
_POLL_S: Final = 0.05


def write_atomic(path: Path, data: bytes) -> None:
    """Readers see the old or the new content, never half. Raises OSError."""
    fresh = path.with_name(path.name + ".new")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
    fresh.replace(path)


@contextmanager
def held_lock(layout: Layout) -> Iterator[None]:
    """The state directory is ours while this is open. Raises Refusal with the pid of the holder.

    flock: the kernel lets go when the process ends, however it ends.
    """
    descriptor = os.open(layout.lock, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip() or "unknown"
            raise Refusal(
                f"a gateway already runs on {layout.state} (pid {holder})",
                "stop it with './tidegate down', or choose another --state DIR and --port P",
            ) from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)


@dataclass(slots=True, kw_only=True)
class RunRecord:
    """What this run started. ``marker`` is unique to the run; kept on disk as it changes."""

    path: Path
    marker: str
    supervisor: Identity
    parts: dict[str, tuple[Identity, tuple[str, ...]]] = field(default_factory=dict)

    def save(self) -> None:
        """Raises OSError."""
        write_atomic(
            self.path,
            orjson.dumps(
                {
                    "marker": self.marker,
                    "supervisor": {"pid": self.supervisor.pid, "started": self.supervisor.started},
                    "parts": {
                        name: {"pid": identity.pid, "started": identity.started, "argv": argv}
                        for name, (identity, argv) in self.parts.items()
                    },
                },
                option=orjson.OPT_INDENT_2,
            ),
        )

    def started(self, part: str, identity: Identity, argv: tuple[str, ...]) -> None:
        """Notes a start. Raises OSError."""
        self.parts[part] = (identity, argv)
        self.save()

    def ended(self, part: str) -> None:
        """Notes an end. Raises OSError."""
        self.parts.pop(part, None)
        self.save()

    def living(self) -> list[Identity]:
        """Everything that this run started and that still runs, with children of children."""
        recorded = [identity for identity, _ in self.parts.values()]
        return descendants_of_run(self.marker, self.supervisor.started, recorded, seen_processes())

    def session_of(self, leader: int, *, leader_alive: bool) -> set[Identity]:
        """Living members of the session that the part ``leader`` made."""
        members = [seen for seen in seen_processes() if seen.session == leader]
        return {seen.identity for seen in members if leader_alive or seen.marker == self.marker}


def new_record(layout: Layout) -> RunRecord:
    """The record of a run that begins now in this process. Raises OSError."""
    own = identity_of(os.getpid())
    if own is None:
        raise Refusal("/proc does not show this process", "run where /proc is mounted")
    record = RunRecord(
        path=layout.processes, marker=f"{layout.state}:{secrets.token_hex(16)}", supervisor=own
    )
    record.save()
    return record


def read_record(layout: Layout) -> RunRecord | None:
    """The last run's record; None when there is none or it is not readable as one."""
    try:
        data = orjson.loads(layout.processes.read_bytes())
        return RunRecord(
            path=layout.processes,
            marker=str(data["marker"]),
            supervisor=Identity(
                pid=int(data["supervisor"]["pid"]), started=int(data["supervisor"]["started"])
            ),
            parts={
                str(name): (
                    Identity(pid=int(part["pid"]), started=int(part["started"])),
                    tuple(str(word) for word in part["argv"]),
                )
                for name, part in data["parts"].items()
            },
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def running_supervisor(layout: Layout) -> Identity | None:
    """The living supervisor of this state directory."""
    record = read_record(layout)
    return record.supervisor if record is not None and is_alive(record.supervisor) else None


def end_leftovers(record: RunRecord, clock: Clock, *, grace_s: float = LEFTOVER_GRACE_S) -> int:
    """Ends what a dead run left behind; returns how many there were. Blocks at most twice ``grace_s``."""
    left = record.living()
    count = len(left)
    for sign in (signal.SIGTERM, signal.SIGKILL):
        for identity in left:
            send(identity, sign)
        until = clock.monotonic_s() + grace_s
        while left and clock.monotonic_s() < until:
            time.sleep(_POLL_S)
            left = record.living()
    if left:
        raise Refusal(
            f"processes of an earlier run do not end (pids {', '.join(str(p.pid) for p in left)})",
            "end them by hand, then run this again",
        )
    return count
