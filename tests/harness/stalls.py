"""Runs tests on a machine that stutters: the product's processes are stopped for a moment, again and again.

    .venv/bin/python -m tests.harness.stalls [--seed N] [--every S] tests/dataplane tests/clients ...

Finds tests that take a late filter, a late store or a refusal because of one for a failure of what they
look at. A test that stops a process itself may see it go on too early; anything else that fails is worth a
look.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Final

import psutil

MARK: Final = "STALLED_BY"
"""In the environment of whatever the tests start, also of what outlives its parent: nothing else is
stopped."""
PARTS: Final = {
    "ext_authz.main": 0.7,
    "ext_proc.main": 0.7,
    "ext_proc.recall.main": 0.6,
    "gateway.api": 0.7,
    "gateway.bookkeeper": 1.2,
    "inference.twin": 0.35,
    "valkey-server": 0.2,
    "envoy": 0.35,
}
"""By what stands in the command line: the longest stop in seconds, mostly more than the part's deadline on
the request's path (gateway/path.py) and less than what makes the supervisor start it anew."""


class Stalls:
    """Stops all processes of one part at a time."""

    def __init__(self, mark: str, rng: random.Random) -> None:
        """``mark``: the value of MARK in their environment."""
        self._mark, self._rng = mark, rng
        self._marked: dict[int, bool] = {}
        self.counted = Counter[str]()

    def once(self) -> None:
        """One part, if there is one."""
        found = self._found()
        if not found:
            return
        part = self._rng.choice(sorted(found))
        try:
            _signal(found[part], signal.SIGSTOP)
            time.sleep(PARTS[part] * self._rng.random())
        finally:
            _signal(found[part], signal.SIGCONT)
        self.counted[part] += 1

    def _found(self) -> dict[str, list[int]]:
        found: dict[str, list[int]] = {}
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                words = process.cmdline()
                part = next((part for part in PARTS if any(_names(word, part) for word in words[:5])), None)
                if part is not None and self._is_marked(process):
                    found.setdefault(part, []).append(process.pid)
        return found

    def _is_marked(self, process: psutil.Process) -> bool:
        if process.pid not in self._marked:
            self._marked[process.pid] = process.environ().get(MARK) == self._mark
        return self._marked[process.pid]


def _names(word: str, part: str) -> bool:
    """A module or a program."""
    return word == part or word.startswith(f"{part}.") or Path(word).name == part


def _signal(pids: list[int], number: signal.Signals) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def main(arguments: list[str]) -> int:
    """The exit status of pytest."""
    parser = argparse.ArgumentParser(prog="python -m tests.harness.stalls", description=__doc__)
    parser.add_argument("--seed", type=int, default=1, help="of the parts and times; default 1")
    parser.add_argument("--every", type=float, default=1.5, help="mean seconds between stops; default 1.5")
    options, tests = parser.parse_known_args(arguments)
    rng, mark = random.Random(options.seed), str(os.getpid())
    stalls = Stalls(mark, rng)
    command = [sys.executable, "-P", "-m", "pytest", *tests]
    with subprocess.Popen(command, env={**os.environ, MARK: mark}) as running:
        try:
            while running.poll() is None:
                stalls.once()
                time.sleep(rng.expovariate(1 / options.every))
        except KeyboardInterrupt:
            running.wait()
    print("stopped: " + ", ".join(f"{part} {times}" for part, times in sorted(stalls.counted.items())))
    return running.returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
