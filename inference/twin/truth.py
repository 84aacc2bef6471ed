"""The twin's own record of what it produced: the truth that ledgers are held against.

``FILE`` gets one JSON line when an attempt starts and one when it ends. ``FILE.produced`` holds one
little-endian 64-bit count per attempt, written before the tokens leave the process, so the count is
exact also for an attempt that was running when the twin was killed (the kernel keeps what a killed
process wrote). ``read`` joins both.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Final

import orjson

from gateway.contract.clock import Clock

SLOT_BYTES: Final = 8
REMEMBERED_MAX: Final = 200_000
"""Attempts answered by ``GET /__attempts``; the file has them all."""
RUNNING: Final = "running"


@dataclass(slots=True, kw_only=True)
class Attempt:
    """One request that reached the engine.

    ``attempt`` counts from 0 over the life of the file; times in milliseconds since 1970; tokens are
    of all choices. ``outcome``: ``running``, ``stop``, ``length``, ``abort`` (``/abort_request``),
    ``client_gone``, ``cut`` (by script), ``refused`` (queue full), ``evicted`` (by a higher priority),
    ``rejected`` (4xx), ``scripted`` (a scripted answer instead of a generation); ``killed`` only from
    ``read``: no end was written.
    """

    attempt: int
    rid: str
    path: str
    model: str
    stream: bool
    priority: int
    start_ms: int
    prompt_tokens: int = 0
    cached_tokens: int = 0
    planned_tokens: int = 0
    completion_tokens: int = 0
    outcome: str = RUNNING
    end_ms: int | None = None


class Truth:
    """Records attempts in memory and, with a path, on disk."""

    def __init__(self, path: Path | None, clock: Clock) -> None:
        """Appends to ``path``; attempts of an earlier run keep their numbers."""
        self._clock = clock
        self._attempts: deque[Attempt] = deque(maxlen=REMEMBERED_MAX)
        self._lines = self._counts = -1
        self._next = 0
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._lines = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            self._counts = os.open(_counts_path(path), os.O_RDWR | os.O_CREAT, 0o600)
            self._next = os.fstat(self._counts).st_size // SLOT_BYTES

    def begin(self, *, rid: str, path: str, model: str, stream: bool, priority: int) -> Attempt:
        """A new attempt, on disk before anything else happens with it."""
        attempt = Attempt(
            attempt=self._next,
            rid=rid,
            path=path,
            model=model,
            stream=stream,
            priority=priority,
            start_ms=self._clock.unix_ms(),
        )
        self._next += 1
        self._attempts.append(attempt)
        if self._counts >= 0:
            os.pwrite(self._counts, bytes(SLOT_BYTES), attempt.attempt * SLOT_BYTES)
        return attempt

    def planned(self, attempt: Attempt) -> None:
        """Writes the start line, once the prompt is counted."""
        self._write(attempt)

    def produced(self, attempt: Attempt, tokens: int) -> None:
        """``tokens`` more are about to leave."""
        attempt.completion_tokens += tokens
        if self._counts >= 0:
            count = attempt.completion_tokens.to_bytes(SLOT_BYTES, "little")
            os.pwrite(self._counts, count, attempt.attempt * SLOT_BYTES)

    def end(self, attempt: Attempt, outcome: str) -> None:
        """The attempt is over; only its first end counts."""
        if attempt.outcome == RUNNING:
            attempt.outcome, attempt.end_ms = outcome, self._clock.unix_ms()
            self._write(attempt)

    def _write(self, attempt: Attempt) -> None:
        if self._lines >= 0:
            os.write(self._lines, orjson.dumps(asdict(attempt)) + b"\n")

    def attempts(self, rid: str | None = None) -> list[dict[str, Any]]:
        """The remembered attempts, oldest first, all or those of ``rid``."""
        return [asdict(attempt) for attempt in self._attempts if rid is None or attempt.rid == rid]

    def forget(self) -> None:
        """Empties the memory; the file stays."""
        self._attempts.clear()

    def close(self) -> None:
        """Closes the files."""
        for descriptor in (self._lines, self._counts):
            if descriptor >= 0:
                os.close(descriptor)
        self._lines = self._counts = -1


def _counts_path(path: Path) -> Path:
    return path.with_name(path.name + ".produced")


def read(path: Path) -> list[Attempt]:
    """All attempts of a truth file by number, also those of a twin that was killed.

    A line cut by the kill is passed over: its attempt has a whole start line or produced nothing.
    Raises FileNotFoundError.
    """
    counts = _counts_path(path).read_bytes()
    found: dict[int, Attempt] = {}
    for record in _records(path.read_bytes().splitlines()):
        found[record.attempt] = record
    for attempt in found.values():
        if attempt.outcome == RUNNING:
            start = attempt.attempt * SLOT_BYTES
            attempt.completion_tokens = int.from_bytes(counts[start : start + SLOT_BYTES], "little")
            attempt.outcome = "killed"
    return [found[number] for number in sorted(found)]


def _records(lines: Iterable[bytes]) -> Iterable[Attempt]:
    names = {field.name for field in fields(Attempt)}
    for line in lines:
        try:
            record = orjson.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict) and names == record.keys():
            yield Attempt(**record)
