"""pip in an environment that is not ours, with progress and errors a person can act on."""

from __future__ import annotations

import collections
import re
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

Progress = Callable[[str], None]
_COLLECTING: Final = re.compile(r"Collecting ([A-Za-z0-9._-]+)")
_LINES_KEPT: Final = 40
_MENDS: Final = (
    ("No space left on device", "free some disk space and run it again"),
    ("No matching distribution", "check that pip reaches its package index, then run it again"),
    ("Temporary failure in name resolution", "check the network, then run it again"),
    ("Read timed out", "check the network, then run it again; what was fetched is kept"),
    ("Connection", "check the network, then run it again; what was fetched is kept"),
)


class InstallFailed(Exception):
    """Something could not be installed; the text says what, and what to do."""

    def __init__(self, what: str, mend: str) -> None:
        """``mend`` is an instruction to the person in front."""
        super().__init__(f"{what}; {mend}")
        self.what, self.mend = what, mend


def failure(step: str, lines: Sequence[str]) -> InstallFailed:
    """The error for a pip run that ended with ``lines``."""
    errors = [line.strip() for line in lines if line.startswith(("ERROR", "error"))] or list(lines[-1:])
    what = errors[-1].removeprefix("ERROR: ") if errors else "pip ended without a word"
    text = "\n".join(lines)
    mend = next(
        (mend for sign, mend in _MENDS if sign in text), "run it again; what was fetched already is kept"
    )
    return InstallFailed(f"{step} failed: {what}", mend)


def pip(python: Path, arguments: Sequence[str], *, step: str, progress: Progress) -> None:
    """``python -m pip ARGUMENTS``, its progress shown after ``step``. Raises InstallFailed."""
    command = [str(python), "-m", "pip", "--disable-pip-version-check", "--no-input", *arguments]
    last: collections.deque[str] = collections.deque(maxlen=_LINES_KEPT)
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, text=True
    ) as running:
        assert running.stdout is not None
        fetched = 0
        for line in running.stdout:
            last.append(line.rstrip())
            if found := _COLLECTING.match(line):
                fetched += 1
                progress(f"{step}: package {fetched}, {found[1]}")
            elif line.startswith("Installing collected packages"):
                progress(f"{step}: unpacking")
    if running.returncode != 0:
        raise failure(step, list(last))
