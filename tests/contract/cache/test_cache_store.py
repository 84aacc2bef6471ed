"""What every cache store must keep, on the memory store, on a real Valkey, and with L1 in front of each."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ext_proc.cache.entry import LINEAGE_BYTES_MAX
from ext_proc.cache.store import (
    BAR_SECONDS,
    BARS_MAX,
    ENTRY_BYTES_MAX,
    TTL_SECONDS_MAX,
    CacheStore,
    HitKind,
    Keys,
    Lineage,
    PurgeRule,
)
from gateway.contract.clock import ManualClock
from gateway.contract.ids import OrgId
from tests.contract.cache.cases import (
    ACME,
    ANSWER,
    ASKED,
    CANON,
    KEY,
    KEYS,
    LATER,
    LIKE,
    OTHER,
    THIRD,
    body,
    body_of,
    kind,
    put,
)


async def test_what_was_put_is_found_in_its_org_only(store: CacheStore, clock: ManualClock) -> None:
    epoch = await put(store)
    found = await store.get(ACME, KEYS)
    assert (found.answer, found.kind, found.epoch) == (ANSWER, HitKind.EXACT, epoch)
    assert found.expires_at == clock.unix_ms() + 60_000
    assert await body(store, org=OTHER) is None
    assert await body(store, LIKE, org=OTHER) is None
    assert body_of(await store.fetch(OTHER, KEY, asked=ASKED)) is None
    assert await body(store, Keys(exact=ASKED)) is None


@pytest.mark.parametrize(
    "name", ["ACME", "acm", "acme-", "acme_", "acme:", "acme}", "{acme}", "acme}:x{", ""]
)
async def test_no_name_of_an_org_is_taken_for_another(store: CacheStore, name: str) -> None:
    other = OrgId(name)
    await put(store)
    assert await body(store, org=other) is None
    await put(store, answer=LATER, org=other)
    assert await body(store) == ANSWER.body
    await store.bar(other, KEY, KEY)
    await store.purge(other)
    assert await body(store) == ANSWER.body


async def test_the_epoch_stays_until_a_purge(store: CacheStore) -> None:
    first = (await store.get(ACME, KEYS)).epoch
    assert (await store.get(ACME, KEYS)).epoch == first
    assert first.isalnum(), "it travels between dots"
    await store.purge(ACME)
    assert (await store.get(ACME, KEYS)).epoch != first


async def test_an_answer_whose_look_up_was_late_belongs_where_the_last_one_said(store: CacheStore) -> None:
    assert (await store.get(ACME, KEYS)).epoch == store.epoch(ACME)
    before_both = store.epoch(ACME)
    await store.purge_where(PurgeRule(org=ACME))
    between = store.epoch(ACME)
    await store.put(ACME, KEYS, before_both, ANSWER, ttl_seconds=60)
    assert await body(store) is None
    assert await store.put(ACME, KEYS, between, ANSWER, ttl_seconds=60)
    assert await body(store) == ANSWER.body
    await store.purge(ACME)
    assert store.epoch(ACME) not in (before_both, between)
    await store.put(ACME, KEYS, between, ANSWER, ttl_seconds=60)
    assert await body(store) is None
    assert (await store.get(ACME, KEYS)).epoch == store.epoch(ACME)


async def test_a_purge_takes_what_is_stored_and_what_is_being_generated(store: CacheStore) -> None:
    before = await put(store)
    await put(store, org=OTHER)
    assert await body(store) == ANSWER.body
    await store.purge(ACME)
    assert await body(store) is None
    assert await body(store, LIKE) is None
    assert body_of(await store.fetch(ACME, KEY, asked=ASKED)) is None
    await store.put(ACME, KEYS, before, ANSWER, ttl_seconds=60)
    assert await body(store) is None, "generated before the purge"
    assert await body(store, LIKE) is None
    assert await body(store, org=OTHER) == ANSWER.body


FITTING = [
    PurgeRule(org="acme"),
    PurgeRule(model="chat"),
    PurgeRule(revision="rev1"),
    PurgeRule(model="chat", revision="rev1"),
    PurgeRule(template="t1"),
    PurgeRule(policy_version="7"),
    PurgeRule(request_id="r-1"),
    PurgeRule(tag="eu"),
    PurgeRule(entry=KEY),
]


@pytest.mark.parametrize("rule", FITTING, ids=str)
async def test_a_rule_takes_what_it_fits_with_its_aliases_and_what_is_being_generated(
    store: CacheStore, rule: PurgeRule
) -> None:
    before = await put(store)
    assert await store.alias(ACME, THIRD, KEY, ttl_seconds=60)
    assert await body(store) == ANSWER.body
    assert await store.purge_where(rule) == 1
    for keys in (KEYS, LIKE, Keys(exact=THIRD)):
        assert await body(store, keys) is None
    assert body_of(await store.fetch(ACME, KEY, asked=ASKED)) is None
    assert not await store.alias(ACME, THIRD, KEY, ttl_seconds=60)
    await store.put(ACME, KEYS, before, ANSWER, ttl_seconds=60)
    assert await body(store) is None, "generated before the purge"
    await put(store)
    assert await body(store) == ANSWER.body, "generated after it"
    assert await body(store, Keys(exact=THIRD)) is None, "an alias to what was purged"


async def test_a_rule_takes_nothing_else(store: CacheStore) -> None:
    await put(store)
    rules = [
        PurgeRule(org="other"),
        PurgeRule(model="chat", revision="rev2"),
        PurgeRule(tag="e"),
        PurgeRule(request_id="r-"),
        PurgeRule(entry=ASKED),
        PurgeRule(org="other", entry=KEY),
    ]
    for count, rule in enumerate(rules, start=1):
        assert await store.purge_where(rule) == count
    assert await store.purge_where(rules[0]) == len(rules), "said twice"
    assert [made.rule for made in await store.rules()] == [*rules[1:], rules[0]]
    assert await body(store) == ANSWER.body
    with pytest.raises(ValueError, match="at least one"):
        await store.purge_where(PurgeRule())
    assert await body(store) == ANSWER.body


async def test_a_later_answer_takes_the_place(store: CacheStore) -> None:
    await put(store)
    await put(store, answer=LATER)
    assert await body(store) == LATER.body
    assert await body(store, LIKE) == LATER.body


async def test_size_and_time_are_bounded(store: CacheStore) -> None:
    epoch = (await store.get(ACME, KEYS)).epoch
    largest = replace(ANSWER, body=b"x" * ENTRY_BYTES_MAX)
    larger = replace(ANSWER, body=b"x" * (ENTRY_BYTES_MAX + 1))
    assert not await store.put(ACME, KEYS, epoch, larger, ttl_seconds=60)
    assert not await store.put(ACME, KEYS, epoch, ANSWER, ttl_seconds=0)
    assert not await store.put(ACME, KEYS, epoch, ANSWER, ttl_seconds=TTL_SECONDS_MAX + 1)
    assert not await store.put(ACME, KEYS, "e", ANSWER, ttl_seconds=60)
    untold = replace(ANSWER, lineage=Lineage(tags=("x" * LINEAGE_BYTES_MAX,)))
    assert not await store.put(ACME, KEYS, epoch, untold, ttl_seconds=60)
    assert await body(store) is None
    assert await store.put(ACME, KEYS, epoch, largest, ttl_seconds=TTL_SECONDS_MAX)
    assert await body(store) == largest.body


@pytest.mark.parametrize("text", [b"", b"x", b"{}" * 10_000, bytes(range(256)) * 64])
async def test_bodies_come_back_as_they_were(store: CacheStore, text: bytes) -> None:
    await put(store, answer=replace(ANSWER, body=text))
    assert await body(store) == text


async def test_an_answer_ends_with_its_time(store: CacheStore, clock: ManualClock) -> None:
    await put(store)
    await store.alias(ACME, THIRD, KEY, ttl_seconds=30)
    clock.advance_ms(29_999)
    assert [await kind(store, keys) for keys in (KEYS, LIKE, Keys(exact=THIRD))] == [
        "exact",
        "canonical",
        "alias",
    ]
    clock.advance_ms(1)
    assert await kind(store, Keys(exact=THIRD)) is None
    clock.advance_ms(30_000)
    assert await kind(store, KEYS) is await kind(store, LIKE) is None


async def test_the_same_canonical_text_is_answered_with_its_last_answer(store: CacheStore) -> None:
    await put(store)
    found = await store.get(ACME, LIKE)
    assert (found.answer, found.kind) == (ANSWER, HitKind.CANONICAL)
    assert await body(store, Keys(exact=ASKED)) is None, "not asked for by likeness"
    assert await body(store, Keys(exact=ASKED, canonical=THIRD)) is None
    await put(store, LIKE, replace(LATER, entry=ASKED))
    assert await kind(store, LIKE) == HitKind.EXACT
    assert await body(store) == ANSWER.body
    assert await body(store, Keys(exact=THIRD, canonical=CANON)) == LATER.body


async def test_an_alias_answers_until_there_is_an_answer(store: CacheStore) -> None:
    assert not await store.alias(ACME, ASKED, KEY, ttl_seconds=60), "nothing there"
    await put(store)
    assert not await store.alias(OTHER, ASKED, KEY, ttl_seconds=60)
    assert not await store.alias(ACME, KEY, KEY, ttl_seconds=60)
    assert await store.alias(ACME, ASKED, KEY, ttl_seconds=60)
    found = await store.get(ACME, Keys(exact=ASKED))
    assert (found.answer, found.kind) == (ANSWER, HitKind.ALIAS)
    assert not await store.alias(ACME, THIRD, ASKED, ttl_seconds=60), "no alias of an alias"
    assert body_of(await store.fetch(ACME, ASKED, asked=THIRD)) is None
    await put(store, Keys(exact=ASKED), replace(LATER, entry=ASKED))
    assert await kind(store, Keys(exact=ASKED)) is HitKind.EXACT
    assert not await store.alias(ACME, ASKED, KEY, ttl_seconds=60), "it has an answer of its own"


async def test_what_a_search_found_is_fetched(store: CacheStore) -> None:
    await put(store)
    found = await store.fetch(ACME, KEY, asked=ASKED)
    assert (found.answer, found.kind) == (ANSWER, HitKind.SEMANTIC)
    assert body_of(await store.fetch(ACME, THIRD, asked=ASKED)) is None


async def test_a_barred_pair_is_found_by_no_likeness(store: CacheStore, clock: ManualClock) -> None:
    await put(store)
    await store.alias(ACME, ASKED, KEY, ttl_seconds=60)
    assert await body(store, LIKE) == ANSWER.body
    await store.bar(ACME, ASKED, KEY)
    for _ in range(2):
        assert await body(store, LIKE) is None
        assert body_of(await store.fetch(ACME, KEY, asked=ASKED)) is None
        assert not await store.alias(ACME, ASKED, KEY, ttl_seconds=60)
        assert await body(store, KEYS) is not None, "its own question"
        assert await body(store, Keys(exact=THIRD, canonical=CANON)) is not None, "another question"
        await put(store, answer=LATER)  # barred is the pair, whatever the answer
    clock.advance_ms(BAR_SECONDS * 1000)
    await put(store, answer=LATER)
    assert body_of(await store.fetch(ACME, KEY, asked=THIRD)) == LATER.body


async def test_a_wrong_answer_goes(store: CacheStore) -> None:
    await put(store)
    assert await body(store) == ANSWER.body
    await store.bar(ACME, KEY, KEY)
    assert await body(store) is None
    assert await body(store, LIKE) is None
    await put(store, answer=LATER)
    assert await body(store) == await body(store, LIKE) == LATER.body


async def test_more_bars_than_are_kept_bar_everything(store: CacheStore) -> None:
    await put(store)
    for number in range(BARS_MAX):
        await store.bar(ACME, ASKED, f"{number:064x}")
        await store.bar(ACME, f"{number:064x}", KEY)
        await store.bar(ACME, ASKED, f"{0:064x}")  # said again: counts once
        await store.bar(ACME, f"{0:064x}", KEY)
    assert await body(store, LIKE) == ANSWER.body
    await store.bar(ACME, ASKED, f"{BARS_MAX:064x}")
    assert await body(store, LIKE) is None
    assert await body(store, Keys(exact=THIRD, canonical=CANON)) == ANSWER.body
    await store.bar(ACME, f"{BARS_MAX:064x}", KEY)
    assert await body(store, Keys(exact=THIRD, canonical=CANON)) is None
    assert await body(store) == ANSWER.body


@pytest.mark.parametrize(
    "name", ["", "epoch", "bars", "A" * 64, "a" * 63, "a" * 65, f"{KEY}:no", "é" * 64, KEY + "\n"]
)
async def test_what_is_no_key_is_not_there(store: CacheStore, name: str) -> None:
    epoch = await put(store)
    assert not await store.put(ACME, Keys(exact=name), epoch, ANSWER, ttl_seconds=60)
    await put(store, Keys(exact=KEY, canonical=name))
    assert await body(store, Keys(exact=name, canonical=CANON)) is None
    assert body_of(await store.fetch(ACME, name, asked=ASKED)) is None
    assert body_of(await store.fetch(ACME, KEY, asked=name)) is None
    assert not await store.alias(ACME, name, KEY, ttl_seconds=60)
    assert not await store.alias(ACME, ASKED, name, ttl_seconds=60)
    for asked, entry in ((name, KEY), (KEY, name), (name, name)):
        await store.bar(ACME, asked, entry)
    found = await store.get(ACME, KEYS)
    assert (body_of(found), found.epoch) == (ANSWER.body, epoch)


async def test_likeness_is_switched_off_for_each_org_model_and_level(store: CacheStore) -> None:
    await put(store)
    await store.alias(ACME, THIRD, KEY, ttl_seconds=60)
    alias = Keys(exact=THIRD)
    for bucket in ("other/chat/canonical/1.00", "acme/cha/canonical/1.00", "acme/chat/words/0.90"):
        await store.switch_off(bucket)
    assert (await kind(store, LIKE), await kind(store, alias)) == (HitKind.CANONICAL, HitKind.ALIAS)
    await store.switch_off("acme/chat/canonical/1.00")
    assert (await kind(store, LIKE), await kind(store, alias)) == (None, HitKind.ALIAS)
    await store.switch_off("acme/chat/near/0.84")
    assert (await kind(store, KEYS), await kind(store, alias)) == (HitKind.EXACT, None)
    assert "acme/chat/near/0.84" in await store.switched_off()
    await store.switch_on("acme/chat/canonical/1.00")
    await store.switch_on("acme/chat/canonical/1.00")
    assert (await kind(store, LIKE), await kind(store, alias)) == (HitKind.CANONICAL, None)


async def test_peeking_shows_a_hit_or_nothing(store: CacheStore) -> None:
    assert store.peek(ACME, KEYS) is None
    await put(store)
    for end in (
        lambda: store.purge(ACME),
        lambda: store.bar(ACME, KEY, KEY),
        lambda: store.purge_where(PurgeRule(tag="faq")),
    ):
        found = await store.get(ACME, KEYS)
        assert store.peek(ACME, KEYS) in (None, found)
        assert store.peek(OTHER, KEYS) is None
        await end()
        assert store.peek(ACME, KEYS) is None
        await put(store)
