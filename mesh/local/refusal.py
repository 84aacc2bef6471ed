"""What the command line says when it cannot do what it was asked: one line, with the mend."""

from __future__ import annotations

import errno
from pathlib import Path


class Refusal(Exception):
    """Shown as ``tidegate: <what>: <mend>`` and exit 1. ``detail`` (log lines) goes before it."""

    def __init__(self, what: str, mend: str, *, detail: str = "") -> None:
        """``what`` and ``mend`` are one line each."""
        super().__init__(f"{what}: {mend}" if mend else what)
        self.detail = detail


def refusal_from(error: OSError, path: Path | str) -> Refusal:
    """The refusal for a failed write or start under ``path``."""
    shown = error.filename or path
    match error.errno:
        case errno.ENOSPC | errno.EDQUOT:
            return Refusal(
                f"the disk is full (writing {shown})",
                "free some space, or choose a state directory on another disk with --state DIR",
            )
        case errno.EACCES | errno.EPERM | errno.EROFS:
            return Refusal(
                f"no permission to write {shown}", "use a directory that you own, with --state DIR"
            )
        case errno.ENOENT | errno.ENOTDIR:
            return Refusal(
                f"{shown} is missing", "look at the path; if it is part of .venv, remove .venv and run again"
            )
        case errno.EMFILE | errno.ENFILE:
            return Refusal("too many open files", "raise the limit with 'ulimit -n 4096'")
        case errno.EAGAIN | errno.ENOMEM:
            return Refusal(f"the system refuses more processes or memory ({error.strerror})", "free some")
        case _:
            return Refusal(f"{shown}: {error.strerror or error}", "see the logs, then run the command again")
