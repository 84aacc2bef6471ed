"""What a corpus is held against: the processes behind the edge, their memory, the books and the spending."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass, field
from typing import Any

import psutil

from tests.harness.gateway import Gateway

PARTS = ("envoy", "ext-authz", "ext-proc", "bookkeeper", "api", "valkey")
ENVOY_GROWTH_BYTES = 128 * 2**20
"""Two bodies just over 16 MiB at once, held whole and copied to the filter; a process keeps freed pages."""
FILTER_GROWTH_BYTES = 96 * 2**20
"""Two bodies of up to 32 MiB at once: what came while ext_authz was asked comes whole, to be refused. In the
bookkeeper LanceDB takes 70 MiB once it has something to project."""


@dataclass
class Footprint:
    """Processes and memory when it was taken; of the memory what is no file's: libraries are mapped when they
    are needed, and a leak is none."""

    gateway: Gateway
    pids: dict[str, list[int]] = field(init=False)
    anonymous: dict[int, int] = field(init=False)

    def __post_init__(self) -> None:
        self.pids = {part: self.gateway.pids(part) for part in PARTS}
        self.anonymous = {pid: _anonymous(pid) for pids in self.pids.values() for pid in pids}

    def grown_too_much(self) -> dict[str, int]:
        """Parts whose processes take more than their bound more now, and by how many bytes."""
        found = {}
        for part, pids in self.pids.items():
            bound = ENVOY_GROWTH_BYTES if part == "envoy" else FILTER_GROWTH_BYTES
            grown = max(_anonymous(pid) - self.anonymous[pid] for pid in pids)
            if grown > bound:
                found[part] = grown
        return found


def _anonymous(pid: int) -> int:
    """Bytes resident that stand in no file."""
    memory = psutil.Process(pid).memory_info()
    return int(memory.rss - memory.shared)


def events(gateway: Gateway) -> list[dict[str, Any]]:
    """Every event in the books."""
    return gateway.events()


def access_entries(gateway: Gateway, cases: Container[str]) -> list[dict[str, Any]]:
    """The access entries in the books, but of looks at the usage; ``cases``: ids that are none of these."""
    return [
        event
        for event in events(gateway)
        if event["type"] == "access"
        and (event["context"].get("path") != "/v1/usage" or event.get("request_id") in cases)
    ]


def spent(gateway: Gateway) -> dict[str, tuple[int, int]]:
    """Tokens used and held by account and window, once nothing is held any more."""
    return {
        f"{account} {window}": (int(entry["used"]), int(entry["held"]))
        for (account, window), entry in gateway.settled().items()
        if window == "month"
    }
