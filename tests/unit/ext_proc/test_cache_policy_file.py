"""cache.yaml: each rule has a policy that breaks it, told with line, path, value and mend; a running process
keeps the last good snapshot."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

import pytest

from ext_proc.cache.detectors import DETECTORS
from ext_proc.cache.policy import (
    BUILT_IN,
    CACHED_ENDPOINTS,
    CacheMode,
    CachePolicy,
    CacheRule,
    Group,
    Match,
    Profile,
    Share,
)
from ext_proc.cache.policy_file import load_cache_policy, read_cache_policy, schema
from ext_proc.cache.policy_problems import model_problems, org_problems
from gateway.config.document import Document, PolicyError, parse_documents
from gateway.config.watch import Watched
from gateway.contract.ids import OrgId
from gateway.contract.units import MicroUsd
from gateway.models.catalogue import Prices, catalogue_of
from gateway.openai.terms import Endpoint
from tests.unit.ext_proc.asked import model

SHIPPED = Path(__file__).resolve().parents[3] / "mesh/base/policy/cache.yaml"
GOOD: Final = """\
version: 7
groups:
  desk: {org: acme, teams: [support], users: [bob]}
rules:
  - name: desk
    match: {orgs: [acme], models: [chat], endpoints: [chat.completions]}
    mode: all
    profile: verified
    share: group
    group: desk
    ttl_seconds: 60
    tags: [faq, v2]
    hit_micro_usd: 5
    freshness: true
    actions: true
    tool_results: true
    personal_data: [email]
    false_hit_slo: 0.005
    verify_share: 0.5
    judge_per_minute: 6
  - name: red
    match: {orgs: [acme], teams: [red]}
    mode: off
  - {name: rest, profile: strict, share: org}
"""
RED: Final = "match: {orgs: [acme], teams: [red]}"
REST: Final = "{name: rest, profile: strict, share: org}"
IDENTIFIER: Final = "1 to 63 of lower-case letters, digits, _ and -, starting with a letter or digit"
RULES: Final = {
    "no version": (("version: 7\n", ""), "1: 'version' is a required property; add it"),
    "unknown field": (
        ("    mode: off", "    modus: off"),
        "23: rules[1].modus: unknown field; known here: actions, false_hit_slo, freshness, group,"
        " hit_micro_usd, judge_per_minute, match, mode, name, personal_data, profile, share, tags,"
        " tool_results, ttl_seconds, verify_share",
    ),
    "unknown mode": (
        ("mode: all", "mode: always"),
        "7: rules[0].mode: 'always' is not allowed; use one of off, deterministic, all, False",
    ),
    "too long a life": (
        ("ttl_seconds: 60", "ttl_seconds: 2592001"),
        "11: rules[0].ttl_seconds: 2592001 is greater than the maximum of 2592000; a whole number of seconds"
        " from 1 to 2592000 (30 days)",
    ),
    "no life": (
        ("ttl_seconds: 60", "ttl_seconds: 0"),
        "11: rules[0].ttl_seconds: 0 is less than the minimum of 1; a whole number of seconds from 1 to"
        " 2592000 (30 days)",
    ),
    "an SLO that promises nothing": (
        ("false_hit_slo: 0.005", "false_hit_slo: 0.5"),
        "18: rules[0].false_hit_slo: 0.5 is greater than the maximum of 0.1; most wrong answers among similar"
        " hits, as a share from 0.001 to 0.1; a bucket that may be worse is switched off",
    ),
    "nothing is verified": (
        ("verify_share: 0.5", "verify_share: 0"),
        "19: rules[0].verify_share: 0 is less than the minimum of 0.001; share of similar hits that are also"
        " sent to the engine to be compared, from 0.001 to 1",
    ),
    "unknown detector": (
        ("[email]", "[emails]"),
        "17: rules[0].personal_data[0]: 'emails' is not allowed; use one of email, phone, payment_card, iban,"
        " national_id, ip_address, secret",
    ),
    "tokens are not cached": (
        ("[chat.completions]", "[tokenize]"),
        "6: rules[0].match.endpoints[0]: 'tokenize' is not allowed; use one of chat.completions, completions,"
        " embeddings",
    ),
    "one name twice": (
        ("name: rest", "name: red"),
        "24: rules[2].name: 'red' is the name of line 21; give each rule its own",
    ),
    "reserved name": (
        ("name: rest", "name: built-in"),
        "24: rules[2].name: 'built-in' is what decides where no rule matches; rename it",
    ),
    "a line feed in a name": (
        ("teams: [red]", 'teams: ["red\\n"]'),
        f"22: rules[1].match.teams[0]: 'red\\n' is no identifier; {IDENTIFIER}",
    ),
    "a line feed in a tag": (
        ("[faq, v2]", '["faq\\n"]'),
        f"12: rules[0].tags[0]: 'faq\\n' is no identifier; {IDENTIFIER}",
    ),
    "a line feed in a member": (
        ("[bob]", '["bob\\n"]'),
        f"3: groups.desk.users[0]: 'bob\\n' is no identifier; {IDENTIFIER}",
    ),
    "a line feed in a model": (
        ("models: [chat]", 'models: ["chat\\n"]'),
        "6: rules[0].match.models[0]: 'chat\\n' is no name of a model; remove the line feed",
    ),
    "teams of no org": (
        (RED, "match: {teams: [red]}"),
        "22: rules[1].match.teams: a team belongs to one org, and the rule names none; add orgs: with the one"
        " org, and make a rule for each other",
    ),
    "teams of two orgs": (
        (RED, "match: {orgs: [acme, other], teams: [red]}"),
        "22: rules[1].match.teams: a team belongs to one org, and the rule names several; add orgs: with the"
        " one org, and make a rule for each other",
    ),
    "a group across orgs": (
        ("{orgs: [acme], models", "{orgs: [acme, other], models"),
        "6: rules[0].match.orgs[1]: 'other' is not the org of group 'desk', and answers never leave an org;"
        " keep acme alone, and make a rule and a group for other",
    ),
    "no such group": (
        (REST, "{name: rest, share: group, group: dessk}"),
        "24: rules[2].group: 'dessk' is no group; groups has desk",
    ),
    "which group": (
        (REST, "{name: rest, share: group}"),
        "24: rules[2].share: which group?; add group: with a name of groups",
    ),
    "a group for nothing": (
        (REST, "{name: rest, group: desk}"),
        "24: rules[2].group: 'desk' is not used: the rule does not share by group; add share: group",
    ),
    "an empty group": (
        ("{org: acme, teams: [support], users: [bob]}", "{org: acme}"),
        "3: groups.desk: 'desk' has no members; name its teams, its users or both",
    ),
    "a group no rule shares in": (
        ("  desk: {", "  spare: {org: acme, users: [ann]}\n  desk: {"),
        "3: groups.spare: no rule shares in 'spare'; name it in a rule (share: group), or remove it",
    ),
    "options of a rule that is off": (
        ("    mode: off", "    mode: off\n    share: org"),
        "24: rules[1].share: mode off stores nothing; remove share, or the mode",
    ),
    "options of a profile that is off": (
        (REST, "{name: rest, verify_share: 0.1}"),
        "24: rules[2].verify_share: without a profile only identical requests are served; remove"
        " verify_share, or set profile: strict",
    ),
    "a judge without work": (
        (REST, "{name: rest, profile: strict, judge_per_minute: 5}"),
        "24: rules[2].judge_per_minute: profile strict has no judge; remove it, or set profile: verified",
    ),
    "nothing to compare": (
        (REST, "{name: rest, profile: strict, match: {endpoints: [embeddings]}}"),
        "24: rules[2].profile: 'strict': only chat.completions has questions to compare, and the rule does"
        " not match it; remove profile, or add chat.completions to the endpoints",
    ),
}


def document(text: str) -> Document:
    return parse_documents(text, "cache.yaml")[0]


def read(text: str) -> CachePolicy:
    return read_cache_policy(document(text))


def told(text: str) -> list[str]:
    with pytest.raises(PolicyError) as caught:
        read(text)
    return [str(problem).removeprefix("cache.yaml:") for problem in caught.value.problems]


@pytest.mark.parametrize("name", RULES)
def test_a_broken_rule_is_told_with_its_place_and_its_mend(name: str) -> None:
    (old, new), problem = RULES[name]
    assert GOOD.count(old) == 1
    assert told(GOOD.replace(old, new)) == [problem]


def test_all_of_a_rule() -> None:
    policy = read(GOOD)
    desk = Group(name="desk", org=OrgId("acme"), teams=frozenset({"support"}), users=frozenset({"bob"}))
    assert policy.version == 7
    assert policy.rules[0] == (
        Match(orgs=frozenset({"acme"}), models=frozenset({"chat"}), endpoints=frozenset({Endpoint.CHAT})),
        CacheRule(
            name="desk",
            mode=CacheMode.ALL,
            profile=Profile.VERIFIED,
            share=Share.GROUP,
            group=desk,
            ttl_seconds=60,
            tags=("faq", "v2"),
            hit_micro_usd=MicroUsd(5),
            freshness=True,
            actions=True,
            tool_results=True,
            personal_data=frozenset({"email"}),
            false_hit_slo=0.005,
            verify_share=0.5,
            judge_per_minute=6,
        ),
    )
    assert policy.rules[1][1] == CacheRule(name="red", mode=CacheMode.OFF)
    assert policy.rules[2] == (Match(), CacheRule(name="rest", profile=Profile.STRICT, share=Share.ORG))


def test_the_schema_says_what_the_code_does() -> None:
    said = {
        name: one["default"]
        for name, one in schema()["$defs"]["rule"]["properties"].items()
        if "default" in one
    }
    assert said == {name: getattr(BUILT_IN, name) for name in said}
    properties = schema()["$defs"]["rule"]["properties"]
    assert set(properties["personal_data"]["items"]["enum"]) == DETECTORS
    endpoints = schema()["$defs"]["match"]["properties"]["endpoints"]["items"]["enum"]
    assert set(endpoints) == CACHED_ENDPOINTS
    for name, kind in (("mode", CacheMode), ("profile", Profile), ("share", Share)):
        assert [one for one in properties[name]["enum"] if one is not False] == [one.value for one in kind]


def test_the_shipped_policy_is_the_built_in_one() -> None:
    ((match, rule),) = load_cache_policy(SHIPPED).rules
    assert match == Match()
    assert rule == CacheRule(name="everyone", mode=BUILT_IN.mode, profile=BUILT_IN.profile)


def test_the_example_in_the_shipped_policy_is_good() -> None:
    lines = SHIPPED.read_text().splitlines()
    start = lines.index("# groups:")
    shown = [line.replace("# ", "", 1) if line.lstrip().startswith("# ") else line for line in lines[start:]]
    prose = ("  Teams and users", "    strict: the", "    deterministic:", "  strict: the", "    # strict")
    text = "\n".join(
        ["version: 1", *(line for line in shown if not line.startswith(prose) and "# " not in line)]
    )
    policy = read(text)
    assert [rule.name for _, rule in policy.rules] == ["help-desk", "everyone"]


# --- rules that never decide ---


def rules(*texts: str) -> str:
    return (
        "version: 1\ngroups: {g: {org: a, teams: [t, u], users: [x]}, h: {org: a, teams: [v]}}\nrules:\n"
        + "".join(
            f"  - {{name: r{index}, {text}}}\n"
            for index, text in enumerate((*texts, "share: group, group: g", "share: group, group: h"))
        )
    )


def matching(**levels: str) -> str:
    return "match: {" + ", ".join(f"{name}: [{found}]" for name, found in levels.items()) + "}"


GROUP_G: Final = "share: group, group: g"
EVERY_ENDPOINT: Final = "chat.completions, completions, embeddings"


@pytest.mark.parametrize(
    ("before", "rule", "decides"),
    [
        ([matching(orgs="a")], matching(orgs="a"), False),
        ([matching(orgs="a")], matching(orgs="b"), True),
        ([matching(orgs="a")], matching(orgs="a, b"), True),
        ([matching(orgs="a"), matching(orgs="b")], matching(orgs="a, b"), False),
        ([matching(orgs="a")], matching(orgs="a", teams="t"), False),
        ([matching(orgs="a", teams="t")], matching(orgs="a"), True),
        ([matching(models="m")], matching(orgs="a", models="m", endpoints="completions"), False),
        ([matching(models="m")], matching(orgs="a"), True),
        (
            [matching(endpoints="chat.completions"), matching(endpoints="completions, embeddings")],
            "mode: all",
            False,
        ),
        ([matching(endpoints=EVERY_ENDPOINT)], matching(orgs="c"), False),
        ([matching(endpoints="chat.completions, completions")], matching(orgs="c"), True),
        ([matching(orgs="a"), matching(models="m")], matching(orgs="a, b", models="m, n"), True),
        ([matching(orgs="a"), matching(models="m")], matching(orgs="a", models="n"), False),
        ([GROUP_G], matching(orgs="a"), True),
        ([GROUP_G], matching(orgs="a", teams="t"), False),
        ([GROUP_G], matching(orgs="a", teams="t, v"), True),
        ([GROUP_G], matching(orgs="b", teams="t"), True),
        ([matching(orgs="a", teams="t, u")], GROUP_G, True),
        ([matching(orgs="a")], GROUP_G, False),
    ],
)
def test_rules_that_never_decide(before: list[str], rule: str, decides: bool) -> None:
    try:
        read(rules(*before, rule))
        late = []
    except PolicyError as error:
        late = [str(problem) for problem in error.problems]
    name = f"'r{len(before)}' never decides: the rules above match every request that it matches;"
    assert any(name in one for one in late) == (not decides)


def test_a_rule_for_nobody() -> None:
    problems = told(rules(f"{GROUP_G}, {matching(orgs='a', teams='w')}".replace("g, match", "h, match")))
    assert problems == [
        "4: rules[0]: 'r0' can match no request: nobody is in its teams and in its group;"
        " mend its match, or remove it"
    ]


# --- beside the other files ---

CATALOGUE = catalogue_of(
    (
        model("chat", Endpoint.CHAT, aliases=("gpt",), prices=Prices(prompt=MicroUsd(1))),
        model("embed", Endpoint.EMBEDDINGS),
    )
)


def crossed(text: str) -> list[str]:
    found = document("version: 1\nrules:\n  - " + text)
    read_cache_policy(found)
    return [str(one).removeprefix("cache.yaml:") for one in model_problems(found, CATALOGUE)]


def test_what_the_catalogue_contradicts() -> None:
    assert crossed("{name: a, match: {models: [chat, embed]}}") == []
    assert crossed("{name: a, match: {models: [gpt]}}") == [
        "3: rules[0].match.models[0]: 'gpt' names no model; an alias: rules are by the model's name, chat"
    ]
    assert crossed("{name: a, match: {models: [chatt]}}") == [
        "3: rules[0].match.models[0]: 'chatt' names no model; the catalogue (models.yaml) has chat"
    ]
    assert crossed("{name: a, match: {models: [embed], endpoints: [completions]}}") == [
        "3: rules[0].match.models[0]: 'embed' serves none of the rule's endpoints; it serves embeddings"
    ]
    assert crossed("{name: a, hit_micro_usd: 5, match: {models: [chat, embed]}}") == [
        "3: rules[0].match.models[1]: 'embed' is free, and a hit would cost 5 micro-USD;"
        " give the model prices, or leave the hit free"
    ]


def test_orgs_without_a_budget() -> None:
    found = document(GOOD)
    assert org_problems(found, {"acme": {}}) == []
    assert org_problems(found, {"*": {}}) == []
    assert [str(one) for one in org_problems(found, {"acne": {}})] == [
        f"cache.yaml:{place}: 'acme' has no budget, so that no request of it gets here; budgets.yaml has acne"
        for place in ("3: groups.desk.org", "6: rules[0].match.orgs[0]", "22: rules[1].match.orgs[0]")
    ]


# --- the file ---


def test_no_file_is_the_built_in_policy_and_a_bad_one_keeps_the_last(tmp_path: Path) -> None:
    file, refused = tmp_path / "cache.yaml", list[str]()
    watched = Watched(
        lambda: load_cache_policy(file), (file,), on_refusal=lambda error: refused.append(str(error))
    )
    assert watched.current == CachePolicy()
    file.write_text(GOOD)
    assert watched.poll()
    assert watched.current.version == 7
    file.write_text(GOOD.replace("mode: all", "mode: most"))
    os.utime(file, ns=(1, 1))
    assert not watched.poll()
    assert watched.current.version == 7
    assert len(refused) == 1
    assert refused[0].startswith("cache.yaml:7: rules[0].mode: ")
