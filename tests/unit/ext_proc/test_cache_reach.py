"""A rule is told to be unreachable exactly when no request reaches it, held against every request."""

from __future__ import annotations

from itertools import product
from typing import Any, Final

from hypothesis import given
from hypothesis import strategies as st

from ext_proc.cache.policy import CACHED_ENDPOINTS, Group, Match
from ext_proc.cache.reach import Box, boxes_of, reachable
from gateway.contract.ids import KeyId, OrgId, TeamId, Tier, UserId
from gateway.contract.principal import Principal
from gateway.openai.terms import Endpoint

ENDPOINTS: Final = sorted(CACHED_ENDPOINTS)
GROUPS: Final[dict[str, dict[str, Any]]] = {
    "g": {"org": "a", "teams": ["t"], "users": ["x"]},
    "h": {"org": "a", "users": ["x"]},
    "i": {"org": "b", "teams": ["t", "u"]},
}
CALLERS: Final = [
    Principal(org=OrgId(org), team=TeamId(team), user=UserId(user), key=KeyId("k"), tier=Tier("s"))
    for org, team, user in product(("a", "b", "z"), ("t", "u", "z"), ("x", "z"))
]
REQUESTS: Final = list(product(CALLERS, ("m", "n", "z"), ENDPOINTS))


def some(names: list[str]) -> st.SearchStrategy[list[str]]:
    return st.lists(st.sampled_from(names), min_size=1, max_size=len(names), unique=True)


MATCHES = st.fixed_dictionaries(
    {},
    optional={
        "orgs": some(["a", "b"]),
        "teams": some(["t", "u"]),
        "models": some(["m", "n"]),
        "endpoints": some([endpoint.value for endpoint in ENDPOINTS]),
    },
)
RULES = st.fixed_dictionaries({"match": MATCHES}, optional={"group": st.sampled_from(sorted(GROUPS))})


def matched(rule: dict[str, Any]) -> set[int]:
    """The requests that ``rule`` matches, by place."""
    data = rule["match"]
    match = Match(
        **{level: frozenset(data.get(level, ())) for level in ("orgs", "teams", "models")},
        endpoints=frozenset(Endpoint(name) for name in data.get("endpoints", ())),
    )
    group = None
    if "group" in rule:
        of = GROUPS[rule["group"]]
        members = {level: frozenset(of.get(level, ())) for level in ("teams", "users")}
        group = Group(name=rule["group"], org=OrgId(of["org"]), **members)
    return {
        place
        for place, (caller, model, endpoint) in enumerate(REQUESTS)
        if match.holds(caller, model, endpoint) and (group is None or group.holds(caller))
    }


@given(st.lists(RULES, min_size=1, max_size=5))
def test_a_rule_is_reachable_where_some_request_reaches_it(rules: list[dict[str, Any]]) -> None:
    before, taken = list[Box](), set[int]()
    for rule in rules:
        boxes, mine = boxes_of(rule, GROUPS), matched(rule)
        assert bool(boxes) == bool(mine)
        assert reachable(boxes, before) == bool(mine - taken)
        before += boxes
        taken |= mine


def test_a_policy_of_many_rules_is_read_in_bounded_work() -> None:
    """Rules that each take one team and one model of all leave ever more pieces, up to the bound."""
    rules = [{"match": {"orgs": ["a"], "teams": [f"t{i}"], "models": [f"m{i}"]}} for i in range(500)]
    before = [box for rule in rules for box in boxes_of(rule, {})]
    assert reachable(boxes_of({"match": {}}, {}), before)
