"""A replica becomes the primary, and the primary it followed is fenced.

In this order, so that nothing is decided in two places:

1. The old primary, if it answers, gets an epoch that nobody may use, for the store and for every org: whoever
   writes there is refused. That reaches the replica too, as the last thing it learns.
2. The replica follows nobody any more.
3. It gets a new epoch of a higher term. Processes whose epoch does not fit ask for the one in force, as after
   any other change, and go on.

Ended half way, everybody is closed, and the same again ends it.

**An old primary that did not answer is fenced all the same**, for what writes with ``replicas`` of 1 or more:
its replica follows it no more, so it can confirm nothing (redis_ledger.py). A process that knows the new term
refuses its lower one (redis_keys.py). What neither covers is a process with ``replicas`` 0 that has met only
the old one: let the servers' ``min-replicas-to-write`` cover that, and start an old primary again only as a
replica of the new one (``replicaof``), which makes its books the new ones and gives the confirmations their
second store. Until then ``replicas`` of 1 stops all writing on the new primary: that is what it is for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from gateway.budget.redis_connection import connect, within
from gateway.budget.redis_keys import EPOCH_KEY, FENCED, new_epoch, org_key, term_of
from gateway.contract.clock import Clock, SystemClock
from gateway.contract.errors import LedgerEmptied, LedgerUnavailable
from gateway.contract.ids import OrgId
from gateway.contract.units import Millis

STEP: Final = Millis(5_000)
"""Of one command; a promotion is a person's doing or a supervisor's, not a request's."""
HEARD: Final = Millis(1_000)
"""How long the old primary may take to tell its replica that it is fenced."""
SCAN_COUNT: Final = 1000
PASSES: Final = 2
"""Over the orgs: one that a late process opened during the first is found by the second."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Promotion:
    """What was done."""

    epoch: str
    orgs: int
    fenced: bool
    """The old primary answered and is fenced by its epoch."""


async def promote(replica_url: str, old_url: str | None = None, *, clock: Clock | None = None) -> Promotion:
    """Make the store at ``replica_url`` the primary; ``old_url`` is the one it follows, dead or not. On
    single stores (in a cluster the nodes elect by themselves). Raises LedgerEmptied when the replica has no
    books, LedgerUnavailable when it does not answer; ValueError for a bad URL, or when the old one is no
    primary."""
    replica = connect(replica_url, timeout=STEP)
    old = connect(old_url, timeout=STEP) if old_url else None
    try:
        fenced = old is not None and await _fence(old)
        async with within(STEP):
            # After the fence: what the replica still had to learn, it has learnt.
            before = await replica.get(EPOCH_KEY)
        if before is None:
            raise LedgerEmptied("The replica has no epoch: there are no books to go on with.")
        async with within(STEP):
            await replica.execute_command("REPLICAOF", "NO", "ONE")
        term = max((clock or SystemClock()).unix_ms(), term_of(before) + 1)
        epoch = new_epoch(term)
        async with within(STEP):
            await replica.set(EPOCH_KEY, epoch)
        for _ in range(PASSES):
            orgs = await _orgs(replica)
            await _stamp(replica, orgs, epoch)
        return Promotion(epoch=epoch, orgs=len(orgs), fenced=fenced)
    finally:
        await replica.aclose()
        if old is not None:
            await old.aclose()


async def _fence(old: Any) -> bool:
    """Whether it answered, with books to fence. Raises ValueError."""
    try:
        async with within(STEP):
            role = (await old.info("replication"))["role"]
            before = await old.get(EPOCH_KEY)
    except LedgerUnavailable:
        return False
    if role != "master":
        raise ValueError("the old primary is a replica itself: are the two stores confused?")
    if before is None:
        return False
    try:
        async with within(STEP):
            await old.set(EPOCH_KEY, f"{term_of(before)}.{FENCED}")
        # Without a term, unlike the store's: workers of version 1 compare the two, and must not find them
        # equal.
        await _stamp(old, await _orgs(old), FENCED)
        async with within(Millis(STEP + HEARD)):
            await old.execute_command("WAIT", 1, HEARD)
    except LedgerUnavailable:
        return False
    return True


async def _orgs(store: Any) -> Sequence[OrgId]:
    """Every org with books, be it a member of the set of orgs or not yet."""
    prefix, suffix = org_key(OrgId("*"), "meta").split("*")
    pattern = org_key(OrgId("*"), "meta").replace("{", "[{]")
    async with within(Millis(12 * STEP)):
        keys = [str(key) async for key in store.scan_iter(match=pattern, count=SCAN_COUNT)]
    return sorted({OrgId(key.removeprefix(prefix).removesuffix(suffix)) for key in keys})


async def _stamp(store: Any, orgs: Sequence[OrgId], epoch: str) -> None:
    for org in orgs:
        async with within(STEP):
            await store.hset(org_key(org, "meta"), "epoch", epoch)
