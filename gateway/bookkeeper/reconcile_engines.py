"""What engines say of the requests they had, by request id: the third witness of reconciling.

Two sources. The twin answers ``GET /__attempts`` with every attempt, those of clients that left included.
SGLang 0.5.23 writes one JSON line for each request that it finished when it is launched with
``--export-metrics-to-file --export-metrics-to-file-dir DIR`` (observability/request_metrics_exporter.py; with
``--log-requests-level 0`` no prompt stands in it): ``id`` is our request id, beside ``prompt_tokens``,
``completion_tokens`` and ``cached_tokens``. It writes nothing of a stream whose client closed it, and gives
each of several choices an id of its own, so that what is not there proves nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import httpx
import orjson

from gateway.contract.units import Tokens, UnixMillis

DEADLINE_S: Final = 30.0
"""Of one engine's answer: some hundred thousand attempts take seconds."""
EXPORTED: Final = "sglang-request-metrics-*.log"
NOT_PRODUCED: Final = frozenset({"refused", "rejected", "scripted"})
"""Outcomes of the twin's attempts that were answered without a generation: they cost nothing."""
FINISHED: Final = frozenset({"stop", "length"})
"""Of an answer that came to its own end: outcomes of the twin, and SGLang's ``finish_reason.type``."""
LINE_BYTES_MAX: Final = 16 * 1024 * 1024
"""Of one exported line: beyond it a prompt was exported too, and the line is passed over."""


class EngineSilent(Exception):
    """An engine's record could not be read: nothing may be concluded from what is missing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineRecord:
    """One attempt. Tokens are of all its prompts and choices."""

    rid: str
    prompt_tokens: Tokens
    completion_tokens: Tokens
    cached_tokens: Tokens
    over: bool
    """Nothing more will be produced."""
    finished: bool = False
    """It came to its own end: nobody left before, nor told the engine to stop."""
    started_ms: UnixMillis = UnixMillis(0)
    """0: not known."""

    @property
    def tokens(self) -> Tokens:
        """Prompt and completion."""
        return Tokens(self.prompt_tokens + self.completion_tokens)


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineView:
    """All attempts that were told, oldest first for each id. ``complete``: there were no others."""

    attempts: Mapping[str, Sequence[EngineRecord]]
    complete: bool


class EngineRecords(Protocol):
    """One source."""

    async def read(self) -> EngineView:
        """What it knows. Raises EngineSilent."""


def joined(views: Sequence[EngineView]) -> EngineView:
    """Of several engines; complete when each is, and there is one."""
    attempts: dict[str, list[EngineRecord]] = {}
    for view in views:
        for rid, records in view.attempts.items():
            attempts.setdefault(rid, []).extend(records)
    for records in attempts.values():
        records.sort(key=lambda record: record.started_ms)
    return EngineView(attempts=attempts, complete=bool(views) and all(view.complete for view in views))


class TwinRecords:
    """A twin's attempts, asked over HTTP."""

    def __init__(self, url: str) -> None:
        """``url``: http://host:port of the engine."""
        self._url = url.rstrip("/")

    async def read(self) -> EngineView:
        """See EngineRecords."""
        try:
            async with httpx.AsyncClient(trust_env=False, timeout=DEADLINE_S) as client:
                answer = await client.get(f"{self._url}/__attempts")
                answer.raise_for_status()
            found = orjson.loads(answer.content)["attempts"]
            records = [_attempt(entry) for entry in found]
        except (httpx.HTTPError, httpx.InvalidURL, ValueError, KeyError, TypeError) as error:
            raise EngineSilent(f"{self._url}: {type(error).__name__}: it has no record of attempts") from None
        return EngineView(attempts=_by_rid(records), complete=True)


class ExportedRecords:
    """The files that SGLang exports."""

    def __init__(self, directory: Path) -> None:
        """``directory``: of ``--export-metrics-to-file-dir``."""
        self._directory = directory

    async def read(self) -> EngineView:
        """See EngineRecords. A line that is none, such as one in the making, is passed over."""
        try:
            records = await asyncio.to_thread(self._records)
        except OSError as error:
            raise EngineSilent(f"{type(error).__name__}: the exported records cannot be read") from None
        return EngineView(attempts=_by_rid(records), complete=False)

    def _records(self) -> list[EngineRecord]:
        if not self._directory.is_dir():
            raise FileNotFoundError(self._directory)
        found = []
        for path in sorted(self._directory.glob(EXPORTED)):
            with path.open("rb") as file:
                while line := file.readline(LINE_BYTES_MAX):
                    record = _exported(line)
                    if record is not None:
                        found.append(record)
        return found


def _by_rid(records: Iterable[EngineRecord]) -> dict[str, list[EngineRecord]]:
    found: dict[str, list[EngineRecord]] = {}
    for record in records:
        if record.rid:
            found.setdefault(record.rid, []).append(record)
    return found


def _attempt(entry: Mapping[str, Any]) -> EngineRecord:
    """Raises KeyError, TypeError, ValueError."""
    produced = entry["outcome"] not in NOT_PRODUCED
    return EngineRecord(
        rid=str(entry["rid"]),
        prompt_tokens=Tokens(int(entry["prompt_tokens"]) * produced),
        completion_tokens=Tokens(int(entry["completion_tokens"]) * produced),
        cached_tokens=Tokens(int(entry["cached_tokens"]) * produced),
        over=entry["end_ms"] is not None,
        finished=entry["outcome"] in FINISHED,
        started_ms=UnixMillis(int(entry["start_ms"])),
    )


def _exported(line: bytes) -> EngineRecord | None:
    try:
        fields = orjson.loads(line)
        rid, counts = fields["id"], [fields[name] for name in ("prompt_tokens", "completion_tokens")]
        cached, finish = fields.get("cached_tokens") or 0, fields.get("finish_reason")
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    if not isinstance(rid, str) or not all(type(count) is int and count >= 0 for count in (*counts, cached)):
        return None
    return EngineRecord(
        rid=rid,
        prompt_tokens=Tokens(counts[0]),
        completion_tokens=Tokens(counts[1]),
        cached_tokens=Tokens(cached),
        over=True,
        finished=isinstance(finish, dict) and finish.get("type") in FINISHED,
        started_ms=UnixMillis(int((fields.get("request_received_ts") or 0) * 1000)),
    )
