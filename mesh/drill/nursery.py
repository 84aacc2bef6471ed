"""``python -m mesh.drill.nursery``: a worker of the product that dies by plan, again and again.

    python -m mesh.drill.nursery --role filter --name ext-proc-0 --plan plan.json

The product's modules are imported once; each life is a fork that runs the product's own ``main``, with the
drill's crash points around it (worker.py). So a new life costs a tenth of a second where a new interpreter
costs one, and 500 kills fit into minutes. Every life that ends is written down with the signal it died of;
one that ends by itself ends the nursery with its exit code, for the supervisor to see.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import os
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import orjson

from gateway.telemetry.metrics import forget_process
from mesh.drill.crash import EVENT_LABELS, FILTER_LABELS, CrashPoints, Fate, fate_of
from mesh.drill.worker import Fault, live

PAUSE_S: Final = 0.05
"""Between two lives: Envoy is to see the refused connection too."""
_PR_SET_PDEATHSIG: Final = 1
ROLES: Final = {"filter": FILTER_LABELS, "bookkeeper": EVENT_LABELS}


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What the runner wrote for its workers. ``lua``: the ledger's functions with a planted bug.
    ``leases``: workers hold some, and some live longer for it."""

    seed: int
    requests: int
    journal: Path
    deaths: Path
    calm: Path
    metrics: Path
    lua: Path | None
    ttl_ms: int
    leases: bool

    def write(self, path: Path) -> None:
        """As ``read`` reads it."""
        fields = {name: getattr(self, name) for name in self.__slots__}
        texts = {name: str(value) if isinstance(value, Path) else value for name, value in fields.items()}
        path.write_bytes(orjson.dumps(texts))

    @classmethod
    def read(cls, path: Path) -> Plan:
        """Raises OSError, ValueError, TypeError."""
        fields = orjson.loads(path.read_bytes())
        for name in ("journal", "deaths", "calm", "metrics"):
            fields[name] = Path(fields[name])
        fields["lua"] = Path(fields["lua"]) if fields["lua"] else None
        return cls(**fields)


class Nursery:
    """One worker's lives."""

    def __init__(self, role: str, name: str, plan: Plan) -> None:
        """Starts nothing."""
        self._role, self._name, self._plan = role, name, plan
        self._child = 0
        self._stopping = False

    def run(self) -> int:
        """Lives until SIGTERM; the last one is given it too and may end in its own time."""
        signal.signal(signal.SIGTERM, self._stop)
        signal.signal(signal.SIGINT, self._stop)
        gc.freeze()
        life = 0
        while not self._stopping:
            fate = fate_of(
                self._plan.seed,
                self._name,
                life,
                ROLES[self._role],
                requests=self._plan.requests,
                leases=self._plan.leases,
            )
            status = self._one(fate, f"{self._plan.seed}/{self._name}/{life}")
            died_of = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
            if not died_of and not self._stopping:
                return os.waitstatus_to_exitcode(status) or 1
            life += 1
            if not self._stopping:
                time.sleep(PAUSE_S)
        return 0

    def _one(self, fate: Fate, seed: str) -> int:
        """A life from birth to death; its wait status."""
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
        mother = os.getpid()
        self._child = os.fork()
        if self._child == 0:
            self._be_born(mother, fate, seed)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM, signal.SIGINT})
        if self._stopping:
            os.kill(self._child, signal.SIGTERM)
        _, status = os.waitpid(self._child, 0)
        self._note(self._child, status)
        return status

    def _be_born(self, mother: int, fate: Fate, seed: str) -> None:
        """Never returns."""
        code = 1
        try:
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM, signal.SIGINT})
            if os.getppid() == mother:
                points = CrashPoints(fate=fate, journal=self._plan.journal, calm=self._plan.calm, seed=seed)
                live(self._role, points, Fault(lua=self._plan.lua, ttl_ms=self._plan.ttl_ms))
                code = 0
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else 1
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

    def _note(self, pid: int, status: int) -> None:
        died_of = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
        line = orjson.dumps({"name": self._name, "pid": pid, "signal": died_of}) + b"\n"
        descriptor = os.open(self._plan.deaths, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.write(descriptor, line)
        os.close(descriptor)
        forget_process(pid, str(self._plan.metrics))

    def _stop(self, _number: int, _frame: object) -> None:
        self._stopping = True
        if self._child:
            try:
                os.kill(self._child, signal.SIGTERM)
            except ProcessLookupError:
                return  # it died a moment ago, and is being waited for


def main(argv: Sequence[str]) -> int:
    """Exit code 0 after a SIGTERM, else that of the life that ended by itself."""
    parser = argparse.ArgumentParser(prog="nursery", description="A worker of a drill, killed by plan.")
    parser.add_argument("--role", choices=sorted(ROLES), required=True)
    parser.add_argument("--name", required=True)
    parser.add_argument("--plan", type=Path, required=True)
    arguments = parser.parse_args(argv)
    return Nursery(arguments.role, arguments.name, Plan.read(arguments.plan)).run()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
