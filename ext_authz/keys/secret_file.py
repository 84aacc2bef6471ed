"""A file of the secrets directory, reloaded within a quarter second of a change.

Absent or unreadable means "cannot be asked" (503): a deleted file must not leave its keys in force.
Present and wrong keeps the last good content, with an error in the log: a slip of an editor must not
lock everybody out.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

from gateway.config.document import PolicyError, Problem
from gateway.config.watch import Watched
from gateway.keys.key_file import FILE_BYTES_MAX
from gateway.telemetry import names
from gateway.telemetry.log import logger
from gateway.telemetry.metrics import counter

T = TypeVar("T")
_log = logger("ext_authz")


class SecretFile(Generic[T]):
    """``current`` is the parsed content, None while there is none that could be used."""

    def __init__(self, path: Path, parse: Callable[[bytes], T]) -> None:
        """``parse`` raises ValueError for content that is refused. Never raises itself."""
        self._path = path
        self._parse = parse
        self._good: T | None = None
        self._reloads = counter(names.POLICY_RELOADS, "Policy files reloaded", ["file", "result"])
        self._watched: Watched[T | None] = Watched(self._load, (path,), on_refusal=self._refused)

    @property
    def current(self) -> T | None:
        """The content in force."""
        return self._watched.current

    def poll(self) -> bool:
        """Look for a change now; True when new content is in force."""
        return self._watched.poll()

    async def run(self) -> None:
        """Poll until cancelled."""
        await self._watched.run()

    def _load(self) -> T | None:
        try:
            if self._path.stat().st_size > FILE_BYTES_MAX:
                raise self._problem("is too large")
            data = self._path.read_bytes()
        except OSError as error:
            _log.error("secret.unreadable", file=self._path.name, kind=type(error).__name__)
            self._good = None
            return None
        try:
            self._good = self._parse(data)
        except ValueError as error:
            problem = self._problem(str(error))
            if self._good is not None:
                raise problem from error
            self._refused(problem)
            return None
        self._reloads.labels(file=self._path.name, result="ok").inc()
        return self._good

    def _problem(self, message: str) -> PolicyError:
        return PolicyError([Problem(file=self._path.name, line=1, path="", message=message)])

    def _refused(self, error: PolicyError) -> None:
        self._reloads.labels(file=self._path.name, result="refused").inc()
        _log.error("secret.refused", file=self._path.name, problems=str(error))
