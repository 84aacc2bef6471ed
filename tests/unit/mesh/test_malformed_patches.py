"""EnvoyFilter patches of the wrong form: refused where they stand, by the compiler and by lint."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.config.document import Document
from mesh.compile import Resources
from mesh.compile.merge import mismatch
from mesh.compile.resources import resource_from
from mesh.lint import lint
from tests.unit.mesh.policy import base
from tests.unit.mesh.test_malformed import refusals


def with_patch(apply_to: str, value: Any, match: dict[str, Any] | None = None, **more: Any) -> Resources:
    """mesh/base and an EnvoyFilter, applied after all others."""
    entry: dict[str, Any] = {
        "applyTo": apply_to,
        "match": {"context": "GATEWAY", **(match or {})},
        "patch": {"value": value},
    }
    entry["patch"] |= {"operation": "MERGE", **more}
    data = {
        "apiVersion": "networking.istio.io/v1alpha3",
        "kind": "EnvoyFilter",
        "metadata": {"name": "zzz", "namespace": "tidegate"},
        "spec": {"configPatches": [entry]},
    }
    return (*base(), resource_from(Document(file="zzz.yaml", data=data, lines={})))


# --- lint ---


@pytest.mark.parametrize("kind", [5, None, ["x"], {"a": 1}, True])
def test_lint_refuses_a_config_type_that_is_no_text(kind: Any) -> None:
    value = {"name": "x", "typed_config": {"@type": kind, "x": 1}}
    problems = lint(with_patch("HTTP_FILTER", value)[-1:])
    assert [problem.path for problem in problems] == [
        'spec.configPatches[0].patch.value.typed_config["@type"]'
    ]


def test_lint_refuses_what_envoys_reader_stumbles_over() -> None:
    inner = {"@type": "type.googleapis.com/google.protobuf.StringValue"}
    (problem,) = lint(with_patch("HTTP_FILTER", {"name": "x", "typed_config": inner})[-1:])
    assert problem.path == "spec.configPatches[0].patch.value.typed_config"


# --- the compiler ---


@pytest.mark.parametrize(
    ("apply_to", "value", "refusal"),
    [
        ("CLUSTER", {"name": 5}, "value.name: is not for CLUSTER to merge"),
        ("CLUSTER", {"circuit_breakers": [1]}, "value.circuit_breakers: cannot be merged: must be a mapping"),
        ("CLUSTER", {"load_assignment": {"endpoints": {}}}, "load_assignment.endpoints: cannot be merged"),
        ("CLUSTER", {"metadata": {"filter_metadata": 5}}, "metadata.filter_metadata: cannot be merged"),
        ("CLUSTER", {"connect_timeout": None}, "connect_timeout: cannot be merged: must be a single value"),
        ("CLUSTER", {"connect_timeout": {}}, "connect_timeout: cannot be merged: must be a single value"),
        ("LISTENER", {"filter_chains": "x"}, "value.filter_chains: is not for LISTENER to merge"),
        ("LISTENER", {"name": []}, "value.name: is not for LISTENER to merge"),
        ("VIRTUAL_HOST", {"routes": [None]}, "value.routes[0]: cannot be merged: must be a mapping"),
        ("VIRTUAL_HOST", {"routes": "x"}, "value.routes: cannot be merged: must be a list"),
        ("VIRTUAL_HOST", {"domains": [{}]}, "value.domains[0]: cannot be merged: must be a single value"),
        ("VIRTUAL_HOST", {"name": {}}, "value.name: is not for VIRTUAL_HOST to merge"),
        ("HTTP_ROUTE", {"name": []}, "value.name: is not for HTTP_ROUTE to merge"),
        ("HTTP_ROUTE", {"route": [1]}, "value.route: cannot be merged: must be a mapping"),
        ("BOOTSTRAP", {"static_resources": {}}, "value.static_resources: is not for BOOTSTRAP to merge"),
        ("BOOTSTRAP", {"node": "x"}, "value.node: cannot be merged: must be a mapping"),
    ],
)
def test_a_patch_of_another_form_than_what_it_meets(apply_to: str, value: Any, refusal: str) -> None:
    selector = {"CLUSTER": "cluster", "LISTENER": "listener", "BOOTSTRAP": ""}.get(
        apply_to, "routeConfiguration"
    )
    (told,) = refusals(with_patch(apply_to, value, {selector: {}} if selector else {}))
    assert refusal in told and told.startswith("zzz.yaml:1: spec.configPatches[0].patch.value")


@pytest.mark.parametrize(
    ("value", "refusal"),
    [
        ({"envoy_grpc": "x"}, "envoy_grpc: must be a mapping, got 'x'"),
        ({"envoy_grpc": {"cluster_name": ["x"]}}, "envoy_grpc.cluster_name: ['x']: no such cluster"),
        ({"envoy_grpc": {}}, "envoy_grpc.cluster_name: None: no such cluster"),
    ],
)
def test_a_grpc_service_of_the_wrong_form(value: Any, refusal: str) -> None:
    assert refusal in refusals(with_patch("BOOTSTRAP", {"x": value}))[0]


HTTP = "http_connection_manager"
FILTER = {"name": f"envoy.filters.network.{HTTP}"}


@pytest.mark.parametrize(
    ("config", "refusal"),
    [
        ("x", "must be type.googleapis.com/"),
        (None, "must be type.googleapis.com/"),
        ({"@type": ["x"]}, "got ['x']"),
    ],
)
def test_a_filters_config_of_the_wrong_form(config: Any, refusal: str) -> None:
    match = {"listener": {"filterChain": {"filter": FILTER}}}
    assert refusal in refusals(with_patch("NETWORK_FILTER", {"typed_config": config}, match))[0]


@pytest.mark.parametrize("field", ["http_filters", "route_config"])
def test_what_other_kinds_of_patches_are_for(field: str) -> None:
    kind = f"type.googleapis.com/envoy.extensions.filters.network.{HTTP}.v3.HttpConnectionManager"
    match = {"listener": {"filterChain": {"filter": FILTER}}}
    wrong: tuple[Any, ...] = ({}, [], [{}])
    for value in wrong:
        told = refusals(with_patch("NETWORK_FILTER", {"typed_config": {"@type": kind, field: value}}, match))
        assert f"typed_config.{field}: " in told[0]


def test_a_merge_into_a_filter_without_a_config() -> None:
    where = {"listener": {"portNumber": 8080, "filterChain": {"filter": FILTER}}}
    bare = with_patch("HTTP_FILTER", {"name": "bare"}, where, operation="INSERT_FIRST")
    sub = {**FILTER, "subFilter": {"name": "bare"}}
    where = {"listener": {"portNumber": 8080, "filterChain": {"filter": sub}}}
    (merge,) = with_patch("HTTP_FILTER", {"typed_config": {"@type": "x"}}, where)[-1:]
    data = {**merge.document.data, "metadata": {"name": "zzzz", "namespace": "tidegate"}}
    merging = resource_from(Document(file="zzzz.yaml", data=data, lines={}))
    (told,) = refusals((*bare, merging))
    assert "must be of a filter that has one, got 'x'" in told


def test_routes_of_a_virtual_host_may_be_added_without_a_name() -> None:
    value = {"routes": [{"match": {"prefix": "/x"}, "direct_response": {"status": 404}}]}
    match = {"routeConfiguration": {"vhost": {"route": {"name": "gone"}}}}
    (told,) = refusals((*with_patch("VIRTUAL_HOST", value, {"routeConfiguration": {}}), *_renamed(match)))
    assert "matches nothing" in told


def _renamed(match: dict[str, Any]) -> Resources:
    (one,) = with_patch("HTTP_ROUTE", {"decorator": {"operation": "x"}}, match)[-1:]
    data = {**one.document.data, "metadata": {"name": "zzzz", "namespace": "tidegate"}}
    return (resource_from(Document(file="zzzz.yaml", data=data, lines={})),)


def test_forms_that_fit() -> None:
    base_value = {"a": [1], "b": {"c": "x"}, "filter_metadata": {"k": 1}, "n": None}
    assert (
        mismatch(base_value, {"a": [2], "b": {"c": 3, "d": []}, "filter_metadata": {"k": {}}, "z": {}})
        is None
    )
    assert mismatch(base_value, {"n": 1}) == (("n",), "null")
    assert mismatch({"filter_metadata": 5}, {"filter_metadata": {}}) == (("filter_metadata",), "a mapping")
