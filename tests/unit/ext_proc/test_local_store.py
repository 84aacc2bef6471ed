"""L1 holds so many bytes and so long, and serves nothing that the store under it may have ended."""

from __future__ import annotations

import pytest

from ext_proc.cache.local_store import KEEP_S, OVERHEAD_BYTES, SHARE_MAX, LocalStore
from ext_proc.cache.memory_store import MemoryStore
from ext_proc.cache.store import CachedAnswer, CacheUnavailable, HitKind, Keys, Lookup
from gateway.contract.clock import ManualClock
from gateway.contract.ids import OrgId
from gateway.contract.units import UnixMillis

ACME = OrgId("acme")
KEYS, LIKE = Keys(exact="a" * 64, canonical="c" * 64), Keys(exact="b" * 64, canonical="c" * 64)


class Under(MemoryStore):
    """Counts what it is asked, and may have lost sight."""

    def __init__(self, clock: ManualClock) -> None:
        super().__init__(clock)
        self.asked = 0
        self.blind = False

    def standing(self, org: OrgId) -> str:
        return None if self.blind else super().standing(org)  # type: ignore[return-value]  # what a store may say

    async def get(self, org: OrgId, keys: Keys) -> Lookup:
        self.asked += 1
        if self.blind:
            raise CacheUnavailable("blind")
        return await super().get(org, keys)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def under(clock: ManualClock) -> Under:
    return Under(clock)


async def stored(store: Under, keys: Keys = KEYS, size: int = 10, org: OrgId = ACME) -> None:
    epoch = (await MemoryStore.get(store, org, keys)).epoch
    answer = CachedAnswer(body=b"x" * size, stored_at=UnixMillis(1))
    assert await store.put(org, keys, epoch, answer, ttl_seconds=60)


async def test_what_was_found_is_found_again_without_asking(under: Under, clock: ManualClock) -> None:
    local = LocalStore(under, clock)
    assert local.peek(ACME, KEYS) is None
    assert (await local.get(ACME, KEYS)).answer is None
    await stored(under)
    found = await local.get(ACME, KEYS)
    assert found.kind is HitKind.EXACT
    assert local.peek(ACME, KEYS) == found == await local.get(ACME, KEYS)
    assert under.asked == 2, "a miss is not held"
    assert local.peek(OrgId("other"), KEYS) is None


async def test_what_likeness_found_is_served_to_who_asks_for_likeness(
    under: Under, clock: ManualClock
) -> None:
    local = LocalStore(under, clock)
    await stored(under)
    assert (await local.get(ACME, LIKE)).kind is HitKind.CANONICAL
    assert local.peek(ACME, LIKE) is not None
    assert local.peek(ACME, Keys(exact=LIKE.exact)) is None
    assert local.peek(ACME, Keys(exact=LIKE.exact, canonical="d" * 64)) is None


async def test_nothing_is_served_unseen(under: Under, clock: ManualClock) -> None:
    local = LocalStore(under, clock)
    await stored(under)
    await local.get(ACME, KEYS)
    under.blind = True
    assert local.peek(ACME, KEYS) is None
    with pytest.raises(CacheUnavailable):
        await local.get(ACME, KEYS)
    under.blind = False
    assert local.peek(ACME, KEYS) is not None, "nothing has happened meanwhile"


async def test_it_is_read_again_after_a_while(under: Under, clock: ManualClock) -> None:
    local = LocalStore(under, clock)
    await stored(under)
    await local.get(ACME, KEYS)
    clock.advance_ms(int(KEEP_S * 1000) - 1)
    assert local.peek(ACME, KEYS) is not None
    clock.advance_ms(1)
    assert local.peek(ACME, KEYS) is None
    assert local.size_bytes == 0


async def test_it_serves_no_older_answer_than_its_process_has_put(under: Under, clock: ManualClock) -> None:
    local = LocalStore(under, clock)
    await stored(under)
    found = await local.get(ACME, KEYS)
    answer = CachedAnswer(body=b"later", stored_at=UnixMillis(2))
    assert await local.put(ACME, KEYS, found.epoch, answer, ttl_seconds=60)
    later = (await local.get(ACME, KEYS)).answer
    assert later is not None
    assert later.body == b"later"


async def test_bytes_are_bounded_and_the_longest_unused_goes(under: Under, clock: ManualClock) -> None:
    size = 3 * OVERHEAD_BYTES
    local = LocalStore(under, clock, bytes_max=SHARE_MAX * (size + OVERHEAD_BYTES))
    places = [Keys(exact=f"{at:064x}") for at in range(SHARE_MAX + 1)]
    for keys in places[:-1]:
        await stored(under, keys, size)
        await local.get(ACME, keys)
    assert local.peek(ACME, places[0]) is not None
    await stored(under, places[-1], size)
    await local.get(ACME, places[-1])
    assert [at for at, keys in enumerate(places) if local.peek(ACME, keys) is None] == [1]
    assert local.size_bytes == SHARE_MAX * (size + OVERHEAD_BYTES)
    await stored(under, KEYS, size + 1)
    await local.get(ACME, KEYS)
    assert local.peek(ACME, KEYS) is None, "too large for its share"
