"""The state directory: where everything of one local region lives.

One directory, mode 0700 because it holds keys. Unix sockets have paths of at most 107 bytes, so under
a deep directory they move to a private directory in /tmp named by the state's path.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mesh.local.refusal import Refusal

CHECKOUT: Final = Path(__file__).resolve().parents[2]
"""The directory that holds the packages, ./tidegate and mesh/base."""
BASE: Final = CHECKOUT / "mesh" / "base"
"""The policy that ``up`` runs unless told otherwise."""
EXEC_BOUND: Final = CHECKOUT / "mesh" / "local" / "exec_bound.py"
"""The program through which processes are started that end with who started them."""
DEFAULT_STATE: Final = CHECKOUT / ".tidegate"
RUN_PATH_CHARS_MAX: Final = 80
"""sun_path holds 107 bytes; the longest socket name takes 20 and Valkey's temporary ones a few more."""
FREE_BYTES_MIN: Final = 128 * 1024 * 1024
"""Logs, metrics and the first hours of books and ledger."""
DIRECTORY_MODE: Final = 0o700


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Paths of one state directory. ``state`` and ``run`` are absolute."""

    state: Path
    run: Path

    @property
    def logs(self) -> Path:
        """One ``<part>.log`` for each part, with one older ``<part>.log.1``."""
        return self.state / "logs"

    @property
    def ledger(self) -> Path:
        """The ledger Valkey's append-only file."""
        return self.state / "ledger"

    @property
    def cache(self) -> Path:
        """The cache Valkey's working directory; nothing of value."""
        return self.state / "cache"

    @property
    def recall(self) -> Path:
        """The table of stored questions."""
        return self.state / "recall"

    @property
    def learnt(self) -> Path:
        """What the recall process has learnt of wrong hits."""
        return self.state / "learnt"

    @property
    def embedders(self) -> Path:
        """The embedder's prepared model; made when a rule of cache.yaml wants it."""
        return self.state / "embedders"

    @property
    def policy(self) -> Path:
        """budgets.yaml, models.yaml, cache.yaml, auth.yaml as the processes read them."""
        return self.state / "policy"

    @property
    def secrets(self) -> Path:
        """Keys made at the first start."""
        return self.state / "secrets"

    @property
    def books(self) -> Path:
        """The bookkeeper's segments."""
        return self.state / "books"

    @property
    def metrics(self) -> Path:
        """prometheus_client's memory-mapped files; emptied at each start."""
        return self.state / "metrics"

    @property
    def envoy_config(self) -> Path:
        """The compiled, validated Envoy config in use."""
        return self.state / "envoy.json"

    @property
    def endpoints(self) -> Path:
        """Which host of the mesh is reached where, on this machine."""
        return self.state / "endpoints.yaml"

    @property
    def status(self) -> Path:
        """What the supervisor last said; see mesh/local/status.py."""
        return self.state / "status.json"

    @property
    def processes(self) -> Path:
        """Who was started, for the start after a kill -9."""
        return self.state / "processes.json"

    @property
    def lock(self) -> Path:
        """Held (flock) by the supervisor as long as it lives."""
        return self.state / "lock"

    def socket(self, name: str) -> Path:
        """The Unix socket of ``name``."""
        return self.run / f"{name}.sock"

    def log(self, part: str) -> Path:
        """The log file of ``part``."""
        return self.logs / f"{part}.log"


def layout_of(state: Path) -> Layout:
    """The layout of the state directory ``state``; touches nothing."""
    absolute = Path(os.path.abspath(state))  # noqa: PTH100  # .resolve() would follow symbolic links
    run = absolute / "run"
    if len(str(run)) > RUN_PATH_CHARS_MAX:
        digest = hashlib.sha256(str(absolute).encode()).hexdigest()[:16]
        run = Path(f"/tmp/tidegate-{os.getuid()}-{digest}")
    return Layout(state=absolute, run=run)


def prepare(layout: Layout) -> None:
    """Makes the directories. Raises Refusal for a run directory that someone else made, OSError."""
    layout.state.mkdir(mode=DIRECTORY_MODE, parents=True, exist_ok=True)
    for directory in (
        layout.logs,
        layout.ledger,
        layout.cache,
        layout.policy,
        layout.secrets,
        layout.books,
        layout.metrics,
        layout.run,
    ):
        directory.mkdir(mode=DIRECTORY_MODE, exist_ok=True)
    # /tmp is shared: a directory (or link) that another user put there could catch our sockets.
    found = layout.run.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise Refusal(
            f"{layout.run} is not a private directory of yours", "remove it, or choose another --state DIR"
        )


def refuse_full_disk(layout: Layout) -> None:
    """Raises Refusal when the state's disk has not even room to start.

    Asked beforehand, because the metrics' memory-mapped files answer a full disk with SIGBUS, which no
    process survives to explain.
    """
    free = shutil.disk_usage(layout.state).free
    if free < FREE_BYTES_MIN:
        raise Refusal(
            f"the disk of {layout.state} is full ({free // 1024**2} MiB free)",
            f"free {FREE_BYTES_MIN // 1024**2} MiB, or choose a state directory elsewhere with --state DIR",
        )


def clear_run(layout: Layout) -> None:
    """Removes sockets and metrics that an earlier run left. Only call with the state's lock held."""
    for leftover in (*layout.run.glob("*.sock"), *layout.metrics.glob("*.db")):
        leftover.unlink(missing_ok=True)
