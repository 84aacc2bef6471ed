"""What the cache's store has purged and switched off, as the recall process obeys it.

Nothing is served because this is late: the store refuses what is purged when an answer is fetched. A bucket
is for the search to refuse, so that one whose state is not known counts as switched off.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import Final, Protocol

from ext_proc.cache.purge import ends, is_off
from ext_proc.cache.store import CacheUnavailable, Lineage, RuleInForce
from ext_proc.recall.table import Ends
from ext_proc.recall.truth import State, Truth
from gateway.contract.clock import Clock
from gateway.contract.ids import OrgId

POLL_S: Final = 0.5
KNOWN_S: Final = 2.0
"""A list of switched-off buckets older than this is not believed."""


class Said(Protocol):
    """The part of CacheStore that is asked here. Raises CacheUnavailable."""

    async def rules(self) -> tuple[RuleInForce, ...]:
        """See CacheStore."""

    async def switched_off(self) -> frozenset[str]:
        """See CacheStore."""


class Purges:
    """One for each process; ``run`` as a task."""

    def __init__(self, store: Said, clock: Clock) -> None:
        """Knows nothing yet: every bucket is off."""
        self._store, self._clock = store, clock
        self._off: frozenset[str] = frozenset()
        self._known_until_s = float("-inf")
        self._obeyed = 0

    def is_off(self, bucket: str) -> bool:
        """Whether ``bucket`` is switched off, itself or with its whole level, or may be; from any thread."""
        if self._clock.monotonic_s() > self._known_until_s:
            return True
        return is_off(self._off, bucket)

    def state(self, bucket: str, slo: float) -> State:
        """See Trust."""
        return State.OFF if self.is_off(bucket) else State.ON

    def share(self, bucket: str, slo: float, usual: float) -> float:
        """See Trust. Nobody verifies."""
        return 0.0

    async def run(self, drop: Callable[[Ends], Awaitable[None]]) -> None:
        """Poll until cancelled; ``drop`` forgets what a new rule speaks of, however long that takes: the
        buckets are asked for beside it."""
        async with asyncio.TaskGroup() as tasks:
            for poll in (self._ask_buckets, partial(self._ask_rules, drop)):
                tasks.create_task(_again_and_again(poll))

    async def _ask_buckets(self) -> None:
        asked_s = self._clock.monotonic_s()
        self._off = await self._store.switched_off()
        self._known_until_s = asked_s + KNOWN_S

    async def _ask_rules(self, drop: Callable[[Ends], Awaitable[None]]) -> None:
        await self._obey(await self._store.rules(), drop)

    async def _obey(self, rules: tuple[RuleInForce, ...], drop: Callable[[Ends], Awaitable[None]]) -> None:
        new = tuple(made for made in rules if made.number > self._obeyed)
        if not new:
            return

        def any_ends(org: OrgId, entry: str, lineage: Lineage) -> bool:
            return any(ends(made, org, entry, lineage) for made in new)

        await drop(any_ends)
        self._obeyed = max(made.number for made in new)


class Unverified:
    """Trust where nobody verifies: what the shipped corpora cannot vouch for is not served."""

    def __init__(self, said: Purges) -> None:
        """``said``: what the store has switched off."""
        self._said, self._corpora = said, Truth()

    def state(self, bucket: str, slo: float) -> State:
        """See Trust."""
        return self._said.state(bucket, slo) if self._corpora.state(bucket, slo) is State.ON else State.OFF

    def share(self, bucket: str, slo: float, usual: float) -> float:
        """See Trust."""
        return 0.0


async def _again_and_again(poll: Callable[[], Awaitable[None]]) -> None:
    while True:
        with suppress(CacheUnavailable):  # nothing can be served without it either; is_off says so soon
            await poll()
        await asyncio.sleep(POLL_S)
