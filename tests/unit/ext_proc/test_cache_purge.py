"""Purge rules and switches, and how a worker keeps their document."""

from __future__ import annotations

import asyncio
from dataclasses import fields, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ext_proc.cache import purge
from ext_proc.cache.entry import Sealer
from ext_proc.cache.marks import TRIES, Marks
from ext_proc.cache.purge import BUCKETS_MAX, RULE_MILLIS, RULES_MAX, Document
from ext_proc.cache.store import SEEN_S, CacheUnavailable, HitKind, Lineage, PurgeRule, RuleInForce
from gateway.contract.clock import ManualClock
from gateway.contract.ids import OrgId
from gateway.contract.units import UnixMillis

ACME = OrgId("acme")
NOW = UnixMillis(1_800_000_000_000)
SEALER = Sealer(b"k" * 32)
LINEAGE = Lineage(request_id="r", model="m", revision="v", template="t", policy_version="1", tags=("x",))
TEXTS = st.text(st.characters(codec="utf-8"), max_size=5)
RULES = st.builds(PurgeRule, **{field.name: TEXTS for field in fields(PurgeRule)})


def ruled(document: Document, rule: PurgeRule, now: UnixMillis = NOW) -> Document:
    return purge.with_rule(document, rule, now=now, generation="g2")


def test_a_rule_ends_what_was_looked_up_before_it() -> None:
    document = ruled(Document(generation="g"), PurgeRule(model="m"))
    assert document.purged(ACME, "e", LINEAGE, number=0)
    assert not document.purged(ACME, "e", LINEAGE, number=1)
    assert not document.purged(ACME, "e", replace(LINEAGE, model="n"), number=0)
    again = ruled(document, PurgeRule(model="m"))
    assert again.purged(ACME, "e", LINEAGE, number=1)
    assert len(again.rules) == 1


@pytest.mark.parametrize("field", [field.name for field in fields(PurgeRule)])
def test_each_field_narrows_a_rule(field: str) -> None:
    whole = PurgeRule(
        org="acme",
        model="m",
        revision="v",
        template="t",
        policy_version="1",
        request_id="r",
        tag="x",
        entry="e",
    )
    assert purge.fits(whole, ACME, "e", LINEAGE)
    assert not purge.fits(replace(whole, **{field: "other"}), ACME, "e", LINEAGE)
    alone = replace(PurgeRule(), **{field: getattr(whole, field)})
    assert purge.fits(alone, ACME, "e", LINEAGE)
    assert ruled(Document(generation="g"), alone).rules[0].rule == alone


def test_an_index_that_has_no_numbers_goes_by_time_and_ends_rather_too_much() -> None:
    made = RuleInForce(rule=PurgeRule(model="m"), number=1, made_at=NOW)
    for at, ended in ((NOW, True), (NOW + 2000, True), (NOW + 2001, False)):
        lineage = replace(LINEAGE, admitted_at=UnixMillis(at))
        assert purge.ends(made, ACME, "e", lineage) == ended
    assert not purge.ends(made, ACME, "e", Lineage(model="n"))


def test_rules_end_after_the_longest_life_of_an_entry() -> None:
    document = ruled(Document(generation="g"), PurgeRule(tag="a"))
    for later, left in ((RULE_MILLIS - 1, 2), (RULE_MILLIS, 1)):
        assert len(ruled(document, PurgeRule(tag="b"), UnixMillis(NOW + later)).rules) == left


def test_too_many_rules_become_a_new_generation() -> None:
    document = Document(generation="g", off=("a/b/near/0.8",))
    for number in range(RULES_MAX):
        document = ruled(document, PurgeRule(tag=str(number)))
    assert (document.generation, len(document.rules)) == ("g", RULES_MAX)
    fuller = ruled(document, PurgeRule(tag="more"))
    assert (fuller.generation, fuller.rules, fuller.off) == ("g2", (), document.off)


def test_switches() -> None:
    document = purge.with_bucket(Document(generation="g"), "acme/a/b/canonical/1.00", off=True)
    assert purge.with_bucket(document, "acme/a/b/canonical/1.00", off=True) is document
    assert document.refuses(HitKind.CANONICAL, ACME, "a/b")
    for kind, org, model in (
        ("alias", "acme", "a/b"),
        ("canonical", "acme", "a"),
        ("canonical", "acm", "a/b"),
    ):
        assert not document.refuses(HitKind(kind), OrgId(org), model)
    assert not document.refuses(HitKind.EXACT, ACME, "a/b")
    on = purge.with_bucket(document, "acme/a/b/canonical/1.00", off=False)
    assert (on.off, on.number) == ((), 2)


def test_too_many_switches_become_a_whole_level() -> None:
    document = Document(generation="g", off=tuple(f"acme/m/near/{n}" for n in range(BUCKETS_MAX)))
    fuller = purge.with_bucket(document, "acme/n/near/1", off=True)
    assert fuller.off == ("acme/n/near/1", "acme/m/near/*")
    assert fuller.is_off("acme/m/near/0.5")
    assert fuller.refuses(HitKind.ALIAS, ACME, "m")
    assert not purge.with_bucket(fuller, "acme/m/near/0.5", off=False).refuses(HitKind.ALIAS, ACME, "m")


@given(st.lists(RULES.filter(lambda rule: rule != PurgeRule()), max_size=3), st.lists(TEXTS, max_size=3))
def test_a_document_is_read_as_it_was_written(rules: list[PurgeRule], off: list[str]) -> None:
    document = Document(generation="g", off=tuple(off))
    for rule in rules:
        document = ruled(document, rule)
    assert purge.from_bytes(purge.to_bytes(document)) == document


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"null",
        b'{"format":2,"generation":"g","number":0,"rules":[],"off":[]}',
        b'{"format":1,"generation":"g","number":0,"rules":[{}],"off":[]}',
        b'{"format":1,"generation":"g","number":0,"rules":[{"number":1,"made_at":1,"tag":5}],"off":[]}',
        b'{"format":1,"generation":"g","number":0,"rules":[{"number":1,"made_at":1,"new":"x"}],"off":[]}',
        b'{"format":1,"generation":"g","number":0,"rules":[{"number":"1","made_at":1}],"off":[]}',
    ],
)
def test_another_document_is_none(data: bytes) -> None:
    assert purge.from_bytes(data) is None


class Place:
    """A document that others may change, and that may be out of reach."""

    def __init__(self) -> None:
        self.data: bytes | None = None
        self.reads = 0
        self.broken = False
        self.overtaken = 0
        self.outcomes: asyncio.Queue[bool] = asyncio.Queue()

    async def read(self) -> bytes | None:
        self.reads += 1
        await asyncio.sleep(0)
        self.outcomes.put_nowait(not self.broken)
        if self.broken:
            raise CacheUnavailable("broken by the test")
        return self.data

    async def swap(self, old: bytes | None, new: bytes) -> bool:
        await asyncio.sleep(0)
        if old != self.data or self.overtaken > 0:
            self.overtaken -= 1
            return False
        self.data = new
        return True

    async def now(self) -> UnixMillis:
        return NOW


async def test_a_document_is_asked_for_when_it_is_old_and_once_for_all() -> None:
    place, clock = Place(), ManualClock()
    marks = Marks(place, SEALER, clock)
    assert marks.fresh is None
    known = await asyncio.gather(*(marks.known() for _ in range(20)))
    assert (len(set(known)), place.reads) == (1, 1)
    clock.advance_ms(int(SEEN_S * 1000))
    assert marks.fresh == known[0] == await marks.known()
    assert place.reads == 1
    clock.advance_ms(1)
    assert marks.fresh is None
    assert await marks.known() == known[0]
    place.broken = True
    clock.advance_ms(int(SEEN_S * 1000) + 1)
    with pytest.raises(CacheUnavailable):
        await marks.known()
    assert marks.fresh is None


async def test_the_loop_goes_on_after_an_outage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ext_proc.cache.marks.POLL_S", 0)
    place, clock = Place(), ManualClock()
    marks = Marks(place, SEALER, clock)
    place.broken = True
    running = asyncio.create_task(marks.run())
    async with asyncio.timeout(10):
        assert [await place.outcomes.get() for _ in range(3)] == [False] * 3
        assert marks.fresh is None
        place.broken = False
        while not await place.outcomes.get():
            pass
        await place.outcomes.get()  # by then what the poll before has read is known
        assert marks.fresh is not None
    running.cancel()
    assert (await asyncio.wait((running,)))[0]


async def test_a_lost_document_is_another_generation_and_a_damaged_one_too() -> None:
    place = Place()
    marks = Marks(place, SEALER, ManualClock())
    seen = {(await marks.ask()).generation}
    assert place.data is not None
    for data in (None, b"", b"x" * 99, place.data, SEALER.seal_document(b"[]")):
        place.data = data
        seen.add((await marks.ask()).generation)
        assert (await Marks(place, SEALER, ManualClock()).ask()).generation in seen
    assert len(seen) == 6, "also one that had been left comes back as a new one"


async def test_an_older_number_is_a_loss() -> None:
    place = Place()
    marks = Marks(place, SEALER, ManualClock())
    before = await marks.ask()
    older = place.data
    await marks.change(lambda document, now: ruled(document, PurgeRule(tag="x"), now))
    place.data = older
    assert (await marks.ask()).generation != before.generation


async def test_a_change_that_is_overtaken_is_tried_again_but_not_for_ever() -> None:
    place = Place()
    marks = Marks(place, SEALER, ManualClock())
    await marks.ask()
    place.overtaken = TRIES - 1
    changed = await marks.change(lambda document, now: ruled(document, PurgeRule(tag="x"), now))
    assert marks.fresh == changed == await Marks(place, SEALER, ManualClock()).ask()
    place.overtaken = TRIES
    with pytest.raises(CacheUnavailable):
        await marks.change(lambda document, now: ruled(document, PurgeRule(tag="y"), now))
    assert [made.rule.tag for made in (await marks.ask()).rules] == ["x"]
