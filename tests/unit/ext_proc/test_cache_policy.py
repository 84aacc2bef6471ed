"""The cache key is a hard partition; limits read like OpenAI's."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ext_proc.cache.policy import Directives, Place, cache_key, cacheable, read_directives
from ext_proc.phases.limits import duration_text
from gateway.contract.ids import ModelName, OrgId, UserId
from gateway.contract.principal import Principal
from gateway.contract.units import Tokens
from gateway.keys.keyed_hash import length_prefixed
from gateway.models.catalogue import CacheMode, CacheRule
from gateway.openai.requests import WireRequest, parse_request
from gateway.openai.terms import Endpoint
from tests.unit.ext_proc.asked import CATALOGUE, PRINCIPAL, SAY

CALLER = Principal.from_fields(PRINCIPAL)
CHAT, EMBED = CATALOGUE.require("chat"), CATALOGUE.require("embed")


def request(endpoint: Endpoint = Endpoint.CHAT, **changed: Any) -> WireRequest:
    fields = {**SAY, **changed} if endpoint is Endpoint.CHAT else changed
    return parse_request(endpoint, orjson.dumps(fields), CATALOGUE.require)


def test_whatever_decides_the_answer_is_in_the_key() -> None:
    wanted = Tokens(50)
    keys = [
        cache_key(CALLER, CHAT, request(), wanted),
        cache_key(replace(CALLER, org=OrgId("other")), CHAT, request(), wanted),
        cache_key(replace(CALLER, user=UserId("bob")), CHAT, request(), wanted),
        cache_key(CALLER, replace(CHAT, name=ModelName("chat2")), request(), wanted),
        cache_key(CALLER, replace(CHAT, revision="r2"), request(), wanted),
        cache_key(CALLER, replace(CHAT, lora="de"), request(), wanted),
        cache_key(CALLER, CHAT, request(), Tokens(51)),
        cache_key(CALLER, CHAT, request(seed=1), wanted),
        cache_key(CALLER, CHAT, request(stop=["x"]), wanted),
        cache_key(CALLER, CHAT, request(messages=[{"role": "user", "content": "hello "}]), wanted),
        cache_key(CALLER, CHAT, request(messages=[{"role": "system", "content": "hello"}]), wanted),
        cache_key(CALLER, CHAT, request(Endpoint.COMPLETIONS, model="chat", prompt="hello"), wanted),
    ]
    assert len(set(keys)) == len(keys)
    assert all(len(key) == 64 for key in keys)


def test_whatever_does_not_is_not() -> None:
    key = cache_key(CALLER, CHAT, request(), Tokens(50))
    for changed in ({"stream": True}, {"user": "x"}, {"model": "gpt-4o"}, {"metadata": {"a": "b"}}):
        assert cache_key(CALLER, CHAT, request(**changed), Tokens(50)) == key
    assert cache_key(replace(CALLER, scopes=("admin",)), CHAT, request(), Tokens(50)) == key


@given(st.lists(st.binary(max_size=4), max_size=4), st.lists(st.binary(max_size=4), max_size=4))
def test_no_two_lists_of_parts_are_joined_alike(first: list[bytes], second: list[bytes]) -> None:
    assert (length_prefixed(*first) == length_prefixed(*second)) == (first == second)


def test_what_may_be_repeated() -> None:
    every = replace(CHAT, cache=CacheRule(mode=CacheMode.ALL))
    assert cacheable(CHAT, request())
    assert cacheable(CHAT, request(temperature=1, seed=7))
    assert not cacheable(CHAT, request(temperature=1))
    assert cacheable(every, request(temperature=1))
    assert not cacheable(every, request(n=2))
    assert not cacheable(replace(CHAT, cache=CacheRule(mode=CacheMode.OFF)), request())
    assert cacheable(EMBED, request(Endpoint.EMBEDDINGS, model="embed", input=["a", "b"]))


@pytest.mark.parametrize(
    ("text", "directives"),
    [
        ("", Directives()),
        ("no-store", Directives(read=False, write=False)),
        ("No-Cache , x=1", Directives(read=False)),
        ("no-cache,no-store", Directives(read=False, write=False)),
        ('max-age="60"', Directives(max_age_s=60)),
        ("max-age=-1", Directives(max_age_s=0)),
        ("max-age", Directives(max_age_s=0)),
        ("no-cachex", Directives()),
    ],
)
def test_cache_control(text: str, directives: Directives) -> None:
    assert read_directives(text) == directives


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
