"""Single flight: of identical concurrent misses, in all processes, one asks the engine and the others wait.

A flight is a key in the cache Valkey that only one can set, and that is gone when the answer is there, when
it will never come, or after FLIGHT_MILLIS, when its leader is taken for dead. Nothing depends on it but
engine calls: a flight that is lost makes one more of them, and followers wait no longer than their caller
says."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field
from typing import Final, Protocol

from ext_proc.cache.store import CacheStore, CacheUnavailable, Keys, Lookup
from gateway.contract.ids import OrgId

FLIGHTS_MAX: Final = 256
"""Awaited at once in one process; each asks the store up to 20 times a second. Beyond them nobody waits."""
FIRST_LOOK_S: Final = 0.005
LAST_LOOK_S: Final = 0.05
"""Between two looks at a flight; each wait is twice the one before."""


FAILURES_MAX: Final = 3
"""Looks in a row that a store may fail: late once, in a burst, it would send all who wait to the engine."""


class FlightPlace(Protocol):
    """Where flights are. Raises CacheUnavailable."""

    async def begin(self, org: OrgId, key: str) -> bool:
        """False: one is under way."""

    async def end(self, org: OrgId, key: str) -> None:
        """Whoever began it."""

    async def under_way(self, org: OrgId, key: str) -> bool:
        """Whether its followers should wait on."""


@dataclass(slots=True, eq=False)
class _Watch:
    """One poller for all of this process who wait for a flight."""

    over: asyncio.Event = field(default_factory=asyncio.Event)
    followers: int = 0
    task: asyncio.Task[None] | None = None


class SharedFlights:
    """See Flights. One for each process; safe for concurrent tasks."""

    def __init__(self, place: FlightPlace, store: CacheStore) -> None:
        """``store``: where followers find the answer."""
        self._place = place
        self._store = store
        self._asking: dict[tuple[OrgId, str], asyncio.Task[bool]] = {}
        self._watches: dict[tuple[OrgId, str], _Watch] = {}
        self._landing: set[asyncio.Task[None]] = set()

    async def join(self, org: OrgId, key: str) -> bool:
        """See Flights. While one of this process asks, the others that come have lost already."""
        asking = self._asking.get((org, key))
        if asking is not None:
            await asyncio.wait((asking,))
            return asking.cancelled() or asking.exception() is not None
        asking = self._asking[org, key] = asyncio.create_task(self._place.begin(org, key))
        asking.add_done_callback(lambda _: self._asking.pop((org, key), None))
        try:
            return await asyncio.shield(asking)
        except CacheUnavailable:
            return True
        except asyncio.CancelledError:  # nobody would lead what the store may have granted
            asking.add_done_callback(lambda done: self._give_back(org, key, done))
            raise

    def _give_back(self, org: OrgId, key: str, asking: asyncio.Task[bool]) -> None:
        if not asking.cancelled() and asking.exception() is None and asking.result():
            landing = asyncio.get_running_loop().create_task(self.land(org, key))
            self._landing.add(landing)
            landing.add_done_callback(self._landing.discard)

    async def land(self, org: OrgId, key: str) -> None:
        """See Flights. A store that does not answer ends the flight by its time."""
        with contextlib.suppress(CacheUnavailable):
            await self._place.end(org, key)

    async def landed(self, org: OrgId, keys: Keys, at_most_s: float) -> Lookup:
        """See Flights."""
        watch = self._watch(org, keys.exact)
        if watch is not None:
            watch.followers += 1
            try:
                async with asyncio.timeout(at_most_s):
                    await watch.over.wait()
            except TimeoutError:
                pass  # the answer may be there all the same
            finally:
                watch.followers -= 1
                if watch.followers == 0:
                    self._forget(org, keys.exact, watch)
        return await self._store.get(org, keys)

    def _watch(self, org: OrgId, key: str) -> _Watch | None:
        """None: too many are awaited."""
        watch = self._watches.get((org, key))
        if watch is None and len(self._watches) < FLIGHTS_MAX:
            watch = self._watches[org, key] = _Watch()
            watch.task = asyncio.create_task(self._poll(org, key, watch))
        return watch

    async def _poll(self, org: OrgId, key: str, watch: _Watch) -> None:
        """Until the flight is over, the store is away, or nobody waits."""
        wait_s, failures = FIRST_LOOK_S, 0
        try:
            while failures < FAILURES_MAX:
                try:
                    if not await self._place.under_way(org, key):
                        return
                    failures = 0
                except CacheUnavailable:
                    failures += 1
                await asyncio.sleep(wait_s)
                wait_s = min(2 * wait_s, LAST_LOOK_S)
        finally:
            watch.over.set()
            self._forget(org, key, watch)

    def _forget(self, org: OrgId, key: str, watch: _Watch) -> None:
        if self._watches.get((org, key)) is watch:
            del self._watches[org, key]
        if watch.task is not None and not watch.over.is_set():
            watch.task.cancel()
