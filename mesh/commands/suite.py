"""The tests of several tiers, in two processes side by side.

One asks real parts, which have deadlines. The other only computes, at the lowest priority: it takes what the
first leaves of the machine, which is half of two cores.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Final

from mesh.local.layout import CHECKOUT, EXEC_BOUND

COMPUTING: Final = ("unit", "fuzz", "golden", "tidy")
"""Tiers that wait for no process but their own."""
ASKING: Final = ("integration", "contract", "dataplane", "clients", "drills")
"""Tiers with real parts. Integration comes first: meanwhile the real SGLang is loaded that others ask."""
NICE: Final = 19
_INTERRUPTED: Final = 2
"""pytest's exit status after Ctrl-C."""


def folders(tiers: Sequence[str]) -> list[str]:
    """Those of ``tiers`` that have tests, relative to the checkout."""
    found = [f"tests/{tier}" for tier in tiers]
    return [folder for folder in found if any((CHECKOUT / folder).rglob("test_*.py"))]


def run_side_by_side(tiers: Sequence[str]) -> int:
    """Runs the tests of ``tiers``, which are of both kinds; 0 when all passed. What asks is shown as it
    goes; of what computes the last line, or, when it failed, all. Ctrl-C ends both."""
    computing, asking = ([tier for tier in kind if tier in tiers] for kind in (COMPUTING, ASKING))
    print(f"beside the others, at the lowest priority: {', '.join(computing)}", flush=True)
    with tempfile.TemporaryFile() as told, _beside(computing, told) as other:
        shown = subprocess.Popen(_pytest(asking), cwd=CHECKOUT)
        # Ctrl-C reaches the process that is shown; this one waits until its parts are down.
        signal.signal(signal.SIGINT, lambda *_: None)
        status = shown.wait()
        if status == _INTERRUPTED:
            return status
        others_status = other.wait()
        told.seek(0)
        said = told.read()
    sys.stdout.buffer.write(said if others_status else said.rstrip().rpartition(b"\n")[2] + b"\n")
    for named, ended in ((asking, status), (computing, others_status)):
        print(f"{', '.join(named)}: {'failed, see above' if ended else 'passed'}")
    return status or others_status


@contextmanager
def _beside(tiers: Sequence[str], told: IO[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    """In a session of its own: what Linux groups by session (sched(7), autogroup) has a niceness too, beside
    which that of a process counts only within its group."""
    process = subprocess.Popen(
        _pytest(tiers, "-p", "no:cacheprovider"),
        cwd=CHECKOUT,
        stdin=subprocess.DEVNULL,
        stdout=told,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    os.setpriority(os.PRIO_PROCESS, process.pid, NICE)
    with suppress(OSError):  # a kernel without groups by session, or one that does not let us
        Path(f"/proc/{process.pid}/autogroup").write_text(str(NICE))
    try:
        yield process
    finally:
        process.terminate()
        process.wait()


def _pytest(tiers: Sequence[str], *options: str) -> list[str]:
    """Ends when this process does."""
    bound = [sys.executable, "-P", str(EXEC_BOUND), str(os.getpid())]
    return [*bound, sys.executable, "-P", "-m", "pytest", *options, *folders(tiers)]
