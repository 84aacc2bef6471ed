"""Everything the compiler does not carry into the output is refused, with its place."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.config.document import PathKey, PolicyError, parse_documents
from mesh.compile import ADMIN_HOST, Endpoint, compile_mesh, endpoints_from, policy_files
from tests.unit.mesh.policy import HOST, base, changed, compiled, endpoints, target

HTTP: PathKey = ("spec", "http", 0)
POOL: PathKey = ("spec", "trafficPolicy", "connectionPool")
PATCH: PathKey = ("spec", "configPatches", 0)
ROUTE = {"destination": {"host": HOST.format("sglang"), "port": {"number": 30000}}}
REFUSED = [
    # unknown fields, at every level
    (
        "VirtualService",
        "openai",
        ("spec", "tls"),
        [],
        "gateway.yaml",
        "spec.tls: unsupported field, value []",
    ),
    (
        "VirtualService",
        "openai",
        (*HTTP, "fault"),
        {},
        "gateway.yaml",
        "spec.http[0].fault: unsupported field",
    ),
    ("VirtualService", "openai", (*HTTP, "mirrors"), [], "gateway.yaml", "known: corsPolicy, match, name"),
    ("VirtualService", "openai", ("metadata", "labels"), {"a": "b"}, "gateway.yaml", "metadata.labels"),
    ("VirtualService", "openai", ("status",), {}, "gateway.yaml", "status: unsupported field"),
    ("Gateway", "tidegate", ("spec", "servers", 0, "tls"), {}, "gateway.yaml", "spec.servers[0].tls"),
    ("DestinationRule", "sglang", (*POOL, "tcp", "tcpKeepalive"), {}, "engines.yaml", "tcpKeepalive"),
    ("DestinationRule", "sglang", ("spec", "trafficPolicy", "tls"), {}, "engines.yaml", "trafficPolicy.tls"),
    ("ServiceEntry", "sglang", ("spec", "workloadSelector"), {}, "hosts.yaml", "spec.workloadSelector"),
    ("EnvoyFilter", "filters", ("spec", "priority"), 10, "filters.yaml", "spec.priority: unsupported field"),
    (
        "EnvoyFilter",
        "filters",
        (*PATCH, "match", "proxy"),
        {},
        "filters.yaml",
        "match.proxy: unsupported field",
    ),
    ("AuthorizationPolicy", "identity", ("spec", "rules", 0, "from"), [], "identity.yaml", "rules[0].from"),
    # values
    ("VirtualService", "openai", (*HTTP, "timeout"), "0s", "gateway.yaml", "at least 1ms"),
    ("VirtualService", "openai", (*HTTP, "timeout"), "5", "gateway.yaml", "'5': must be a duration"),
    ("VirtualService", "openai", (*HTTP, "retries", "attempts"), True, "gateway.yaml", "whole number"),
    (
        "VirtualService",
        "openai",
        (*HTTP, "retries", "retryOn"),
        "5xx,oops",
        "gateway.yaml",
        "'oops' is no retry",
    ),
    (
        "VirtualService",
        "openai",
        (*HTTP, "retries", "retryOn"),
        "5xx,503",
        "gateway.yaml",
        "retriable-status-codes",
    ),
    (
        "VirtualService",
        "openai",
        ("spec", "http", 1, "retries", "perTryTimeout"),
        "601s",
        "gateway.yaml",
        "longer",
    ),
    (
        "VirtualService",
        "openai",
        (*HTTP, "match", 0, "uri"),
        {"regex": "x"},
        "gateway.yaml",
        "one of exact, prefix",
    ),
    (
        "VirtualService",
        "openai",
        (*HTTP, "match", 0, "headers", "x-tidegate-pool"),
        {"regex": "x"},
        "gateway.yaml",
        "",
    ),
    ("VirtualService", "openai", (*HTTP, "name"), "api", "gateway.yaml", "route names must be unique"),
    ("VirtualService", "openai", (*HTTP, "name"), ..., "gateway.yaml", "name is missing"),
    ("VirtualService", "openai", (*HTTP, "route"), [ROUTE, ROUTE], "gateway.yaml", "weight is missing"),
    (
        "VirtualService",
        "openai",
        (*HTTP, "route"),
        [{**ROUTE, "weight": 50}] * 3,
        "gateway.yaml",
        "add up to 100",
    ),
    (
        "Gateway",
        "tidegate",
        ("spec", "servers", 0, "port", "protocol"),
        "HTTPS",
        "gateway.yaml",
        "known here: HTTP",
    ),
    ("ServiceEntry", "sglang", ("spec", "resolution"), "DNS", "hosts.yaml", "'DNS': is not supported"),
    # references
    ("VirtualService", "openai", ("spec", "gateways"), ["mesh"], "gateway.yaml", "mesh: no such Gateway"),
    (
        "VirtualService",
        "openai",
        ("spec", "hosts"),
        ["else.example"],
        "gateway.yaml",
        "is no host of tidegate",
    ),
    (
        "VirtualService",
        "openai",
        (*HTTP, "route", 0, "destination", "subset"),
        "v2",
        "gateway.yaml",
        "no such subset",
    ),
    ("VirtualService", "openai", (*HTTP, "route", 0, "destination", "host"), "x", "gateway.yaml", "'x'"),
    (
        "VirtualService",
        "openai",
        (*HTTP, "route", 0, "destination", "port", "number"),
        1,
        "gateway.yaml",
        "no port",
    ),
    ("VirtualService", "operators", ("spec", "gateways"), ["tidegate"], "operators.yaml", "is no host of"),
    (
        "DestinationRule",
        "api",
        ("spec", "host"),
        HOST.format("sglang"),
        "sidecars.yaml",
        "two DestinationRules",
    ),
    ("DestinationRule", "api", ("spec", "host"), "nobody", "sidecars.yaml", "'nobody': is declared nowhere"),
    ("Gateway", "tidegate", ("spec", "selector"), {"istio": "other"}, "gateway.yaml", "selects no gateway"),
    ("Gateway", "tidegate", ("spec", "servers", 0, "port", "number"), 9999, "gateway.yaml", "bound nowhere"),
    (
        "AuthorizationPolicy",
        "identity",
        ("spec", "provider", "name"),
        "else",
        "identity.yaml",
        "tidegate-ext-authz",
    ),
    ("AuthorizationPolicy", "identity", ("spec", "action"), "ALLOW", "identity.yaml", "known here: CUSTOM"),
    (
        "EnvoyFilter",
        "identity",
        (*PATCH, "match", "listener", "portNumber"),
        1,
        "identity.yaml",
        "has no Gateway",
    ),
    (
        "EnvoyFilter",
        "engines",
        (*PATCH, "match", "cluster", "service"),
        "x",
        "engines.yaml",
        "matches nothing",
    ),
    ("EnvoyFilter", "filters", (*PATCH, "applyTo"), "FILTER_CHAIN", "filters.yaml", "known here: CLUSTER"),
    ("EnvoyFilter", "filters", (*PATCH, "patch", "operation"), "REMOVE", "filters.yaml", "INSERT_FIRST"),
    ("EnvoyFilter", "filters", (*PATCH, "match", "context"), "ANY", "filters.yaml", "known here: GATEWAY"),
    (
        "EnvoyFilter",
        "filters",
        (*PATCH, "patch", "value", "name"),
        "tidegate.admit",
        "filters.yaml",
        "stands already",
    ),
    ("EnvoyFilter", "filters", (*PATCH, "patch", "value", "typedConfig"), {}, "filters.yaml", "is camelCase"),
    ("EnvoyFilter", "filters", ("kind",), "WasmPlugin", "filters.yaml", "'WasmPlugin' is not supported"),
    (
        "Gateway",
        "tidegate",
        ("apiVersion",),
        "networking.istio.io/v1alpha3",
        "gateway.yaml",
        "use networking",
    ),
    ("ConfigMap", "istio", ("metadata", "name"), "else", "mesh-config.yaml", "no such ConfigMap"),
    (
        "ConfigMap",
        "istio",
        ("data", "mesh"),
        "enableAutoMtls: true\n",
        "mesh-config.yaml",
        "extensionProviders is",
    ),
]


@pytest.mark.parametrize(("kind", "name", "path", "value", "file", "text"), REFUSED)
def test_refused_with_its_place(
    kind: str, name: str, path: PathKey, value: Any, file: str, text: str
) -> None:
    with pytest.raises(PolicyError) as caught:
        compiled(changed(kind, name, path, value))
    problem = caught.value.problems[0]
    assert problem.file == file and problem.line > 1
    assert text in str(caught.value)


def test_a_subfilter_that_is_not_there_names_those_that_are() -> None:
    path = (*PATCH, "match", "listener", "filterChain", "filter", "subFilter", "name")
    with pytest.raises(PolicyError, match=r"istio\.stats: no such filter on 8080; known: .*router"):
        compiled(changed("EnvoyFilter", "identity", path, "istio.stats"))


def test_a_sidecar_in_no_cluster_is_refused() -> None:
    path: PathKey = (*PATCH, "patch", "value", "typed_config", "common_config", "grpc_service", "envoy_grpc")
    path = ("spec", "configPatches", 0, "patch", "value", "typed_config", "access_log", 0, *path[5:])
    with pytest.raises(PolicyError, match=r"'gone': no such cluster; known: outbound"):
        compiled(changed("EnvoyFilter", "access-log", (*path, "cluster_name"), "gone"))


def test_all_problems_of_a_stage_are_shown_at_once() -> None:
    resources = changed("ServiceEntry", "sglang", ("spec", "resolution"), "DNS")
    broken = changed("ServiceEntry", "api", ("spec", "location"), "MESH_EXTERNAL")
    both = tuple(b if b.name == "api" else r for r, b in zip(resources, broken, strict=True))
    with pytest.raises(PolicyError) as caught:
        compiled(both)
    assert len(caught.value.problems) == 2


def test_a_host_without_an_entry_is_a_mistake_and_one_without_instances_a_warning() -> None:
    places = dict(endpoints())
    del places[HOST.format("sglang")]
    with pytest.raises(PolicyError, match=r"hosts\.yaml:\d+: spec\.hosts: sglang\..* has no entry"):
        compile_mesh(base(), places, target())
    (warning,) = compiled(sglang=()).diagnostics
    assert "sglang" in warning.message and warning.file == "hosts.yaml"


def test_no_policy_config_map_is_refused() -> None:
    with pytest.raises(PolicyError, match="no ConfigMap tidegate-policy"):
        policy_files(tuple(one for one in base() if one.name != "tidegate-policy"))


def endpoints_text(text: str) -> Any:
    return endpoints_from(parse_documents(text, "endpoints.yaml")[0])


def test_endpoints_are_read_with_their_places() -> None:
    found = endpoints_text(
        "a.b:\n- {pipe: /run/a.sock}\n- {address: 10.0.0.1, port: 80, region: r, zone: z}\nc.d: []\n"
    )
    assert found["a.b"][0] == Endpoint(pipe="/run/a.sock")
    assert found["a.b"][1] == Endpoint(address="10.0.0.1", port=80, region="r", zone="z")
    assert found["c.d"] == () and ADMIN_HOST not in found


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a.b: [{address: pod.example, port: 80}]", "endpoints.yaml:1: a.b"),
        ("a.b: [{address: 10.0.0.1}]", "endpoints.yaml:1"),
        ("a.b: [{address: 10.0.0.1, port: 80, pipe: /x}]", "endpoints.yaml:1"),
        ("a.b: [{pipe: /x, wait: 1}]", "unknown field"),
    ],
)
def test_bad_endpoints_are_refused(text: str, message: str) -> None:
    with pytest.raises(PolicyError) as caught:
        endpoints_text(text)
    assert message in str(caught.value).replace('["a.b"]', "a.b")
