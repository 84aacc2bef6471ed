"""grpc.health.v1 for Envoy's active health checks: SERVING while every dependency answers.

A probe is asked at most once in ``CACHE_S``, in ``STARTING_S`` until it first answers, and given ``PROBE_S``:
many checks of many Envoy workers must not become load on the dependency, and a hanging one must not hang the
check.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from gateway.contract.clock import Clock, SystemClock
from gateway.sidecar import wire
from gateway.telemetry.log import EventLog, logger

Probe = Callable[[], Awaitable[bool]]
"""Whether a dependency answers; raising counts as no."""

CACHE_S: Final = 1.0
"""One question to a dependency a second; an outage is seen within two of Envoy's checks."""
STARTING_S: Final = 0.1
"""The same until a dependency has answered once: who starts waits for it, and nobody sends requests yet."""
PROBE_S: Final = 0.25
"""A dependency slower than this does not serve requests in time either (gateway/path.py)."""


@dataclass(slots=True)
class _Known:
    probe: Probe
    answered: bool = True
    starting: bool = True
    asked_at_s: float | None = None
    asking: asyncio.Task[bool] | None = field(default=None)


class HealthBoard:
    """What the process needs in order to serve, and whether it drains."""

    def __init__(self, *, clock: Clock | None = None, log: EventLog | None = None) -> None:
        """Empty board: SERVING until ``drain``."""
        self._clock = clock or SystemClock()
        self._log = log or logger("health")
        self._known: dict[str, _Known] = {}
        self._draining = False

    def register(self, name: str, probe: Probe) -> None:
        """SERVING from now on demands that ``probe`` answers True."""
        self._known[name] = _Known(probe)

    def drain(self) -> None:
        """NOT_SERVING for good: the process is about to end."""
        self._draining = True

    async def failing(self) -> tuple[str, ...]:
        """Names of what does not answer now, ``drain`` among them; empty when the process can serve."""
        known = dict(self._known)
        answers = await asyncio.gather(*(self._ask(name, entry) for name, entry in known.items()))
        names = [name for name, answered in zip(known, answers, strict=True) if not answered]
        return tuple(["drain", *names] if self._draining else names)

    async def _ask(self, name: str, entry: _Known) -> bool:
        now = self._clock.monotonic_s()
        fresh_s = STARTING_S if entry.starting else CACHE_S
        if entry.asked_at_s is not None and 0 <= now - entry.asked_at_s < fresh_s:
            return entry.answered
        if entry.asking is None:
            entry.asking = asyncio.create_task(self._probe(name, entry))
        return await asyncio.shield(entry.asking)

    async def _probe(self, name: str, entry: _Known) -> bool:
        reason = "answered no"
        try:
            async with asyncio.timeout(PROBE_S):
                answered = await entry.probe()
        except Exception as error:  # noqa: BLE001  # whatever a driver raises means: it does not answer
            answered, reason = False, type(error).__name__
        finally:
            entry.asking = None
            entry.asked_at_s = self._clock.monotonic_s()
        if answered != entry.answered:
            if answered:
                self._log.info("health.recovered", dependency=name)
            else:
                self._log.warning("health.failing", dependency=name, reason=reason)
        entry.answered = answered
        entry.starting = entry.starting and not answered
        return answered

    async def check(self, _metadata: Mapping[str, str], request: bytes) -> bytes:
        """The Check call; a UnaryHandler. Only the whole server (service "") has a state of its own."""
        service = wire.HealthCheckRequest.FromString(request).service
        if service:
            status = wire.HEALTH_SERVICE_UNKNOWN
        else:
            status = wire.HEALTH_NOT_SERVING if await self.failing() else wire.HEALTH_SERVING
        return bytes(wire.HealthCheckResponse(status=status).SerializeToString())
