"""Look-ups of many tenants on the filter's own path, each answer held against who may see it.

`python -m tests.fuzz.lookups [LOOK_UPS] [SEED]` runs them on a Valkey of its own and prints what was served.
"""

from __future__ import annotations

import asyncio
import io
import random
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, redirect_stdout
from dataclasses import dataclass, field
from typing import Final
from unittest.mock import patch

import redis.asyncio
from prometheus_client import generate_latest

from ext_proc.cache import redis_place, redis_store
from ext_proc.cache.entry import Sealer
from ext_proc.cache.flights import SharedFlights
from ext_proc.cache.local_store import LocalStore
from ext_proc.cache.redis_store import RedisStore
from ext_proc.lookups import Lookups
from ext_proc.measures import Measures
from ext_proc.recall.index import Index
from ext_proc.recall.recaller import Recaller
from ext_proc.recall.words import NearMiss, Recall, Served
from gateway.contract.clock import Clock, SystemClock
from gateway.contract.units import Millis
from gateway.telemetry.log import logger
from tests.fuzz.asking import SECRETS, Asking, Outcome
from tests.fuzz.tenants import CANARY, World, made_world, may_see
from tests.harness.caching import CollidingEmbedder, GossipingRecall
from tests.harness.valkey import StoreProcess, cache_store

WORKERS: Final = 2
"""Filter processes, each with an L1 of its own."""
AT_A_TIME: Final = 8
LOOKUPS_OF_A_WORLD: Final = 10_000
PATIENT: Final = Millis(10_000)
"""In place of the deadlines of recall and store: a late answer is a miss, which proves nothing."""
_FEEDBACK_ONE_IN: Final = 40


@dataclass(kw_only=True)
class Found:
    """What a run has seen; ``leaks`` says what is wrong."""

    lookups: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    shared: int = 0
    """Hits on another caller's answer."""
    let_through: int = 0
    """Callers whose names no caller can have, and who were not refused."""
    gossip: int = 0
    """Entries of other orgs that recall has offered."""
    leaks: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def add(self, other: Found) -> None:
        """Both together."""
        self.lookups += other.lookups
        self.kinds += other.kinds
        self.shared += other.shared
        self.let_through += other.let_through
        self.gossip += other.gossip
        self.leaks += other.leaks
        self.seconds += other.seconds


class Run:
    """Look-ups in one world."""

    def __init__(self, world: World, seed: int, lookups: Sequence[Lookups]) -> None:
        """``lookups``: of each worker."""
        self._seed, self._workers = seed, [Asking(world, one) for one in lookups]
        self._world, self._owners = world, world.by_canary()
        self._entries: list[str] = []
        self.found = Found()

    async def lookup(self, number: int) -> None:
        """The one with this number."""
        rng = random.Random(f"{self._seed}/{number}")
        tenant = rng.choice(self._world.tenants)
        wrong = rng.choice(self._entries) if self._entries and not rng.randrange(_FEEDBACK_ONE_IN) else ""
        asking = rng.choice(self._workers)
        outcome = await asking.one(rng, tenant, f"fuzz-{self._seed}-{number}", wrong)
        self.found.lookups += 1
        self._judge(outcome, number)
        if outcome.entry:
            self._entries.append(outcome.entry)

    def _judge(self, outcome: Outcome, number: int) -> None:
        found, asker = self.found, outcome.tenant
        found.let_through += outcome.let_through
        found.kinds[outcome.kind or "miss"] += 1
        for where, text in outcome.outside.items():
            if CANARY.search(text):
                found.leaks.append(f"{number}: a canary in {where}")
        for canary in set(CANARY.findall(outcome.toward_engine)) - {asker.canary}:
            found.leaks.append(f"{number}: {canary} on its way to an engine")
        if not outcome.kind:
            return
        owners = set(CANARY.findall(outcome.answer))
        if len(owners) != 1 or outcome.wanted not in outcome.answer:
            found.leaks.append(f"{number}: {outcome.kind} answer to another question")
        for owner in owners:
            writer = self._owners.get(owner)
            if writer is None or not may_see(self._world, writer.who, asker.who, outcome.model):
                found.leaks.append(f"{number}: {outcome.kind} answer of {owner} for {asker.canary}")
            found.shared += owner != asker.canary


class Judge:
    """Calls every two questions of one kind the same, at once; and looks at what it is handed."""

    def __init__(self, world: World) -> None:
        """Nobody has asked yet."""
        self._owners = world.by_canary()
        self.store: RedisStore | None = None
        self.leaks: list[str] = []
        self._tasks: set[asyncio.Task[bool]] = set()

    def near(self, near: NearMiss) -> None:
        """A near miss becomes an alias."""
        self._look(f"{near.ask.text} {near.stored_text}", near.ask.org)
        if self.store is not None:
            ask = near.ask
            work = self.store.alias(ask.org, ask.asked, near.entry, ttl_seconds=600)
            task = asyncio.ensure_future(work)
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def served(self, served: Served) -> None:
        """A hit that is to be verified."""
        self._look(f"{served.request!r} {served.answer!r}", served.org)

    def _look(self, text: str, org: str) -> None:
        owners = {self._owners[canary].who.org for canary in CANARY.findall(text)}
        if owners - {org}:
            self.leaks.append(f"the judge of {org!r} was handed texts of {sorted(owners)}")

    async def done(self) -> None:
        """Every alias is made."""
        await asyncio.gather(*self._tasks)


@asynccontextmanager
async def _recall(judge: Judge, clock: Clock, rng: random.Random | None) -> AsyncIterator[Recall]:
    if rng is not None:
        yield GossipingRecall(rng)
        return
    embedder = CollidingEmbedder()
    recaller = Recaller(
        embedder,
        Index(embedder.dimensions),
        clock,
        on_near_miss=judge.near,
        on_served=judge.served,
        deadline_s=PATIENT / 1000,
    )
    try:
        yield recaller
    finally:
        await recaller.aclose()


async def run_world(
    valkey: StoreProcess, seed: int, lookups: int, *, hostile: bool = False, gossip: bool = False
) -> Found:
    """One world on an empty store. ``hostile``: names that no caller can have, past the check of names.
    ``gossip``: a recall that offers other orgs' entries to everybody."""
    rng, clock, written = random.Random(seed), SystemClock(), io.BytesIO()
    log = io.TextIOWrapper(written)
    world = made_world(rng, hostile=hostile)
    judge = Judge(world)
    raw = redis.asyncio.from_url(valkey.url)
    await raw.flushall()
    stores = [RedisStore.connect(valkey.url, Sealer(SECRETS.entry_key()), clock) for _ in range(WORKERS)]
    judge.store = stores[0]
    begun = time.perf_counter()
    with (
        redirect_stdout(log),
        patch.object(redis_store, "LOOKUP", PATIENT),
        patch.object(redis_place, "LOOKUP", PATIENT),
    ):
        async with _recall(judge, clock, rng if gossip else None) as recall:
            running = [asyncio.create_task(store.run()) for store in stores]
            workers = [
                Lookups(
                    LocalStore(store, clock),
                    SharedFlights(store.flights, store),
                    recall,
                    clock,
                    Measures(clock),
                    logger("fuzz"),
                )
                for store in stores
            ]
            run = Run(world, seed, workers)
            await _all(run, lookups)
            await judge.done()
            for task in running:
                task.cancel()
            run.found.gossip = recall.told if isinstance(recall, GossipingRecall) else 0
    found = run.found
    found.seconds = time.perf_counter() - begun
    found.leaks += judge.leaks
    log.flush()
    left = {"the log": written.getvalue(), "the metrics": generate_latest()}
    found.leaks += [f"a canary in {where}" for where, text in left.items() if CANARY.search(text.decode())]
    found.leaks += await _misplaced(raw, world)
    for store in stores:
        await store.aclose()
    await raw.aclose()
    return found


async def _misplaced(raw: redis.asyncio.Redis, world: World) -> list[str]:
    """Canaries of one org under keys of another, or in a key's name."""
    leaks, owners = [], world.by_canary()
    async for key in raw.scan_iter(count=1000):
        org, value = key.rpartition(b"}:")[0], await raw.get(key) or b""
        told = {owners[canary].who.org for canary in CANARY.findall(value.decode("latin-1"))}
        if CANARY.search(key.decode()) or told - {org.removeprefix(b"tgc:{").decode()}:
            leaks.append(f"a canary of {sorted(told)} under {key!r}")
    return leaks


async def _all(run: Run, lookups: int) -> None:
    numbers = iter(range(lookups))

    async def work() -> None:
        for number in numbers:
            await run.lookup(number)

    await asyncio.gather(*(work() for _ in range(AT_A_TIME)))


async def search(valkey: StoreProcess, seed: int, lookups: int) -> Found:
    """Worlds of every kind, one after the other, from ``seed`` on."""
    found, number = Found(), 0
    while found.lookups < lookups:
        size = min(LOOKUPS_OF_A_WORLD, lookups - found.lookups)
        # Of five worlds one has hostile names and one a recall that gossips.
        kind = number % 5
        found.add(await run_world(valkey, seed + number, size, hostile=kind == 3, gossip=kind == 4))
        number += 1
    return found


async def _main(lookups: int, seed: int) -> int:
    with cache_store() as valkey:
        found = await search(valkey, seed, lookups)
    kinds = ", ".join(f"{count} {kind}" for kind, count in found.kinds.most_common())
    print(f"seed {seed}: {found.lookups} look-ups in {found.seconds:.0f} s: {kinds}")
    print(
        f"{found.shared} hits on another caller's answer, all of them allowed" if not found.leaks else "LEAKS"
    )
    for leak in found.leaks[:20]:
        print(leak)
    return 1 if found.leaks else 0


if __name__ == "__main__":
    wanted = [int(word) for word in sys.argv[1:3]]
    sys.exit(
        asyncio.run(
            _main(
                wanted[0] if wanted else 100_000,
                wanted[1] if wanted[1:] else random.SystemRandom().randrange(2**32),
            )
        )
    )
