"""Resources of the wrong form: a refusal with its place from the compiler and lint, never a Python error."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.config.document import Document, PathKey, PolicyError
from mesh.compile import Resources, policy_files
from mesh.compile.plain import check_plain
from mesh.compile.resources import resource_from
from mesh.lint import lint
from tests.unit.mesh.policy import base, changed, compiled, resources_of

HTTP: PathKey = ("spec", "http", 0)
SERVICE = "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: x, namespace: ns}\n"
RULE = SERVICE.replace("VirtualService", "DestinationRule")
MAP = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x, namespace: ns}\n"


def refusals(resources: Resources) -> list[str]:
    """What the compiler refuses."""
    with pytest.raises(PolicyError) as caught:
        policy_files(resources)
        compiled(resources)
    assert all(problem.line >= 1 and problem.path for problem in caught.value.problems)
    return [str(problem) for problem in caught.value.problems]


def without(*names: str) -> Resources:
    """mesh/base without the resources of these names."""
    return tuple(one for one in base() if one.name not in names)


# --- lint: Istio's schema first, across resources only what it takes ---


@pytest.mark.parametrize(
    ("text", "path"),
    [
        (SERVICE, "spec"),
        (SERVICE + "spec: null", "spec"),
        (SERVICE + "spec: {http: [x]}", "spec.http[0]"),
        (SERVICE + "spec: {http: [null]}", "spec.http[0]"),
        (SERVICE + "spec: {http: x}", "spec.http"),
        (SERVICE + "spec: {http: [{retries: x}]}", "spec.http[0].retries"),
        (
            SERVICE + "spec: {http: [{retries: {retryRemoteLocalities: true}, route: [x]}]}",
            "spec.http[0].route[0]",
        ),
        (
            SERVICE + "spec: {http: [{retries: {retryRemoteLocalities: true}, route: [{destination: x}]}]}",
            "spec.http[0].route[0].destination",
        ),
        (SERVICE + "spec: {http: [{corsPolicy: {}, match: [null]}]}", "spec.http[0].match[0]"),
        (SERVICE + "spec: {http: [{corsPolicy: {}, match: x}]}", "spec.http[0].match"),
        (
            SERVICE + "spec: {http: [{corsPolicy: {}, match: [{headers: x}]}]}",
            "spec.http[0].match[0].headers",
        ),
        (RULE, "spec"),
        (RULE + "spec: [x]", "spec"),
        (RULE + "spec: {host: h, trafficPolicy: null}", "spec.trafficPolicy"),
    ],
)
def test_lint_refuses_the_form_where_it_is_wrong(text: str, path: str) -> None:
    problems = lint(resources_of(text))
    assert [problem.path for problem in problems] == [path], problems


def test_a_rule_that_is_refused_is_not_called_missing() -> None:
    services = tuple(one for one in base() if one.kind == "VirtualService")
    remote = [problem for problem in lint(services) if "outlierDetection" in problem.message]
    assert remote
    rules = resources_of(RULE + "spec: {host: [x]}")
    assert [problem.path for problem in lint((*services, *rules))] == ["spec.host"]


def test_a_long_value_is_cut_in_the_message() -> None:
    (problem,) = lint(resources_of(SERVICE + f"spec: {{http: {'x' * 10_000}}}"))
    assert len(problem.message) < 400


# --- identity, values ---


@pytest.mark.parametrize(
    ("text", "refusal"),
    [
        ("hello", "t.yaml:1: must be a mapping, got 'hello'"),
        ("- a", "t.yaml:1: must be a mapping, got ['a']"),
        ("apiVersion: v1\nkind: ConfigMap", "t.yaml:1: metadata: must be a mapping, got None"),
        ("apiVersion: v1\nkind: ConfigMap\nmetadata: x", "t.yaml:3: metadata: must be a mapping, got 'x'"),
        (MAP.replace("name: x", "name: 1"), "t.yaml:3: metadata.name: must be a text, got 1"),
        (MAP.replace("kind: ConfigMap", "kind: [a]"), "t.yaml:2: kind: must be a text, got ['a']"),
        (MAP + "data:\n  a: 0x" + "f" * 5000, "t.yaml:5: data.a: a number of 20000 bits"),
        (MAP + "data: {a: .inf}", "t.yaml:4: data.a: inf: is no number of JSON"),
        (MAP + 'data: {a: "\\ud800"}', "t.yaml:4: data.a: '\\ud800': is no Unicode text"),
        (MAP + 'data: {"\\ud800": a}', "t.yaml:4: data: the key '\\ud800' is no text"),
        (MAP + "data: &a {b: *a}", "t.yaml:4: YAML aliases are not allowed"),
        (MAP + "data: {<<: {a: b}}", "t.yaml:4: data: keys must be plain strings"),
        (MAP + "data: {? [a] : b}", "t.yaml:4: data: keys must be plain strings"),
        (MAP + "data: {a: 1, a: 2}", "t.yaml:4: data.a: the key stands twice"),
        (MAP + "data: " + "[" * 500 + "]" * 500, "t.yaml:1: nested too deeply"),
        (MAP + "data: " + "[" * 70 + "]" * 70, "nested deeper than 64 levels"),
        (MAP + "data: {a", "not YAML"),
    ],
)
def test_no_resource_at_all(text: str, refusal: str) -> None:
    with pytest.raises(PolicyError) as caught:
        resources_of(text, "t.yaml")
    assert refusal in str(caught.value)


def test_keys_that_yaml_reads_otherwise_are_the_texts_that_were_written() -> None:
    (resource,) = resources_of(MAP + "data: {1: a, true: b, ~: c}")
    assert list(resource.document.data["data"]) == ["1", "true", "~"]


def test_empty_documents_are_none() -> None:
    assert resources_of("---\n---\n# nothing\n---\nnull\n---\n") == ()


def test_a_value_that_no_yaml_reader_makes_is_refused_too() -> None:
    with pytest.raises(PolicyError, match="t:1: a: bytes: is no value of JSON") as caught:
        check_plain(Document(file="t", data={"a": b"", "b": {1: 2}, "c": -(2**63), "d": 2**64 - 1}, lines={}))
    assert len(caught.value.problems) == 2


# --- across resources ---


def test_a_provider_that_no_mesh_config_declares() -> None:
    (refusal,) = refusals(without("istio"))
    assert refusal.startswith("identity.yaml:") and ": spec.provider.name: 'tidegate-ext-authz': " in refusal
    assert "is declared nowhere; known: none; extensionProviders of the ConfigMap istio" in refusal


def test_hosts_without_any_service() -> None:
    told = refusals(tuple(one for one in base() if one.kind != "ServiceEntry"))
    assert len(told) == sum(one.kind == "DestinationRule" for one in base())
    rules = {one.name for one in base() if one.kind == "DestinationRule"}
    left = tuple(one for one in without(*rules) if one.kind != "ServiceEntry")
    told = refusals(left)
    assert all("route[0].destination.host: " in refusal for refusal in told), told
    assert all("is declared nowhere; known: none; a ServiceEntry declares one" in refusal for refusal in told)


def test_a_provider_of_a_host_without_a_service() -> None:
    needed = ("istio", "tidegate-policy")
    (refusal,) = refusals(tuple(one for one in base() if one.name in needed))
    assert "data.mesh.extensionProviders[0].envoyExtAuthzGrpc.service" in refusal
    assert "a ServiceEntry declares one" in refusal


def test_a_gateway_where_there_is_none() -> None:
    told = refusals(tuple(one for one in base() if one.kind != "Gateway"))
    assert all("spec.gateways: " in refusal and "known: none" in refusal for refusal in told), told


def test_a_resource_that_stands_twice() -> None:
    (refusal,) = refusals((*base(), base()[-1]))
    assert "metadata.name: 'ConfigMap/tidegate/tidegate-policy' stands twice; the first is at" in refusal


def test_a_config_map_in_two_namespaces() -> None:
    (one,) = (one for one in base() if one.name == "istio")
    data = {**one.document.data, "metadata": {"name": "istio", "namespace": "else"}}
    (refusal,) = refusals((*base(), resource_from(Document(file="x.yaml", data=data, lines={}))))
    assert (
        refusal
        == "x.yaml:1: metadata.name: 'istio': stands in two namespaces; keep one: only one can be in force"
    )


# --- the texts inside ConfigMaps ---


@pytest.mark.parametrize(
    ("text", "refusal"),
    [
        ("a: [", "data.mesh: not YAML"),
        ("hello", "data.mesh: must be a mapping, got 'hello'"),
        ("- a", "data.mesh: must be a mapping, got ['a']"),
        ("# nothing", "must hold one YAML document, has 0"),
        ("a: 1\n---\na: 1", "must hold one YAML document, has 2"),
        ("a: {b: 1, b: 2}", "data.mesh.a.b: the key stands twice"),
        ("a: 0x" + "f" * 5000, "data.mesh.a: a number of 20000 bits"),
        ("extensionProviders: [x]", "data.mesh.extensionProviders[0]: must be a mapping"),
        ("extensionProviders: {}", "data.mesh.extensionProviders: {}: must be a list of mappings"),
    ],
)
def test_a_mesh_config_of_the_wrong_form(text: str, refusal: str) -> None:
    (told,) = refusals(changed("ConfigMap", "istio", ("data", "mesh"), text))
    assert refusal in told and told.startswith("mesh-config.yaml:")


@pytest.mark.parametrize("data", [None, "x", [], {"mesh": 5}, {"mesh": None}, {}])
def test_a_mesh_config_map_of_the_wrong_form(data: Any) -> None:
    (told,) = refusals(changed("ConfigMap", "istio", ("data",), data))
    assert ": data" in told


@pytest.mark.parametrize("name", ["../budgets.yaml", "..", ".", "a/b", "", "x" * 254])
def test_a_policy_file_whose_name_leads_elsewhere(name: str) -> None:
    (told,) = refusals(changed("ConfigMap", "tidegate-policy", ("data",), {name: "a: b"}))
    assert "is no name of a file" in told


# --- values that only look right ---


@pytest.mark.parametrize(
    ("kind", "name", "path", "value", "refusal"),
    [
        ("VirtualService", "openai", (*HTTP, "timeout"), "9" * 400 + "s", "must be a duration"),
        ("VirtualService", "openai", (*HTTP, "timeout"), "9" * 40 + "s", "is longer than 315576000000s"),
        ("VirtualService", "openai", (*HTTP, "timeout"), "٣s", "must be a duration"),
        ("VirtualService", "openai", (*HTTP, "retries", "retryOn"), "5٠٣", "is no retry condition"),
        (
            *("AuthorizationPolicy", "identity", ("spec", "rules", 0, "to", 0, "operation", "ports")),
            *(["9" * 5000], "is no port of a Gateway"),
        ),
        (
            *("AuthorizationPolicy", "identity", ("spec", "rules", 0, "to", 0, "operation", "ports")),
            *(["٨٠٨٠"], "is no port of a Gateway"),
        ),
    ],
)
def test_digits_that_python_takes_and_envoy_does_not(
    kind: str, name: str, path: PathKey, value: Any, refusal: str
) -> None:
    assert refusal in refusals(changed(kind, name, path, value))[0]


@pytest.mark.parametrize("status", ["9" * 5000, "٥٠٣", "200", "600", "503 "])
def test_a_status_that_is_none(status: str) -> None:
    (istio,) = (one for one in base() if one.name == "istio")
    text = istio.document.data["data"]["mesh"].replace('"503"', f'"{status}"')
    assert (
        "must be an HTTP status in quotes"
        in refusals(changed("ConfigMap", "istio", ("data", "mesh"), text))[0]
    )


@pytest.mark.parametrize("regex", ["a{99999999999999999999}", "[[a]", "(" * 500 + ")" * 500, "("])
def test_a_regular_expression_that_is_none(regex: str) -> None:
    policy = {"allowOrigins": [{"regex": regex}]}
    (told,) = refusals(changed("VirtualService", "openai", (*HTTP, "corsPolicy"), policy))
    assert "is no regular expression" in told
