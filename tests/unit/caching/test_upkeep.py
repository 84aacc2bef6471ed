"""Purges and barred pairs: what they end, in whose books they stand, and what is refused."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from ext_proc.cache.memory_store import MemoryStore
from ext_proc.cache.store import CachedAnswer, Keys, Lineage, PurgeRule
from gateway.admin.accounts import Accounts
from gateway.admin.change import BadValue, NotRecorded, Unknown
from gateway.contract.errors import LedgerUnavailable
from gateway.contract.ids import OrgId
from mesh.caching.upkeep import Upkeep
from tests.unit.admin.desk import BY, Desk, policy, pseudonym

DEMO = OrgId("demo")
ONE, OTHER, ASKED = "1" * 64, "2" * 64, "3" * 64


class Counter:
    """An operator's place at a cache in memory."""

    def __init__(self, directory: Path) -> None:
        self.desk = Desk(directory)
        self.store = MemoryStore(self.desk.clock)
        accounts = Accounts(
            self.desk.ledger, policy(), keys=self.desk.file.read(), models=["small"], pseudonym=pseudonym
        )
        self.upkeep = Upkeep(self.store, self, accounts)
        self.silent = False

    async def note(self, org: OrgId, kind: str, context: Mapping[str, str]) -> None:
        if self.silent:
            raise LedgerUnavailable("silent")
        await self.desk.ledger.note(org, kind, context)

    async def put(self, entry: str, revision: str, tags: tuple[str, ...] = ()) -> None:
        epoch = (await self.store.get(DEMO, Keys(exact=entry))).epoch
        lineage = Lineage(revision=revision, tags=tags)
        answer = CachedAnswer(body=b"x", stored_at=self.desk.clock.unix_ms(), lineage=lineage)
        assert await self.store.put(DEMO, Keys(exact=entry), epoch, answer, ttl_seconds=60)

    async def answered(self, entry: str) -> bool:
        return (await self.store.get(DEMO, Keys(exact=entry))).answer is not None

    def noted(self, kind: str) -> list[tuple[str, dict[str, str]]]:
        found = []
        for event in self.desk.events(kind):
            context = {name[2:]: text for name, text in event.items() if name.startswith("c.")}
            found.append((event["org"], context))
        return found


@pytest.fixture
def counter(tmp_path: Path) -> Counter:
    return Counter(tmp_path)


async def test_a_rule_ends_what_fits_and_stands_in_the_books_of_every_org(counter: Counter) -> None:
    await counter.put(ONE, "r1", ("faq",))
    await counter.put(OTHER, "r2", ("faq",))
    assert await counter.upkeep.purge(PurgeRule(revision="r1", tag="faq"), BY) == 1
    assert (await counter.answered(ONE), await counter.answered(OTHER)) == (False, True)
    context = {"cache_revision": "r1", "cache_tag": "faq", "actor": "olga", "reason": "a test"}
    assert counter.noted("cache.purged") == [("demo", context), ("empty", context)]
    (made,) = (await counter.upkeep.standing()).rules
    assert made.rule == PurgeRule(revision="r1", tag="faq")


async def test_a_tenant_alone_needs_no_rule(counter: Counter) -> None:
    await counter.put(ONE, "r1")
    assert await counter.upkeep.purge(PurgeRule(org="demo"), BY) is None
    assert not await counter.answered(ONE)
    assert (await counter.upkeep.standing()).rules == ()
    assert counter.noted("cache.purged") == [("demo", {"actor": "olga", "reason": "a test"})]


async def test_a_barred_pair_is_noted_with_both_keys(counter: Counter) -> None:
    await counter.put(ONE, "r1")
    await counter.upkeep.bar("demo", ASKED, ONE, BY)
    assert (await counter.store.fetch(DEMO, ONE, asked=ASKED)).answer is None
    assert await counter.answered(ONE)
    ((org, context),) = counter.noted("cache.barred")
    assert (org, context["cache_question"], context["cache_entry"]) == ("demo", ASKED, ONE)


async def test_switched_off_buckets_are_shown(counter: Counter) -> None:
    await counter.store.switch_off("demo/small/words/0.96")
    assert (await counter.upkeep.standing()).off == ("demo/small/words/0.96",)


@pytest.mark.parametrize(
    "rule",
    [PurgeRule(), PurgeRule(tag="x" * 201), PurgeRule(template="a\nb"), PurgeRule(entry="12")],
)
async def test_a_rule_that_names_nothing_is_refused(counter: Counter, rule: PurgeRule) -> None:
    with pytest.raises(BadValue):
        await counter.upkeep.purge(rule, BY)
    assert (await counter.upkeep.standing()).rules == ()


async def test_an_unknown_org_is_refused_and_nothing_is_changed(counter: Counter) -> None:
    with pytest.raises(Unknown, match="no org 'dmeo': there are demo, empty"):
        await counter.upkeep.purge(PurgeRule(org="dmeo", tag="x"), BY)
    with pytest.raises(Unknown):
        await counter.upkeep.bar("dmeo", ASKED, ONE, BY)
    with pytest.raises(BadValue, match="question: 'x' is no key"):
        await counter.upkeep.bar("demo", "x", ONE, BY)
    assert (await counter.upkeep.standing()).rules == ()


async def test_a_silent_ledger_does_not_stop_a_purge(counter: Counter) -> None:
    await counter.put(ONE, "r1")
    counter.silent = True
    with pytest.raises(NotRecorded, match="done, but the ledger takes no audit event"):
        await counter.upkeep.purge(PurgeRule(revision="r1"), BY)
    assert not await counter.answered(ONE)


async def test_nor_does_one_that_cannot_say_which_orgs_there_are(
    counter: Counter, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def orgs() -> list[OrgId]:
        raise LedgerUnavailable("silent")

    monkeypatch.setattr(counter.desk.ledger, "orgs", orgs)
    await counter.put(ONE, "r1")
    with pytest.raises(NotRecorded):
        await counter.upkeep.purge(PurgeRule(org="demo"), BY)
    assert not await counter.answered(ONE)
