"""Names, keys and answers of the stores' tests."""

from __future__ import annotations

from ext_proc.cache.store import CachedAnswer, CacheStore, HitKind, Keys, Lineage, Lookup
from gateway.contract.ids import OrgId
from gateway.contract.units import UnixMillis

ACME, OTHER = OrgId("acme"), OrgId("other")
KEY, ASKED, THIRD, CANON = "a" * 64, "b" * 64, "d" * 64, "c" * 64
KEYS = Keys(exact=KEY, canonical=CANON)
LIKE = Keys(exact=ASKED, canonical=CANON)
"""Another question of the same canonical text."""
LINEAGE = Lineage(
    request_id="r-1",
    model="chat",
    revision="rev1",
    template="t1",
    policy_version="7",
    tags=("faq", "eu"),
    admitted_at=UnixMillis(1_700_000_000_000),
)
ANSWER = CachedAnswer(
    body=b'{"choices":[]}', stored_at=UnixMillis(1_700_000_000_000), entry=KEY, lineage=LINEAGE
)
LATER = CachedAnswer(body=b"{}", stored_at=UnixMillis(1_700_000_000_001), entry=KEY, lineage=LINEAGE)


async def put(store: CacheStore, keys: Keys = KEYS, answer: CachedAnswer = ANSWER, org: OrgId = ACME) -> str:
    """Look up and put, as a request does; the epoch it was put under."""
    epoch = (await store.get(org, keys)).epoch
    assert await store.put(org, keys, epoch, answer, ttl_seconds=60)
    return epoch


async def body(store: CacheStore, keys: Keys = KEYS, org: OrgId = ACME) -> bytes | None:
    """What is answered."""
    return body_of(await store.get(org, keys))


def body_of(found: Lookup) -> bytes | None:
    assert (found.answer is None) == (found.kind is None)
    return None if found.answer is None else found.answer.body


async def kind(store: CacheStore, keys: Keys, org: OrgId = ACME) -> HitKind | None:
    """How it is found."""
    return (await store.get(org, keys)).kind
