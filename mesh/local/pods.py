"""Does Envoy see a healthy pod? Only then is "ready" true for a client.

A pod that answers its own port is not yet one that Envoy sends to: its health check comes once a second.
Pods that run elsewhere are known only so. Asked of Envoy's admin socket, for as long as the gateway runs.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Final

import httpx

from gateway.contract.clock import Clock
from mesh.local.layout import Layout
from mesh.local.part import PartView, State

NAME: Final = "pods"
ASK_S: Final = (0.1, 1.0)
"""Pause before the first healthy pod, and after it."""
_STATS: Final = "/stats?usedonly&filter=sglang.*membership_(healthy|total)$"
_COUNT: Final = re.compile(r"^cluster\..*sglang.*\.membership_(healthy|total): (\d+)$", re.MULTILINE)


def counts_from(stats: str) -> tuple[int, int]:
    """(healthy, all) pods from Envoy's statistics in text form; zeros for what is not there."""
    found = {"healthy": 0, "total": 0}
    for kind, count in _COUNT.findall(stats):
        found[kind] += int(count)
    return found["healthy"], found["total"]


class PodWatch:
    """``healthy_once`` is set when Envoy saw the first healthy pod; ``on_change`` gets each change."""

    def __init__(self, layout: Layout, clock: Clock, on_change: Callable[[PartView], None]) -> None:
        """Asks nothing before ``run``."""
        self._socket = str(layout.socket("envoy-admin"))
        self._clock = clock
        self._on_change = on_change
        self._began = 0.0
        self.view = PartView(name=NAME, state=State.WAITING)
        self.healthy_once = asyncio.Event()

    async def run(self) -> None:
        """Until cancelled."""
        transport = httpx.AsyncHTTPTransport(uds=self._socket)
        async with httpx.AsyncClient(transport=transport, base_url="http://envoy", timeout=1.0) as client:
            while True:
                if (counts := await self._counts(client)) is not None:
                    self._note(*counts)
                await asyncio.sleep(ASK_S[1] if self.healthy_once.is_set() else ASK_S[0])

    async def _counts(self, client: httpx.AsyncClient) -> tuple[int, int] | None:
        """None while Envoy is not up; its own line on the screen tells that."""
        try:
            return counts_from((await client.get(_STATS)).text)
        except httpx.HTTPError:
            return None

    def _note(self, healthy: int, total: int) -> None:
        before = self.view
        if before.state is State.WAITING:
            self._began = self._clock.monotonic_s()
        if healthy:
            detail = "" if healthy == total else f"{healthy} of {total} healthy"
            view = replace(before, state=State.READY, detail=detail)
            if not self.healthy_once.is_set():
                self.healthy_once.set()
                view = replace(view, seconds=round(self._clock.monotonic_s() - self._began, 1))
        elif self.healthy_once.is_set():
            view = replace(before, state=State.UNHEALTHY, detail="none answers GET /ready")
        else:
            view = replace(before, state=State.STARTING, detail="none answers GET /ready yet")
        if view != before:
            self.view = replace(view, since_ms=self._clock.unix_ms())
            self._on_change(self.view)
