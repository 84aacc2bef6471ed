"""Which rule decides; where an answer is put; limits of OpenAI."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ext_proc.cache.policy import (
    BUILT_IN,
    CacheMode,
    CachePolicy,
    CacheRule,
    Group,
    Match,
    Place,
    Profile,
    Share,
)
from ext_proc.phases.limits import duration_text
from gateway.contract.ids import OrgId, TeamId, UserId
from gateway.contract.principal import Principal
from gateway.keys.keyed_hash import length_prefixed
from gateway.openai.terms import Endpoint
from tests.unit.ext_proc.asked import PRINCIPAL

CALLER = Principal.from_fields(PRINCIPAL)


def rule_of(policy: CachePolicy, caller: Principal = CALLER, endpoint: Endpoint = Endpoint.CHAT) -> CacheRule:
    return policy.rule_for(caller, "chat", endpoint)


def test_without_a_rule_identical_requests_of_a_user_are_repeated() -> None:
    assert rule_of(CachePolicy()) is BUILT_IN
    assert (BUILT_IN.mode, BUILT_IN.profile, BUILT_IN.share) == (
        CacheMode.DETERMINISTIC,
        Profile.OFF,
        Share.USER,
    )


@pytest.mark.parametrize(
    ("match", "matches"),
    [
        (Match(), True),
        (Match(orgs=frozenset({"acme", "other"})), True),
        (Match(orgs=frozenset({"other"})), False),
        (Match(orgs=frozenset({"acme"}), teams=frozenset({"t1"})), True),
        (Match(orgs=frozenset({"acme"}), teams=frozenset({"t2"})), False),
        (Match(models=frozenset({"chat"})), True),
        (Match(models=frozenset({"Chat"})), False),
        (Match(endpoints=frozenset({Endpoint.CHAT, Endpoint.EMBEDDINGS})), True),
        (Match(models=frozenset({"chat"}), endpoints=frozenset({Endpoint.EMBEDDINGS})), False),
    ],
)
def test_a_rule_matches_when_all_it_names_does(match: Match, matches: bool) -> None:
    rule = CacheRule(name="one")
    assert (rule_of(CachePolicy(rules=((match, rule),))) is rule) == matches


def test_the_first_rule_that_matches_decides() -> None:
    first, second = CacheRule(name="first"), CacheRule(name="second")
    assert rule_of(CachePolicy(rules=((Match(), first), (Match(), second)))) is first


def test_a_rule_with_a_group_is_for_its_members() -> None:
    group = Group(name="desk", org=OrgId("acme"), teams=frozenset({"t1"}), users=frozenset({"bob"}))
    rule = CacheRule(name="desk", share=Share.GROUP, group=group)
    policy = CachePolicy(rules=((Match(), rule),))
    elsewhere = replace(CALLER, team=TeamId("t2"))
    assert rule_of(policy) is rule
    assert rule_of(policy, elsewhere) is BUILT_IN
    assert rule_of(policy, replace(elsewhere, user=UserId("bob"))) is rule
    assert rule_of(policy, replace(CALLER, org=OrgId("other"))) is BUILT_IN


@given(st.lists(st.binary(max_size=4), max_size=4), st.lists(st.binary(max_size=4), max_size=4))
def test_no_two_lists_of_parts_are_joined_alike(first: list[bytes], second: list[bytes]) -> None:
    assert (length_prefixed(*first) == length_prefixed(*second)) == (first == second)


def test_places() -> None:
    place = Place(key="a" * 64, epoch="0f", ttl_seconds=5)
    assert Place.from_text(place.to_text()) == place
    for text in ("", "a", "a.b", "a.b.", "a.b.0", "a.b.-1", "a.b.1.2"):
        assert Place.from_text(text) is None


@pytest.mark.parametrize(
    ("millis", "text"),
    [
        (-5, "0ms"),
        (20, "20ms"),
        (999, "999ms"),
        (1000, "1s"),
        (1001, "2s"),
        (63_000, "1m3s"),
        (60_000, "1m0s"),
    ],
)
def test_durations(millis: int, text: str) -> None:
    assert duration_text(millis) == text
    assert duration_text(864_005_000) == "240h0m5s"
