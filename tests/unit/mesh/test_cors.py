"""corsPolicy: what is compiled, what is refused with its place, and where it would be of no effect."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.config.document import PathKey, PolicyError
from mesh.compile.cors import CORS_NAME
from mesh.lint import lint
from tests.unit.mesh.policy import base, changed, compiled, listener

API: PathKey = ("spec", "http", 2)
GOOD: dict[str, Any] = {
    "allowOrigins": [{"exact": "https://app.example"}, {"prefix": "http://localhost:"}],
    "allowMethods": ["GET", "POST"],
    "allowHeaders": ["authorization", "content-type"],
    "exposeHeaders": ["x-request-id", "retry-after"],
    "maxAge": "10m",
    "allowCredentials": False,
    "unmatchedPreflights": "IGNORE",
}


def with_policy(policy: Any, route: PathKey = API) -> Any:
    return changed("VirtualService", "openai", (*route, "corsPolicy"), policy)


def filters(made: Any) -> list[str]:
    return [entry["name"] for entry in listener(made, 8080)["http_filters"]]


def test_off_without_a_policy() -> None:
    manager = listener(compiled(), 8080)
    assert filters(compiled()).count(CORS_NAME) == 1
    for host in manager["route_config"]["virtual_hosts"]:
        assert all("typed_per_filter_config" not in route for route in host["routes"])


def test_on_where_the_policy_stands_and_asked_before_identity() -> None:
    made = compiled(with_policy(GOOD))
    order = filters(made)
    assert order.index(CORS_NAME) < order.index("envoy.filters.http.ext_authz")
    assert order.count(CORS_NAME) == 2, "ours, and Istio's own, which finds nothing left to do"
    for host in listener(made, 8080)["route_config"]["virtual_hosts"]:
        (on,) = (route for route in host["routes"] if "typed_per_filter_config" in route)
        assert on["name"] == "api"
        policy = on["typed_per_filter_config"][CORS_NAME]
        assert policy["max_age"] == "600" and policy["forward_not_matching_preflights"] is False
        assert policy["allow_origin_string_match"][1] == {"prefix": "http://localhost:"}
    assert lint(with_policy(GOOD)) == ()


@pytest.mark.parametrize("word", [None, "UNSPECIFIED", "FORWARD"])
def test_unmatched_preflights_go_on_unless_it_is_said(word: str | None) -> None:
    policy: dict[str, Any] = {"allowOrigins": [{"regex": r"https://[a-z]+\.example"}]}
    policy |= {} if word is None else {"unmatchedPreflights": word}
    made = listener(compiled(with_policy(policy)), 8080)
    config = made["route_config"]["virtual_hosts"][0]["routes"][2]["typed_per_filter_config"][CORS_NAME]
    assert config["forward_not_matching_preflights"] is True
    assert config["allow_origin_string_match"] == [{"safe_regex": {"regex": r"https://[a-z]+\.example"}}]


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("allowOrigins", [], "must be a list of mappings"),
        ("allowOrigins", ..., "allowOrigins is missing"),
        ("allowOrigins", ["https://app.example"], "must be a mapping"),
        ("allowOrigins", [{"prefix": "https://app.example"}], "takes foreign hosts too"),
        ("allowOrigins", [{}], "needs exactly one of exact, prefix, regex"),
        ("allowOrigins", [{"exact": "https://a.example", "prefix": "h"}], "needs exactly one of"),
        ("allowOrigins", [{"exact": "app.example"}], "'app.example': is no origin"),
        ("allowOrigins", [{"exact": "https://app.example/"}], "is no origin"),
        ("allowOrigins", [{"prefix": ""}], "must be a non-empty text"),
        ("allowOrigins", [{"regex": "https://(a"}], "is no regular expression"),
        ("allowOrigins", [{"suffix": ".example"}], "needs exactly one of"),
        ("allowOrigin", ["*"], "allowOrigin: unsupported field"),
        ("allowMethods", ["FETCH"], "'FETCH' is no method"),
        ("allowMethods", "GET", "must be a list of texts"),
        ("allowMethods", ["*", "GET"], "'*' beside other items"),
        ("allowHeaders", ["content type"], "'content type' is no name of a header"),
        ("exposeHeaders", ["a,b"], "'a,b' is no name of a header"),
        ("maxAge", "soon", "must be a duration"),
        ("maxAge", "1500ms", "must be whole seconds"),
        ("maxAge", "48h", "must be whole seconds"),
        ("maxAge", 600, "must be a duration"),
        ("allowCredentials", "yes", "must be true or false"),
        ("unmatchedPreflights", "DROP", "known here: UNSPECIFIED, FORWARD, IGNORE"),
        ("exposedHeaders", ["x"], "exposedHeaders: unsupported field"),
    ],
)
def test_refused_with_its_place(field: str, value: Any, said: str) -> None:
    policy = {name: entry for name, entry in {**GOOD, field: value}.items() if entry is not ...}
    with pytest.raises(PolicyError) as caught:
        compiled(with_policy(policy))
    (problem,) = caught.value.problems
    assert problem.file == "gateway.yaml" and problem.line > 1
    assert problem.path.startswith("spec.http[2].corsPolicy")
    assert said in str(caught.value)


@pytest.mark.parametrize("origin", [{"exact": "*"}, {"regex": ".*"}])
def test_any_origin_never_gets_credentials(origin: dict[str, str]) -> None:
    compiled(with_policy({"allowOrigins": [origin]}))
    with pytest.raises(PolicyError, match=r"corsPolicy\.allowCredentials: True: would let every site act"):
        compiled(with_policy({"allowOrigins": [origin], "allowCredentials": True}))


def test_a_policy_that_no_request_would_meet_is_found() -> None:
    """The filter stands before admit, which sets the headers that the pods' routes are picked by."""
    (problem,) = lint(with_policy(GOOD, ("spec", "http", 0)))
    assert problem.path == "spec.http[0].corsPolicy" and "x-tidegate-pool" in problem.message
    assert lint(base()) == ()
