"""What may be served among the nearest: guards first, then the level, the floor, the bucket; walk down."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ext_proc.cache.policy import Profile
from ext_proc.cache.question import Comparison, Guard, Level
from ext_proc.recall.decision import FLOOR, bucket_of, decide
from ext_proc.recall.partition_rows import Match, Row
from ext_proc.recall.truth import State
from ext_proc.recall.words import CANDIDATES_MAX, Ask
from gateway.contract.ids import ModelName, OrgId

NUMBER = Guard("number")
LEVELS = {
    "canonical": Comparison(level=Level.CANONICAL, guard=None),
    "words": Comparison(level=Level.WORDS, guard=None),
    "near": Comparison(level=Level.NEAR, guard=None),
    "far": Comparison(level=Level.FAR, guard=None),
    "refused": Comparison(level=Level.CANONICAL, guard=NUMBER),
}


def ask(profile: Profile = Profile.STRICT) -> Ask:
    return Ask(
        org=OrgId("acme"),
        model=ModelName("chat"),
        partition="a" * 64,
        asked="f" * 64,
        text="secret words",
        profile=profile,
        keep_s=60,
    )


def match(kind: str, similarity: float, entry: str = "") -> Match:
    return Match(Row(entry or kind, kind.encode(), 10**15), similarity)


def decided(*matches: Match, profile: Profile = Profile.STRICT, off: frozenset[str] = frozenset()):  # type: ignore[no-untyped-def]  # a Decision
    return decide(ask(profile), matches, lambda text: LEVELS[text], Said(off))


@dataclass(frozen=True)
class Said:
    """Trust in all buckets but those that are ``off``; those whose name ends with ``?`` are in probation."""

    off: frozenset[str]

    def state(self, bucket: str, slo: float) -> State:
        if f"{bucket}?" in self.off:
            return State.PROBATION
        return State.OFF if bucket in self.off else State.ON

    def share(self, bucket: str, slo: float, usual: float) -> float:
        return 1.0 if f"{bucket}?" in self.off else 0.25


@pytest.mark.parametrize(
    ("kind", "similarity", "profile", "reason"),
    [
        ("canonical", 0.3, Profile.STRICT, "found"),
        ("words", FLOOR, Profile.STRICT, "found"),
        ("words", FLOOR - 0.001, Profile.STRICT, "below_floor"),
        ("words", 0.9, Profile.VERIFIED, "found"),
        ("words", 0.9, Profile.OFF, "off"),
        ("near", 0.99, Profile.STRICT, "differs"),
        ("near", 0.99, Profile.VERIFIED, "near"),
        ("near", 0.79, Profile.VERIFIED, "below_floor"),
        ("far", 0.99, Profile.VERIFIED, "far"),
        ("refused", 1.0, Profile.VERIFIED, "guard.number"),
    ],
)
def test_one_neighbour(kind: str, similarity: float, profile: Profile, reason: str) -> None:
    decision = decided(match(kind, similarity), profile=profile)
    assert decision.reply.reason == reason
    assert len(decision.reply.candidates) == (reason == "found")
    assert (decision.near is not None) == (reason == "near")


def test_nothing_near() -> None:
    assert decided().reply.reason == "no_candidate"


def test_it_walks_down_past_what_is_refused() -> None:
    decision = decided(match("refused", 0.99), match("near", 0.98), match("words", 0.9))
    assert [candidate.entry for candidate in decision.reply.candidates] == ["words"]
    assert decision.reply.steps == (
        "0.990 canonical guard.number",
        "0.980 near differs",
        "0.900 words found",
    )


def test_the_first_reason_is_said() -> None:
    assert decided(match("refused", 0.99), match("far", 0.9)).reply.reason == "guard.number"


def test_a_near_miss_is_told_only_where_nothing_is_served() -> None:
    near = decided(match("near", 0.95), match("near", 0.9, "second"), profile=Profile.VERIFIED).near
    assert near is not None
    assert (near.entry, near.text, near.bucket) == ("near", "near", "acme/chat/near/-")
    served = decided(match("near", 0.95), match("words", 0.9), profile=Profile.VERIFIED)
    assert served.near is None
    assert served.reply.reason == "found"


def test_a_bucket_that_is_off_serves_nothing_and_the_next_one_does() -> None:
    off = frozenset({"acme/chat/words/0.90"})
    assert decided(match("words", 0.91), off=off).reply.reason == "bucket_off"
    decision = decided(match("words", 0.91), match("words", 0.89, "other"), off=off)
    assert [candidate.entry for candidate in decision.reply.candidates] == ["other"]


def test_a_bucket_in_probation_is_tried_where_nothing_is_served() -> None:
    off = frozenset({"acme/chat/words/0.90?", "acme/chat/near/-?"})
    reply = decided(match("words", 0.91), off=off).reply
    assert [(one.entry, one.probation, one.share) for one in reply.candidates] == [("words", True, 1.0)]
    assert reply.reason == "probation"
    served = decided(match("words", 0.91), match("words", 0.89, "other"), off=off).reply
    assert [(one.entry, one.probation, one.share) for one in served.candidates] == [("other", False, 0.25)]
    judged = decided(match("near", 0.95), profile=Profile.VERIFIED, off=off)
    assert (judged.near, judged.reply.candidates[0].probation) == (None, True)
    assert decided(match("near", 0.95), off=off).reply.reason == "differs"


def test_the_question_itself_is_no_candidate() -> None:
    assert decided(match("canonical", 1.0, "f" * 64)).reply.reason == "no_candidate"


def test_no_more_than_a_few_are_named() -> None:
    decision = decided(*(match("words", 0.99, str(number)) for number in range(8)))
    assert [candidate.entry for candidate in decision.reply.candidates] == ["0", "1", "2"]
    assert len(decision.reply.candidates) == CANDIDATES_MAX


@pytest.mark.parametrize(
    ("similarity", "band"),
    [(0.84, "0.84"), (0.8399, "0.82"), (0.92, "0.92"), (1.0, "1.00"), (0.5601, "0.56")],
)
def test_bands(similarity: float, band: str) -> None:
    assert bucket_of(ask(), Level.WORDS, similarity) == f"acme/chat/words/{band}"


@given(
    kinds=st.lists(st.tuples(st.sampled_from(sorted(LEVELS)), st.floats(0, 1)), max_size=8),
    profile=st.sampled_from(Profile),
)
def test_whatever_is_near_only_the_same_question_is_served(
    kinds: list[tuple[str, float]], profile: Profile
) -> None:
    matches = [match(kind, similarity, str(place)) for place, (kind, similarity) in enumerate(kinds)]
    decision = decided(*matches, profile=profile)
    said: Mapping[str, tuple[str, float]] = {str(place): pair for place, pair in enumerate(kinds)}
    for candidate in decision.reply.candidates:
        kind, similarity = said[candidate.entry]
        assert profile is not Profile.OFF
        assert kind == "canonical" or (kind == "words" and similarity >= FLOOR)
    assert "secret" not in " ".join((*decision.reply.steps, decision.reply.reason))
