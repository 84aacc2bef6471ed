"""No two requests that could want different answers, or belong to different callers, share a key."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ext_proc.cache.partition import Asked, asked_of, share_of
from ext_proc.cache.policy import CacheMode, CacheRule, Group, Profile, Share
from gateway.contract.ids import KeyId, ModelName, OrgId, TeamId, UserId
from gateway.contract.principal import Principal
from gateway.contract.units import Tokens
from gateway.models.catalogue import catalogue_of
from gateway.openai.parameters import VENDOR
from gateway.openai.requests import WireRequest, parse_request
from gateway.openai.terms import Capabilities, Endpoint
from tests.unit.ext_proc.asked import PRINCIPAL, SAY, model

KEY = b"k" * 32
CALLER = Principal.from_fields(PRINCIPAL)
ABLE = Capabilities(n_max=4, batch_max=8, tools=True, logprobs=True, reasoning=True, suffix=True)
GENERATES = (Endpoint.CHAT, Endpoint.COMPLETIONS)
CHAT = model("chat", *GENERATES, capabilities=ABLE, vendor_parameters=frozenset(VENDOR), aliases=("gpt",))
CATALOGUE = catalogue_of((CHAT, model("embed", Endpoint.EMBEDDINGS)))
RULE = CacheRule(name="r", profile=Profile.STRICT)
TEXT = "How do I reset my password?"
WANTED = Tokens(50)


def said(text: Any, role: str = "user", **more: Any) -> dict[str, Any]:
    return {"role": role, "content": text, **more}


def request(endpoint: Endpoint = Endpoint.CHAT, **changed: Any) -> WireRequest:
    fields = {**SAY, "messages": [said(TEXT)], **changed} if endpoint is Endpoint.CHAT else changed
    return parse_request(endpoint, orjson.dumps(fields), CATALOGUE.require)


def asked(
    caller: Principal = CALLER,
    of: WireRequest | None = None,
    *,
    key: bytes = KEY,
    rule: CacheRule = RULE,
    wanted: Tokens = WANTED,
    similar: bool = True,
    **model_changed: Any,
) -> Asked:
    entry = replace(CHAT, **model_changed)
    return asked_of(key, caller, entry, of or request(), rule, wanted, similar=similar)


def tool(name: str = "look", **properties: Any) -> dict[str, Any]:
    schema = {"type": "object", "properties": properties}
    return {"type": "function", "function": {"name": name, "parameters": schema}}


def form(name: str, *properties: str) -> dict[str, Any]:
    schema = {"type": "object", "properties": {one: {"type": "string"} for one in properties}}
    return {"type": "json_schema", "json_schema": {"name": name, "schema": schema}}


A, B = {"type": "string"}, {"type": "integer"}
OTHER_REQUESTS: list[dict[str, Any]] = [
    {"messages": [said("Be brief.", "system"), said(TEXT)]},
    {"messages": [said("Be brief", "system"), said(TEXT)]},
    {"messages": [said("be brief.", "system"), said(TEXT)]},
    {"messages": [said("hi"), said("hello", "assistant"), said(TEXT)]},
    {"messages": [said("hi"), said("hello!", "assistant"), said(TEXT)]},
    {"messages": [said("hi"), said(TEXT)]},
    {"messages": [said(TEXT, name="ann")]},
    {"messages": [said(TEXT, name="bob")]},
    {"messages": [said(TEXT), said(TEXT)]},
    {"tools": [tool()]},
    {"tools": [tool("seek")]},
    {"tools": [tool(), tool("seek")]},
    {"tools": [tool("seek"), tool()]},
    {"tools": [tool(a=A, b=B)]},
    {"tools": [tool(b=B, a=A)]},
    {"tools": [tool()], "tool_choice": "none"},
    {"tools": [tool()], "tool_choice": "auto"},
    {"tools": [tool()], "parallel_tool_calls": False},
    {"response_format": {"type": "json_object"}},
    {"response_format": form("f", "a", "b")},
    {"response_format": form("f", "b", "a")},
    {"response_format": form("g", "a", "b")},
    {"temperature": 0.5},
    {"temperature": 1},
    {"top_p": 0.5},
    {"presence_penalty": 1},
    {"frequency_penalty": 1},
    {"logit_bias": {"1": 1}},
    {"logit_bias": {"2": 1}},
    {"seed": 1},
    {"seed": 2},
    {"stop": "x"},
    {"stop": ["x", "y"]},
    {"stop": ["xy"]},
    {"n": 2},
    {"logprobs": True},
    {"logprobs": True, "top_logprobs": 2},
    {"max_tokens": 5},
    {"max_tokens": 6},
    {"reasoning_effort": "low"},
    {"reasoning_effort": "high"},
    {"top_k": 1},
    {"min_p": 0.5},
    {"min_tokens": 1},
    {"repetition_penalty": 1.5},
    {"ignore_eos": True},
    {"skip_special_tokens": False},
    {"no_stop_trim": True},
    {"stop_token_ids": [1]},
    {"stop_regex": "x"},
    {"regex": "x"},
    {"ebnf": "x"},
    {"separate_reasoning": False},
    {"stream_reasoning": False},
    {"chat_template_kwargs": {"thinking": True}},
]


def test_whatever_decides_the_answer_is_another_partition_and_other_keys() -> None:
    found = [asked(), *(asked(of=request(**changed)) for changed in OTHER_REQUESTS)]
    found += [asked(wanted=Tokens(51)), asked(key=b"x" * 32)]
    changes: list[dict[str, Any]] = [
        {"name": ModelName("chat2")},
        {"revision": "r2"},
        {"lora": "de"},
        {"served_name": "chat2"},
        {"template": "t2"},
        {"template": "T2"},
    ]
    found += [asked(**changed) for changed in changes]
    for names in ({one.partition for one in found}, {one.keys.exact for one in found}):
        assert len(names) == len(found)
    assert len({one.keys.canonical for one in found}) == len(found)
    assert all(len(one.partition) == len(one.keys.exact) == len(one.keys.canonical) == 64 for one in found)


def test_every_parameter_that_an_engine_reads_is_among_the_differences() -> None:
    covered = {name for changed in OTHER_REQUESTS for name in changed} | {"continue_final_message"}
    assert set(VENDOR) <= covered


def test_a_prefix_to_go_on_with_is_no_question() -> None:
    history = [said(TEXT), said("Open", "assistant")]
    plain, on = request(messages=history), request(messages=history, continue_final_message=True)
    first, second = asked(of=plain, similar=False), asked(of=on, similar=False)
    assert first.keys.exact != second.keys.exact
    assert (first.partition, first.text, first.keys.canonical) == ("", "", "")


def test_what_does_not_decide_it_is_in_no_key() -> None:
    same: list[dict[str, Any]] = [
        {"stream": True},
        {"stream": True, "stream_options": {"include_usage": True}},
        {"user": "x"},
        {"model": "gpt"},
        {"metadata": {"a": "b"}},
        {"messages": [said([{"type": "text", "text": TEXT}])]},
        {"messages": [{"content": TEXT, "role": "user"}]},
    ]
    assert {asked(of=request(**changed)) for changed in same} == {asked()}
    assert asked(replace(CALLER, scopes=("admin",))) == asked()
    assert asked(rule=replace(RULE, name="other", mode=CacheMode.ALL, ttl_seconds=5)) == asked()


def test_the_last_text_is_in_the_keys_and_not_in_the_partition() -> None:
    one, other = asked(), asked(of=request(messages=[said("How do I change my password?")]))
    assert one.partition == other.partition
    assert len({one.keys.exact, other.keys.exact, one.keys.canonical, other.keys.canonical}) == 4
    assert other.text == "How do I change my password?"


def test_only_the_last_text_is_cut_out() -> None:
    before = [said("hi"), said("hello", "assistant")]
    one = asked(of=request(messages=[*before, said("a b c")]))
    other = asked(of=request(messages=[said("ho"), said("hello", "assistant"), said("a b c")]))
    assert one.partition != other.partition


def test_two_spellings_of_one_question_share_the_canonical_key_alone() -> None:
    one, other = asked(), asked(of=request(messages=[said("how do I reset my password")]))
    assert one.keys.exact != other.keys.exact
    assert (one.keys.canonical, one.partition) == (other.keys.canonical, other.partition)


def test_another_language_is_another_partition() -> None:
    other = asked(of=request(messages=[said("Wie kann ich mein Passwort zurücksetzen und ändern?")]))
    assert other.partition != asked().partition


def test_whether_it_is_compared_changes_nothing_of_the_exact_key() -> None:
    assert asked(similar=False).keys.exact == asked().keys.exact
    assert asked(rule=replace(RULE, profile=Profile.OFF), similar=False).keys.exact == asked().keys.exact


def test_endpoints_are_apart() -> None:
    prompt = request(Endpoint.COMPLETIONS, model="chat", prompt=TEXT, temperature=0)
    assert asked(of=prompt, similar=False).keys.exact != asked().keys.exact
    vectors = request(Endpoint.EMBEDDINGS, model="embed", input=TEXT)
    assert asked(of=vectors, similar=False).keys.exact != asked(of=prompt, similar=False).keys.exact


PARTS = [["a b"], ["a", "b"], ["a ", "b"], ["a", " b"], ["", "a b"], ["a b", ""]]


def test_parts_of_text_are_apart_where_an_engine_could_join_them_otherwise() -> None:
    def of(parts: list[str]) -> Asked:
        content = [{"type": "text", "text": part} for part in parts]
        return asked(of=request(messages=[said(content)]), similar=False)

    assert len({of(parts).keys.exact for parts in PARTS}) == len(PARTS)
    assert of(["a b"]).keys.exact == asked(of=request(messages=[said("a b")]), similar=False).keys.exact


# --- who shares ---

DESK = Group(name="t1", org=OrgId("acme"), teams=frozenset({"t1"}), users=frozenset({"bob"}))


def with_share(share: Share) -> CacheRule:
    return replace(RULE, share=share, group=DESK if share is Share.GROUP else None)


def test_ids_of_one_spelling_but_another_kind_are_apart() -> None:
    alike = replace(CALLER, team=TeamId("t1"), user=UserId("t1"), key=KeyId("t1"))
    found = [asked(alike, rule=with_share(share)) for share in Share]
    assert len({one.partition for one in found}) == len({one.keys.exact for one in found}) == len(Share)


@pytest.mark.parametrize(
    ("share", "apart"),
    [
        (Share.KEY, {"key"}),
        (Share.USER, {"user"}),
        (Share.TEAM, {"team"}),
        (Share.ORG, set[str]()),
    ],
)
def test_who_shares(share: Share, apart: set[str]) -> None:
    here = asked(rule=with_share(share))
    for level in ("key", "user", "team", "tier"):
        other: dict[str, Any] = {level: "other"}
        assert (asked(replace(CALLER, **other), rule=with_share(share)) != here) == (level in apart)
    elsewhere = asked(replace(CALLER, org=OrgId("other")), rule=with_share(share))
    assert elsewhere.partition != here.partition
    assert elsewhere.keys.exact != here.keys.exact


def test_outside_the_group_a_user_is_alone_whatever_chose_the_rule() -> None:
    rule = with_share(Share.GROUP)
    by_team, by_user = CALLER, replace(CALLER, team=TeamId("t9"), user=UserId("bob"))
    assert share_of(rule, by_team) == share_of(rule, by_user) == (Share.GROUP, "t1")
    stranger = replace(CALLER, team=TeamId("t9"))
    assert share_of(rule, stranger) == (Share.USER, "alice")
    foreign = replace(CALLER, org=OrgId("other"))
    assert share_of(rule, foreign) == (Share.USER, "alice")
    assert share_of(replace(rule, group=None), CALLER) == (Share.USER, "alice")


# --- nothing collides ---

IDS = st.from_regex(r"[a-z0-9][a-z0-9_-]{0,3}", fullmatch=True)
CHARS = st.sampled_from('aA{}:,"\\ \n\x00\u00e9e\u0301\u212b\u00c5\u00df\u017fs|0\ufeff\u200d')
TEXTS = st.text(CHARS, min_size=1, max_size=5)
NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._/@+-]{0,3}", fullmatch=True)
WHO = st.tuples(st.sampled_from(list(Share)), IDS, IDS, IDS, IDS)
WHAT = st.tuples(NAMES, NAMES, NAMES, NAMES, st.integers(1, 20), TEXTS, TEXTS, TEXTS)


def looked_up(who: Any, what: Any) -> Asked:
    share, org, team, user, key = who
    name, revision, lora, template, wanted, system, answer, text = what
    caller = replace(CALLER, org=OrgId(org), team=TeamId(team), user=UserId(user), key=KeyId(key))
    group = Group(name="g", org=OrgId(org), teams=frozenset({team}))
    rule = replace(RULE, share=share, group=group if share is Share.GROUP else None)
    history = [said(system, "system"), said("q"), said(answer, "assistant"), said(text)]
    changed = {"name": ModelName(name), "revision": revision, "lora": lora, "template": template}
    of = request(messages=history)
    return asked(caller, of, rule=rule, wanted=Tokens(wanted), similar=False, **changed)


def shared_by(who: Any) -> tuple[str, ...]:
    share, org, team, user, key = who
    ids = {Share.KEY: key, Share.USER: user, Share.TEAM: team, Share.ORG: "", Share.GROUP: "g"}
    return (org, share, ids[share])


@given(WHO, WHAT, WHO, WHAT)
def test_two_requests_share_a_key_only_where_everything_is_the_same(
    who: Any, what: Any, other_who: Any, other_what: Any
) -> None:
    one, other = looked_up(who, what), looked_up(other_who, other_what)
    alike = (shared_by(who), what) == (shared_by(other_who), other_what)
    assert (one.keys.exact == other.keys.exact) == alike


@given(WHO, WHAT, st.data())
def test_one_changed_thing_is_another_key(who: Any, what: Any, data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(what) - 1))
    kinds = (NAMES, NAMES, NAMES, NAMES, st.integers(1, 20), TEXTS, TEXTS, TEXTS)
    changed = (*what[:place], data.draw(kinds[place]), *what[place + 1 :])
    same = looked_up(who, what).keys.exact == looked_up(who, changed).keys.exact
    assert same == (what == changed)


@given(TEXTS, TEXTS)
def test_no_text_reaches_into_the_partition(one: str, other: str) -> None:
    first, second = (asked(of=request(messages=[said("s", "system"), said(text)])) for text in (one, other))
    assert (first.keys.exact == second.keys.exact) == (one == other)
    if first.partition != second.partition:
        assert first.keys.canonical != second.keys.canonical
