"""What the store has purged is dropped once; a bucket whose state is not known is off."""

from __future__ import annotations

import asyncio

from ext_proc.cache.store import CacheUnavailable, Lineage, PurgeRule, RuleInForce
from ext_proc.recall.purges import KNOWN_S, POLL_S, Purges, Unverified
from ext_proc.recall.table import Ends
from ext_proc.recall.truth import State
from gateway.contract.clock import ManualClock
from gateway.contract.ids import OrgId
from gateway.contract.units import UnixMillis

BUCKET = "acme/chat/words/0.90"
LINEAGE = Lineage(model="chat", revision="r1", admitted_at=UnixMillis(10))


class Store:
    """Says what a test wants; ``asked`` counts the polls."""

    def __init__(self) -> None:
        self.off: frozenset[str] = frozenset()
        self.made: tuple[RuleInForce, ...] = ()
        self.there = True

    async def rules(self) -> tuple[RuleInForce, ...]:
        return self.made

    async def switched_off(self) -> frozenset[str]:
        if not self.there:
            raise CacheUnavailable("down")
        return self.off


def rule(number: int, **fields: str) -> RuleInForce:
    return RuleInForce(rule=PurgeRule(**fields), number=number, made_at=UnixMillis(20))


class Poll:
    """One poll after another, as ``run`` makes them."""

    def __init__(self) -> None:
        self.store, self.clock = Store(), ManualClock()
        self.purges = Purges(self.store, self.clock)
        self.dropped: list[Ends] = []

    async def once(self) -> None:
        task = asyncio.create_task(self.purges.run(self._drop))
        for _ in range(5):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])

    async def _drop(self, ends: Ends) -> None:
        self.dropped.append(ends)


async def test_a_bucket_is_off_until_it_is_known_to_be_on() -> None:
    poll = Poll()
    assert poll.purges.is_off(BUCKET)
    await poll.once()
    assert not poll.purges.is_off(BUCKET)
    poll.store.off = frozenset({BUCKET, "acme/other/words/*"})
    await poll.once()
    assert poll.purges.is_off(BUCKET)
    assert poll.purges.is_off("acme/other/words/0.80")
    assert not poll.purges.is_off("acme/other/near/0.80")
    assert not poll.purges.is_off("acme/chat/words/0.92")
    poll.store.there = False
    poll.clock.advance_ms(int(KNOWN_S * 1000) + 1)
    await poll.once()
    assert poll.purges.is_off("acme/chat/words/0.92")
    assert KNOWN_S > 2 * POLL_S


async def test_a_long_purge_does_not_keep_the_buckets_from_being_known() -> None:
    store, asked = Store(), asyncio.Queue[None]()
    store.made = (rule(1, tag="x"),)
    clock = ManualClock()

    class Asked(Store):
        async def switched_off(self) -> frozenset[str]:
            await asked.put(None)
            return frozenset()

    store.__class__ = Asked
    purges = Purges(store, clock)

    async def forever(ends: Ends) -> None:
        await asyncio.Event().wait()

    task = asyncio.create_task(purges.run(forever))
    async with asyncio.timeout(30):
        await asked.get()
        clock.advance_ms(int(KNOWN_S * 1000) + 1)
        await asked.get()
        await asyncio.sleep(0)
    assert not purges.is_off(BUCKET)
    task.cancel()
    await asyncio.wait([task])


async def test_where_nobody_verifies_a_strict_slo_is_not_served() -> None:
    poll = Poll()
    await poll.once()
    unverified = Unverified(poll.purges)
    assert unverified.state(BUCKET, 0.01) is State.ON
    assert unverified.state(BUCKET, 0.001) is State.OFF
    assert unverified.share(BUCKET, 0.01, 0.5) == 0
    poll.clock.advance_ms(int(KNOWN_S * 1000) + 1)
    assert unverified.state(BUCKET, 0.01) is State.OFF


async def test_each_rule_is_obeyed_once() -> None:
    poll = Poll()
    await poll.once()
    assert poll.dropped == []
    poll.store.made = (rule(3, revision="r1"), rule(5, tag="x"))
    await poll.once()
    await poll.once()
    (ends,) = poll.dropped
    assert ends(OrgId("acme"), "a" * 64, LINEAGE)
    assert not ends(OrgId("acme"), "a" * 64, Lineage(revision="r2", admitted_at=UnixMillis(10)))
    poll.store.made = (*poll.store.made, rule(6, org="acme"))
    await poll.once()
    assert len(poll.dropped) == 2
    assert not poll.dropped[1](OrgId("other"), "a" * 64, LINEAGE)
