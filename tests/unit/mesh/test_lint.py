"""Lint: fields that Istio or Envoy would drop or refuse are found with their line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mesh.lint import SCHEMAS, lint
from mesh.schema.derive import KINDS, closed, derived
from tests.unit.mesh.policy import base, resources_of

FILTER = """
apiVersion: networking.istio.io/v1alpha3
kind: EnvoyFilter
metadata: {name: x, namespace: ns}
spec:
  configPatches:
    - applyTo: HTTP_FILTER
      match: {context: GATEWAY}
      patch:
        operation: INSERT_FIRST
        value:
          name: x
          typed_config:
            "@type": type.googleapis.com/envoy.extensions.filters.http.ext_proc.v3.ExternalProcessor
"""
RULE = """
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: x, namespace: ns}
spec:
  host: a.b
"""
SERVICE = """
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: x, namespace: ns}
spec:
  hosts: [h]
  http:
    - route: [{destination: {host: a.b}}]
      retries: {attempts: 2, retryRemoteLocalities: true}
---
"""


def test_the_policy_itself_is_clean() -> None:
    assert lint(base()) == ()


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        (FILTER + "            grpc_servce: {}\n", 15, "grpc_servce"),
        (FILTER + "            processing_mode: {request_body_mode: BUFFERD}\n", 13, "BUFFERD"),
        (FILTER + "            message_timeout: 1 second\n", 13, "second"),
        (FILTER.replace("ExternalProcessor", "ExternalProcesor"), 14, "ExternalProcesor: not in"),
        (FILTER + "          priority: 1\n", 15, "priority"),
        (RULE + "  trafficPolicy: {loadBalancer: {simple: LEAST_CON}}\n", 7, "'LEAST_CON' is not allowed"),
        (RULE + "  trafficPolicy: {outlierDetections: {}}\n", 7, "unknown field"),
        (RULE + "  trafficPolicy: {retryBudget: {percent: much}}\n", 7, "much"),
        (SERVICE + RULE, 9, "a.b has no outlierDetection"),
    ],
)
def test_found_with_its_line(text: str, line: int, said: str) -> None:
    problems = lint(resources_of(text))
    assert [(problem.line, said in str(problem)) for problem in problems] == [(line, True)], problems


def test_remote_retries_are_clean_with_outlier_detection() -> None:
    assert lint(resources_of(SERVICE + RULE + "  trafficPolicy: {outlierDetection: {interval: 1s}}\n")) == ()


def test_schemas_refuse_what_kubernetes_would_prune() -> None:
    fields = {"description": {"type": "string", "description": "gone"}}
    schema = {"type": "object", "properties": fields, "x-kubernetes-validations": [1]}
    assert closed(schema) == {
        "type": "object",
        "properties": {"description": {"type": "string"}},
        "additionalProperties": False,
    }
    assert sorted(json.loads(Path(SCHEMAS).read_text())) == sorted(KINDS)
    with pytest.raises(KeyError):
        derived([None, {"kind": "Other"}])
