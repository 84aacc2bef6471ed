"""Two workers on one Valkey, one of them with L1, beside the memory store: whatever is put, aliased, barred,
purged, switched and evicted, in whatever order, all three answer alike."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Final, TypeVar

import redis
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test

from ext_proc.cache.entry import Sealer
from ext_proc.cache.local_store import KEEP_S, LocalStore
from ext_proc.cache.memory_store import MemoryStore
from ext_proc.cache.purge import Document
from ext_proc.cache.redis_store import RedisStore
from ext_proc.cache.store import SEEN_S, CachedAnswer, CacheStore, Keys, Lineage, PurgeRule
from gateway.contract.clock import ManualClock
from gateway.contract.ids import OrgId
from gateway.contract.units import UnixMillis
from tests.contract.cache.cases import body_of
from tests.contract.cache.conftest import SEAL_KEY
from tests.harness.valkey import StoreProcess

T = TypeVar("T")
QUESTIONS: Final = ["a" * 64, "b" * 64]
TEXT: Final = "c" * 64
BUCKETS: Final = ["acme/m/canonical/1.00", "acme/m/near/0.84", "acme-/m/canonical/1.00"]
orgs = st.sampled_from([OrgId("acme"), OrgId("acme-")])
questions = st.sampled_from(QUESTIONS)
keys = st.builds(Keys, exact=questions, canonical=st.sampled_from([TEXT, TEXT, ""]))
worker = st.integers(0, 1)
rules = st.sampled_from(
    [PurgeRule(org="acme"), PurgeRule(tag="x"), PurgeRule(revision="1"), PurgeRule(entry=QUESTIONS[0])]
)
lineages = st.builds(
    Lineage,
    model=st.just("m"),
    revision=st.sampled_from(["1", "2"]),
    tags=st.sampled_from([(), ("x",)]),
)


class Forgetful(MemoryStore):
    """Forgets what it is told to, as Valkey does."""

    def evict(self, org: OrgId, name: str) -> None:
        if name == "epoch":
            self._epochs[org] = self._epochs.get(org, 0) + 1
        elif name == "marks":
            self._document = Document(generation=f"{self._document.generation}e")
        elif name.endswith(":no"):
            self._bars.pop((org, name.removesuffix(":no")), None)
        else:
            self._values.pop((org, name), None)
            self._aliases.pop((org, name), None)


class Machine(RuleBasedStateMachine):
    url = ""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.clock = ManualClock()
        self.raw = redis.Redis.from_url(self.url)
        self.raw.flushall()
        self.memory = Forgetful(self.clock)
        made = [RedisStore.connect(self.url, Sealer(SEAL_KEY), self.clock) for _ in range(2)]
        self.made = made
        self.workers: list[CacheStore] = [LocalStore(made[0], self.clock), made[1]]
        self.epochs: list[tuple[OrgId, str, str]] = []
        self.count = 0

    def teardown(self) -> None:
        for store in self.made:
            self.run(store.aclose())
        self.raw.close()
        self.runner.close()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(coroutine)

    def both(self, at: int, verb: Callable[[CacheStore], Coroutine[Any, Any, T]], *, after_s: float) -> T:
        """The worker's answer, which is the memory's; then so long that the other worker knows of it too."""
        found = self.run(verb(self.workers[at]))
        assert found == self.run(verb(self.memory))
        self.clock.advance_ms(int(after_s * 1000) + 1)
        return found

    @rule(org=orgs, asked=keys, at=worker)
    def look_up(self, org: OrgId, asked: Keys, at: int) -> None:
        expected, found = self.run(self.memory.get(org, asked)), self.run(self.workers[at].get(org, asked))
        assert (found.answer, found.kind, found.expires_at) == (
            expected.answer,
            expected.kind,
            expected.expires_at,
        )
        self.epochs = [*self.epochs[-5:], (org, found.epoch, expected.epoch)]

    @rule(org=orgs, asked=questions, entry=questions, at=worker)
    def fetch(self, org: OrgId, asked: str, entry: str, at: int) -> None:
        self.both(at, lambda store: _fetched(store, org, entry, asked), after_s=0)

    @rule(org=orgs, place=keys, at=worker, lineage=lineages)
    def answer(self, org: OrgId, place: Keys, at: int, lineage: Lineage) -> None:
        self.look_up(org, place, at)
        self.put(org, place, at, lineage, 300, -1)

    @rule(org=orgs, place=keys, asked=questions, at=worker, lineage=lineages, barred=st.booleans())
    def follow_up(self, org: OrgId, place: Keys, asked: str, at: int, lineage: Lineage, barred: bool) -> None:
        """Another question answered alike, or told not to be."""
        self.answer(org, place, at, lineage)
        (self.bar if barred else self.alias)(org, asked, place.exact, at)
        self.look_up(org, Keys(exact=asked, canonical=TEXT), at)
        self.fetch(org, asked, place.exact, at)

    @rule(
        org=orgs,
        place=keys,
        at=worker,
        lineage=lineages,
        ttl=st.sampled_from([30, 300]),
        which=st.integers(0, 5),
    )
    def put(self, org: OrgId, place: Keys, at: int, lineage: Lineage, ttl: int, which: int) -> None:
        """Under the epoch of some look-up of the org, also one before a purge."""
        known = [epochs for epochs in self.epochs if epochs[0] == org]
        if not known:
            return
        _, epoch, expected = known[which % len(known)]
        self.count += 1
        answer = CachedAnswer(
            body=str(self.count).encode(), stored_at=UnixMillis(self.count), lineage=lineage
        )
        assert self.run(self.memory.put(org, place, expected, answer, ttl_seconds=ttl))
        assert self.run(self.workers[at].put(org, place, epoch, answer, ttl_seconds=ttl))
        self.clock.advance_ms(int(KEEP_S * 1000) + 1)

    @rule(org=orgs, asked=questions, entry=questions, at=worker)
    def alias(self, org: OrgId, asked: str, entry: str, at: int) -> None:
        self.both(at, lambda store: store.alias(org, asked, entry, ttl_seconds=60), after_s=KEEP_S)

    @rule(org=orgs, asked=questions, entry=questions, at=worker)
    def bar(self, org: OrgId, asked: str, entry: str, at: int) -> None:
        self.both(at, lambda store: store.bar(org, asked, entry), after_s=at * SEEN_S)

    @rule(org=orgs, at=worker)
    def purge(self, org: OrgId, at: int) -> None:
        self.both(at, lambda store: store.purge(org), after_s=at * SEEN_S)

    @rule(which=rules, at=worker)
    def purge_where(self, which: PurgeRule, at: int) -> None:
        self.both(at, lambda store: store.purge_where(which), after_s=SEEN_S)

    @rule(bucket=st.sampled_from(BUCKETS), off=st.booleans(), at=worker)
    def switch(self, bucket: str, off: bool, at: int) -> None:
        self.both(
            at,
            lambda store: store.switch_off(bucket) if off else store.switch_on(bucket),
            after_s=SEEN_S,
        )

    @rule(seconds=st.sampled_from([1, 20, 40]))
    def wait(self, seconds: int) -> None:
        self.clock.advance_ms(seconds * 1000)

    @rule(
        org=orgs,
        name=st.sampled_from(
            [*QUESTIONS, TEXT, *(f"{asked}:no" for asked in QUESTIONS), "epoch", "bars", "marks"]
        ),
    )
    def evict(self, org: OrgId, name: str) -> None:
        if self.raw.delete("tgc:marks" if name == "marks" else f"tgc:{{{org}}}:{name}") and name != "bars":
            self.memory.evict(org, name)
        self.clock.advance_ms(int(KEEP_S * 1000) + 1)


async def _fetched(store: CacheStore, org: OrgId, entry: str, asked: str) -> bytes | None:
    return body_of(await store.fetch(org, entry, asked=asked))


def run_machine(url: str, *, examples: int, steps: int) -> None:
    """Raises what hypothesis raises for a run in which they differ."""
    run_state_machine_as_test(
        type("OnValkey", (Machine,), {"url": url}),
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_all_answer_alike(valkey: StoreProcess) -> None:
    run_machine(valkey.url, examples=50, steps=40)
