"""What a client asks of the cache, and what a rule allows for a request."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import orjson
import pytest

from ext_proc.cache.directives import Ceiling, Directives, read_directives
from ext_proc.cache.eligibility import SIMILAR_CHARS_MAX, Eligibility, eligible
from ext_proc.cache.policy import CacheMode, CacheRule, Profile
from gateway.contract.errors import InvalidRequest
from gateway.models.catalogue import catalogue_of
from gateway.openai.requests import WireRequest, parse_request
from gateway.openai.terms import Capabilities, Endpoint
from tests.unit.ext_proc.asked import SAY, model

ABLE = Capabilities(n_max=4, batch_max=8, tools=True)
CATALOGUE = catalogue_of(
    (
        model("chat", Endpoint.CHAT, Endpoint.COMPLETIONS, Endpoint.TOKENIZE, capabilities=ABLE),
        model("embed", Endpoint.EMBEDDINGS),
    )
)
RULE = CacheRule(name="strict", profile=Profile.STRICT)
QUESTION = "How do I reset my password?"
CALL = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": "{}"}}
TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}
USED_A_TOOL = [
    {"role": "user", "content": "look"},
    {"role": "assistant", "tool_calls": [CALL]},
    {"role": "tool", "tool_call_id": "c1", "content": "seen"},
]


def says(text: Any, role: str = "user") -> list[dict[str, Any]]:
    return [{"role": role, "content": text}]


def request(endpoint: Endpoint = Endpoint.CHAT, **changed: Any) -> WireRequest:
    fields = {**SAY, "messages": says(QUESTION), **changed} if endpoint is Endpoint.CHAT else changed
    return parse_request(endpoint, orjson.dumps(fields), CATALOGUE.require)


def judged(rule: CacheRule = RULE, directives: str = "", **changed: Any) -> Eligibility:
    return eligible(rule, request(**changed), read_directives(directives))


def reason(*args: Any, **changed: Any) -> str:
    found = judged(*args, **changed)
    assert found.profile is Profile.OFF
    assert not found.similar
    return f"{'similar' if found.exact else 'any'}:{found.reason}"


def test_an_ordinary_question_is_served_as_the_profile_says() -> None:
    assert judged() == Eligibility(exact=True, similar=True, profile=Profile.STRICT)
    verified = replace(RULE, profile=Profile.VERIFIED)
    assert judged(verified).profile is Profile.VERIFIED
    assert judged(verified, "strict-only").profile is Profile.STRICT
    assert judged(verified, "no-cache").similar


def test_what_no_hit_may_answer() -> None:
    off = replace(RULE, mode=CacheMode.OFF)
    assert reason(off) == "any:mode_off"
    assert reason(RULE, "no-store") == "any:no_store"
    assert reason(n=2) == "any:several_choices"
    assert reason(temperature=1) == "any:not_deterministic"
    assert reason(messages=USED_A_TOOL) == "any:tool_result"
    assert reason(endpoint=Endpoint.TOKENIZE, model="chat", prompt="a") == "any:endpoint"


def test_what_asks_for_one_and_the_same_answer() -> None:
    assert judged(temperature=1, seed=7).exact
    assert judged(replace(RULE, mode=CacheMode.ALL), temperature=1).similar
    assert judged(endpoint=Endpoint.EMBEDDINGS, model="embed", input=["a", "b"]).exact
    assert judged(replace(RULE, tool_results=True), messages=[*USED_A_TOOL, *says(QUESTION)]).similar


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"messages": says("hi", "assistant")}, "not_text"),
        (
            {"messages": says([{"type": "text", "text": "How"}, {"type": "text", "text": "long?"}])},
            "not_text",
        ),
        ({"messages": says("  \n")}, "empty"),
        ({"messages": says("word " * (SIMILAR_CHARS_MAX // 5 + 1))}, "too_long"),
        ({"tools": [TOOL], "tool_choice": "required"}, "forced_tool"),
        ({"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "look"}}}, "forced_tool"),
        ({"messages": says("What is the weather like in Oslo?")}, "freshness"),
        ({"messages": says("Cancel my order")}, "action"),
        ({"messages": says("cancel order"), "tools": [TOOL]}, "action"),
        ({"endpoint": Endpoint.COMPLETIONS, "model": "chat", "prompt": "a", "temperature": 0}, "not_chat"),
    ],
)
def test_what_only_its_own_answer_serves(changed: dict[str, Any], why: str) -> None:
    assert reason(**changed) == f"similar:{why}"


def test_what_rule_and_client_keep_to_identical_requests() -> None:
    assert reason(replace(RULE, profile=Profile.OFF)) == "similar:profile_off"
    assert reason(RULE, "exact-only") == "similar:exact_only"


def test_a_rule_can_let_the_present_and_actions_in() -> None:
    assert judged(replace(RULE, freshness=True), messages=says("What is the latest version?")).similar
    assert judged(replace(RULE, actions=True), messages=says("Cancel my order")).similar


def test_what_people_type_into_a_search_box_is_a_question() -> None:
    assert judged(messages=says("cancel order")).similar


def test_one_part_of_text_is_a_text() -> None:
    assert judged(messages=says([{"type": "text", "text": QUESTION}])).similar


def test_a_choice_left_to_the_model_forces_nothing() -> None:
    assert judged(tools=[TOOL], tool_choice="auto").similar


ENTRY = "0f" * 32


@pytest.mark.parametrize(
    ("text", "directives"),
    [
        ("", Directives()),
        ("no-store", Directives(read=False, write=False)),
        ("No-Cache , x=1", Directives(read=False)),
        ("no-cache,no-store", Directives(read=False, write=False)),
        ('max-age="60"', Directives(max_age_s=60)),
        ("max-age=60, max-age=5", Directives(max_age_s=5)),
        ("max-age=-1", Directives(max_age_s=0)),
        ("max-age", Directives(max_age_s=0)),
        ("no-cachex, xno-store, max-agex=5", Directives()),
        ("only-if-cached", Directives(only_if_cached=True)),
        ("strict-only", Directives(ceiling=Ceiling.STRICT)),
        ("strict-only, EXACT-ONLY, strict-only", Directives(ceiling=Ceiling.EXACT)),
        ('x="a, no-store, b", no-cache', Directives(read=False)),
        ('x="a \\", no-store", y', Directives()),
        ('x="no-cache', Directives()),
        (",, ,;=", Directives()),
    ],
)
def test_cache_control(text: str, directives: Directives) -> None:
    assert read_directives(text) == directives


@pytest.mark.parametrize(
    "text", [f'wrong; entry="{ENTRY}"', f"Wrong;entry={ENTRY}", f' wrong ; entry="{ENTRY.upper()}" ']
)
def test_feedback(text: str) -> None:
    assert read_directives("", text) == Directives(wrong_entry=ENTRY)


@pytest.mark.parametrize("text", ["wrong", "right; entry=" + ENTRY, f"wrong; entry={ENTRY}0", "x" * 9999])
def test_feedback_that_cannot_be_read_is_not_dropped(text: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        read_directives("", text)
    assert caught.value.param == "x-tidegate-cache-feedback"
    assert ENTRY not in str(caught.value)


def test_a_client_never_loosens() -> None:
    for ceiling in Ceiling:
        assert ceiling.within(Profile.OFF) is Profile.OFF
        assert ceiling.within(Profile.STRICT) in (Profile.STRICT, Profile.OFF)
    assert Ceiling.EXACT.within(Profile.VERIFIED) is Profile.OFF
    assert Ceiling.STRICT.within(Profile.VERIFIED) is Profile.STRICT
