"""An outbox in memory, whose store can be away; and a log that is kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gateway.contract.errors import LedgerEmptied, LedgerUnavailable
from gateway.contract.ids import OrgId, RegionName
from gateway.telemetry.log import EventLog


class KeptLog(EventLog):
    """Names of what was logged, with fields."""

    def __init__(self) -> None:
        super().__init__("test")
        self.lines: list[tuple[str, dict[str, object]]] = []

    def _write(self, level: str, event: str, fields: dict[str, object]) -> None:
        self.lines.append((event, fields))

    @property
    def names(self) -> list[str]:
        return [name for name, _ in self.lines]


class MemoryOutbox:
    """Epochs and Outbox of keeping.py. ``away`` holds the verbs that do not answer now."""

    def __init__(self) -> None:
        self.epoch: str | None = None
        self.away: set[str] = set()
        self.entries: dict[OrgId, list[tuple[str, dict[str, str]]]] = {}
        self.anchored: dict[str, str] | None = None
        self.calls: list[str] = []

    def add(self, org: str, *numbers: int) -> None:
        entry = {"type": "cache.hit", "at_ms": "1800000000000", "org": org, "verdict": "noted"}
        entries = self.entries.setdefault(OrgId(org), [])
        entries += [(f"{number}-0", {**entry, "request_id": f"r-{number}"}) for number in numbers]

    def _asked(self, verb: str) -> None:
        self.calls.append(verb)
        if verb in self.away:
            raise LedgerUnavailable("away")

    async def found_epoch(self, *, fresh: bool) -> str:
        self._asked("epoch")
        if self.epoch is None:
            if not fresh:
                raise LedgerEmptied("emptied")
            self.epoch = "e1"
        return self.epoch

    async def read_outbox(self, org: OrgId, after_id: str, count: int) -> Sequence[tuple[str, Any]]:
        self._asked("read")
        return self.entries.get(org, [])[:count]

    async def drop_outbox(self, org: OrgId, ids: Sequence[str]) -> None:
        self._asked("drop")
        self.entries[org] = [entry for entry in self.entries[org] if entry[0] not in ids]

    async def outbox_length(self, org: OrgId) -> int:
        self._asked("length")
        return len(self.entries.get(org, []))

    async def anchor(self, region: RegionName) -> Mapping[str, str] | None:
        self._asked("anchor")
        return self.anchored

    async def set_anchor(self, region: RegionName, count: int, head: str) -> None:
        self._asked("set_anchor")
        self.anchored = {"count": str(count), "head": head}
