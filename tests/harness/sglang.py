"""The real SGLang as a test's process: installed first where it is missing, then loaded, beside other tests.

``python -m tests.harness.sglang --port PORT [OPTION...]`` is that process: it installs, then becomes SGLang.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

import psutil

from inference.cases import QUEUED_MAX, RUNNING_MAX
from inference.sglang.install import ensure_environment, ensure_model
from inference.sglang.launch import command
from tests.harness.engines import ROOT, SGLANG_START_S, TOOLS, Engine, started, until_ready
from tests.harness.gateway import MODEL, free_ports

PORTS: Final = (12_000, 20_000)
"""Asked for long before it is listened on: where no gateway of a test, and not Linux, takes one meanwhile."""
NICE: Final = 10
"""While nobody waits for it: half a minute of a core must not cost the tests beside it their deadlines."""
OPTIONS: Final = {
    "limited": (
        *("--max-running-requests", str(RUNNING_MAX)),
        *("--max-queued-requests", str(QUEUED_MAX)),
    ),
    "plain": (),
}
"""Of each kind: with the limits that inference/cases counts on, and as ``tidegate up`` starts it."""


def _nobody(text: str) -> None:
    """Progress is for people who wait."""


def begun_sglang(directory: Path, *options: str) -> Engine:
    """It is on its way; its log is in ``directory``."""
    port, log = free_ports(*PORTS), directory / "sglang.log"
    argv = [sys.executable, "-P", "-m", "tests.harness.sglang", "--port", str(port), *options]
    return Engine(process=started(argv, log, {"PYTHONPATH": str(ROOT)}), port=port, log=log)


def until_loaded(engine: Engine) -> None:
    """However long its installation takes. Raises InstallFailed, and AssertionError when it does not load."""
    _hurry(engine)
    ensure_environment(TOOLS, _nobody)
    ensure_model(TOOLS, _nobody)
    until_ready(engine, SGLANG_START_S)
    _hurry(engine)


def _hurry(engine: Engine) -> None:
    """No longer beside others; for a user who may not say so it stays as it is, which an idle machine does
    not notice. Threads have a niceness each."""
    with suppress(PermissionError, psutil.NoSuchProcess):
        leader = psutil.Process(engine.pid)
        for process in (leader, *leader.children(recursive=True)):
            for thread in process.threads():
                with suppress(ProcessLookupError):
                    os.setpriority(os.PRIO_PROCESS, thread.id, 0)


class Sglangs:
    """The real engines of one session: of each kind one, the next begun when the last is done with."""

    def __init__(self, directory: Path, kinds: Sequence[str]) -> None:
        """``kinds`` of OPTIONS, in the order in which they are needed. Starts nothing yet."""
        self._directory = directory
        self._to_come = list(kinds)
        self._begun: dict[str, Engine] = {}

    def begin_next(self) -> None:
        """The next kind, if there is one: beside the tests that run."""
        if self._to_come:
            self._begin(self._to_come[0])

    def _begin(self, kind: str) -> Engine:
        if kind not in self._begun:
            self._to_come = [other for other in self._to_come if other != kind]
            directory = self._directory / kind
            directory.mkdir()
            self._begun[kind] = begun_sglang(directory, *OPTIONS[kind])
        return self._begun[kind]

    def ready(self, kind: str) -> Engine:
        """Waits for the engine of ``kind``. Raises as ``until_loaded``."""
        engine = self._begin(kind)
        until_loaded(engine)
        return engine

    def done(self, kind: str) -> None:
        """Ends the engine of ``kind``, and begins the next."""
        if kind in self._begun:
            self._begun[kind].stop()
        self.begin_next()

    def close(self) -> None:
        """Ends what still runs."""
        for engine in self._begun.values():
            engine.stop()


def main(options: list[str]) -> None:
    """Becomes SGLang. Raises InstallFailed."""
    os.nice(NICE)
    port, more = int(options[1]), options[2:]
    python, model = ensure_environment(TOOLS, _nobody), ensure_model(TOOLS, _nobody)
    argv, environment = command(python, model, port, MODEL)
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    os.execve(argv[0], [*argv, *more], {**inherited, **environment})


if __name__ == "__main__":
    main(sys.argv[1:])
