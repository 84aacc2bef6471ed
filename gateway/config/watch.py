"""Hot reload: one immutable snapshot, swapped in one assignment; a bad file keeps the last good one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Final, Generic, TypeVar

from gateway.config.document import PolicyError

T = TypeVar("T")
POLL_S: Final = 0.25
"""Files are polled: inotify does not see a ConfigMap's symlink swap reliably, and a revoked key
must be refused within a second."""

Fingerprint = tuple[tuple[int, int, int] | None, ...]


class Watched(Generic[T]):
    """``current`` is always a complete, valid snapshot.

    ``load`` reads the files and raises PolicyError; the first load must succeed.
    ``on_change(snapshot)`` runs after a swap, ``on_refusal(error)`` after a bad file, once for each
    content.
    """

    def __init__(
        self,
        load: Callable[[], T],
        files: tuple[Path, ...],
        *,
        on_change: Callable[[T], None] = lambda _: None,
        on_refusal: Callable[[PolicyError], None] = lambda _: None,
    ) -> None:
        """Loads at once. Raises PolicyError."""
        self._load = load
        self._files = files
        self._on_change = on_change
        self._on_refusal = on_refusal
        self._seen = self._fingerprint()
        self.current: T = load()

    def _fingerprint(self) -> Fingerprint:
        marks: list[tuple[int, int, int] | None] = []
        for file in self._files:
            try:
                status = file.stat()
            except OSError:
                marks.append(None)
            else:
                marks.append((status.st_mtime_ns, status.st_size, status.st_ino))
        return tuple(marks)

    def _changed(self) -> bool:
        seen = self._fingerprint()
        changed, self._seen = seen != self._seen, seen
        return changed

    def _outcome(self) -> T | PolicyError:
        try:
            return self._load()
        except PolicyError as error:
            return error

    def _take(self, outcome: T | PolicyError) -> bool:
        if isinstance(outcome, PolicyError):
            self._on_refusal(outcome)
            return False
        self.current = outcome
        self._on_change(outcome)
        return True

    def poll(self) -> bool:
        """Reload when a file changed; True when a new snapshot is in force."""
        return self._changed() and self._take(self._outcome())

    async def run(self) -> None:
        """Poll until cancelled. Files are read in a thread: 5,000 keys with limits of their own take seconds,
        and requests must not wait for them."""
        while True:
            await asyncio.sleep(POLL_S)
            if self._changed():
                self._take(await asyncio.to_thread(self._outcome))
