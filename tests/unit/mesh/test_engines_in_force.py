"""What mesh/base must say of engines: how their health is asked, and which answers speak against one."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from gateway.openai.engine_errors import engine_error
from gateway.openai.error_body import error_headers
from tests.unit.mesh.policy import cluster, compiled

ROOT = Path(__file__).resolve().parents[3]
HTTP_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
HEALTH = re.compile(r"/health(?:_generate)?[\"'?]")
"""SGLang's ``/health`` and ``/health_generate`` in a string: each generates a token, and takes a second."""


def test_engines_are_asked_whether_they_are_ready_and_nothing_else() -> None:
    (check,) = cluster(compiled(), "sglang")["health_checks"]
    assert check["http_health_check"] == {"path": "/ready"}
    assert not HEALTH.search(json.dumps(compiled().bootstrap))


def test_nothing_of_the_product_generates_a_token_to_see_whether_an_engine_lives() -> None:
    places = ("gateway", "ext_authz", "ext_proc", "mesh", "inference/sglang")
    sources = [path for place in places for path in (ROOT / place).rglob("*.py")]
    assert len(sources) > 50
    assert [path.name for path in sources if HEALTH.search(path.read_text())] == []
    assert HEALTH.search('client.get("/health")') and HEALTH.search('f"{url}/health_generate"')


def _matches(rule: dict[str, Any], status: int, headers: dict[str, str]) -> bool:
    """What Envoy's MatchPredicate says, of the kinds that are used here."""
    ((kind, value),) = rule.items()
    if kind == "and_match":
        return all(_matches(inner, status, headers) for inner in value["rules"])
    if kind == "not_match":
        return not _matches(value, status, headers)
    assert kind == "http_response_headers_match"
    (header,) = value["headers"]
    if header["name"] == ":status":
        return bool(header["range_match"]["start"] <= status < header["range_match"]["end"])
    return bool(headers.get(header["name"]) == header["string_match"]["exact"])


def test_a_full_queue_does_not_speak_against_an_engine_and_any_other_5xx_does() -> None:
    made = cluster(compiled(), "sglang")
    matcher = made["typed_extension_protocol_options"][HTTP_OPTIONS]["outlier_detection"]["error_matcher"]
    full = engine_error(503, b'{"object":"error","message":"The request queue is full.","code":503}')
    assert not _matches(matcher, full.http_status, error_headers(full))
    for status in (500, 502, 503, 504, 599):
        broken = engine_error(status, b"{}")
        assert _matches(matcher, broken.http_status, error_headers(broken))
        assert _matches(matcher, status, {}), "also where the tap did not see it"
    for status in (200, 400, 404, 429):
        assert not _matches(matcher, status, {})
    outliers = made["outlier_detection"]
    assert outliers["enforcing_consecutive_5xx"] == 100
    # Envoy's own default is five, but counted only.
    assert outliers.get("enforcing_consecutive_gateway_failure", 0) == 0
