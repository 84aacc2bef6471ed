"""What mesh/base must say, whatever else changes: the path's order, its deadlines, what fails closed."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gateway import path
from gateway.budget import policy
from gateway.budget.admission import AdmissionRecord, Verdict
from gateway.contract import headers
from gateway.openai.engine_errors import engine_error
from gateway.openai.error_body import error_body, error_headers
from tests.unit.mesh.policy import cluster, compiled, listener, named

CLIENTS = listener(compiled(), 8080)
MEASURED = "openai-processing-ms"
"""The one header for clients that Envoy measures itself."""
HTTP_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"


def seconds(text: str) -> float:
    return float(text.removesuffix("s"))


def filter_config(name: str) -> Any:
    return named(CLIENTS["http_filters"], name)["typed_config"]


def upstream_filters() -> list[Any]:
    options = cluster(compiled(), "sglang")["typed_extension_protocol_options"][HTTP_OPTIONS]
    found: list[Any] = options["http_filters"]
    return found


def tap() -> Any:
    return named(upstream_filters(), "tidegate.tap")["typed_config"]


def test_the_filters_stand_in_the_paths_order() -> None:
    assert [entry["name"] for entry in CLIENTS["http_filters"]] == [
        "tidegate.strip",
        "envoy.filters.http.cors",
        "envoy.filters.http.rbac",
        "envoy.filters.http.ext_authz",
        "tidegate.gate.principal",
        "tidegate.body",
        "tidegate.admit",
        "tidegate.gate.admission",
        "tidegate.bodiless",
        "envoy.filters.http.router",
    ]
    assert [entry["name"] for entry in upstream_filters()] == [
        "tidegate.tap",
        "envoy.filters.http.upstream_codec",
    ]


def test_deadlines_are_those_of_the_path() -> None:
    configured = {
        "ext_authz": filter_config("envoy.filters.http.ext_authz")["grpc_service"]["timeout"],
        "admit": filter_config("tidegate.admit")["message_timeout"],
        "tap": tap()["message_timeout"],
    }
    for name, text in configured.items():
        assert seconds(text) * 1000 == path.hop(name).deadline, name


def test_a_request_may_wait_for_another_answer_and_then_for_its_turn() -> None:
    longest = policy.schema()["$defs"]["wait_seconds_max"]["maximum"]
    allowed = seconds(filter_config("tidegate.admit")["max_message_timeout"])
    assert allowed == path.LANDING + longest + path.hop("admit").deadline / 1000


def test_bounds_are_those_of_the_path() -> None:
    assert filter_config("tidegate.body")["max_request_bytes"] == path.BUFFERED_BYTES_MAX
    (clients,) = (
        found
        for found in compiled().bootstrap["static_resources"]["listeners"]
        if found["name"].endswith("8080")
    )
    buffered = clients["per_connection_buffer_limit_bytes"]
    assert buffered == path.CONNECTION_BYTES_MAX
    assert path.RESPONSE_BYTES_MAX < buffered < path.BUFFERED_BYTES_MAX / 4
    assert seconds(CLIENTS["drain_timeout"]) == path.DRAIN
    longest = seconds(CLIENTS["common_http_protocol_options"]["max_stream_duration"])
    assert longest * 1000 < path.HOLD_TTL, "a hold must outlive the longest stream"


def test_closed_and_open_are_those_of_the_path() -> None:
    assert filter_config("envoy.filters.http.ext_authz")["failure_mode_allow"] is False
    assert filter_config("envoy.filters.http.ext_authz")["status_on_error"] == {"code": 503}
    assert filter_config("tidegate.admit")["failure_mode_allow"] is False
    assert filter_config("tidegate.admit")["status_on_error"] == {"code": "ServiceUnavailable"}
    assert tap()["failure_mode_allow"] is True
    for name in ("ext_authz", "admit"):
        assert path.hop(name).on_failure is path.OnFailure.CLOSED
    assert path.hop("tap").on_failure is path.OnFailure.OPEN


def test_gates_read_what_the_filters_write() -> None:
    (policy,) = filter_config("tidegate.gate.principal")["rules"]["policies"].values()
    matcher = policy["principals"][0]["sourced_metadata"]["metadata_matcher"]
    assert matcher["filter"] == headers.NS_PRINCIPAL
    assert matcher["path"][0] == {"key": headers.PRINCIPAL_KEY}
    gate = filter_config("tidegate.gate.admission")["rules"]
    assert gate["action"] == "ALLOW"
    verdicts = set()
    for policy in gate["policies"].values():
        matcher = policy["principals"][0]["sourced_metadata"]["metadata_matcher"]
        assert matcher["filter"] == headers.NS_ADMIT
        verdicts.add(matcher["value"]["string_match"]["exact"])
    assert verdicts == {Verdict.METERED, Verdict.UNMETERED}


def test_roles_and_namespaces_are_the_contracts() -> None:
    for name, config in (("admit", filter_config("tidegate.admit")), ("tap", tap())):
        assert config["grpc_service"]["initial_metadata"] == [{"key": headers.FILTER_ROLE, "value": name}]
    admit = filter_config("tidegate.admit")["metadata_options"]
    assert admit["forwarding_namespaces"] == {"untyped": [headers.NS_PRINCIPAL]}
    assert admit["receiving_namespaces"] == {"untyped": [headers.NS_ADMIT]}
    assert set(tap()["metadata_options"]["forwarding_namespaces"]["untyped"]) == {
        headers.NS_PRINCIPAL,
        headers.NS_ADMIT,
    }


def test_every_internal_header_is_stripped() -> None:
    mutations = filter_config("tidegate.strip")["mutations"]["request_mutations"]
    prefixes = [
        one["remove_on_match"]["key_matcher"]["prefix"] for one in mutations if "remove_on_match" in one
    ]
    for name in (headers.POOL, headers.STREAM, headers.PRIORITY, headers.HOLD, headers.PRINCIPAL):
        assert name.startswith(tuple(prefixes)), name
    assert headers.ATTEMPT_COUNT.startswith(tuple(prefixes))


def test_response_headers_come_from_fields_of_the_record() -> None:
    record = AdmissionRecord.__dataclass_fields__
    for host in CLIENTS["route_config"]["virtual_hosts"]:
        told = [one for one in host["response_headers_to_add"] if one["header"]["key"] != MEASURED]
        assert len(told) == len(host["response_headers_to_add"]) - 1
        assert {one["header"]["key"] for one in told} == {
            *(headers.CACHE, headers.CACHE_REASON),
            *(headers.CLAMP, headers.BUDGET_WARNING, headers.REMAINING_MICRO_USD),
            *(headers.RATE_LIMIT_TOKENS, headers.RATE_REMAINING_TOKENS, headers.RATE_RESET_TOKENS),
            *(headers.RATE_LIMIT_REQUESTS, headers.RATE_REMAINING_REQUESTS, headers.RATE_RESET_REQUESTS),
        }
        for option in told:
            namespace, field = (
                option["header"]["value"].removeprefix("%DYNAMIC_METADATA(").removesuffix(")%").split(":")
            )
            assert namespace == headers.NS_ADMIT and field in record, option


def test_an_engines_error_without_a_body_gets_the_one_that_others_get() -> None:
    (matcher,) = filter_config("tidegate.bodiless")["custom_response_matcher"]["matcher_list"]["matchers"]
    answer = matcher["on_match"]["action"]["typed_config"]
    error = engine_error(503, b"")
    assert answer["status_code"] == error.http_status
    text = answer["body_format"]["text_format_source"]["inline_string"]
    assert json.loads(text) == json.loads(error_body(error))
    headers = {
        option["header"]["key"]: option["header"]["value"] for option in answer["response_headers_to_add"]
    }
    assert headers == error_headers(error)
    assert matcher["predicate"]["and_matcher"]["predicate"][0]["single_predicate"]["value_match"] == {
        "exact": error.code
    }


@pytest.mark.parametrize("name", ["ext-authz", "ext-proc", "bookkeeper"])
def test_breakers_of_the_side_clusters_hold_every_request_in_flight(name: str) -> None:
    (thresholds,) = cluster(compiled(), name)["circuit_breakers"]["thresholds"]
    assert (
        min(thresholds[key] for key in ("max_connections", "max_pending_requests", "max_requests")) >= 100_000
    )
    options = cluster(compiled(), name)["typed_extension_protocol_options"][HTTP_OPTIONS]
    assert "http2_protocol_options" in options["explicit_http_config"]


def test_operators_have_no_filter_between_and_no_connection_limit() -> None:
    made = compiled()
    assert [entry["name"] for entry in listener(made, 8081)["http_filters"]][
        -1
    ] == "envoy.filters.http.router"
    (operators,) = (
        one for one in made.bootstrap["static_resources"]["listeners"] if one["name"].endswith("8081")
    )
    assert operators["ignore_global_conn_limit"] and operators["bypass_overload_manager"]
    paths = [
        route["match"]["path"] for route in listener(made, 8081)["route_config"]["virtual_hosts"][0]["routes"]
    ]
    assert sorted(paths) == ["/healthz", "/metrics", "/metrics/envoy", "/readyz"]
