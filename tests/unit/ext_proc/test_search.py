"""The search for a known answer: its steps, what ends them, and what a hit leaves behind."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import orjson
import pytest

from ext_proc.cache.place import Place
from ext_proc.cache.policy import CachePolicy, CacheRule, Match, Profile
from ext_proc.cache.question import Level
from ext_proc.cache.store import CachedAnswer, HitKind, Keys, Lookup
from ext_proc.observations import ObserveLookup
from ext_proc.phases.admit import Admit
from ext_proc.recall.words import Candidate
from ext_proc.rules import AdmitRules
from ext_proc.stream import Effects
from ext_proc.vocabulary import (
    AskCache,
    AskRecall,
    AwaitLanding,
    Bar,
    CacheAnswered,
    Continue,
    Expect,
    FlightJoined,
    HoldAnswered,
    JoinFlight,
    Land,
    Landed,
    Note,
    RecallAnswered,
    ReplyNow,
    Reserve,
    Settle,
    TakeTime,
    Verify,
)
from gateway.budget.ledger import Granted
from gateway.budget.measure import Amounts
from gateway.contract.errors import LedgerUnavailable
from gateway.contract.ids import HoldId
from gateway.contract.units import MicroUsd, UnixMillis
from gateway.openai.stored_answer import write_stored
from tests.unit.ext_proc.asked import GONE, NOW, RULES, body, granted, headers, none, only, shown_error
from tests.unit.ext_proc.engine_answers import completion
from tests.unit.ext_proc.test_admit import written

ENTRY = "e" * 64
QUESTION = {"messages": [{"role": "user", "content": "How do I reset my password?"}]}
CANDIDATE = Candidate(entry=ENTRY, similarity=0.97134, level=Level.WORDS, bucket="acme/chat/words/0.96")


def rules(**rule: Any) -> AdmitRules:
    """Everything similar may be served, unless ``rule`` says otherwise."""
    made = CacheRule(**{"name": "r", "profile": Profile.STRICT, "verify_share": 0.0, **rule})
    return replace(RULES, caching=CachePolicy(version=4, rules=((Match(), made),)))


def answer(age_s: int = 7) -> CachedAnswer:
    return CachedAnswer(
        body=write_stored(completion()), stored_at=UnixMillis(NOW - age_s * 1000), entry=ENTRY
    )


def asking(by: AdmitRules, *, fields: dict[str, Any] = QUESTION, **sent: Any) -> tuple[Admit, Effects]:
    machine = Admit(by)
    machine.receive(headers(**sent))
    return machine, machine.receive(body(**fields))


def keys_say(machine: Admit, kind: HitKind | None = None, *, age_s: int = 7) -> Effects:
    lookup = Lookup(answer=answer(age_s) if kind else None, epoch="e1", kind=kind)
    return machine.receive(CacheAnswered(lookup=lookup, at_ms=NOW))


def recall_says(machine: Admit, *, found: bool, reason: str = "guard.negation") -> Effects:
    lookup = Lookup(answer=answer(), epoch="e1", kind=HitKind.SEMANTIC) if found else None
    return machine.receive(
        RecallAnswered(
            lookup=lookup,
            candidate=CANDIDATE if found else None,
            reason="" if found else reason,
            steps=("0.9713", reason),
            at_ms=NOW,
        )
    )


def flight(machine: Admit, *, leads: bool) -> Effects:
    """Who leads looks once more, in vain."""
    effects = machine.receive(FlightJoined(leads=leads, at_ms=NOW))
    return effects if none(AskCache, effects) else keys_say(machine)


def lands(machine: Admit, *, found: bool) -> Effects:
    lookup = (
        Lookup(answer=answer(), epoch="e1", kind=HitKind.EXACT) if found else Lookup(answer=None, epoch="")
    )
    return machine.receive(Landed(lookup=lookup, at_ms=NOW))


def test_a_semantic_hit_says_what_it_is() -> None:
    machine, asked = asking(rules())
    assert only(AskCache, asked).keys.canonical
    ask = only(AskRecall, keys_say(machine)).ask
    assert (ask.text, ask.profile, ask.asked) == (
        "How do I reset my password?",
        Profile.STRICT,
        only(AskCache, asked).keys.exact,
    )
    effects = recall_says(machine, found=True)
    reply = only(ReplyNow, effects)
    assert {
        name: reply.headers[f"x-tidegate-cache{name}"] for name in ("", "-kind", "-similarity", "-entry")
    } == {
        "": "hit",
        "-kind": "semantic",
        "-similarity": "0.9713",
        "-entry": ENTRY,
    }
    assert only(ObserveLookup, effects).reason == "semantic"
    assert only(Note, effects).context["cache_bucket"] == CANDIDATE.bucket
    assert none(Reserve, effects) and none(Verify, effects)


@pytest.mark.parametrize("kind", [HitKind.CANONICAL, HitKind.EXACT])
def test_keys_that_hit_end_the_search(kind: HitKind) -> None:
    machine, _ = asking(rules())
    effects = keys_say(machine, kind)
    assert only(ReplyNow, effects).headers["x-tidegate-cache-kind"] == kind.value
    assert none(AskRecall, effects)


def test_an_alias_is_served_only_where_the_policy_lets_a_judge_decide() -> None:
    machine, _ = asking(rules(profile=Profile.VERIFIED))
    assert not none(ReplyNow, keys_say(machine, HitKind.ALIAS))
    machine, _ = asking(rules(profile=Profile.VERIFIED), cache_control="strict-only")
    assert only(AskRecall, keys_say(machine, HitKind.ALIAS)).ask.profile is Profile.STRICT
    machine, _ = asking(rules(profile=Profile.STRICT))
    assert not none(AskRecall, keys_say(machine, HitKind.ALIAS))
    machine, asked = asking(rules(profile=Profile.OFF))
    assert only(AskCache, asked).keys.canonical == ""
    assert not none(JoinFlight, keys_say(machine, HitKind.ALIAS))


def test_a_client_can_tighten_what_is_served() -> None:
    machine, asked = asking(rules(), cache_control="exact-only")
    assert only(AskCache, asked).keys.canonical == ""
    assert not none(JoinFlight, keys_say(machine, HitKind.CANONICAL))
    machine, _ = asking(rules(), cache_control="max-age=6")
    effects = keys_say(machine, HitKind.EXACT)
    assert not none(AskRecall, effects)
    assert not none(JoinFlight, recall_says(machine, found=True))


def test_what_leads_tells_the_tap_that_others_wait() -> None:
    machine, asked = asking(rules(tags=("faq",)), fields={**QUESTION, "metadata": {"cache_tags": "a, b"}})
    keys_say(machine)
    recall_says(machine, found=False)
    effects = flight(machine, leads=True)
    assert only(ObserveLookup, effects) == ObserveLookup(result="miss", reason="guard.negation")
    record = written(only(Continue, machine.receive(granted(only(Reserve, effects).request))))
    place = Place.from_text(record.cache_key)
    assert place is not None
    assert (place.flight, place.tags, place.policy_version) == (True, ("faq", "a", "b"), "4")
    assert place.keys == only(AskCache, asked).keys
    assert place.partition
    assert record.cache_reason == "guard.negation"


@pytest.mark.parametrize("tags", ["a b", "x" * 65, ",", "a,,b", ",".join("abcdefghi")])
def test_tags_that_are_none_are_refused(tags: str) -> None:
    _, effects = asking(rules(), fields={**QUESTION, "metadata": {"cache_tags": tags}})
    assert shown_error(only(ReplyNow, effects))["param"] == "metadata.cache_tags"


def test_who_follows_waits_and_is_answered() -> None:
    machine, asked = asking(RULES)
    assert only(JoinFlight, keys_say(machine)).key == only(AskCache, asked).keys.exact
    effects = flight(machine, leads=False)
    assert only(TakeTime, effects).at_most == 2.0
    assert only(AwaitLanding, effects).at_most == 1.0
    assert only(ReplyNow, lands(machine, found=True)).status == 200


def test_recall_hears_of_a_question_that_it_was_not_asked() -> None:
    """So that its answer is found by likeness too, once it is stored."""
    late = CacheAnswered(lookup=None, at_ms=NOW, epoch="e1")
    machine, asked = asking(rules())
    effects = machine.receive(late)
    assert only(Expect, effects).ask.asked == only(AskCache, asked).keys.exact
    record = written(only(Continue, machine.receive(granted(only(Reserve, effects).request))))
    place = Place.from_text(record.cache_key)
    assert place is not None and place.partition == only(Expect, effects).ask.partition

    machine, _ = asking(rules(), cache_control="no-cache")
    assert not none(Expect, keys_say(machine, HitKind.EXACT))

    machine, _ = asking(rules())
    keys_say(machine)
    recall_says(machine, found=False, reason="recall_unavailable")
    assert not none(Expect, flight(machine, leads=True))

    machine, _ = asking(rules())
    keys_say(machine)
    recall_says(machine, found=False)
    assert none(Expect, flight(machine, leads=True)), "it has heard of it"

    for machine, _ in (asking(rules(profile=Profile.OFF)), asking(rules(), cache_control="exact-only")):
        assert none(Expect, machine.receive(late))
    assert none(Expect, asking(rules(), cache_control="no-store")[1])
    machine, _ = asking(rules())
    assert none(Expect, machine.receive(replace(late, epoch=""))), "it will not be stored"


def test_who_leads_a_moment_too_late_finds_the_answer_of_the_one_before() -> None:
    machine, asked = asking(RULES)
    keys_say(machine)
    effects = machine.receive(FlightJoined(leads=True, at_ms=NOW))
    assert only(AskCache, effects).keys == only(AskCache, asked).keys
    effects = keys_say(machine, HitKind.EXACT)
    assert only(ReplyNow, effects).status == 200
    assert not none(Land, effects)


def test_who_has_waited_in_vain_asks_an_engine_and_tells_nobody() -> None:
    machine, _ = asking(RULES)
    keys_say(machine)
    flight(machine, leads=False)
    effects = lands(machine, found=False)
    record = written(only(Continue, machine.receive(granted(only(Reserve, effects).request))))
    place = Place.from_text(record.cache_key)
    assert place is not None and not place.flight


def test_a_leader_that_is_refused_or_gone_lets_the_others_go() -> None:
    machine, _ = asking(RULES)
    keys_say(machine)
    flight(machine, leads=True)
    refused = machine.receive(HoldAnswered(answer=LedgerUnavailable("away"), at_ms=NOW))
    assert not none(Land, refused)
    machine, _ = asking(RULES)
    keys_say(machine)
    machine.receive(GONE)
    assert not none(Land, flight(machine, leads=True))
    machine, _ = asking(RULES)
    keys_say(machine)
    held = only(Reserve, flight(machine, leads=True)).request
    machine.receive(GONE)
    assert not none(Land, machine.receive(granted(held)))


def test_only_if_cached_asks_no_engine_and_says_why() -> None:
    machine, _ = asking(rules(), cache_control="only-if-cached")
    keys_say(machine)
    reply = only(ReplyNow, recall_says(machine, found=False))
    assert (reply.status, shown_error(reply)["code"]) == (504, "not_cached")
    assert reply.headers["x-should-retry"] == "false"
    assert reply.headers["x-tidegate-cache-reason"] == "guard.negation"
    assert "guard.negation" in reply.headers["x-tidegate-cache-trace"]
    machine, _ = asking(rules(), cache_control="only-if-cached")
    assert (
        "canonical" in only(ReplyNow, keys_say(machine, HitKind.CANONICAL)).headers["x-tidegate-cache-trace"]
    )
    machine, effects = asking(rules(), cache_control="only-if-cached, no-store")
    assert shown_error(only(ReplyNow, effects))["code"] == "not_cached"


def test_a_wrong_answer_is_barred_and_not_read_again() -> None:
    machine, effects = asking(rules(), tidegate_cache_feedback=f'wrong; entry="{ENTRY}"')
    bar = only(Bar, effects)
    assert (bar.entry, bar.asked) == (ENTRY, only(AskCache, effects).keys.exact)
    assert only(Note, effects).kind == "cache.barred"
    assert not none(Reserve, keys_say(machine, HitKind.EXACT))
    _, effects = asking(rules(), tidegate_cache_feedback="bad")
    assert only(ReplyNow, effects).status == 400


def test_a_hit_with_a_price_is_paid_once() -> None:
    machine, _ = asking(rules(hit_micro_usd=MicroUsd(7)))
    held = only(Reserve, keys_say(machine, HitKind.EXACT)).request
    assert held.amounts(held.units_wanted) == Amounts.of(0, 0, micro_usd=MicroUsd(7))
    effects = machine.receive(granted(held))
    assert only(Settle, effects).used == Amounts.of(0, 0, micro_usd=MicroUsd(7))
    assert only(ReplyNow, effects).status == 200
    machine, _ = asking(rules(hit_micro_usd=MicroUsd(7)))
    keys_say(machine, HitKind.EXACT)
    refused = only(ReplyNow, machine.receive(HoldAnswered(answer=LedgerUnavailable("away"), at_ms=NOW)))
    assert refused.status == 503


def test_who_leads_and_finds_a_hit_with_a_price_lets_the_others_go_before_paying() -> None:
    machine, _ = asking(rules(profile=Profile.OFF, hit_micro_usd=MicroUsd(7)))
    keys_say(machine)
    machine.receive(FlightJoined(leads=True, at_ms=NOW))
    effects = keys_say(machine, HitKind.EXACT)
    assert not none(Land, effects)
    assert none(Land, machine.receive(granted(only(Reserve, effects).request)))


def test_the_price_of_a_hit_names_the_lease_it_is_paid_from() -> None:
    machine, _ = asking(rules(hit_micro_usd=MicroUsd(7)))
    paid = granted(only(Reserve, keys_say(machine, HitKind.EXACT)).request)
    assert isinstance(paid.answer, Granted)
    leased = replace(paid, answer=replace(paid.answer, lease=HoldId("lease-1")))
    draw = only(Settle, machine.receive(leased)).draw
    assert draw is not None
    assert (draw.lease, draw.amounts) == ("lease-1", paid.answer.amounts)


def test_what_is_in_probation_and_cannot_be_read_is_a_miss() -> None:
    machine, _ = asking(rules())
    keys_say(machine)
    strange = Lookup(answer=replace(answer(), body=b"TGA\x09"), epoch="e1", kind=HitKind.SEMANTIC)
    machine.receive(
        RecallAnswered(
            lookup=strange,
            candidate=replace(CANDIDATE, probation=True, share=1.0),
            reason="",
            steps=(),
            at_ms=NOW,
        )
    )
    effects = flight(machine, leads=True)
    assert none(Verify, effects)
    assert not none(Reserve, effects)


def test_what_is_in_probation_is_verified_and_not_served() -> None:
    machine, _ = asking(rules())
    keys_say(machine)
    candidate = replace(CANDIDATE, probation=True, share=1.0)
    lookup = Lookup(answer=answer(), epoch="e1", kind=HitKind.SEMANTIC)
    effects = machine.receive(
        RecallAnswered(lookup=lookup, candidate=candidate, reason="", steps=(), at_ms=NOW)
    )
    assert none(ReplyNow, effects)
    effects = flight(machine, leads=True)
    assert only(Verify, effects).served.bucket == CANDIDATE.bucket
    assert only(ObserveLookup, effects).reason == "probation"
    assert not none(Reserve, effects)


def test_a_drawn_hit_is_verified_unless_it_is_exact() -> None:
    for kind, drawn in ((HitKind.CANONICAL, True), (HitKind.EXACT, False)):
        machine, asked = asking(rules(verify_share=1.0))
        effects = keys_say(machine, kind)
        assert none(Verify, effects) is not drawn
        if drawn:
            served = only(Verify, effects).served
            assert orjson.loads(served.request)["messages"] == QUESTION["messages"]
            assert served.bucket == "acme/chat/canonical/-"
            assert served.asked == only(AskCache, asked).keys.exact


def test_a_place_reads_what_it_wrote_and_nothing_else() -> None:
    place = Place(
        keys=Keys(exact="a" * 64, canonical="b" * 64), epoch="0f", ttl_seconds=5, tags=("t",), flight=True
    )
    assert Place.from_text(place.to_text()) == place
    assert Place.from_text(replace(place, ttl_seconds=0).to_text()) is None
    for text in ("", "a", "{}", "[]", "null", place.to_text()[:-1], "x" * 5000):
        assert Place.from_text(text) is None
